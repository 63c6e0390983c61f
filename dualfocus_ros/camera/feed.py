# SPDX-License-Identifier: Apache-2.0
"""Images that someone else takes, handed to a device that has only a lens.

A device that takes its images from elsewhere has an attribute `feed`; whoever receives images puts them there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

from dualfocus_ros.errors import DeviceError
from dualfocus_ros.types import Image, Intrinsics

# Older images cannot be of the present: they are of a recording, of simulated time, or of another machine's clock.
MAX_AGE_S = 3.0
# Stamps this far ahead are the jitter of clocks kept in step by NTP or PTP; more means that the clocks differ.
MAX_AHEAD_S = 0.002

FUTURE = "images stamped in the future"
OLD = f"images stamped more than {MAX_AGE_S:g} s ago"
BACKWARDS = "images stamped before the one that came before"
OTHER_SIZE = "camera infos of another size than their images"


@dataclass(frozen=True)
class FedImage:
    """An image of a feed.

    Attributes:
        image: pixels in the layout that `encoding` says; whoever put it there must not change it any more.
        encoding: a name of sensor_msgs/image_encodings.
        stamp_ns: as it came, nanoseconds of wall time.
        time_s: the same time on CLOCK_MONOTONIC, seconds.
        intrinsics: of the image, else the latest that came; None: none came.
    """

    image: Image
    encoding: str
    stamp_ns: int
    time_s: float
    intrinsics: Intrinsics | None = None


class FrameFeed:
    """Keeps the newest image. Any thread may use it.

    Attributes:
        refused: what was not taken, by reason, since `restart`.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.refused: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._newest: FedImage | None = None
        self._intrinsics: Intrinsics | None = None
        self._last_stamp_ns: int | None = None
        self._interrupted = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What was refused, sentences for people; empty: nothing."""
        with self._changed:
            refused = dict(self.refused)
        hints = {
            FUTURE: ": is the clock of the machine with the camera in step with this one's?",
            OLD: ": is the clock of the machine with the camera in step, or is this a recording?",
        }
        return tuple(f"{count} {what} refused{hints.get(what, '')}" for what, count in refused.items())

    def restart(self) -> None:
        """Forget the images and refusals from before, and an interruption."""
        with self._changed:
            self.refused.clear()
            self._newest = self._last_stamp_ns = None
            self._interrupted = False

    def put(self, image: Image, encoding: str, stamp_ns: int, intrinsics: Intrinsics | None) -> None:
        """Take an image, unless its stamp shows that it is not of now.

        Args:
            image: pixels; kept, not copied.
            encoding: a name of sensor_msgs/image_encodings.
            stamp_ns: nanoseconds of wall time.
            intrinsics: of the image; None: those that came last.
        """
        # Now, not when it is read: the clocks are compared as close to the event as can be.
        age_s = (time.time_ns() - stamp_ns) * 1e-9
        time_s = time.monotonic() - age_s
        with self._changed:
            reason = self._reason_to_refuse(age_s, stamp_ns)
            if reason:
                self.refused[reason] += 1
                return
            if intrinsics is not None:
                self._intrinsics = intrinsics
            known = self._intrinsics
            if known is not None and not _fits(known, image, encoding):
                self.refused[OTHER_SIZE] += 1
                known = None
            self._last_stamp_ns = stamp_ns
            self._newest = FedImage(image, encoding, stamp_ns, time_s, known)
            self._changed.notify_all()

    def take(self, timeout_s: float) -> FedImage:
        """Return the newest image that was not taken yet, waiting for one where there is none.

        Raises:
            DeviceError: if none came within the time, or `interrupt` was called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._interrupted, timeout_s)
            if self._interrupted:
                raise DeviceError("interrupted while waiting for an image")
            taken, self._newest = self._newest, None
        if taken is not None:
            return taken
        notes = "; ".join(self.notes)
        raise DeviceError(
            f"no image came within {timeout_s:g} s: does the camera's node publish, on the topic image_topic?"
            + (f" ({notes})" if notes else "")
        )

    def interrupt(self) -> None:
        """Make `take`, under way on another thread, end soon; later ones too, until `restart`."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def _reason_to_refuse(self, age_s: float, stamp_ns: int) -> str:
        if age_s < -MAX_AHEAD_S:
            return FUTURE
        if age_s > MAX_AGE_S:
            return OLD
        if self._last_stamp_ns is not None and stamp_ns <= self._last_stamp_ns:
            return BACKWARDS
        return ""


def _fits(intrinsics: Intrinsics, image: Image, encoding: str) -> bool:
    rows, columns = image.shape[:2]
    # The chroma of these lies in further rows below the picture.
    height = rows * 2 // 3 if encoding in ("nv12", "nv21") else rows
    return (intrinsics.width, intrinsics.height) == (columns, height)
