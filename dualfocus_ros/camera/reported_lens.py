# SPDX-License-Identifier: Apache-2.0
"""When a lens stood still, by the positions that a camera library reports with its frames.

Such a position is where the lens was told to be as of that frame, not where it was while the frame was exposed:
the library writes it to the motor when it processes the frame, after its exposure.
"""

from __future__ import annotations

import math


class ReportedLens:
    """Follows the reported positions, frame by frame. One thread uses it.

    Attributes:
        target: where the lens was told to go last.
    """

    def __init__(self, target: float, tolerance: float, lag_frames: float) -> None:
        """Start with a lens of which nothing was reported yet.

        Args:
            target: where it was told to go.
            tolerance: by which a reported position may differ from the one that was commanded.
            lag_frames: frame periods from the stamp of the frame that first reports a position to the moment when
                the motor was told it at the latest.
        """
        self.target = target
        self._tolerance = tolerance
        self._lag_frames = lag_frames
        self._reported = math.nan
        self._in_effect_s = math.inf

    def moves(self, reported: float, exposure_start_s: float, stamp_s: float, period_s: float) -> bool:
        """Say whether the lens moved, or may have moved, while a frame was exposed.

        It stood still where its motor had been told the target before the exposure began. Frames that were left
        out between two with the same position are taken to have had it too.

        Args:
            reported: position that came with the frame.
            exposure_start_s: when its first row began to be exposed.
            stamp_s: when its first row began to be read out.
            period_s: from frame to frame.
        """
        if not abs(reported - self._reported) <= self._tolerance:
            self._reported = reported
            self._in_effect_s = stamp_s + self._lag_frames * period_s
        return abs(reported - self.target) > self._tolerance or exposure_start_s < self._in_effect_s
