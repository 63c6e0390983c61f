# SPDX-License-Identifier: Apache-2.0
"""Real processes, real messages: what the tests over DDS share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, JointState

from dualfocus_ros import messages
from dualfocus_ros.types import Intrinsics, LensModel, LensState

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "from dualfocus_ros.cli import main; raise SystemExit(main())"
EXECUTABLE = "from dualfocus_ros.nodes.executables import {} as f; print('up', flush=True); raise SystemExit(f())"
# The simulated camera at a quarter of the size and the same field of view, fast to open.
SMALL: dict[str, Any] = {
    "simulated.width": 160,
    "simulated.height": 120,
    "simulated.pixel_pitch_m": 13.75e-6 * 4,
    "simulated.views": 32,
}
TINY: dict[str, Any] = {
    "simulated.width": 64,
    "simulated.height": 48,
    "simulated.pixel_pitch_m": 13.75e-6 * 10,
    "simulated.views": 16,
    "simulated.rate_hz": 30.0,
    "sweep.slices": 4,
}
# The tests of the chain know what this engine makes of their scenes; it needs no model.
ENGINE = {"engine": "classical"}
# As sensor data, with room for what comes while the test computes.
LISTEN = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
# A busy machine may take this long for what takes a second on a free one.
START_S = 30.0
# A response that has not come by then is lost.
ANSWER_S = 1.5


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str | Callable[[], str]) -> Any:
    """Return the first true value of `condition`; fail after the timeout with what was waited for."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout_s:g} s: {text}")
        time.sleep(0.01)


def ros_args(params: dict[str, Any] | None = None, remaps: dict[str, str] | None = None) -> list[str]:
    """Return `--ros-args ...` for parameters and remaps."""
    words = ["--ros-args"]
    for name, value in (params or {}).items():
        words += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    for name, value in (remaps or {}).items():
        words += ["-r", f"{name}:={value}"]
    return words


class Process:
    """A process of its own session whose output goes to a file."""

    def __init__(self, code: str, arguments: Sequence[str], log: Path, **environ: str) -> None:
        self.log = log
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **environ},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(errors="replace")

    def lines(self, *words: str) -> list[str]:
        """Return the lines of the output that hold all these words."""
        return [line for line in self.output.splitlines() if all(w in line for w in words)]

    def wait_for_output(self, text: str, timeout_s: float = START_S) -> None:
        """Wait until it has written `text`; fail where it ends before."""

        def seen() -> bool:
            ended = self.popen.poll() is not None
            if text in self.output:
                return True
            assert not ended, f"ended with {self.popen.returncode} before it wrote {text!r}:\n{self.output}"
            return False

        wait_until(seen, timeout_s, lambda: f"{text!r} in the output:\n{self.output}")

    def signal(self, number: signal.Signals = signal.SIGINT) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Return the exit code; fail where it does not end in time."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGABRT)  # faulthandler then tells where it is
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(5)
            raise AssertionError(f"still running after {timeout_s:g} s:\n{self.output}") from None

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(10)


class Processes:
    """Starts processes; leaving the context stops what still runs, and kills what does not stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: list[Process] = []

    def start(
        self, executable: str, params: dict[str, Any] | None = None, remaps: dict[str, str] | None = None
    ) -> Process:
        """Start an executable of the package; a depth node with `ENGINE`, where `params` names no other."""
        given = {**(ENGINE if executable == "depth_node" else {}), **(params or {})}
        return self.run(EXECUTABLE.format(executable), ros_args(given, remaps))

    def run(self, code: str, arguments: Sequence[str] = (), **environ: str) -> Process:
        """Start Python code."""
        process = Process(code, arguments, self.folder / f"process_{len(self.all)}.log", **environ)
        self.all.append(process)
        return process

    def alive(self) -> bool:
        """Say that none has ended; fail with its output where one has."""
        for p in self.all:
            assert p.popen.poll() is None, f"ended with {p.popen.returncode}:\n{p.output}"
        return True

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.all:
            if process.popen.poll() is None:
                process.signal()
        for process in self.all:
            try:
                process.popen.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


class Peer:
    """A node of the test, spun on a thread of its own, in a ROS context of its own."""

    def __init__(self, name: str = "test_peer") -> None:
        self._context = rclpy.context.Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node(name, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.diagnostics: list[DiagnosticStatus] = []
        self._clients: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(2.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics.extend(message.status)

    def collect(self, kind: Any, topic: str, qos: QoSProfile = LISTEN) -> list[Any]:
        """Subscribe; return the list to which the messages are added."""
        got: list[Any] = []
        self.node.create_subscription(kind, topic, got.append, qos)
        return got

    def diagnostic(self, node: str, key: str = "") -> str | None:
        """Return the latest value of a key of a node's diagnostics, or its message where no key is given."""
        for status in reversed(self.diagnostics):
            if status.name.startswith(f"{node}:"):
                if not key:
                    return str(status.message)
                return next((str(v.value) for v in status.values if v.key == key), None)
        return None

    def connected(self, node: str, topic: str) -> int:
        """Return with how many others a node says that its input or output of a topic is connected."""
        told = self.diagnostic(node, f"publishers of {topic}") or self.diagnostic(node, f"subscribers of {topic}")
        return int(told or 0)

    def client(self, kind: Any, service: str) -> Any:
        """Return the client of a service whose server is there."""
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
        assert self._clients[service].wait_for_service(START_S), f"no service {service}"
        return self._clients[service]

    def call(self, kind: Any, service: str, request: Any, attempts: int = 8) -> Any:
        """Call a service whose request may come twice; return its response, None where none came.

        A server that has not yet discovered the client's end for responses sends its response to nobody: on a
        busy machine that happens to the first call, whatever `wait_for_service` says.
        """
        client = self.client(kind, service)
        for _ in range(attempts):
            future = client.call_async(request)
            end = time.monotonic() + ANSWER_S
            while time.monotonic() < end:
                if future.done():
                    return future.result()
                time.sleep(0.005)
            client.remove_pending_request(future)
        return None

    def state(self, node: str) -> str:
        """Return the lifecycle state of a node, e.g. `inactive`."""
        answer = self.call(GetState, f"{node}/get_state", GetState.Request())
        assert answer is not None, f"{node} does not tell its state"
        return str(answer.current_state.label)

    def change_state(self, node: str, transition: int) -> bool:
        """Ask for a lifecycle transition; say whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id = transition
        self.client(ChangeState, f"{node}/change_state")
        before = self.state(node)
        for _ in range(8):
            answer = self.call(ChangeState, f"{node}/change_state", request, attempts=1)
            if answer is not None:
                return bool(answer.success)
            if self.state(node) != before:
                return True
        raise AssertionError(f"{node} does not answer to change_state")


class NotConnectedError(AssertionError):
    """The middleware did not bring everybody together, as it now and then fails to on a very busy machine."""


def wait_until_connected(processes: Processes, peer: Peer, wanted: dict[tuple[str, str], int]) -> None:
    """Wait until every node says that its topics are connected with so many others."""

    def connected() -> bool:
        return processes.alive() and all(peer.connected(*which) == n for which, n in wanted.items())

    try:
        wait_until(connected, START_S, lambda: str({which: peer.connected(*which) for which in wanted}))
    except AssertionError as error:
        processes.alive()
        raise NotConnectedError(str(error)) from error


def stamp_ns(message: Any) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def by_stamp(got: list[Any]) -> dict[int, Any]:
    """Return messages by stamp; fail where two have the same."""
    found = {stamp_ns(m): m for m in got}
    assert len(found) == len(got), "two messages with one stamp"
    return found


def plane(image: Any, dtype: Any = np.float32) -> np.ndarray:
    """Return the pixels of a one-channel message without the code under test; fail where its layout is wrong."""
    width = np.dtype(dtype).itemsize * image.width
    assert image.is_bigendian == 0
    assert (image.step, len(image.data)) == (width, width * image.height)
    return np.frombuffer(image.data, dtype).reshape(image.height, image.width)


def plane_texture(width: int, height: int) -> np.ndarray:
    """Return a picture (H, W, 3) float32 with detail everywhere."""
    texture = np.random.default_rng(7).integers(0, 2, (height, width, 3)).astype(np.float32)
    return 40.0 + 170.0 * cv2.GaussianBlur(texture, (0, 0), 0.6)


def textured_plane(texture: np.ndarray, lens: LensModel, focus_dpt: float, depth_dpt: float) -> np.ndarray:
    """Return a plane as a thin lens without breathing sees it, (H, W, 3) uint8: blurred by a disk."""
    aperture_px = lens.focal_length_m / lens.f_number * lens.focal_length_m / lens.pixel_pitch_m
    radius_px = 0.5 * aperture_px * abs(focus_dpt - depth_dpt)
    fine = 8
    reach = int(radius_px) + 1
    at = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    disk = (at[:, None] ** 2 + at[None, :] ** 2 <= max(radius_px, 0.5) ** 2).astype(np.float32)
    kernel = disk.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).sum((1, 3))
    blurred = cv2.filter2D(texture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.clip(np.rint(blurred), 0, 255).astype(np.uint8)


class SyntheticCamera:
    """Publishes, frame by frame, a textured plane at a known depth through a thin lens without breathing.

    A blur circle is the disk of the thin-lens formula. Its fields of `Image` can be spoilt before sending.
    """

    LENS = LensModel(focal_length_m=0.016, f_number=1.4, pixel_pitch_m=110e-6)
    WIDTH, HEIGHT = 64, 48
    POSITIONS_DPT = (2.5, 2.0, 1.5, 1.0, 0.5, 0.25)
    PERIOD_NS = 66_000_000

    def __init__(self, peer: Peer, namespace: str, depth_m: float = 0.8, frame_id: str = "optical") -> None:
        base = f"{namespace}/camera"
        self._image = peer.node.create_publisher(Image, f"{base}/image_raw", 10)
        self._info = peer.node.create_publisher(CameraInfo, f"{base}/camera_info", 10)
        self._lens = peer.node.create_publisher(JointState, f"{base}/lens", 10)
        self._frame_id = frame_id
        self._depth_dpt = 1.0 / depth_m
        self.stamp_ns = time.time_ns()
        self._texture = plane_texture(self.WIDTH, self.HEIGHT)
        fx = self.LENS.focal_length_m / self.LENS.pixel_pitch_m
        self.intrinsics = Intrinsics(self.WIDTH, self.HEIGHT, fx, fx, (self.WIDTH - 1) / 2, (self.HEIGHT - 1) / 2)

    def wait_for_subscribers(self) -> None:
        publishers = (self._image, self._info, self._lens)
        wait_until(
            lambda: all(p.get_subscription_count() for p in publishers),
            START_S,
            f"subscribers of {self._image.topic}",
        )

    def picture(self, focus_dpt: float) -> np.ndarray:
        """Return the plane as seen with that focus, (H, W, 3) uint8."""
        return textured_plane(self._texture, self.LENS, focus_dpt, self._depth_dpt)

    def frame(
        self,
        focus_dpt: float,
        *,
        spoil_image: Callable[[Any], None] | None = None,
        spoil_info: Callable[[Any], None] | None = None,
        spoil_lens: Callable[[Any], None] | None = None,
        lens: bool = True,
    ) -> int:
        """Publish one frame with its camera_info and lens state; return its stamp."""
        self.stamp_ns += self.PERIOD_NS
        state = LensState(self.stamp_ns, 1.0 / focus_dpt, self.LENS)
        lens_message = messages.lens_message(state, self._frame_id)
        info = messages.camera_info_message(self.intrinsics, self.stamp_ns, self._frame_id)
        image = messages.image_message(self.picture(focus_dpt), "rgb8", self.stamp_ns, self._frame_id)
        for spoil, message in ((spoil_image, image), (spoil_info, info), (spoil_lens, lens_message)):
            if spoil is not None:
                spoil(message)
        if lens:
            self._lens.publish(lens_message)
        self._info.publish(info)
        self._image.publish(image)
        time.sleep(0.01)
        return self.stamp_ns

    def sweep(self, **spoil: Any) -> list[int]:
        """Publish one sweep, near to far; return its stamps."""
        return [self.frame(position, **spoil) for position in self.POSITIONS_DPT]

    def sweep_until(self, got: list[Any], timeout_s: float = START_S) -> Any:
        """Sweep until one more message has come; return it."""
        before = len(got)

        def step() -> bool:
            self.sweep()
            return len(got) > before

        wait_until(step, timeout_s, "an answer to good frames")
        return got[before]


@contextmanager
def chain(folder: Path) -> Iterator[tuple[Processes, Peer]]:
    """Give processes and a peer; end both."""
    with Peer() as peer, Processes(folder) as processes:
        yield processes, peer
