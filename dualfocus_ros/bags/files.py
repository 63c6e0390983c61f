# SPDX-License-Identifier: Apache-2.0
"""One file of a recording, read by its index, and without where that is damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path
from typing import Any

from dualfocus_ros.bags.library import library
from dualfocus_ros.bags.recovery import Found, is_cut, scan_mcap, scan_sqlite, unpacked

MCAP = ".mcap"
SQLITE = ".db3"


class BagFile:
    """A file of a recording. Open it before, close it after.

    Attributes:
        counts: number of messages by topic and message type.
        start_ns: time of the first one; None without messages.
        end_ns: time of the last one.
    """

    def __init__(self, path: Path) -> None:
        """Take an .mcap or .db3 file."""
        self.path = path
        self.counts: Counter[tuple[str, str]] = Counter()
        self.start_ns: int | None = None
        self.end_ns: int | None = None
        self._reader: Any = None

    def open(self, damage: list[str]) -> None:
        """Learn topics and times, from the index or else by reading all.

        Args:
            damage: gets lines on what is wrong.

        Raises:
            BagError: if rosbags or mcap are not installed.
        """
        trouble = self._open_index()
        left = self.path.with_name(f"{self.path.name}-wal")
        if left.is_file() and left.stat().st_size:
            damage.append(f"{self.path.name} was not closed: the messages in {left.name} are not read")
        if self._reader is not None:
            for c in self._reader.connections:
                self.counts[c.topic, c.msgtype] += c.msgcount
            if 0 < self._reader.message_count == self.counts.total():
                self.start_ns, self.end_ns = self._reader.start_time, self._reader.end_time - 1
                return
            if self._reader.message_count and self._reader.connections:
                trouble = "its index contradicts itself"
        self.close()
        self.counts.clear()
        if trouble:
            damage.append(f"{self.path.name} is damaged ({trouble}): it is read as far as it goes")
        for topic, kind, stamp_ns, _ in self._scan(damage):
            self.counts[topic, kind] += 1
            self.start_ns = stamp_ns if self.start_ns is None else min(self.start_ns, stamp_ns)
            self.end_ns = stamp_ns if self.end_ns is None else max(self.end_ns, stamp_ns)

    def close(self) -> None:
        """Close the file."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def messages(
        self,
        topics: Collection[str],
        start_ns: int | None,
        stop_ns: int | None,
        damage: list[str],
        place: Callable[[int], str],
    ) -> Iterator[Found]:
        """Yield the messages of some topics, in order of time; where the file is damaged, as they were written.

        Args:
            topics: their names.
            start_ns: none recorded before that.
            stop_ns: none recorded then or later.
            damage: gets lines on what cannot be read.
            place: says in words where in the recording a time is.
        """
        seen: Counter[tuple[str, int]] = Counter()
        trouble = yield from self._indexed(topics, start_ns, stop_ns, place, seen)
        read = Counter({topic: 0 for topic in topics})
        for (topic, _), n in seen.items():
            read[topic] += n
        found_damage: list[str] = []
        if trouble:
            for found in self._scan(found_damage):
                topic, _, stamp_ns, _ = found
                inside = (start_ns is None or stamp_ns >= start_ns) and (stop_ns is None or stamp_ns < stop_ns)
                if topic not in topics or not inside:
                    continue
                if seen[topic, stamp_ns]:
                    seen[topic, stamp_ns] -= 1
                    continue
                read[topic] += 1
                yield found
        if start_ns is None and stop_ns is None:
            found_damage += self._missing(read)
        if found_damage:  # else it was the index alone, or an order that it does not know
            damage += [trouble, *found_damage] if trouble and self._reader is not None else found_damage

    def _indexed(
        self,
        topics: Collection[str],
        start_ns: int | None,
        stop_ns: int | None,
        place: Callable[[int], str],
        seen: Counter[tuple[str, int]],
    ) -> Generator[Found, None, str]:
        """Yield what the index leads to, and count it; return what went wrong."""
        if self._reader is None:
            return "no index"
        wanted = [c for c in self._reader.connections if c.topic in topics]
        last_ns = self.start_ns or 0
        try:
            for connection, stamp_ns, data in self._reader.messages(wanted, start_ns, stop_ns) if wanted else ():
                cdr = unpacked(bytes(data))
                last_ns = stamp_ns
                seen[connection.topic, stamp_ns] += 1
                yield connection.topic, connection.msgtype, stamp_ns, cdr
        except Exception as error:  # noqa: BLE001 - decoders, decompressors and databases all have their own
            words = str(error) or type(error).__name__
            return f"{self.path.name}: not everything can be read after {place(last_ns)} ({words})"
        return ""

    def _missing(self, read: Counter[str]) -> list[str]:
        """Return lines on the topics of which fewer messages were read than the file says it has."""
        counts: Counter[str] = Counter()
        for (topic, _), n in self.counts.items():
            counts[topic] += n
        return [
            f"{self.path.name}: {counts[topic] - n} of {counts[topic]} messages of {topic} cannot be read"
            for topic, n in read.items()
            if n < counts[topic]
        ]

    def _open_index(self) -> str:
        """Open the file; return what is wrong with it."""
        reader = library("rosbags.rosbag2").Reader(self.path)
        if self.path.suffix == SQLITE and is_cut(self.path):
            return "it ends within a page"
        try:
            reader.open()
        except Exception as error:  # noqa: BLE001 - whatever damage does
            return str(error) or type(error).__name__
        self._reader = reader
        return ""

    def _scan(self, damage: list[str]) -> Iterator[Found]:
        return (scan_mcap if self.path.suffix == MCAP else scan_sqlite)(self.path, damage)
