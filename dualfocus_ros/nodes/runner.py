# SPDX-License-Identifier: Apache-2.0
"""Runs nodes in one process from start to a clean end, whatever ends them."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from dualfocus_ros.errors import DualFocusError, EngineError, ParameterError
from dualfocus_ros.nodes.base import ManagedNode
from dualfocus_ros.nodes.signals import hold_stop_signals, wait_for_stop
from dualfocus_ros.nodes.worker import work_goes_on

POLL_S = 0.1
# No estimate takes longer.
FINISH_S = 30.0


class Spinner:
    """Spins one node on a thread of its own and remembers what ended it."""

    def __init__(self, node: Node) -> None:
        """Start to spin."""
        self.failure: BaseException | None = None
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name=f"spin {node.get_name()}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the spinning; callbacks that run are waited for."""
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(1.0)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass
        except BaseException as error:  # noqa: BLE001 - a dead spinner must end the process with its error
            self.failure = error


class NodeSet:
    """Nodes that run together in this process. A context manager: leaving tears everything down.

    Managed nodes with `autostart` are configured and activated. Stop signals must be held.

    Raises, on entering and in `check`:
        DualFocusError: whatever stopped a node on purpose.
        Exception: any defect that ended a callback or worker.
    """

    def __init__(
        self, makers: Sequence[Callable[[], Node]], args: list[str] | None = None, finish_s: float = 0.0
    ) -> None:
        """Take what is to run.

        Args:
            makers: functions that make the nodes once rclpy is up.
            args: those of rclpy.init.
            finish_s: how long to wait, at the end, for an estimate that is under way. Where Python itself ends
                before it does, the process aborts.
        """
        self._makers = makers
        self._args = args
        self._finish_s = finish_s
        self.nodes: list[Node] = []
        self._spinners: list[Spinner] = []

    def __enter__(self) -> NodeSet:
        """Start all nodes."""
        self._init()
        try:
            for make in self._makers:
                self.nodes.append(make())
            for node in self.nodes:
                self._spinners.append(Spinner(node))
                if isinstance(node, ManagedNode) and node.autostart:
                    node.start()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all nodes."""
        problem = self._tear_down()
        if problem is not None and error is None:
            raise problem

    def check(self) -> None:
        """Raise what has ended a node, its worker or its callbacks."""
        for node in self.nodes:
            if isinstance(node, ManagedNode) and node.failure is not None:
                raise node.failure
        for spinner in self._spinners:
            if spinner.failure is not None:
                raise spinner.failure

    @property
    def done(self) -> bool:
        """Whether a node has done all that it was to do."""
        return any(isinstance(node, ManagedNode) and node.done for node in self.nodes)

    def _init(self) -> None:
        """Start ROS. What it says of its arguments (parameter syntax, files, unknown options) is one error."""
        try:
            rclpy.init(args=self._args, signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:
            raise _unusable(error) from error

    def _tear_down(self) -> DualFocusError | None:
        """End everything; return what could not be done at the end, of what had to be."""
        problem: DualFocusError | None = None
        for spinner in self._spinners:  # first: what closes a node must not meet its callbacks
            spinner.stop()
        for node in self.nodes:
            if isinstance(node, ManagedNode):
                try:
                    node.close()
                except EngineError as error:
                    # An estimate that is still under way ends with the process, which is to end now.
                    node.get_logger().warning(f"not freed: {error}")
                except DualFocusError as error:
                    problem = problem or error
        for node in self.nodes:
            node.destroy_node()
        rclpy.try_shutdown()
        work_goes_on(self._finish_s)
        return problem


def run_until_stopped(makers: Sequence[Callable[[], Node]], args: list[str] | None = None) -> int:
    """Run nodes until SIGINT, SIGTERM or the end of their work; return the exit code: 0, or 1 after an error.

    A known error is one line on stderr, an unknown one a traceback. Where an estimate is still under way, the
    process ends here with that code: the estimate may take long, and would not survive the end of Python.
    """
    code = _run_until_stopped(makers, args)
    if work_goes_on():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run_until_stopped(makers: Sequence[Callable[[], Node]], args: list[str] | None) -> int:
    hold_stop_signals()
    try:
        _parse_no_arguments(sys.argv if args is None else args)
        with NodeSet(makers, args) as nodes:
            while rclpy.ok() and not nodes.done and not wait_for_stop(POLL_S):
                nodes.check()
            nodes.check()
    except DualFocusError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _unusable(error: RuntimeError) -> ParameterError:
    return ParameterError(f"expected usable ROS arguments (--ros-args ...): {error}")


def _parse_no_arguments(args: Sequence[str]) -> None:
    """Answer --help; end with usage on anything that is not for ROS, which would else be ignored."""
    try:
        name, *rest = remove_ros_args(args)
    except RuntimeError as error:
        raise _unusable(error) from error
    parser = argparse.ArgumentParser(
        prog=Path(name).name,
        description="A node of dualfocus_ros. Its parameters are in docs/parameters.md; set them with "
        "--ros-args -p NAME:=VALUE or --params-file FILE.",
        usage="%(prog)s [--ros-args ...]",
    )
    parser.parse_args(rest)
