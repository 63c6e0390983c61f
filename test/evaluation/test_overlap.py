# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dualfocus_ros.evaluation.overlap import InOrder, Overlapped


def test_work_begins_with_the_engine_and_runs_while_it_does() -> None:
    """The engine ends only when the work has begun: without a thread of its own this would not end."""
    begun = threading.Event()
    order: list[str] = []

    class Engine:
        name, device = "waiting", "nowhere"

        def infer(self, stack: Any) -> Any:
            assert begun.wait(10.0)
            order.append("engine")
            return stack

    engine = Overlapped(Engine())  # type: ignore[arg-type]
    assert (engine.name, engine.device) == ("waiting", "nowhere")
    with ThreadPoolExecutor(1) as executor:
        scores: InOrder[int] = InOrder(executor, lambda result: order.append(f"result {result}"))
        engine.before = scores.start
        scores.hold(lambda: begun.set() or 1)
        assert not begun.is_set()
        assert engine.infer("stack") == "stack"  # type: ignore[arg-type, comparison-overlap]
        scores.tell(0)
    assert order == ["engine", "result 1"]


def test_results_come_in_order_on_the_thread_that_asks_and_not_before() -> None:
    seen: list[tuple[int, int]] = []
    with ThreadPoolExecutor(1) as executor:
        scores: InOrder[int] = InOrder(executor, lambda result: seen.append((result, threading.get_ident())))
        for i, told in enumerate((0, 0, 1, 2)):
            scores.hold(lambda i=i: i)
            scores.tell(2)
            assert len(seen) == told
        scores.hold(lambda: None)  # nothing to be told of
        scores.tell(0)
    assert seen == [(i, threading.get_ident()) for i in range(4)]


def test_errors_come_out_in_their_turn() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    seen: list[int] = []
    works: list[Callable[[], int]] = [lambda: 1, fail, lambda: 3]
    with ThreadPoolExecutor(1) as executor:
        scores: InOrder[int] = InOrder(executor, seen.append)
        for work in works:
            scores.hold(work)
        with pytest.raises(ZeroDivisionError):
            scores.tell(0)
    assert seen == [1]
