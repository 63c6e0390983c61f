# SPDX-License-Identifier: Apache-2.0
"""Node `camera`: sweeps the focus of a camera; images, camera info and lens states out."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from sensor_msgs.msg import CameraInfo, Image, JointState

from dualfocus_ros import messages, parameters
from dualfocus_ros.camera.base import FocusCamera
from dualfocus_ros.camera.pick import CAMERA_CHOICES, config_class, make_camera
from dualfocus_ros.errors import CameraError, ParameterError
from dualfocus_ros.nodes.base import ManagedNode
from dualfocus_ros.nodes.rates import Rate
from dualfocus_ros.nodes.runner import run_until_stopped
from dualfocus_ros.sweep import FocusSweep, SweepConfig
from dualfocus_ros.types import CameraFrame


@dataclass(frozen=True)
class CameraNodeConfig:
    """Parameters of the camera node itself."""

    driver: str = field(default="simulated", metadata={"doc": "Camera to open.", "choices": CAMERA_CHOICES})
    frame_id: str = field(
        default="camera_optical_frame",
        metadata={"doc": "Optical frame of the images: x right, y down, z forward (REP 103)."},
    )


# Prefix and dataclass of all parameters besides those of every node; one set a driver.
PARAMETERS: tuple[tuple[str, Any], ...] = (
    ("", CameraNodeConfig),
    ("sweep.", SweepConfig),
    *((f"{name}.", config_class(name)) for name in CAMERA_CHOICES),
)


class CameraNode(ManagedNode):
    """Drives the sweep on a thread of its own and publishes every frame with its own lens state."""

    def __init__(self, **kwargs: Any) -> None:
        """Declare all parameters."""
        super().__init__("camera", **kwargs)
        declared = [parameters.declare(self, kind, prefix) for prefix, kind in PARAMETERS]
        self._config, self._sweep_config, *drivers = declared
        self._driver_configs = dict(zip(CAMERA_CHOICES, drivers, strict=True))
        parameters.refuse_unknown(self, ignore_prefixes=("qos_overrides.",))
        self._camera: FocusCamera | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._rate = Rate()
        self._moving = 0
        self._positions = 0
        self._state = "not active"

    def configure(self) -> None:
        """Check the camera's settings and create the publishers."""
        if self.get_parameter("use_sim_time").value:
            raise ParameterError(
                "the camera takes its pictures in real time and stamps them so: start it without use_sim_time "
                "(camera:=none where a simulator or a bag gives the images)"
            )
        self._camera = make_camera(self._config.driver, self._driver_configs[self._config.driver])
        self._image = self.output(Image, "~/image_raw")
        self._camera_info = self.output(CameraInfo, "~/camera_info")
        self._lens = self.output(JointState, "~/lens")
        self._truth = self.output(Image, "~/ground_truth/depth")
        parameters.refuse_unknown(self)

    def activate(self) -> None:
        """Open the camera and start to sweep."""
        if self._thread is not None and self._thread.is_alive():
            raise CameraError("the camera is still busy with what it did when it was deactivated: try again")
        self._stop = threading.Event()
        self._rate.restart()
        self._state = "opening the camera"
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name="camera", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        """Stop the sweep and close the camera."""
        self._stop.set()
        if self._camera is not None:
            self._camera.interrupt()
        if self._thread is not None:
            self._thread.join(2.0)
        self._state = "not active"

    def clean_up(self) -> None:
        """Forget the camera and its publishers."""
        self.destroy_outputs()
        self._camera = None

    def _run(self, stop: threading.Event) -> None:
        """Sweep until stopped; runs on the camera thread."""
        assert self._camera is not None
        try:
            with self._camera as camera:
                sweep = FocusSweep(camera, self._sweep_config)
                self._positions = len(sweep.positions_m)
                self._state = "sweeping"
                near, far = sweep.positions_m[0], sweep.positions_m[-1]
                self.get_logger().info(f"sweeping {self._positions} focus positions, {near:.3g} to {far:.3g} m")
                for frame in sweep.frames():
                    if stop.is_set():
                        return
                    self._publish(frame)
        except BaseException as error:  # noqa: BLE001 - whatever ends the camera must end the node
            if not stop.is_set():
                self.fail(error)

    def _publish(self, frame: CameraFrame) -> None:
        """Publish one frame. The lens goes first: the image then finds it."""
        stamp_ns, frame_id = frame.stamp_ns, self._config.frame_id
        self._lens.publish(messages.lens_message(frame.lens_state, frame_id))
        self._camera_info.publish(messages.camera_info_message(frame.intrinsics, stamp_ns, frame_id))
        if self._image.get_subscription_count():
            self._image.publish(messages.camera_image_message(frame, frame_id))
        if frame.ground_truth_m is not None and self._truth.get_subscription_count():
            self._truth.publish(messages.depth_message(frame.ground_truth_m, stamp_ns, frame_id))
        self._moving += frame.lens_state.focus_speed_mps != 0.0
        self._rate.tick()

    def diagnose(self) -> messages.Diagnostic:
        """Return rate and state of the camera."""
        trouble = self.failure or self.refusal
        level, text = (2, str(trouble)) if trouble is not None else (0, self._state)
        values = {
            "driver": self._config.driver,
            "frame rate [Hz]": f"{self._rate.hz():.2f}",
            "focus positions": self._positions,
            "frames exposed while the lens moved": self._moving,
        }
        return messages.Diagnostic(f"{self.get_fully_qualified_name()}: camera", level, text, values)


def main() -> int:
    """Run the node until it is stopped; return the exit code."""
    return run_until_stopped([CameraNode])
