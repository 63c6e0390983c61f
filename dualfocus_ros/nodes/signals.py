# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM, taken at one place instead of wherever Python happens to be."""

from __future__ import annotations

import signal

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


def hold_stop_signals() -> None:
    """Block the stop signals in this thread and in all threads that it starts.

    They stay pending until `wait_for_stop` takes them, so that none can interrupt the start or the
    teardown: a terminal's Ctrl-C under `ros2 launch` reaches a node twice.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def wait_for_stop(timeout_s: float) -> bool:
    """Wait for a held stop signal; say whether one came. Needs `hold_stop_signals` before."""
    return signal.sigtimedwait(STOP_SIGNALS, timeout_s) is not None
