# SPDX-License-Identifier: Apache-2.0
"""Pipelines, nodes and queues of `fake_depthai`: those of depthai 3 and those of depthai 2."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

from fake_depthai_messages import (
    CameraBoardSocket,
    CameraControl,
    ColorOrder,
    FrameType,
    ImgFrame,
    ImgResizeMode,
    QueueException,
)


class PipelineV3:
    """Created nodes run when it is started."""

    def __init__(self, defaultDevice: Any) -> None:
        defaultDevice.need("Pipeline")
        self.device = defaultDevice
        self.camera: CameraNodeV3 | None = None
        self.started = False

    def create(self, node: type[CameraNodeV3], /) -> CameraNodeV3:
        self.device.need("create")
        self.camera = node(self.device)
        return self.camera

    def start(self) -> None:
        self.device.need("start")
        if self.started or self.camera is None or self.camera.requested is None:
            raise self.device.oak.misuse("started twice, or without a camera and its output")
        if self.device.reconnects:
            raise self.device.oak.misuse("depthai would open the camera again by itself, with autofocus")
        self.started = True
        size, rate_hz = self.camera.requested
        self.device.run(size, rate_hz)

    def isRunning(self) -> bool:
        return self.started and not self.device.lost

    def stop(self) -> None:
        self.started = False
        self.device.oak.called("stop")

    def wait(self) -> None:
        if not self.device.closed and not self.device.lost and self.started:
            raise self.device.oak.misuse("wait for a pipeline that runs hangs")


class CameraNodeV3:
    """depthai.node.Camera."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._built = False
        self.requested: tuple[tuple[int, int], float] | None = None
        self.inputControl = SimpleNamespace(createInputQueue=self._input_queue)

    def build(self, boardSocket: CameraBoardSocket) -> CameraNodeV3:
        self._device.need("build")
        if boardSocket not in {f.socket for f in self._device.oak.features}:
            raise RuntimeError("Camera socket is not connected")
        self._built = True
        return self

    def requestOutput(
        self,
        size: tuple[int, int],
        type: FrameType | None = None,
        resizeMode: ImgResizeMode = ImgResizeMode.CROP,
        fps: float | None = None,
        enableUndistortion: bool | None = None,
        alphaScaling: float | None = None,
    ) -> Any:
        self._device.need("requestOutput")
        if not self._built or type is not FrameType.NV12 or not isinstance(resizeMode, ImgResizeMode):
            raise self._device.oak.misuse("requestOutput before build, or of another type")
        self.requested = size, fps or 30.0
        return SimpleNamespace(createOutputQueue=self._output_queue)

    def _output_queue(self, maxSize: int = 16, blocking: bool = False) -> MessageQueue:
        self._device.need("createOutputQueue")
        return MessageQueue(self._device, "frames", maxSize, blocking)

    def _input_queue(self, maxSize: int = 16, blocking: bool = False) -> MessageQueue:
        self._device.need("createInputQueue")
        return MessageQueue(self._device, "controls", maxSize, blocking)


class MessageQueue:
    """depthai.MessageQueue of version 3, DataOutputQueue and DataInputQueue of version 2.

    `of` is what it carries, "frames" or "controls": when it is full, the oldest are overwritten.
    """

    def __init__(self, device: Any, of: str, maxSize: int, blocking: bool) -> None:
        if blocking:
            raise device.oak.misuse("a queue that blocks when full")
        self._device = device
        setattr(device, of, deque(getattr(device, of), maxlen=maxSize))

    def tryGetAll(self) -> list[ImgFrame]:
        self._need("tryGetAll")
        found = []
        while self._device.frames:
            found.append(self._device.frames.popleft())
        return found

    def send(self, msg: CameraControl) -> None:
        self._need("send")
        if not isinstance(msg, CameraControl) or not msg.commands:
            raise TypeError("send(): incompatible function arguments")
        self._device.controls.append(msg)

    def _need(self, what: str) -> None:
        if self._device.lost and self._device.oak.version == 3:
            raise QueueException("MessageQueue was closed")
        self._device.need(what)


class PipelineV2:
    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def create(self, node: Any, /) -> Any:
        self.nodes.append(node())
        return self.nodes[-1]

    @property
    def streams(self) -> set[str]:
        return {n.stream for n in self.nodes if not isinstance(n, ColorCamera)}

    def check(self, oak: Any) -> ColorCamera:
        """Return its camera; all must be linked as an OAK needs it."""
        cameras = [n for n in self.nodes if isinstance(n, ColorCamera)]
        (camera,) = cameras
        linked = camera.preview.linked is not None and any(
            n.out.linked is camera.inputControl for n in self.nodes if isinstance(n, XLinkIn)
        )
        if not linked or not camera.interleaved or camera.order is not ColorOrder.BGR:
            raise oak.misuse("a pipeline that is not linked, or gives no interleaved BGR")
        return camera


class Port:
    """Node.Output and Node.Input."""

    def __init__(self) -> None:
        self.linked: Port | None = None

    def link(self, input: Port) -> None:
        self.linked = input

    def setBlocking(self, blocking: bool) -> None:
        pass

    def setQueueSize(self, size: int) -> None:
        pass


class XLinkOut:
    def __init__(self) -> None:
        self.stream, self.input = "", Port()

    def setStreamName(self, streamName: str) -> None:
        self.stream = streamName


class XLinkIn:
    def __init__(self) -> None:
        self.stream, self.out = "", Port()

    def setStreamName(self, streamName: str) -> None:
        self.stream = streamName


class ColorCamera:
    """depthai.node.ColorCamera of version 2."""

    def __init__(self) -> None:
        self.preview, self.inputControl = Port(), Port()
        self.socket = CameraBoardSocket.CAM_A
        self.size, self.fps = (300, 300), 30.0
        self.interleaved, self.order = False, ColorOrder.RGB

    def setBoardSocket(self, boardSocket: CameraBoardSocket) -> None:
        self.socket = boardSocket

    def setPreviewSize(self, width: int, height: int) -> None:
        self.size = width, height

    def setInterleaved(self, interleaved: bool) -> None:
        self.interleaved = interleaved

    def setColorOrder(self, colorOrder: ColorOrder) -> None:
        self.order = colorOrder

    def setFps(self, fps: float) -> None:
        self.fps = fps
