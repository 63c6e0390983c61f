# SPDX-License-Identifier: Apache-2.0
"""A simulated camera: a thin lens with movable focus in front of a procedural scene.

What does not change is prepared: the views of the scene once when the camera opens, the noise-free picture
of a focus position once when it is first needed. A live frame then only costs noise and encoding.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from dualfocus_ros import optics
from dualfocus_ros.camera.common import VIRTUAL_RATE_HZ, FrameClock, check_settings, setting
from dualfocus_ros.camera.lightfield import Framing, LightField
from dualfocus_ros.camera.motion import MechanicalError, Mechanics, Move
from dualfocus_ros.camera.scene import SCENE_CHOICES, make_scene
from dualfocus_ros.camera.sensor import Levels, Sensor, to_levels
from dualfocus_ros.errors import CameraError, LensError, ParameterError
from dualfocus_ros.types import CameraFrame, FloatImage, Intrinsics, LensModel, LensState

# Pictures of focus positions that are kept (1.8 MB each at 640 x 480): more than the longest sweep has.
MAX_PREPARED = 80
# Focus positions closer than this (dioptres) share a picture: 1/1000 pixel of blur.
_SAME_DPT = 1e-4
# Rounding by which a focus distance may lie outside the range.
_RANGE_SLACK = 1e-6


@dataclass(frozen=True)
class SimulatedConfig:
    """The simulated camera.

    The default lens is a common 16 mm f/1.4 machine vision lens on a 2/3 inch sensor (8.8 x 6.6 mm) binned to
    640 x 480: a pupil of 11.4 mm and 1200 pixels of focal length give a blur of 13.9 pixels per dioptre. Ten
    focus positions from 0.4 to 5 m then differ by 3.5 pixels of blur, which is a strong signal, and nothing
    blurs by more than 32 pixels.
    """

    width: int = setting(640, "Image width.", unit="px", min=16, max=4096)
    height: int = setting(480, "Image height.", unit="px", min=16, max=4096)
    focal_length_m: float = setting(0.016, "Focal length of the lens.", unit="m", min=0.001, max=0.2)
    f_number: float = setting(1.4, "F-number; the pupil has the diameter f / N.", min=0.5, max=64.0)
    pixel_pitch_m: float = setting(
        13.75e-6,
        "Distance between pixels. Scale it with 640 / width to keep the field of view.",
        unit="m",
        min=5e-7,
        max=5e-3,
    )
    near_m: float = setting(
        0.4, "Nearest focus distance; its field of view is that of the true depth.", unit="m", min=0.01, max=100.0
    )
    far_m: float = setting(5.0, "Farthest focus distance; inf is legal.", unit="m", min=0.01, max=math.inf)
    rate_hz: float = setting(
        15.0, "Frame rate; 0: as fast as possible, in simulated time.", unit="Hz", min=0.0, max=1000.0
    )
    exposure_s: float = setting(0.01, "Exposure time of a frame.", unit="s", min=1e-5, max=1.0)
    seed: int = setting(1, "Seed of the scene, the mechanical error and the noise.", min=0, max=2**31 - 1)
    scene: str = setting(
        "still_life",
        "What is in front of the camera: still_life fills 0.5 to 3.5 m; far lies within 2 to 3.4 m, near within "
        "0.5 to 0.8 m, two_clusters around 0.6 and 2.5 m; wall is flat, somewhere between 0.9 and 3.2 m.",
        choices=SCENE_CHOICES,
    )
    views: int = setting(
        128, "Points of the pupil that the scene is seen from; more is smoother and slower.", min=16, max=1024
    )
    breathing: bool = setting(True, "Whether the field of view changes with focus, as it does in a thin lens.")
    scale_error: float = setting(
        0.0, "Largest unreported relative error of the scale, repeatable per focus position.", min=0.0, max=0.05
    )
    shift_error_px: float = setting(
        0.0, "Largest unreported shift, repeatable per focus position.", unit="px", min=0.0, max=20.0
    )
    lens_seed: int = setting(
        -1, "Seed of the mechanical error, for one lens in several scenes; -1: as seed.", min=-1, max=2**31 - 1
    )
    full_scale_electrons: float = setting(
        10000.0, "Electrons at full scale, for shot noise; inf: no noise at all.", min=10.0, max=math.inf
    )
    read_noise_electrons: float = setting(3.0, "Read noise, standard deviation in electrons.", min=0.0, max=1e4)
    slew_dpt_per_s: float = setting(20.0, "Speed of the focus.", unit="dpt/s", min=0.01, max=1e4)
    settle_s: float = setting(0.02, "Time the focus brakes and settles for.", unit="s", min=0.0, max=10.0)

    def __post_init__(self) -> None:
        """Check the ranges; raise ParameterError."""
        check_settings(self)
        if self.scene not in SCENE_CHOICES:
            raise ParameterError(f"expected scene to be one of {SCENE_CHOICES}, got {self.scene!r}")
        if not self.focal_length_m < self.near_m < self.far_m:
            got = f"{self.focal_length_m}, {self.near_m} and {self.far_m}"
            raise ParameterError(f"expected focal_length_m < near_m < far_m, got {got}")
        period_s = 1.0 / (self.rate_hz or VIRTUAL_RATE_HZ)
        if self.exposure_s > period_s:
            raise ParameterError(
                f"expected exposure_s of at most the frame period of {period_s:.4g} s, got {self.exposure_s}"
            )


class SimulatedCamera:
    """Implements `FocusCamera`. Every frame carries the true depth in the reference frame.

    The reference frame is the field of view of the nearest focus distance of the range, without mechanical
    error: `reference_intrinsics`.
    """

    def __init__(self, config: SimulatedConfig | None = None) -> None:
        """Take the settings; the scene is rendered on entering."""
        self.config = config or SimulatedConfig()
        c = self.config
        self._lens = LensModel(c.focal_length_m, c.f_number, c.pixel_pitch_m)
        self._dpt_range = (1.0 / c.far_m, 1.0 / c.near_m)
        lens_seed = c.seed if c.lens_seed < 0 else c.lens_seed
        self._mechanics = Mechanics(lens_seed, self._dpt_range, c.scale_error, c.shift_error_px)
        self.reference_intrinsics = self._intrinsics(c.near_m)
        self._opened: _Opened | None = None
        self._interrupted = threading.Event()

    @property
    def lens(self) -> LensModel:
        """Focal length, f-number and pixel pitch."""
        return self._lens

    @property
    def focus_range_m(self) -> tuple[float, float]:
        """Nearest and farthest focus distance in metres; the farthest may be inf."""
        return self.config.near_m, self.config.far_m

    @property
    def focus_positions_m(self) -> None:
        """None: every distance within the range can be focused on."""
        return

    def mechanical_error(self, focus_distance_m: float) -> MechanicalError:
        """Return what no driver knows of a slice: for tests and evaluation only."""
        return self._mechanics.at(1.0 / focus_distance_m)

    def prepare_sweep(self) -> bool:
        """Do nothing: exposure and white balance are always the same."""
        return False

    def interrupt(self) -> None:
        """End the rendering of the scene or of a picture that is under way on another thread."""
        self._interrupted.set()

    def __enter__(self) -> SimulatedCamera:
        """Render the views of the scene (seconds).

        Raises:
            CameraError: if interrupted.
        """
        self._interrupted.clear()
        c, reference = self.config, self.reference_intrinsics
        # The widest slice sees 1 / narrowest times as far from the axis as the reference does.
        narrowest = self._intrinsics(c.far_m).fx_px / reference.fx_px * (1.0 - c.scale_error)
        margin = 0.5 * max(c.width, c.height) * (1.0 / narrowest - 1.0) + c.shift_error_px + 1.0
        with ExitStack() as undo:
            field = LightField(
                make_scene(c.seed, c.scene),
                reference,
                self._lens.aperture_m,
                self._dpt_range,
                c.views,
                margin,
                self._interrupted,
            )
            undo.callback(field.close)
            field.render()
            self._opened = _Opened(c, field)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the views and pictures, and end the threads that make them."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def prepare(self, focus_distances_m: tuple[float, ...]) -> None:
        """Make the pictures of these focus distances (m) now, so that the first sweep runs at full rate.

        Optional: a picture that is not there when it is needed is made then, which delays that frame.

        Raises:
            LensError: if a distance is outside the range.
        """
        opened = self._need_open()
        for picture in [opened.picture(self._check_focus(s), self._framing(s)) for s in focus_distances_m]:
            picture.result()

    def nearest_focus_m(self, focus_distance_m: float) -> float:
        """Return the focus distance itself: this lens has no steps.

        Raises:
            LensError: if it is outside the range.
        """
        self._check_focus(focus_distance_m)
        return focus_distance_m

    def set_focus(self, focus_distance_m: float) -> None:
        """Command a focus distance in metres; the lens then moves.

        Raises:
            LensError: if it is outside the range.
        """
        opened = self._need_open()
        focus_dpt, now = self._check_focus(focus_distance_m), opened.clock.now()
        here = opened.move.position_dpt(now)
        c = self.config
        opened.move = Move(now, here, focus_dpt, c.slew_dpt_per_s, c.settle_s)
        opened.target_m = float(focus_distance_m)
        opened.picture(focus_dpt, self._framing(focus_distance_m))

    def read(self) -> CameraFrame:
        """Wait for the next exposure and return it.

        Raises:
            CameraError: if the camera is not open.
        """
        opened = self._need_open()
        move, clock = opened.move, opened.clock
        exposure = clock.next_exposure(move.start_s)
        middle_s = 0.5 * (exposure[0] + exposure[1])
        picture = opened.nearest_ready(move.position_dpt(middle_s))
        if picture is None or not move.moves_within(*exposure):
            picture = opened.picture(move.to_dpt, self._framing(opened.target_m)).result()
            # Where making it took long, the exposure comes after.
            exposure = clock.next_exposure(move.start_s)
            middle_s = 0.5 * (exposure[0] + exposure[1])
        clock.wait_for(exposure)
        state = self._lens_state(opened, exposure, middle_s)
        return CameraFrame(
            image=opened.sensor.expose(picture),
            encoding="rgb8",
            stamp_ns=state.stamp_ns,
            lens_state=state,
            intrinsics=self._intrinsics(state.focus_distance_m),
            ground_truth_m=opened.ground_truth_m,
        )

    def _lens_state(self, opened: _Opened, exposure: tuple[float, float], middle_s: float) -> LensState:
        move = opened.move
        stamp_ns = opened.clock.stamp_ns(middle_s)
        if not move.moves_within(*exposure):
            return LensState(stamp_ns, opened.target_m, self._lens)
        focus_dpt = move.position_dpt(middle_s)
        focus_m = 1.0 / focus_dpt if focus_dpt > 0.0 else math.inf
        way_dpt = move.position_dpt(exposure[1]) - move.position_dpt(exposure[0])
        # ds/dt = -s^2 d(1/s)/dt. A move that ends where it began is told as one of a micrometre a second.
        speed = -way_dpt / (exposure[1] - exposure[0]) * focus_m**2 if way_dpt else 0.0
        return LensState(stamp_ns, focus_m, self._lens, speed or 1e-6)

    def _need_open(self) -> _Opened:
        if self._opened is None:
            raise CameraError("expected an open camera: use it as `with SimulatedCamera(...) as camera:`")
        return self._opened

    def _check_focus(self, focus_distance_m: float) -> float:
        """Return the focus distance in dioptres."""
        near, far = self.focus_range_m
        if not near * (1.0 - _RANGE_SLACK) <= focus_distance_m <= far * (1.0 + _RANGE_SLACK):
            raise LensError(f"expected a focus distance within {near} .. {far} m, got {focus_distance_m} m")
        return min(max(1.0 / focus_distance_m, self._dpt_range[0]), self._dpt_range[1])

    def _intrinsics(self, focus_distance_m: float) -> Intrinsics:
        """Return what a calibrated driver reports at a focus distance."""
        c = self.config
        of_m = focus_distance_m if c.breathing else c.near_m
        f_px = optics.focal_length_px(c.focal_length_m, c.pixel_pitch_m, of_m)
        return Intrinsics(c.width, c.height, f_px, f_px, (c.width - 1) / 2, (c.height - 1) / 2)

    def _framing(self, focus_distance_m: float) -> Framing:
        k, wrong = self._intrinsics(focus_distance_m), self.mechanical_error(focus_distance_m)
        return Framing(k.fx_px * wrong.scale, k.cx_px + wrong.shift_x_px, k.cy_px + wrong.shift_y_px)


class _Opened:
    """What an open camera holds."""

    def __init__(self, config: SimulatedConfig, field: LightField) -> None:
        self.clock = FrameClock(config.rate_hz, config.exposure_s)
        self.sensor = Sensor(
            (config.height, config.width),
            config.full_scale_electrons,
            config.read_noise_electrons,
            np.random.default_rng([config.seed, 2]),
        )
        self.target_m = config.near_m
        near_dpt = 1.0 / config.near_m
        self.move = Move(self.clock.now(), near_dpt, near_dpt, config.slew_dpt_per_s, config.settle_s)
        self._field = field
        self._pictures: OrderedDict[int, Future[Levels]] = OrderedDict()
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="refocus")
        with np.errstate(divide="ignore"):
            depth_m = 1.0 / field.inverse_depth
        self.ground_truth_m: FloatImage = np.where(np.isfinite(depth_m), depth_m, np.float32(np.nan))
        self.ground_truth_m.setflags(write=False)

    def picture(self, focus_dpt: float, framing: Framing) -> Future[Levels]:
        """Return the noise-free picture at a focus position, to be made if it is not there."""
        key = round(focus_dpt / _SAME_DPT)
        if key not in self._pictures:
            self._pictures[key] = self._maker.submit(self._make, focus_dpt, framing)
            while len(self._pictures) > MAX_PREPARED:
                self._pictures.popitem(last=False)[1].cancel()
        self._pictures.move_to_end(key)
        return self._pictures[key]

    def nearest_ready(self, focus_dpt: float) -> Levels | None:
        """Return the picture made for the nearest focus position, None if there is none yet."""
        ready = [key for key, picture in self._pictures.items() if picture.done()]
        if not ready:
            return None
        return self._pictures[min(ready, key=lambda key: abs(key * _SAME_DPT - focus_dpt))].result()

    def close(self) -> None:
        """End the threads."""
        self._maker.shutdown(wait=True, cancel_futures=True)
        self._field.close()

    def _make(self, focus_dpt: float, framing: Framing) -> Levels:
        light = self._field.refocus(focus_dpt, framing)
        return to_levels(light)
