# SPDX-License-Identifier: Apache-2.0
"""Pairing by stamp: every image gets the intrinsics and the lens state of its own exposure."""

from __future__ import annotations

import bisect
import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from dualfocus_ros.types import Image, Intrinsics, LensState

# A stamp this far behind the newest of its topic is not late: time itself went back (a bag loops).
TIME_JUMP_NS = 200_000_000
MAX_WAITING = 16
# Focus beyond 1000 km is at infinity.
NEGLIGIBLE_DPT = 1e-6
MAX_HISTORY = 256

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class LensedFrame:
    """An image with the intrinsics and lens state of its exposure."""

    image: Image
    stamp_ns: int
    frame_id: str
    intrinsics: Intrinsics
    state: LensState

    @property
    def focus_dpt(self) -> float:
        """Focus position in dioptres."""
        return self.state.focus_dpt

    def fits(self, other: LensedFrame) -> bool:
        """Say whether both can be slices of one stack: same image type, lens and optical frame."""
        return (
            self.image.shape == other.image.shape
            and self.image.dtype == other.image.dtype
            and self.state.lens.resembles(other.state.lens)
            and self.frame_id == other.frame_id
        )


class _Timeline(Generic[T]):
    """The latest values of one topic, sorted by stamp, bounded."""

    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.values: list[T] = []

    def add(self, stamp_ns: int, value: T) -> bool:
        """Insert by stamp; return True where time went back and the past was forgotten."""
        jumped = bool(self.stamps) and stamp_ns < self.stamps[-1] - TIME_JUMP_NS
        if jumped:
            self.stamps.clear()
            self.values.clear()
        at = bisect.bisect_left(self.stamps, stamp_ns)
        if at < len(self.stamps) and self.stamps[at] == stamp_ns:
            self.values[at] = value
        else:
            self.stamps.insert(at, stamp_ns)
            self.values.insert(at, value)
        if len(self.stamps) > MAX_HISTORY:
            del self.stamps[0], self.values[0]
        return jumped

    def exact(self, stamp_ns: int) -> T | None:
        at = bisect.bisect_left(self.stamps, stamp_ns)
        return self.values[at] if at < len(self.stamps) and self.stamps[at] == stamp_ns else None

    def around(self, stamp_ns: int) -> tuple[T | None, T | None]:
        """Return the values before and after a stamp."""
        at = bisect.bisect_left(self.stamps, stamp_ns)
        before = self.values[at - 1] if at > 0 else None
        return before, self.values[at] if at < len(self.values) else None

    def nearest(self, stamp_ns: int) -> T | None:
        if not self.stamps:
            return None
        at = bisect.bisect_left(self.stamps, stamp_ns)
        candidates = [i for i in (at - 1, at) if 0 <= i < len(self.stamps)]
        return self.values[min(candidates, key=lambda i: abs(self.stamps[i] - stamp_ns))]


class FramePairer:
    """Joins images, intrinsics and lens states. Each `add_*` returns the frames that became complete.

    A lens state of the image's own stamp is taken as it is; else the focus is interpolated linearly in
    dioptres between the states before and after, and its slope counts as focus speed. Intrinsics of another
    stamp are used (the nearest) once a newer message shows that none of the own stamp will come. Images in
    another size than their intrinsics are dropped.
    """

    def __init__(self, max_lens_gap_s: float, drops: Counter[str]) -> None:
        """Count what cannot be paired in `drops`."""
        self._max_gap_ns = int(max_lens_gap_s * 1e9)
        self._drops = drops
        self._images: _Timeline[tuple[Image, str]] = _Timeline()
        self._intrinsics: _Timeline[Intrinsics] = _Timeline()
        self._states: _Timeline[LensState] = _Timeline()
        self._intrinsics_share_stamps = False
        self._resolved_stamps: deque[int] = deque(maxlen=MAX_WAITING)

    @property
    def images_waiting(self) -> int:
        """Number of images that wait for their intrinsics or lens state."""
        return len(self._images.stamps)

    def add_image(self, stamp_ns: int, image: Image, frame_id: str) -> list[LensedFrame]:
        """Add an image (H, W[, 3]); it is kept, not copied."""
        waiting = self.images_waiting
        if self._images.exact(stamp_ns) is not None:
            self._drops["duplicate_stamp"] += 1
            return []
        if self._images.add(stamp_ns, (image, frame_id)):
            self._drops["time_jump"] += waiting
        return self._resolve()

    def add_intrinsics(self, stamp_ns: int, intrinsics: Intrinsics) -> list[LensedFrame]:
        """Add the intrinsics reported at that stamp."""
        if self._images.exact(stamp_ns) is not None or stamp_ns in self._resolved_stamps:
            self._intrinsics_share_stamps = True
        self._intrinsics.add(stamp_ns, intrinsics)
        return self._resolve()

    def add_lens_state(self, state: LensState) -> list[LensedFrame]:
        """Add the state of the lens at its stamp."""
        self._states.add(state.stamp_ns, state)
        return self._resolve()

    def _resolve(self) -> list[LensedFrame]:
        """Take out, in order of time, the images that have all they need, and those that never will."""
        done: list[LensedFrame] = []
        images = self._images
        while images.stamps:
            stamp_ns, (image, frame_id) = images.stamps[0], images.values[0]
            state = self._state_at(stamp_ns)
            intrinsics = self._intrinsics_at(stamp_ns, newer_image=len(images.stamps) > 1)
            if state is None or intrinsics is None:
                hopeless = state is None and self._hopeless(stamp_ns)
                if not hopeless and len(images.stamps) <= MAX_WAITING:
                    break
                self._drops["no_lens_state" if state is None else "no_camera_info"] += 1
            elif image.shape[:2] != (intrinsics.height, intrinsics.width):
                self._drops["camera_info_of_another_size"] += 1
            else:
                done.append(LensedFrame(image, stamp_ns, frame_id, intrinsics, state))
            self._resolved_stamps.append(stamp_ns)
            del images.stamps[0], images.values[0]
        return done

    def _hopeless(self, stamp_ns: int) -> bool:
        """Say whether no lens state for this stamp can still come: the next ones are too far apart."""
        before, after = self._states.around(stamp_ns)
        if after is None:
            return False
        return before is None or after.stamp_ns - before.stamp_ns > self._max_gap_ns

    def _intrinsics_at(self, stamp_ns: int, *, newer_image: bool) -> Intrinsics | None:
        exact = self._intrinsics.exact(stamp_ns)
        if exact is not None:
            self._intrinsics_share_stamps = True
            return exact
        newer_info = bool(self._intrinsics.stamps) and self._intrinsics.stamps[-1] > stamp_ns
        # Where they have come with the stamps of the images, the one of this image may only be late.
        hopeless = newer_info or (newer_image and not self._intrinsics_share_stamps)
        return self._intrinsics.nearest(stamp_ns) if hopeless else None

    def _state_at(self, stamp_ns: int) -> LensState | None:
        exact = self._states.exact(stamp_ns)
        if exact is not None:
            return exact
        before, after = self._states.around(stamp_ns)
        if before is None or after is None or after.stamp_ns - before.stamp_ns > self._max_gap_ns:
            return None
        return _interpolate(before, after, stamp_ns)


def _interpolate(before: LensState, after: LensState, stamp_ns: int) -> LensState:
    """Return the state between two, linear in dioptres; the larger of slope and reported speeds counts.

    Between two sweeps of different length, the frame is of neither: the number of slices is then not told.
    """
    gap_ns = after.stamp_ns - before.stamp_ns
    weight = (stamp_ns - before.stamp_ns) / gap_ns
    focus_dpt = (1.0 - weight) * before.focus_dpt + weight * after.focus_dpt
    slope = abs(after.focus_dpt - before.focus_dpt) / (gap_ns * 1e-9)
    speed_dpt = max(slope, before.focus_speed_dpt_per_s, after.focus_speed_dpt_per_s)
    slices = before.sweep_slices if before.sweep_slices == after.sweep_slices else 0
    if focus_dpt < NEGLIGIBLE_DPT:
        return LensState(stamp_ns, math.inf, before.lens, math.inf if speed_dpt > 0.0 else 0.0, slices)
    return LensState(stamp_ns, 1.0 / focus_dpt, before.lens, speed_dpt / focus_dpt**2, slices)
