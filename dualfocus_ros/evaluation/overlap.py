# SPDX-License-Identifier: Apache-2.0
"""Work on a thread while an engine runs, and at no other time: engines need no Python, what prepares them does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from dualfocus_ros.engine.base import DepthEngine, EngineOutput
from dualfocus_ros.types import AlignedStack

Result = TypeVar("Result")


class Overlapped:
    """An entered engine that has something else begin whenever it begins itself."""

    def __init__(self, engine: DepthEngine) -> None:
        """Take the engine; what else begins is `before`."""
        self.name, self.device, self._engine = engine.name, engine.device, engine
        self.before: Callable[[], None] = lambda: None

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Run `before`, then estimate as the engine does."""
        self.before()
        return self._engine.infer(stack)

    def __enter__(self) -> DepthEngine:
        """Do nothing: whoever entered the engine leaves it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


class InOrder(Generic[Result]):
    """Has work done on an executor of one thread, and hands on the results in order, on the thread that asks."""

    def __init__(self, executor: ThreadPoolExecutor, observe: Callable[[Result], None]) -> None:
        """Take where it is done, and who gets the results that are not None."""
        self._executor, self._observe = executor, observe
        self._held: Callable[[], Result | None] | None = None
        self._running: deque[Future[Result | None]] = deque()

    def hold(self, work: Callable[[], Result | None]) -> None:
        """Take work that is to begin with the next `start`; what was held begins now."""
        self.start()
        self._held = work

    def start(self) -> None:
        """Begin what is held."""
        work, self._held = self._held, None
        if work is not None:
            self._running.append(self._executor.submit(work))

    def tell(self, behind: int) -> None:
        """Hand on results, oldest first, until only so many are left; raise what their work raised.

        Args:
            behind: at least 0; with 0 what is held begins, too.
        """
        if behind == 0:
            self.start()
        while len(self._running) + (self._held is not None) > behind:
            result = self._running.popleft().result()
            if result is not None:
                self._observe(result)
