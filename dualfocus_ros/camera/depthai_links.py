# SPDX-License-Identifier: Apache-2.0
"""Frames from an OAK camera and controls to it, with either version of depthai: 3, or 2 as Humble's users have it.

Both get the module `depthai` and a connected `Device`, start at once, and stop and close it all with `close`. What
depthai raises (RuntimeError, and MessageQueue.QueueException from a queue that was closed) they let through.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Protocol

from dualfocus_ros.errors import CameraError

# Few: frames are taken as they come, and old ones are of no use.
FRAMES = 2
CONTROLS = 8
# The preview of depthai 2 is cut from a video of this size, with the sensor resolution that all sensors have.
MAX_SIZE_V2 = (1920, 1080)


class Link(Protocol):
    """A camera that runs."""

    def frames(self) -> list[Any]:
        """Return the frames (ImgFrame) that came since the last call, oldest first."""

    def send(self, control: Any) -> None:
        """Send a CameraControl."""

    def running(self) -> bool:
        """Say whether the device still works."""

    def close(self) -> None:
        """Stop and close everything, also where the device is lost."""


class LinkV3:
    """depthai 3: nodes make their queues themselves."""

    def __init__(self, dai: Any, device: Any, socket: Any, size: tuple[int, int], rate_hz: float) -> None:
        """Start the camera; `size` is width and height, cut from the middle of what the sensor sees."""
        self._device = device
        # Else it opens the device again by itself, where nobody would tell it the focus.
        if hasattr(device, "setMaxReconnectionAttempts"):
            device.setMaxReconnectionAttempts(0)
        self._pipeline = dai.Pipeline(device)
        camera = self._pipeline.create(dai.node.Camera).build(socket)
        output = camera.requestOutput(size, dai.ImgFrame.Type.NV12, dai.ImgResizeMode.CROP, fps=rate_hz)
        self._frames = output.createOutputQueue(maxSize=FRAMES, blocking=False)
        self._controls = camera.inputControl.createInputQueue(maxSize=CONTROLS, blocking=False)
        self._pipeline.start()

    def frames(self) -> list[Any]:
        """Return the frames that came since the last call, oldest first."""
        return [frame for frame in self._frames.tryGetAll() if frame is not None]

    def send(self, control: Any) -> None:
        """Send a CameraControl."""
        self._controls.send(control)

    def running(self) -> bool:
        """Say whether the device still works."""
        return bool(self._pipeline.isRunning()) and not self._device.isClosed()

    def close(self) -> None:
        """Stop the pipeline, close the device, and wait for the threads, which end with it."""
        with ExitStack() as last:
            last.callback(self._pipeline.wait)
            last.callback(self._device.close)
            last.callback(self._pipeline.stop)


class LinkV2:
    """depthai 2: streams by name, and the device runs the pipeline."""

    def __init__(self, dai: Any, device: Any, socket: Any, size: tuple[int, int], rate_hz: float) -> None:
        """Start the camera; `size` is width and height, cut from the middle of what the sensor sees."""
        if size[0] > MAX_SIZE_V2[0] or size[1] > MAX_SIZE_V2[1]:
            raise CameraError(
                f"expected an image of at most {MAX_SIZE_V2[0]} x {MAX_SIZE_V2[1]} with depthai 2, got "
                f"{size[0]} x {size[1]}: make it smaller, or install depthai 3"
            )
        self._device = device
        pipeline = dai.Pipeline()
        camera = pipeline.create(dai.node.ColorCamera)
        camera.setBoardSocket(socket)
        camera.setPreviewSize(*size)
        camera.setInterleaved(True)
        camera.setColorOrder(dai.ColorCameraProperties.ColorOrder.BGR)
        camera.setFps(rate_hz)
        frames, controls = pipeline.create(dai.node.XLinkOut), pipeline.create(dai.node.XLinkIn)
        frames.setStreamName("frames")
        # A host that is busy must not hold up the sensor.
        frames.input.setBlocking(False)
        frames.input.setQueueSize(1)
        controls.setStreamName("controls")
        camera.preview.link(frames.input)
        controls.out.link(camera.inputControl)
        if not device.startPipeline(pipeline):
            raise RuntimeError("the device did not start the pipeline")
        self._frames = device.getOutputQueue("frames", FRAMES, False)
        self._controls = device.getInputQueue("controls", CONTROLS, False)

    def frames(self) -> list[Any]:
        """Return the frames that came since the last call, oldest first."""
        return [frame for frame in self._frames.tryGetAll() if frame is not None]

    def send(self, control: Any) -> None:
        """Send a CameraControl."""
        self._controls.send(control)

    def running(self) -> bool:
        """Say whether the device still works."""
        return not self._device.isClosed()

    def close(self) -> None:
        """Close the device, which ends the pipeline and the queues."""
        self._device.close()


def open_link(dai: Any, device: Any, socket: Any, size: tuple[int, int], rate_hz: float) -> Link:
    """Return a running camera of a connected device, by the version of depthai that is installed."""
    made = LinkV3 if hasattr(dai.Pipeline, "start") else LinkV2
    return made(dai, device, socket, size, rate_hz)
