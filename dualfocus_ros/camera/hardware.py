# SPDX-License-Identifier: Apache-2.0
"""Makes a camera that knows metres of a device and a lens file.

It turns focus distances into positions of the actuator, by the calibrated curve, the temperature and the side from
which the lens comes, and tells of every frame where the lens was and whether it stood still while it was exposed.
"""

from __future__ import annotations

import math
from collections import Counter
from types import TracebackType

from dualfocus_ros import image_encodings
from dualfocus_ros.camera.device import DeviceConfig, DeviceFrame, FocusDevice
from dualfocus_ros.camera.focus_track import FocusTrack, Motion
from dualfocus_ros.camera.steady import LightWatch
from dualfocus_ros.errors import CalibrationError, CameraError, DeviceError, LensError
from dualfocus_ros.lens_calibration import LensCalibration
from dualfocus_ros.types import CameraFrame, Image, Intrinsics, LensModel, LensState

# Where calibration has not measured it: longer than the lenses of phones and webcams need.
DEFAULT_SETTLE_S = 0.25
# Frames that were exposed before the lens was told to move are left out; more than this in a row mean that the
# times of the device are wrong.
MAX_STALE_FRAMES = 60
# A position that a device reports counts as the one it was told within this part of the range, besides its step.
SAME_POSITION = 1e-3
# Rounding by which a focus distance may lie outside the range, relative.
_RANGE_SLACK = 1e-6
# Focus positions beyond which the distance is infinite, dioptres.
_INFINITY_DPT = 1e-6


class HardwareCamera:
    """Implements `FocusCamera` for any device whose lens was calibrated.

    Attributes:
        device: what takes the pictures and moves the lens.
        calibration: what the lens file says.
        counts: what happened how often since the camera was made, in words.
        doing: what it does besides taking pictures for the sweep, in words; empty: nothing.
    """

    def __init__(self, device: FocusDevice, calibration: LensCalibration, config: DeviceConfig) -> None:
        """Take a device that is not entered.

        Raises:
            CalibrationError: if the lens file is for images of another shape.
        """
        self.device = device
        self.calibration = calibration
        self.counts: Counter[str] = Counter()
        self.doing = ""
        self._config = config
        self._lens = calibration.lens_for(config.width, config.height)
        self._half_play = 0.5 * calibration.hysteresis
        self._track: FocusTrack | None = None
        self._lens_position = 0.0  # of the lens itself, which lags the actuator by the play
        self._temperature_c: float | None = None
        self._late = False
        # Where something is left to the camera to find, and then held.
        metered = config.hold_exposure and not (config.exposure_s > 0.0 and config.gain > 0.0)
        self._light = LightWatch(config.meter_again) if metered and config.meter_again > 0.0 else None

    @property
    def lens(self) -> LensModel:
        """Focal length, f-number and pixel pitch."""
        return self._lens

    @property
    def focus_range_m(self) -> tuple[float, float]:
        """Nearest and farthest focus distance in metres, at the reference temperature; the farthest may be inf.

        What drifts out of it with the temperature is focused on as nearly as can be, and told truly.
        """
        low, high = sorted(max(0.0, self.calibration.curve.dioptres_at(u)) for u in self._lens_range())
        return 1.0 / high, (1.0 / low if low > _INFINITY_DPT else math.inf)

    @property
    def focus_positions_m(self) -> None:
        """None: any distance within the range can be focused on, as finely as the actuator steps."""
        return

    @property
    def trouble(self) -> str:
        """Why its depth is not to be relied on; empty: it is."""
        if self.calibration.calibrated:
            return ""
        return (
            f"lens file {self.calibration.name!r} is a starting point, not a calibration: depth may be off by "
            "much; run calibrate lens"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of this camera, in words; empty: all is well."""
        found = [self.trouble] if self.trouble else []
        if not self.calibration.settle:
            found.append(
                f"settle time not measured, {DEFAULT_SETTLE_S:g} s assumed: measure it with calibrate settle"
            )
        return (*found, *getattr(self.device, "notes", ()))

    def __enter__(self) -> HardwareCamera:
        """Open the device and send its lens to the low end of its range, where the play is known."""
        self.device.__enter__()
        try:
            self._check_curve()
            reach = self.device.focus_range
            self._track = FocusTrack(reach.high, self.device.clock.now(), self._settle_s)
            self._late = False
            self._move(reach.low)
            self._lens_position = reach.low + self._half_play
            first = self._read()  # the temperature is needed before the first move that counts
            if self._light is not None:
                self._light.restart(_luminance(first))
            self._rest()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the device. What fails then does not hide an error that was there before."""
        self._track = None
        try:
            self.device.__exit__(kind, error, trace)
        except Exception:
            if error is None:
                raise
            self.counts["errors on closing a lost device"] += 1

    def prepare_sweep(self) -> bool:
        """Have the exposure found anew where pictures show that the light has changed; say whether that was done.

        Raises:
            CameraError: if the camera is not open.
            DeviceError: if the device fails.
        """
        self._opened()
        if self._light is None or not self._light.changed():
            return False
        self.doing = "finding the exposure"
        try:
            found = self.device.meter()
        finally:
            self.doing = ""
        if not found:
            self._light = None  # nothing is left to the camera
            return False
        self.counts["exposure found anew"] += 1
        self._light.restart(_luminance(self._read()))
        return True

    def interrupt(self) -> None:
        """Make `__enter__` or `read`, under way on another thread, end soon."""
        self.device.interrupt()

    def nearest_focus_m(self, focus_distance_m: float) -> float:
        """Return the focus distance, within a step of the actuator, that the lens takes when told this one.

        It is the same from wherever the lens comes, and that of itself.

        Raises:
            LensError: if it is outside the range.
        """
        self._opened()
        return _distance_m(self._focus_dpt(self._on_grid(self._check_focus(focus_distance_m))))

    def set_focus(self, focus_distance_m: float) -> None:
        """Command a focus distance in metres; returns at once, the lens then moves.

        Only a lens with play that is still under way is waited for: where it would turn around would not be known.

        Raises:
            LensError: if it is outside the range.
            DeviceError: if the device fails.
        """
        track = self._opened()
        self._rest()
        position, self._lens_position = self._plan(self._check_focus(focus_distance_m))
        if position != track.target:
            self._move(position)

    def read(self) -> CameraFrame:
        """Wait for the next exposure that began after the last command; return it with its lens state.

        Raises:
            CameraError: if the camera is not open.
            DeviceError: if no frame comes, or the device fails.
        """
        track = self._opened()
        for _ in range(MAX_STALE_FRAMES):
            frame = self._read()
            if frame.exposure[0] >= track.told_at_s:
                motion = self._motion(frame, track)
                if self._light is not None and not motion.moved:
                    self._light.add(_luminance(frame))
                return self._camera_frame(frame, motion)
            self.counts["frames exposed before the lens was told to move"] += 1
        raise DeviceError(
            f"expected frames exposed after the lens was told to move, the newest of {MAX_STALE_FRAMES} was "
            f"exposed {track.told_at_s - frame.exposure[0]:.3f} s before: are the stamps of the images right?"
        )

    def _rest(self) -> None:
        """Wait for a lens with play that is under way."""
        track = self._opened()
        if self._half_play == 0.0:
            return
        while self.device.clock.now() < track.settled_at_s:
            self._read()

    def _read(self) -> DeviceFrame:
        """Return the next frame of the device, and note its temperature."""
        frame = self.device.read(self._config.patience_s)
        if frame.temperature_c is not None:
            self._temperature_c = frame.temperature_c
        return frame

    def _motion(self, frame: DeviceFrame, track: FocusTrack) -> Motion:
        """Return what the lens did: by time, and by what the device itself says; either makes it a move."""
        motion = track.during(*frame.exposure)
        told = frame.position
        reach = self.device.focus_range
        tolerance = max(0.51 * reach.step, SAME_POSITION * (reach.high - reach.low))
        astray = bool(frame.moving) or (told is not None and abs(told - track.target) > tolerance)
        # A lens that comes later than its settle time says may have come during this exposure.
        late, self._late = self._late, astray and not motion.moved
        if motion.moved or not (astray or late):
            return motion
        # It should be there and is not: its speed is not known.
        return Motion(track.target if told is None else told, moved=True, speed=math.inf)

    def _camera_frame(self, frame: DeviceFrame, motion: Motion) -> CameraFrame:
        start, end = frame.exposure
        stamp_ns = frame.stamp_ns
        if stamp_ns is None:
            stamp_ns = self.device.clock.stamp_ns(0.5 * (start + end))
        height, width = _picture_size(frame)
        play = self._lens_position - self._opened().target
        focus_dpt = self._focus_dpt(motion.position + play)
        focus_m = _distance_m(focus_dpt)
        state = LensState(stamp_ns, focus_m, self._lens, self._speed_mps(motion, focus_m))
        return CameraFrame(
            image=frame.image,
            encoding=frame.encoding,
            stamp_ns=stamp_ns,
            lens_state=state,
            intrinsics=self._intrinsics(frame, focus_dpt, width, height),
        )

    def _speed_mps(self, motion: Motion, focus_m: float) -> float:
        """Return ds/dt = -s^2 d(1/s)/dt; 0 only for a lens at rest, inf where the speed is not known."""
        if not motion.moved:
            return 0.0
        if not math.isfinite(motion.speed) or math.isinf(focus_m) or motion.speed == 0.0:
            return math.inf
        curve, u = self.calibration.curve, motion.position
        step = 0.01 * (curve.positions[-1] - curve.positions[0])
        slope = (curve.dioptres_at(u + step) - curve.dioptres_at(u - step)) / (2.0 * step)
        return -slope * motion.speed * focus_m**2 or math.inf

    def _intrinsics(self, frame: DeviceFrame, focus_dpt: float, width: int, height: int) -> Intrinsics:
        """Return the calibrated intrinsics, else those that come with the images, else those of a thin lens."""
        if (width, height) != (self._config.width, self._config.height):
            raise CameraError(
                f"expected images of {self._config.width} x {self._config.height}, the camera gives {width} x "
                f"{height}: set width and height to that"
            )
        calibrated = self.calibration.intrinsics_at(focus_dpt, width, height)
        if calibrated is not None:
            return calibrated
        return frame.intrinsics or self.calibration.thin_lens_intrinsics(focus_dpt, width, height)

    def _plan(self, focus_dpt: float) -> tuple[float, float]:
        """Return where to send the actuator, and where the lens will then be, for a focus position.

        The play between both is a play operator: the lens stays where it is until the actuator pushes it from the
        other side, half of the play later.
        """
        wanted, now = self._on_grid(focus_dpt), self._lens_position
        side = math.copysign(self._half_play, wanted - now) if wanted != now else 0.0
        # Steps are rounded on the side from which the lens is pushed: what are two positions stay two.
        actuator = self.device.focus_range.beyond(wanted + side, side)
        lens = min(max(now, actuator - self._half_play), actuator + self._half_play)
        return actuator, lens

    def _on_grid(self, focus_dpt: float) -> float:
        """Return the lens position for a focus position, in whole steps of the actuator."""
        wanted = self.calibration.curve.position_at(focus_dpt - self._temperature_offset_dpt())
        low, high = self._lens_range()
        return min(max(self.device.focus_range.nearest(wanted), low), high)

    def _move(self, position: float) -> None:
        self.device.move_to(position)
        self._opened().command(self.device.clock.now(), position)

    def _settle_s(self, move: float) -> float:
        measured = self.calibration.settle_s(move)
        return DEFAULT_SETTLE_S if measured is None else measured

    def _focus_dpt(self, lens_position: float) -> float:
        focus_dpt = self.calibration.curve.dioptres_at(lens_position) + self._temperature_offset_dpt()
        return max(focus_dpt, 0.0)

    def _temperature_offset_dpt(self) -> float:
        return self.calibration.temperature_offset_dpt(self._temperature_c)

    def _lens_range(self) -> tuple[float, float]:
        """Return the lens positions that can be reached from both sides, within the calibrated curve."""
        curve = self.calibration.curve
        low, high = curve.positions[0], curve.positions[-1]
        if self._track is not None:
            reach = self.device.focus_range
            low, high = max(low, reach.low + self._half_play), min(high, reach.high - self._half_play)
        return low, high

    def _check_curve(self) -> None:
        low, high = self.calibration.curve.positions[0], self.calibration.curve.positions[-1]
        reach = self.device.focus_range
        if not max(low, reach.low) + self.calibration.hysteresis < min(high, reach.high):
            raise CalibrationError(
                f"lens file {self.calibration.name!r} has positions {low:g} to {high:g} {self.calibration.unit}, "
                f"this lens takes {reach.low:g} to {reach.high:g} {reach.unit}, with a play of "
                f"{self.calibration.hysteresis:g}: is the file of another lens?"
            )
        if max(self.calibration.curve.focus_dpt) <= _INFINITY_DPT:
            raise CalibrationError(f"lens file {self.calibration.name!r} has no focus nearer than infinity")

    def _check_focus(self, focus_distance_m: float) -> float:
        """Return the focus distance in dioptres."""
        near, far = self.focus_range_m
        if not near * (1.0 - _RANGE_SLACK) <= focus_distance_m <= far * (1.0 + _RANGE_SLACK):
            raise LensError(
                f"expected a focus distance within {near:.4g} .. {far:.4g} m, got {focus_distance_m} m"
            )
        return 1.0 / focus_distance_m

    def _opened(self) -> FocusTrack:
        if self._track is None:
            raise CameraError("expected an open camera: use it as `with HardwareCamera(...) as camera:`")
        return self._track


def _distance_m(focus_dpt: float) -> float:
    return 1.0 / focus_dpt if focus_dpt > _INFINITY_DPT else math.inf


def _picture_size(frame: DeviceFrame) -> tuple[int, int]:
    """Return height and width of the picture, not of the array that holds it (nv12 has more rows)."""
    height, width = frame.image.shape[:2]
    known = image_encodings.ENCODINGS.get(frame.encoding)
    return (height * 2 // known.half_rows if known is not None else height), width


def _luminance(frame: DeviceFrame) -> Image:
    return image_encodings.luminance(frame.image, frame.encoding)
