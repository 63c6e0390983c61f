# SPDX-License-Identifier: Apache-2.0
"""The sweep at work: moves the focus of a camera, waits until it is there, and hands out every frame."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from dualfocus_ros.camera.base import FocusCamera
from dualfocus_ros.errors import DeviceError, LensError
from dualfocus_ros.sweep import SweepConfig, focus_positions_m
from dualfocus_ros.types import MIN_SLICES, CameraFrame

# Focus positions of one sweep are at least this far apart: the depth node takes nearer ones for the same.
LEAST_SPACING_DPT = 0.006
# A lens that is not where it should be after so many frames, and so long by their stamps, is stuck.
MAX_FRAMES_TO_SETTLE, MAX_TIME_TO_SETTLE_S = 60, 6.0
# Focus distances (m) of a full sweep, nearest first -> those of the next sweep.
Planner = Callable[[tuple[float, ...]], tuple[float, ...]]


class Mode(Enum):
    """What the focus does."""

    SWEEP = "sweeping"
    HOLD = "holding the focus"
    PAUSED = "paused"


class SweepControl:
    """What is asked of a sweep while it runs. Any thread may ask."""

    def __init__(self, config: SweepConfig, *, paused: bool = False) -> None:
        """Start with sweeping, or paused."""
        self._lock = threading.Condition()
        self._config = config
        self._mode = Mode.PAUSED if paused else Mode.SWEEP
        self._before_pause = Mode.SWEEP
        self._hold_m = 1.0
        self._requested = 0
        self._restart = False
        self._ended = False

    @property
    def config(self) -> SweepConfig:
        """Settings of the next sweep."""
        with self._lock:
            return self._config

    @config.setter
    def config(self, config: SweepConfig) -> None:
        with self._lock:
            self._config = config

    @property
    def mode(self) -> Mode:
        """What the focus does, besides sweeps that were asked for one by one."""
        with self._lock:
            return self._mode

    @property
    def ended(self) -> bool:
        """Whether all is to end."""
        with self._lock:
            return self._ended

    @property
    def must_stop(self) -> bool:
        """Whether the camera is to be left, for good or to be opened anew."""
        with self._lock:
            return self._ended or self._restart

    def hold(self) -> None:
        """Go to the focus distance that is to be held, and stay there."""
        with self._lock:
            self._mode = Mode.HOLD

    def set_hold_m(self, focus_distance_m: float) -> None:
        """Set the focus distance to hold, metres; where one is held, the lens goes there."""
        with self._lock:
            self._hold_m = focus_distance_m

    def sweep(self) -> None:
        """Sweep until told otherwise."""
        with self._lock:
            self._mode = Mode.SWEEP

    def pause(self, paused: bool) -> None:
        """Let the lens rest and hand out no frames, or go on with what was done before."""
        with self._lock:
            if paused and self._mode is not Mode.PAUSED:
                self._before_pause, self._mode = self._mode, Mode.PAUSED
            elif not paused and self._mode is Mode.PAUSED:
                self._mode = self._before_pause

    def request_sweep(self) -> None:
        """Make one whole sweep, then go on with what is done now."""
        with self._lock:
            self._requested += 1

    def restart(self) -> None:
        """Leave the camera, which is then opened anew, at once also where that was waited for."""
        with self._lock:
            self._restart = True
            self._lock.notify_all()

    def end(self) -> None:
        """End it all."""
        with self._lock:
            self._ended = True
            self._lock.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait; return early, with True, where all is to end or the camera to be opened anew."""
        with self._lock:
            return self._lock.wait_for(lambda: self._ended or self._restart, timeout_s)

    def begin(self) -> bool:
        """Note that the camera is about to be opened; say whether it was to be left for that."""
        with self._lock:
            restarted, self._restart = self._restart, False
            return restarted

    def take(self) -> tuple[Mode, float, bool]:
        """Return what to do next, the focus distance to hold, and whether this sweep was asked for by itself."""
        with self._lock:
            alone = self._requested > 0
            return Mode.SWEEP if alone else self._mode, self._hold_m, alone

    def swept(self) -> None:
        """Note that a sweep that was asked for by itself is complete."""
        with self._lock:
            self._requested -= 1

    def goes_on(self, mode: Mode, hold_m: float) -> bool:
        """Say whether this is still what is to be done."""
        with self._lock:
            stays = self._mode is mode and (mode is not Mode.HOLD or self._hold_m == hold_m)
            return (
                stays
                and not (self._requested and mode is not Mode.SWEEP)
                and not self._ended
                and not self._restart
            )


class FocusSweep:
    """Drives the focus of a camera and hands out every frame."""

    def __init__(
        self,
        camera: FocusCamera,
        control: SweepControl | SweepConfig,
        plan: Planner | None = None,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        """Take an opened camera.

        Args:
            camera: that is open.
            control: what is asked of the sweep; a mere config sweeps for ever.
            plan: chooses the focus distances of each sweep where the config says `smart`.
            heard: called after every frame of the camera, those that are not handed out included.

        Raises:
            LensError: if the lens cannot reach the focus range of the sweep.
        """
        self._camera = camera
        self._control = SweepControl(control) if isinstance(control, SweepConfig) else control
        self._plan, self._heard = plan, heard
        self.sweeps = 0
        self._far_to_near = False
        self._focus_m: float | None = None
        self.positions_m = self.reachable(self._control.config)

    def reachable(self, config: SweepConfig) -> tuple[float, ...]:
        """Return the focus distances that a full sweep with these settings takes, nearest first.

        Raises:
            LensError: if the lens cannot reach them.
        """
        fixed = self._camera.focus_positions_m
        wanted = tuple(sorted(fixed)) if fixed is not None else focus_positions_m(config)
        near_m, far_m = self._camera.focus_range_m
        if wanted[0] < near_m * (1.0 - 1e-9) or wanted[-1] > far_m * (1.0 + 1e-9):
            raise LensError(
                f"expected a sweep within the focus range of the lens, {near_m:.4g} to {far_m:.4g} m, "
                f"got {wanted[0]:.4g} to {wanted[-1]:.4g} m: set sweep.near_m and sweep.far_m"
            )
        return self._as_taken(wanted)

    def frames(self) -> Iterator[CameraFrame]:
        """Yield every frame of the camera until the control ends it; while paused, none.

        Frames exposed while the lens moved come too, marked by the focus speed of their lens state. Those of a
        sweep tell of how many focus positions it is.

        Raises:
            LensError: if a focus distance cannot be reached.
            DeviceError: if the lens does not settle, or the camera is lost.
            CameraError: if the camera fails otherwise.
        """
        while not self._control.must_stop:
            mode, hold_m, alone = self._control.take()
            if mode is Mode.SWEEP:
                yield from self._sweep(alone)
            elif mode is Mode.HOLD:
                yield from self._hold(hold_m)
            else:
                self._forget_turn()
                self._read()  # so that nothing old waits in the camera, and its loss is noticed

    def _sweep(self, alone: bool) -> Iterator[CameraFrame]:
        config = self._control.config
        if self._camera.prepare_sweep() or alone:
            self._forget_turn()
        positions = self.positions_m = self.reachable(config)
        if config.smart and self._plan is not None and self._camera.focus_positions_m is None:
            positions = self._as_taken(self._plan(positions))
        for focus_m in self._in_order(positions, config.pattern):
            for frame in self._settled_at(focus_m):
                yield _told(frame, len(positions))
                if self._control.must_stop or not (alone or self._control.goes_on(Mode.SWEEP, 0.0)):
                    self._forget_turn()
                    return
        self.sweeps += 1
        if alone:
            self._control.swept()
            self._forget_turn()

    def _forget_turn(self) -> None:
        """Begin the next sweep at its near end, with all its positions: the last one is cut off, or long ago."""
        self._far_to_near, self._focus_m = False, None

    def _in_order(self, positions: Sequence[float], pattern: str) -> Sequence[float]:
        """Return the focus distances as they are to be taken. Turning points are exposed once."""
        if pattern == "sawtooth":
            self._far_to_near = False
            return positions
        ordered = positions[::-1] if self._far_to_near else positions
        self._far_to_near = not self._far_to_near
        return ordered[1:] if ordered[0] == self._focus_m else ordered

    def _settled_at(self, focus_m: float) -> Iterator[CameraFrame]:
        """Yield frames up to the first one that was exposed with the lens at rest at a focus distance."""
        self._camera.set_focus(focus_m)
        self._focus_m = focus_m
        frames, since_ns = 0, 0
        while True:
            frame = self._read()
            yield frame
            if frame.lens_state.focus_speed_mps == 0.0:
                return
            frames += 1
            since_ns = since_ns or frame.stamp_ns
            passed_s = (frame.stamp_ns - since_ns) * 1e-9
            if frames >= MAX_FRAMES_TO_SETTLE and passed_s >= MAX_TIME_TO_SETTLE_S:
                raise DeviceError(
                    f"expected the lens to settle at {focus_m:.4g} m, it still moves after {frames} frames and "
                    f"{passed_s:.1f} s (now at {frame.lens_state.focus_distance_m:.4g} m)"
                )

    def _read(self) -> CameraFrame:
        frame = self._camera.read()
        self._heard()
        return frame

    def _hold(self, focus_m: float) -> Iterator[CameraFrame]:
        self._camera.set_focus(focus_m)
        self._forget_turn()
        while self._control.goes_on(Mode.HOLD, focus_m):
            yield self._read()

    def _as_taken(self, wanted: Sequence[float]) -> tuple[float, ...]:
        """Return the focus distances that the lens really takes, those once that are one for it."""
        taken: list[float] = []
        for focus_m in (self._camera.nearest_focus_m(m) for m in wanted):
            if not taken or 1.0 / taken[-1] - 1.0 / focus_m >= LEAST_SPACING_DPT:
                taken.append(focus_m)
        if len(taken) < MIN_SLICES:
            raise LensError(
                f"expected {MIN_SLICES} or more focus positions that the steps of the lens can tell apart, got "
                f"{[round(m, 4) for m in taken]} m of {[round(m, 4) for m in wanted]} m: widen the sweep"
            )
        return tuple(taken)


def _told(frame: CameraFrame, slices: int) -> CameraFrame:
    """Return the frame with the number of slices of its sweep in its lens state."""
    return dataclasses.replace(frame, lens_state=dataclasses.replace(frame.lens_state, sweep_slices=slices))
