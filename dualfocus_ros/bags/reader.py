# SPDX-License-Identifier: Apache-2.0
"""Reads recordings: rosbag2 folders and single files, mcap and sqlite3, compressed or not, damaged or not."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from dualfocus_ros.bags.files import MCAP, SQLITE, BagFile
from dualfocus_ros.bags.library import library
from dualfocus_ros.bags.recovery import unpack_file
from dualfocus_ros.errors import BagError

SUFFIXES = (MCAP, SQLITE)
PACKED = ".zstd"
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
        self._parts: list[BagFile] = []
        self._folder: Path | None = None  # of what was unpacked

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
        for part in self._parts:
            damage: list[str] = []
            for found in part.messages(topics, start_ns, stop_ns, damage, self.place):
                yield BagMessage(*found)
            self._note(damage)

    def _note(self, damage: list[str]) -> None:
        """Add what was not noted before: a recording may be read more than once."""
        for line in damage:
            if line not in self._found_damage:
                self._found_damage.add(line)
                self.damage.append(line)

    def _open(self) -> None:
        if not self.path.exists():
            raise BagError(f"expected a recording, {self.path} does not exist: check the path")
        files = self._files()
        told = self._metadata(files) if self.path.is_dir() else None
        for file in files:
            try:
                self._open_file(file)
            except OSError as error:
                raise BagError(f"cannot read {file}: {error.strerror or error}") from error
        self._learn_topics()
        found = sum(part.counts.total() for part in self._parts)
        if told is not None and found < told:
            self._note([f"{METADATA} tells of {told} messages, in the recording are {found}"])
        if not found:
            why = f": {'; '.join(self.damage)}" if self.damage else ""
            raise BagError(f"expected messages in the recording {self.path}, found none{why}")

    def _open_file(self, file: Path) -> None:
        damage: list[str] = []
        if file.suffix == PACKED:
            self._folder = self._folder or Path(self._resources.enter_context(tempfile.TemporaryDirectory()))
            file = unpack_file(file, self._folder, damage)
        part = BagFile(file)
        self._resources.callback(part.close)
        part.open(damage)
        self._parts.append(part)
        self._note(damage)

    def _files(self) -> list[Path]:
        """Return the files of the recording, in the order in which they were written: their names are numbered."""
        found = sorted(self.path.iterdir(), key=_by_number) if self.path.is_dir() else [self.path]
        files = [f for f in found if f.is_file() and is_bag_file(f)]
        if not files and (self.path / METADATA).is_file():
            raise BagError(f"expected the files that {self.path / METADATA} names, none is there")
        if not files:
            raise BagError(
                f"expected a rosbag2 recording, {self.path} is none: a folder with {METADATA}, or a file with a "
                f"name ending in {' or '.join(SUFFIXES)}, also with {PACKED}"
            )
        # Of a file that was unpacked beside its archive, one is enough.
        return [f for f in files if f.suffix != PACKED or f.with_suffix("") not in files]

    def _metadata(self, files: list[Path]) -> int | None:
        """Note what metadata.yaml says of other files; return how many messages it tells of, None if it does not.

        No more of it is believed: after a crash it is missing or old, and the files say all that it does.
        """
        path = self.path / METADATA
        if not path.is_file():
            self._note([f"{self.path} has no {METADATA}, as after a crash of the recorder: its files are read"])
            return None
        try:
            told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
            named = {Path(name).name.removesuffix(PACKED) for name in told["relative_file_paths"]}
            count = int(told["message_count"])
        except Exception as error:  # noqa: BLE001 - no YAML, or anything may be in it
            words = " ".join(str(error).split()) or type(error).__name__
            self._note([f"{path} cannot be read ({words}): the files beside it are"])
            return None
        there = {file.name.removesuffix(PACKED) for file in files}
        self._note([f"{METADATA} names {name}, which is missing" for name in sorted(named - there)])
        self._note([f"{METADATA} does not name {name}: it is read, too" for name in sorted(there - named)])
        return count

    def _learn_topics(self) -> None:
        """Collect topics, counts and the time that is covered."""
        starts = [part.start_ns for part in self._parts if part.start_ns is not None]
        ends = [part.end_ns for part in self._parts if part.end_ns is not None]
        if starts and ends:
            self.start_ns, self.end_ns = min(starts), max(ends)
        counts: Counter[tuple[str, str]] = Counter()
        for part in self._parts:
            counts.update(part.counts)
        for (name, kind), count in counts.items():
            other = self.topics.get(name)
            if other is not None and count and other.count:
                self._note([f"{name} has messages of two types, {other.message_type} and {kind}"])
            if other is None or count > other.count:
                self.topics[name] = BagTopic(name, kind, count)


def is_bag_file(path: Path) -> bool:
    """Say whether a name is that of a file of a recording, packed or not."""
    return path.name.removesuffix(PACKED).endswith(SUFFIXES)


def _by_number(path: Path) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by their value: _2 before _10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", path.name)]
