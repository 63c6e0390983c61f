# SPDX-License-Identifier: Apache-2.0
"""Node `camera`: sweeps the focus of a camera; images, camera info and lens states out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import SetBool, Trigger

from dualfocus_ros import messages, parameters
from dualfocus_ros.camera.base import FocusCamera
from dualfocus_ros.camera.feed import FrameFeed
from dualfocus_ros.camera.pick import CAMERA_CHOICES, config_class, make_camera
from dualfocus_ros.errors import CameraError, DualFocusError, ParameterError
from dualfocus_ros.focus_sweep import FocusSweep, SweepControl
from dualfocus_ros.nodes.base import ManagedNode
from dualfocus_ros.nodes.camera_health import FIRST_RETRY_S, CameraHealth
from dualfocus_ros.nodes.camera_inputs import CameraInputs
from dualfocus_ros.nodes.rates import Rate
from dualfocus_ros.nodes.runner import run_until_stopped
from dualfocus_ros.smart_sweep import SmartPlanner
from dualfocus_ros.sweep import SweepConfig
from dualfocus_ros.types import CameraFrame

# Time that the camera gets to be closed.
STOP_S = 2.0


@dataclass(frozen=True)
class CameraNodeConfig:
    """Parameters of the camera node itself."""

    driver: str = field(default="simulated", metadata={"doc": "Camera to open.", "choices": CAMERA_CHOICES})
    frame_id: str = field(
        default="camera_optical_frame",
        metadata={"doc": "Optical frame of the images: x right, y down, z forward (REP 103)."},
    )
    start_paused: bool = field(
        default=False, metadata={"doc": "Start paused; the services ~/sweep and ~/pause make the camera work."}
    )
    focus_m: float = field(
        default=1.0,
        metadata={
            "doc": "Focus distance that the service ~/set_focus holds; inf is legal.",
            "unit": "m",
            "min": 0.0,
            "live": True,
        },
    )
    retry_max_s: float = field(
        default=0.5,
        metadata={
            "doc": "Longest time between two attempts to open a camera that was lost.",
            "unit": "s",
            "min": FIRST_RETRY_S,
            "max": 3600.0,
        },
    )


# Prefix and dataclass of all parameters besides those of every node; one set a driver.
PARAMETERS: tuple[tuple[str, Any], ...] = (
    ("", CameraNodeConfig),
    ("sweep.", SweepConfig),
    *((f"{name}.", config_class(name)) for name in CAMERA_CHOICES),
)


class CameraNode(ManagedNode):
    """Drives the sweep on a thread of its own and publishes every frame with its own lens state.

    A camera that is lost is opened again and again until it is back; the sweep then goes on.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Declare all parameters."""
        super().__init__("camera", **kwargs)
        declared = [parameters.declare(self, kind, prefix) for prefix, kind in PARAMETERS]
        self._config, self._sweep_config, *drivers = declared
        self._driver_configs = dict(zip(CAMERA_CHOICES, drivers, strict=True))
        parameters.refuse_unknown(self, ignore_prefixes=("qos_overrides.",))
        self._camera: FocusCamera | None = None
        self._sweep: FocusSweep | None = None
        self._inputs = CameraInputs(self, self._feed)
        self._thread: threading.Thread | None = None
        self._control = SweepControl(self._sweep_config)
        self._planner = SmartPlanner(self._sweep_config)
        self._rate = Rate()
        self._moving = 0
        self._health = CameraHealth(self.get_logger(), self._config.retry_max_s)
        self._settings_changed = False
        self._state = "not active"
        self._make_live()

    def _make_live(self) -> None:
        """Let what is live be set while the node runs, and offer the services."""
        live = parameters.LiveParameters(self)
        live.add(self._config, self._set_config, check=self._check_config)
        live.add(self._sweep_config, self._set_sweep_config, "sweep.", self._check_sweep_config)
        for name, config in self._driver_configs.items():
            live.add(config, self._set_driver_config, f"{name}.", partial(self._check_driver, name))
        self.create_service(Trigger, "~/sweep", self._on_sweep)
        self.create_service(SetBool, "~/set_focus", self._on_set_focus)
        self.create_service(SetBool, "~/pause", self._on_pause)

    def configure(self) -> None:
        """Check the camera's settings and create the publishers."""
        if self.get_parameter("use_sim_time").value:
            raise ParameterError(
                "the camera takes its pictures in real time and stamps them so: start it without use_sim_time "
                "(camera:=external where a simulator or a bag gives the images)"
            )
        self._camera = self._make_camera()
        self._image = self.output(Image, "~/image_raw")
        self._camera_info = self.output(CameraInfo, "~/camera_info")
        self._lens = self.output(JointState, "~/lens")
        self._truth = self.output(Image, "~/ground_truth/depth")
        parameters.refuse_unknown(self, ignore_prefixes=("qos_overrides.",))

    def activate(self) -> None:
        """Open the camera and start to sweep."""
        if self._thread is not None and self._thread.is_alive():
            raise CameraError("the camera is still busy with what it did when it was deactivated: try again")
        self._renew_camera()
        self._control = SweepControl(self._sweep_config, paused=self._config.start_paused)
        self._control.set_hold_m(self._config.focus_m)
        self._planner = SmartPlanner(self._sweep_config)
        self._subscribe()
        parameters.refuse_unknown(self)
        self._rate.restart()
        self._health.restart()
        self._state = "opening the camera"
        self._thread = threading.Thread(target=self._run, args=(self._control,), name="camera", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        """Stop the sweep and close the camera."""
        self._control.end()
        until = time.monotonic() + STOP_S
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < until:
            if self._camera is not None:
                self._camera.interrupt()  # again and again: what is just being opened takes no notice of it before
            self._thread.join(0.05)
        self._inputs.unsubscribe()
        self._health.lost, self._state = None, "not active"

    def clean_up(self) -> None:
        """Forget the camera and its publishers."""
        self.destroy_outputs()
        self._camera = None

    def _make_camera(self) -> FocusCamera:
        return make_camera(self._config.driver, self._driver_configs[self._config.driver])

    def _renew_camera(self) -> None:
        """Make the camera anew where its settings were changed since it was made."""
        if self._settings_changed:
            self._settings_changed = False  # first: they may be changed again meanwhile
            try:
                self._camera = self._make_camera()
            except BaseException:
                self._settings_changed = True
                raise

    def _feed(self) -> FrameFeed | None:
        """Return what takes the images of another node, where the driver has none of its own."""
        feed: FrameFeed | None = getattr(getattr(self._camera, "device", None), "feed", None)
        return feed

    def _subscribe(self) -> None:
        """Subscribe to what the driver and the sweep need of other nodes."""
        driver = self._driver_configs[self._config.driver]
        images = (driver.image_topic, driver.camera_info_topic) if self._feed() is not None else ()
        self._inputs.subscribe(images, self._planner.observe if self._sweep_config.smart else None)

    def _run(self, control: SweepControl) -> None:
        """Sweep until stopped, whatever becomes of the device; runs on the camera thread."""
        try:
            while not control.ended:
                try:
                    self._run_camera(control)
                except DualFocusError as error:
                    if control.ended or not self._health.forgives(error):
                        raise
                    control.wait(self._health.lose(error))
        except BaseException as error:  # noqa: BLE001 - whatever else ends the camera must end the node
            if not control.ended:
                self.fail(error)

    def _run_camera(self, control: SweepControl) -> None:
        """Open the camera and publish its frames until it is to be left."""
        control.begin()
        self._renew_camera()
        assert self._camera is not None
        if control.ended:
            return
        with self._camera as camera:
            self._health.opened()
            sweep = FocusSweep(camera, control, self._planner.positions, self._note_frame)
            self._sweep = sweep
            try:
                for frame in sweep.frames():
                    if control.ended:
                        return
                    self._publish(frame)
            finally:
                self._sweep = None

    def _note_frame(self) -> None:
        """Note that the camera gives frames; say what it does once that lasts."""
        sweep = self._sweep
        if sweep is None or not self._health.frame(sweep.sweeps):
            return
        near, far = sweep.positions_m[0], sweep.positions_m[-1]
        self.get_logger().info(f"sweeping {len(sweep.positions_m)} focus positions, {near:.3g} to {far:.3g} m")
        for note in _notes(self._camera):
            self.get_logger().warning(note)

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

    def _on_sweep(self, request: Any, response: Any) -> Any:
        """Make one whole sweep, also where the camera is paused or holds its focus."""
        return self._answer(response, self._control.request_sweep, "one sweep begins")

    def _on_pause(self, request: Any, response: Any) -> Any:
        """Pause, or go on with what was done before."""
        text = "paused" if request.data else "going on"
        return self._answer(response, partial(self._control.pause, request.data), text)

    def _on_set_focus(self, request: Any, response: Any) -> Any:
        """Hold the focus at `focus_m`, or go back to sweeping."""
        if not request.data:
            return self._answer(response, self._control.sweep, "sweeping")
        return self._answer(response, self._hold, f"holding the focus at {self._config.focus_m:g} m")

    def _hold(self) -> None:
        self._check_config(self._config)
        self._control.hold()

    def _answer(self, response: Any, act: Callable[[], None], text: str) -> Any:
        """Act where the camera works; tell why not where it does not."""
        response.success = False
        if not self.active:
            response.message = "the camera node is not active"
        elif self._sweep is None:
            response.message = f"the camera is not open: {self._health.lost or self._state}"
        else:
            try:
                act()
                response.success, response.message = True, text
            except DualFocusError as error:
                response.message = str(error)
        return response

    def _check_config(self, config: CameraNodeConfig) -> None:
        if not config.focus_m > 0.0:
            raise ParameterError(f"expected focus_m above 0 m, got {config.focus_m}")
        if self._sweep is not None and self._camera is not None:
            self._camera.nearest_focus_m(config.focus_m)

    def _set_config(self, config: CameraNodeConfig) -> None:
        """Take another focus to hold, at once where one is held."""
        self._config = config
        self._control.set_hold_m(config.focus_m)

    def _check_sweep_config(self, config: SweepConfig) -> None:
        """Refuse a sweep that the lens cannot make. One that is lost is asked when it is back."""
        sweep = self._sweep
        if sweep is not None:
            sweep.reachable(config)

    def _set_sweep_config(self, config: SweepConfig) -> None:
        """Take other settings from the next sweep on."""
        self._sweep_config = self._control.config = config
        self._planner.configure(config)
        if self.active:
            self._subscribe()

    def _check_driver(self, name: str, config: Any) -> None:
        if name != self._config.driver:
            raise ParameterError(f"the driver is {self._config.driver!r}: settings of {name!r} have no effect")

    def _set_driver_config(self, config: Any) -> None:
        """Take other settings of the driver: the camera is opened anew."""
        self._driver_configs[self._config.driver] = config
        self._settings_changed = True
        self._control.restart()

    def diagnose(self) -> messages.Diagnostic:
        """Return rate and state of the camera."""
        level, text = self._judge()
        values: dict[str, object] = {
            "driver": self._config.driver,
            "frame rate [Hz]": f"{self._rate.hz():.2f}",
            "focus positions": len(self._sweep.positions_m) if self._sweep is not None else 0,
            "frames exposed while the lens moved": self._moving,
            "camera lost and found again": self._health.reopened,
            "attempts to open it since it was lost": self._health.attempts,
        }
        values |= getattr(self._camera, "counts", {})
        device = getattr(self._camera, "device", None)
        values |= getattr(device, "counts", {})
        values |= {
            n.replace("_", " "): v for n in ("frames_lost", "frames_damaged") if (v := getattr(device, n, 0))
        }
        values |= {f"note {i}": note for i, note in enumerate(_notes(self._camera), start=1)}
        return messages.Diagnostic(f"{self.get_fully_qualified_name()}: camera", level, text, values)

    def _judge(self) -> tuple[int, str]:
        """Return level and text of the state."""
        trouble = self.failure or self.refusal
        if trouble is not None:
            return 2, str(trouble)
        lost = self._health.text()
        if lost:
            return 2, lost
        if self._sweep is None:
            return 0, self._state
        trouble_of_lens = getattr(self._camera, "trouble", "")
        state = getattr(self._camera, "doing", "") or self._control.mode.value
        return (1, f"{state}; {trouble_of_lens}") if trouble_of_lens else (0, state)


def _notes(camera: FocusCamera | None) -> tuple[str, ...]:
    """Return what a user should know of the camera."""
    return tuple(getattr(camera, "notes", ()))


def main() -> int:
    """Run the node until it is stopped; return the exit code."""
    return run_until_stopped([CameraNode])
