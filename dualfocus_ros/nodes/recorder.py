# SPDX-License-Identifier: Apache-2.0
"""Records the topics of a focus-sweeping camera: raw messages into a queue, a thread of its own writes them."""

from __future__ import annotations

import importlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from dualfocus_ros import dds
from dualfocus_ros.bags.topics import ROLES
from dualfocus_ros.bags.writer import BagWriter
from dualfocus_ros.errors import BagError, ParameterError
from dualfocus_ros.nodes.runner import NodeSet
from dualfocus_ros.nodes.signals import hold_stop_signals, wait_for_stop

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

# Messages kept by the middleware until they are taken, per topic.
QUEUE_DEPTH = 200
# What waits to be written may be this much; a disk that is slower for longer loses messages, and that is told.
MAX_WAITING_BYTES = 512 << 20
LOOK_S = 0.1
TELL_S = 3.0
END_S = 30.0


@dataclass(frozen=True)
class RecordOptions:
    """What to record.

    Attributes:
        output: folder of the recording; must not exist.
        camera: name of the camera, before its topics image_raw, camera_info, lens and ground_truth/depth.
        topics: more topics.
        storage: `mcap` or `sqlite3`.
        compress: with zstd.
        duration_s: when to end; None: at Ctrl-C.
    """

    output: Path
    camera: str = "camera"
    topics: tuple[str, ...] = ()
    storage: str = "mcap"
    compress: bool = False
    duration_s: float | None = None


@dataclass
class RecordResult:
    """What was recorded.

    Attributes:
        counts: messages by topic.
        lost: messages that never came in or were not written, by topic.
        missing: topics that nobody published.
        silent: topics that somebody published, and no message came.
    """

    counts: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()


class Recorder(Node):  # type: ignore[misc]
    """Subscribes to topics as soon as somebody publishes them, and hands their messages on, not decoded."""

    def __init__(self, topics: Sequence[str], expected: dict[str, str], into: queue.Queue[Any]) -> None:
        """Look for publishers.

        Args:
            topics: names, relative ones to the namespace of the node.
            expected: the message type of those that have a known one.
            into: gets (topic, type, time of receipt in nanoseconds, CDR).

        Raises:
            ParameterError: if a name cannot be one of a topic.
        """
        super().__init__("recorder")
        self.failure: BaseException | None = None
        try:
            self.waiting = {self.resolve_topic_name(t): expected.get(t, "") for t in topics}
        except Exception as error:  # rclpy has no common root of them, from Humble on
            raise ParameterError(f"expected names of topics, got {', '.join(topics)}: {error}") from error
        self.wanted = tuple(self.waiting)
        self.lost: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self.waiting_bytes = 0
        self._lock = threading.Lock()
        self._queue = into
        self.create_timer(LOOK_S, self._look)
        self.create_timer(TELL_S, self._tell)
        self._look()
        self._tell()

    def written(self, size: int) -> None:
        """Note that so many bytes wait no more."""
        with self._lock:
            self.waiting_bytes -= size

    def _look(self) -> None:
        """Subscribe to what has a publisher by now."""
        for topic, expected in list(self.waiting.items()):
            publishers = self.get_publishers_info_by_topic(topic)
            if not publishers:
                continue
            kind = publishers[0].topic_type
            if expected and kind != expected:
                self.failure = BagError(
                    f"topic {topic}: expected {expected}, {publishers[0].node_name} publishes {kind} there"
                )
                return
            del self.waiting[topic]
            self._subscribe(topic, kind, publishers)

    def _tell(self) -> None:
        """Say what is waited for, until something comes."""
        if self.waiting and not self.heard:
            self.get_logger().info(f"waiting for somebody to publish {', '.join(self.waiting)}")

    def _subscribe(self, topic: str, kind: str, publishers: Sequence[Any]) -> None:
        package, _, name = kind.rpartition("/")
        try:
            message_class = getattr(importlib.import_module(package.replace("/", ".")), name)
        except (ImportError, AttributeError):
            self.failure = BagError(f"topic {topic}: the package of {kind} is not installed: cannot record it")
            return

        def lost(event: Any) -> None:
            self.lost[topic] += event.total_count_change

        # Reliable where every publisher is, else nothing at all would come from those that are not.
        reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
        latched = all(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=QUEUE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        events = SubscriptionEventCallbacks(message_lost=lost)
        try:
            self._listen(message_class, topic, kind, qos, event_callbacks=events)
        except UnsupportedEventTypeError:  # not every middleware tells
            self._listen(message_class, topic, kind, qos)
        self.get_logger().info(f"recording {topic} ({kind}, {'reliable' if reliable else 'best effort'})")

    def _listen(self, message_class: Any, topic: str, kind: str, qos: QoSProfile, **options: Any) -> None:
        self.create_subscription(
            message_class, topic, lambda data: self._take(topic, kind, data), qos, raw=True, **options
        )

    def _take(self, topic: str, kind: str, data: bytes) -> None:
        with self._lock:
            if self.waiting_bytes + len(data) > MAX_WAITING_BYTES:
                self.lost[topic] += 1
                return
            self.waiting_bytes += len(data)
        self.heard[topic] += 1
        self._queue.put((topic, kind, self.get_clock().now().nanoseconds, data))


def record(options: RecordOptions, args: list[str] | None = None) -> RecordResult:
    """Record until the time is over or a stop signal comes.

    Args:
        options: what to record. Where no message came, nothing is left behind.
        args: of rclpy.init, e.g. remaps.

    Raises:
        BagError: if the recording cannot be written, or a topic has another type than expected.
    """
    if options.duration_s is not None and not options.duration_s > 0.0:
        raise ParameterError(f"expected a duration above 0 s, got {options.duration_s}")
    hold_stop_signals()
    dds.use_profile()
    camera = options.camera.rstrip("/")
    expected = {f"{camera}/{role.live_name}": role.message_type for role in ROLES.values()}
    waiting: queue.Queue[Any] = queue.Queue()
    recorder: list[Recorder] = []

    def make() -> Recorder:
        recorder.append(Recorder([*expected, *options.topics], expected, waiting))
        return recorder[0]

    writer = BagWriter(options.output, options.storage, compress=options.compress)
    writer.check()
    thread = _WriterThread(writer, waiting)
    try:
        with NodeSet([make], args) as nodes:
            thread.done = recorder[0].written
            _wait(nodes, recorder[0], thread, options.duration_s)
    finally:
        thread.end()
    node = recorder[0]
    for failure in (node.failure, thread.failure):
        if failure is not None:
            raise failure
    silent = tuple(t for t in node.wanted if not node.heard[t] and t not in node.waiting)
    return RecordResult(dict(writer.counts), dict(node.lost), tuple(node.waiting), silent)


def _wait(nodes: NodeSet, node: Recorder, thread: _WriterThread, duration_s: float | None) -> None:
    """Wait for the first message and then for the time to be over; end before where something failed."""
    end_s = None
    while node.failure is None and thread.failure is None and not wait_for_stop(0.05):
        nodes.check()
        if end_s is None and node.heard and duration_s is not None:
            end_s = time.monotonic() + duration_s
        if end_s is not None and time.monotonic() >= end_s:
            return


class _WriterThread:
    """Writes what comes out of a queue, until `end`; the first message makes the recording."""

    def __init__(self, writer: BagWriter, waiting: queue.Queue[Any]) -> None:
        self.failure: BaseException | None = None
        self.done: Any = lambda size: None
        self._writer, self._waiting = writer, waiting
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Write what waits, and end."""
        self._waiting.put(None)
        self._thread.join(END_S)
        if self._thread.is_alive() and self.failure is None:
            self.failure = BagError(f"{self._writer.path}: writing did not end within {END_S:g} s")

    def _run(self) -> None:
        try:
            with ExitStack() as opened:
                while (item := self._waiting.get()) is not None:
                    if not self._writer.counts:
                        opened.enter_context(self._writer)
                    topic, kind, stamp_ns, data = item
                    self._writer.write(topic, kind, stamp_ns, data)
                    self.done(len(data))
        except BaseException as error:  # noqa: BLE001 - whatever ends the writing ends the recording
            self.failure = error
