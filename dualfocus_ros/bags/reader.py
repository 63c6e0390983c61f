# SPDX-License-Identifier: Apache-2.0
"""Reads recordings: rosbag2 folders and single files, mcap and sqlite3, compressed or not, damaged or not."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from dualfocus_ros.bags.library import library
from dualfocus_ros.bags.recovery import Found, scan_mcap, scan_sqlite, unpack_file
from dualfocus_ros.errors import BagError

SUFFIXES = (".mcap", ".db3")
METADATA = "metadata.yaml"


@dataclass(frozen=True)
class BagTopic:
    """A topic of a recording.

    Attributes:
        name: of the topic.
        message_type: as `sensor_msgs/msg/Image`.
        count: number of its messages.
    """

    name: str
    message_type: str
    count: int


@dataclass(frozen=True)
class BagMessage:
    """A message of a recording.

    Attributes:
        topic: it was sent on.
        message_type: as `sensor_msgs/msg/Image`.
        stamp_ns: when it was recorded; its header has another stamp.
        data: CDR.
    """

    topic: str
    message_type: str
    stamp_ns: int
    data: bytes


class Bag:
    """A recording. A context manager; what it tells is known inside.

    What of a damaged recording can be read is read; `damage` says in words what cannot, as far as reading went.
    """

    def __init__(self, path: str | Path) -> None:
        """Take the folder of a recording, or one of its files."""
        self.path = Path(path)
        self.topics: dict[str, BagTopic] = {}
        self.start_ns = 0
        self.end_ns = 0
        self.damage: list[str] = []
        self._found_damage: set[str] = set()
        self._resources = ExitStack()
        self._readers: list[Any] = []
        self._scans: list[Callable[[list[str]], Iterator[Found]]] = []

    def __enter__(self) -> Bag:
        """Open the recording and learn its topics.

        Raises:
            BagError: if there is no recording there, nothing of it can be read, or rosbags is not installed.
        """
        library("rosbags.rosbag2")
        try:
            self._open()
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._resources.close()

    @property
    def duration_s(self) -> float:
        """Time between the first message and the last."""
        return (self.end_ns - self.start_ns) * 1e-9

    def place(self, stamp_ns: int) -> str:
        """Return in words where in the recording a message is that was recorded at that time."""
        return f"{(stamp_ns - self.start_ns) * 1e-9:.3f} s into the recording"

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield the messages of these topics, in the order of the times at which they were recorded.

        Of a damaged recording they come in the order in which they were written.

        Args:
            topics: their names.
            start_ns: none recorded before that.
            stop_ns: none recorded then or later.
        """
        for reader in self._readers:
            yield from self._read(reader, topics, start_ns, stop_ns)
        for scan in self._scans:
            damage: list[str] = []
            for topic, kind, stamp_ns, data in scan(damage):
                inside = (start_ns is None or stamp_ns >= start_ns) and (stop_ns is None or stamp_ns < stop_ns)
                if topic in topics and inside:
                    yield BagMessage(topic, kind, stamp_ns, data)
            self._note(damage)

    def _read(
        self, reader: Any, topics: Collection[str], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[BagMessage]:
        """Yield the messages of a file that has an index; go on behind what cannot be read."""
        wanted = [c for c in reader.connections if c.topic in topics]
        if not wanted:
            return
        last_ns, lost = start_ns, False
        step_ns = 1
        while True:
            try:
                for connection, stamp_ns, data in reader.messages(wanted, last_ns, stop_ns):
                    if lost:
                        self._note([f"messages before {self.place(stamp_ns)} cannot be read"])
                        lost, step_ns = False, 1
                    last_ns = stamp_ns
                    yield BagMessage(connection.topic, connection.msgtype, stamp_ns, bytes(data))
                return
            except Exception as error:  # a damaged file: decoders, decompressors and databases all have their own
                last_ns = max(last_ns or 0, reader.start_time) + step_ns
                if not lost:
                    self._note([f"{reader.path.name}, {self.place(last_ns)}: {error or type(error).__name__}"])
                lost, step_ns = True, 2 * step_ns
                if last_ns >= reader.end_time:
                    return

    def _note(self, damage: list[str]) -> None:
        """Add what was not noted before: a recording may be read more than once."""
        for line in damage:
            if line not in self._found_damage:
                self._found_damage.add(line)
                self.damage.append(line)

    def _open(self) -> None:
        if not self.path.exists():
            raise BagError(f"expected a recording, {self.path} does not exist: check the path")
        if self.path.is_dir() and (self.path / METADATA).is_file():
            trouble = self._try_reader(self.path)
            if trouble:
                self._note([f"{self.path / METADATA} does not fit its recording ({trouble}): its files are read"])
        elif self.path.is_dir():
            self._note([f"{self.path} has no {METADATA}, as after a crash of the recorder: its files are read"])
        if not self._readers:
            for file in self._files():
                self._open_file(file)
        self._learn_topics()
        if not any(topic.count for topic in self.topics.values()):
            why = f": {'; '.join(self.damage)}" if self.damage else ""
            raise BagError(f"expected messages in the recording {self.path}, found none{why}")

    def _files(self) -> list[Path]:
        """Return the files of the recording, those that were compressed unpacked."""
        found = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        files = [
            f for f in found if f.suffix in SUFFIXES or (f.suffix == ".zstd" and Path(f.stem).suffix in SUFFIXES)
        ]
        if not files:
            raise BagError(
                f"expected a rosbag2 recording, {self.path} is none: a folder with {METADATA}, or a file with a "
                f"name ending in {' or '.join(SUFFIXES)}, also with .zstd"
            )
        folder = None
        for i, file in enumerate(files):
            if file.suffix == ".zstd":
                folder = folder or Path(self._resources.enter_context(tempfile.TemporaryDirectory()))
                files[i] = unpack_file(file, folder, self.damage)
        return files

    def _open_file(self, file: Path) -> None:
        trouble = self._try_reader(file)
        if trouble:
            self._note([f"{file.name} is damaged ({trouble}): it is read as far as it goes"])
            self._scans.append(partial(scan_mcap if file.suffix == ".mcap" else scan_sqlite, file))

    def _try_reader(self, path: Path) -> str:
        """Open a folder or file that is not damaged; return what is wrong with it else."""
        reader = library("rosbags.rosbag2").Reader(path)
        try:
            reader.open()
        except Exception as error:
            return str(error) or type(error).__name__
        self._resources.callback(reader.close)
        self._readers.append(reader)
        return ""

    def _learn_topics(self) -> None:
        """Collect topics, counts and the time that is covered; files without an index are read for it."""
        counts: Counter[tuple[str, str]] = Counter()
        stamps = []
        for reader in self._readers:
            counts.update({(c.topic, c.msgtype): c.msgcount for c in reader.connections})
            if reader.message_count:
                stamps += [reader.start_time, reader.end_time - 1]
        for scan in self._scans:
            damage: list[str] = []
            for topic, kind, stamp_ns, _ in scan(damage):
                counts[topic, kind] += 1
                stamps = [min([*stamps, stamp_ns]), max([*stamps, stamp_ns])]
            self._note(damage)
        if stamps:
            self.start_ns, self.end_ns = min(stamps), max(stamps)
        for (name, kind), count in counts.items():
            other = self.topics.get(name)
            if other is not None and count and other.count:
                self._note([f"{name} has messages of two types, {other.message_type} and {kind}"])
            if other is None or count > other.count:
                self.topics[name] = BagTopic(name, kind, count)
