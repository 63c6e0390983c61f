# SPDX-License-Identifier: Apache-2.0
"""The worker: newest item only, never a wait for whoever puts, never a silent death."""

from __future__ import annotations

import gc
import threading
import time
import weakref

from dualfocus_ros.nodes.worker import LatestWorker, work_goes_on


class Gate:
    """Work that waits until it is let through, item by item."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.started = threading.Semaphore(0)
        self.let_through = threading.Semaphore(0)

    def __call__(self, item: object) -> None:
        self.seen.append(item)
        self.started.release()
        assert self.let_through.acquire(timeout=5)

    def wait_for_start(self) -> None:
        assert self.started.acquire(timeout=5)


def fail_the_test(error: BaseException) -> None:
    raise AssertionError(error)


def test_it_works_on_the_newest_item_and_says_what_was_replaced() -> None:
    gate = Gate()
    worker = LatestWorker(gate, fail_the_test, "test")
    assert worker.put(1) is False
    gate.wait_for_start()
    assert worker.put(2) is False  # the slot was empty: 1 is being worked on
    assert worker.put(3) is True
    assert worker.put(4) is True
    gate.let_through.release()
    gate.wait_for_start()
    assert gate.seen == [1, 4]
    gate.let_through.release()
    assert worker.stop(5.0)
    assert gate.seen == [1, 4]


def test_putting_does_not_wait_for_the_work() -> None:
    gate = Gate()
    worker = LatestWorker(gate, fail_the_test, "test")
    worker.put(0)
    gate.wait_for_start()
    start = time.perf_counter()
    for i in range(1000):
        worker.put(i)
    assert time.perf_counter() - start < 0.5
    gate.let_through.release(2)
    assert worker.stop(5.0)


def test_stop_drops_what_waits_and_ends_the_thread() -> None:
    gate = Gate()
    worker = LatestWorker(gate, fail_the_test, "worker of this test")
    worker.put("first")
    gate.wait_for_start()
    worker.put("second")
    assert worker.stop(0.05) is False  # the first is still being worked on
    gate.let_through.release(2)
    assert worker.stop(5.0) is True
    assert gate.seen == ["first"]
    assert "worker of this test" not in [t.name for t in threading.enumerate()]


def test_an_idle_worker_stops_at_once() -> None:
    worker = LatestWorker(Gate(), fail_the_test, "test")
    start = time.perf_counter()
    assert worker.stop(5.0)
    assert time.perf_counter() - start < 1.0


def test_its_death_is_told_with_the_error() -> None:
    told: list[BaseException] = []
    heard = threading.Event()

    def on_failure(error: BaseException) -> None:
        told.append(error)
        heard.set()

    def work(item: int) -> None:
        if item == 2:
            raise ZeroDivisionError("two")

    worker = LatestWorker(work, on_failure, "test")
    worker.put(2)
    assert heard.wait(5)
    assert [repr(e) for e in told] == ["ZeroDivisionError('two')"]
    assert worker.stop(5.0)
    assert len(told) == 1


def test_it_holds_no_item_while_it_waits() -> None:
    class Stack:
        """Stands for tens of megabytes."""

    done = threading.Event()
    worker: LatestWorker[Stack] = LatestWorker(lambda _: done.set(), fail_the_test, "test")
    stack = Stack()
    held = weakref.ref(stack)
    worker.put(stack)
    assert done.wait(5)
    del stack
    end = time.monotonic() + 5.0
    while held() is not None and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    assert held() is None
    assert worker.stop(5.0)


def test_what_is_put_aside_waits_for_the_items_and_only_the_last_is_done() -> None:
    gate = Gate()
    worker = LatestWorker(gate, fail_the_test, "test")
    worker.put(1)
    gate.wait_for_start()
    done = threading.Event()
    worker.put_aside(lambda: gate.seen.append("replaced"))
    worker.put_aside(lambda: (gate.seen.append("aside"), done.set()))  # type: ignore[func-returns-value]
    worker.put(2)
    gate.let_through.release()
    gate.wait_for_start()
    gate.let_through.release()
    assert done.wait(5.0)
    assert gate.seen == [1, 2, "aside"]
    assert worker.stop(5.0)


def test_what_is_put_aside_is_dropped_at_the_end() -> None:
    gate = Gate()
    worker = LatestWorker(gate, fail_the_test, "test")
    worker.put(1)
    gate.wait_for_start()
    worker.put_aside(lambda: gate.seen.append("aside"))
    assert not worker.stop(0.0)
    gate.let_through.release()
    assert worker.stop(5.0)
    assert gate.seen == [1]


def test_work_that_was_not_finished_in_time_can_be_waited_for() -> None:
    gate = Gate()
    worker = LatestWorker(gate, fail_the_test, "test")
    worker.put("item")
    gate.wait_for_start()
    assert not worker.stop(0.05) and work_goes_on() and work_goes_on(0.05)
    gate.let_through.release()
    assert not work_goes_on(5.0) and not work_goes_on()
