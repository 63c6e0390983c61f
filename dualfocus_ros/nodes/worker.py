# SPDX-License-Identifier: Apache-2.0
"""A worker thread behind a slot that holds only the latest item."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")
# Threads of workers that were told to stop and did not in time.
_unfinished: set[threading.Thread] = set()


def work_goes_on(timeout_s: float = 0.0) -> bool:
    """Wait for workers that were told to stop and had not in time; say whether one still works.

    Libraries abort the process where Python ends while they work.
    """
    until = time.monotonic() + timeout_s
    threads = tuple(_unfinished)
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return any(thread.is_alive() for thread in threads)


class LatestWorker(Generic[T]):
    """Runs `work(item)` on its own thread, always on the newest item; whoever puts never waits.

    When there is none, it does what was put aside last, if anything.
    """

    def __init__(self, work: Callable[[T], None], on_failure: Callable[[BaseException], None], name: str) -> None:
        """Start the thread. `on_failure` gets the exception that ended it, on that thread."""
        self._work = work
        self._aside: Callable[[], None] | None = None
        self._on_failure = on_failure
        self._ready = threading.Condition()
        self._item: T | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Hand over an item; return True where it replaced one that was never worked on."""
        with self._ready:
            replaced = self._item is not None
            self._item = item
            self._ready.notify()
        return replaced

    def put_aside(self, work: Callable[[], None]) -> None:
        """Hand over work for when there is no item; it replaces such work that was not begun."""
        with self._ready:
            self._aside = work
            self._ready.notify()

    def stop(self, timeout_s: float) -> bool:
        """Drop what waits and end the thread; say whether it ended in time."""
        with self._ready:
            self._stopping = True
            self._item = self._aside = None
            self._ready.notify()
        self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        (_unfinished.discard if ended else _unfinished.add)(self._thread)
        return ended

    def _run(self) -> None:
        try:
            while (work := self._take()) is not None:
                work()
                del work  # a stack is tens of megabytes: do not hold it while waiting for the next
        except BaseException as error:  # noqa: BLE001 - whatever ends the worker must be known to the node
            self._on_failure(error)

    def _take(self) -> Callable[[], None] | None:
        with self._ready:
            self._ready.wait_for(lambda: self._item is not None or self._aside is not None or self._stopping)
            if self._item is not None:
                work, self._item = partial(self._work, self._item), None
                return work
            aside, self._aside = self._aside, None
            return aside
