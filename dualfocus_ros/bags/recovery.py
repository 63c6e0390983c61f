# SPDX-License-Identifier: Apache-2.0
"""Reads what can be read of damaged recordings: from start to end, without trust in an index."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from dualfocus_ros.bags.library import library

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
COPY_BYTES = 1 << 20
# After this many messages in a row that cannot be read, a database is taken to have ended.
LOST_IN_A_ROW = 4096
# Records longer than this are not records.
MAX_RECORD_BYTES = 1 << 30
MCAP_CHUNK = 0x06

# Topic, message type, log time in nanoseconds, CDR.
Found = tuple[str, str, int, bytes]


def scan_mcap(path: Path, damage: list[str]) -> Iterator[Found]:
    """Yield the messages of an MCAP file in the order in which they were written.

    Of a chunk that is cut off, what is whole is read; behind what is no record, reading goes on at the next chunk
    that the index knows, if there is one.

    Args:
        path: the file.
        damage: gets a line for everything that cannot be read, when it is come to.

    Raises:
        BagError: if mcap is not installed.
    """
    reader = library("mcap.stream_reader")
    records = library("mcap.records")
    channels = _Channels(path, damage)
    with path.open("rb") as file:
        stream = reader.StreamReader(file, emit_chunks=True, record_size_limit=MAX_RECORD_BYTES).records
        while True:
            start = file.tell()
            try:
                record = next(stream, None)
            except Exception as error:  # noqa: BLE001 - what damage does to a decoder is anybody's guess
                damage.append(f"{path.name} cannot be read from byte {start} on ({_words(error)})")
                yield from channels.messages(_cut_chunk(file, start))
                after = min((at for at in _chunk_offsets(file) if at > start), default=None)
                if after is None:
                    return
                file.seek(after)
                stream = reader.StreamReader(file, skip_magic=True, emit_chunks=True).records
                continue
            if record is None or isinstance(record, records.DataEnd):
                return
            try:
                inner = reader.breakup_chunk(record, True) if isinstance(record, records.Chunk) else [record]
            except Exception as error:  # noqa: BLE001 - as above
                damage.append(f"{path.name}: the chunk at byte {start} cannot be read ({_words(error)})")
                continue
            yield from channels.messages(inner)


class _Channels:
    """Turns the records of an MCAP file into messages, with what the records before said of their channels."""

    def __init__(self, path: Path, damage: list[str]) -> None:
        self._path, self._damage = path, damage
        self._records = library("mcap.records")
        self._types: dict[int, str] = {}
        self._topics: dict[int, tuple[str, str]] = {}

    def messages(self, records: Iterable[Any]) -> Iterator[Found]:
        for r in records:
            if isinstance(r, self._records.Schema):
                self._types[r.id] = r.name
            elif isinstance(r, self._records.Channel):
                self._topics[r.id] = (r.topic, self._types.get(r.schema_id, ""))
            elif isinstance(r, self._records.Message) and r.channel_id in self._topics:
                topic, kind = self._topics[r.channel_id]
                yield from _unpacked(self._path, (topic, kind, r.log_time, r.data), self._damage)


def _cut_chunk(file: IO[bytes], start: int) -> list[Any]:
    """Return the records that are whole of a chunk at a byte of the file, of which the end is missing."""
    found = []
    try:
        file.seek(start)
        stream = library("mcap.data_stream").ReadDataStream(file)
        if stream.read1() != MCAP_CHUNK:
            return []
        stream.read(8 + 8 + 8 + 8 + 4)  # length, start time, end time, size when it is not compressed, its CRC
        compression = stream.read_prefixed_string()
        packed = file.read(min(stream.read8(), MAX_RECORD_BYTES))
        if compression == "zstd":
            packed = library("zstandard").ZstdDecompressor().decompressobj().decompress(packed)
        elif compression == "lz4":
            packed = library("lz4.frame").LZ4FrameDecompressor().decompress(packed)
        reader = library("mcap.stream_reader").StreamReader(io.BytesIO(packed), skip_magic=True)
        for record in reader.records:
            found.append(record)  # noqa: PERF402 - those before an error count
    except Exception:  # noqa: BLE001 - that it ends in the middle of something is what is expected
        pass
    return found


def _chunk_offsets(file: IO[bytes]) -> list[int]:
    """Return the bytes at which an MCAP file has chunks, as its index says; none where that is damaged."""
    try:
        file.seek(0)
        summary = library("mcap.reader").make_reader(file).get_summary()
        return [index.chunk_start_offset for index in summary.chunk_indexes] if summary else []
    except Exception:  # noqa: BLE001 - it is no worse than before
        return []


def scan_sqlite(path: Path, damage: list[str]) -> Iterator[Found]:
    """Yield the messages of an SQLite file in the order in which they were written, as far as it goes.

    Args:
        path: the file.
        damage: gets a line where something cannot be read.
    """
    before: Found | None = None
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
        for found in _rows(database, path.name, damage):
            if before is not None:
                yield from _unpacked(path, before, damage)
            before = found
    if before is not None and is_cut(path):
        damage.append(f"{path.name} is cut: its last message, of {before[0]}, is left out")
    elif before is not None:
        yield from _unpacked(path, before, damage)


def _rows(database: sqlite3.Connection, name: str, damage: list[str]) -> Iterator[Found]:
    """Yield the messages of a database as they are in it."""
    try:
        # So a file that is shorter than its header says is not refused as a whole; nothing is written.
        database.execute("PRAGMA writable_schema = ON")
        topics = {i: (topic, kind) for i, topic, kind in database.execute("SELECT id, name, type FROM topics")}
    except sqlite3.Error as error:
        damage.append(f"expected a table of topics, {name} has none: {error}")
        return
    # One by one: the library drops a row that it has when the next one cannot be read.
    query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id LIMIT 1"
    last, lost = 0, 0
    while lost < LOST_IN_A_ROW:
        try:
            row = database.execute(query, (last,)).fetchone()
            if row is not None and row[0] <= last:
                raise sqlite3.DatabaseError(f"its number is {row[0]}")
        except sqlite3.Error as error:
            if lost == 0:
                damage.append(f"{name}: message {last + 1} cannot be read ({error})")
            last, lost = last + 1, lost + 1
            continue
        if row is None:
            return
        last, lost = row[0], 0
        _, topic, stamp_ns, data = row
        if topic in topics and isinstance(stamp_ns, int) and isinstance(data, bytes):
            yield (*topics[topic], stamp_ns, data)


def is_cut(path: Path) -> bool:
    """Say whether an SQLite file ends within a page: that reads as if zeros followed, without an error."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:18], "big")
    return path.stat().st_size % {0: 1, 1: 65536}.get(size, size) != 0


def _unpacked(path: Path, found: Found, damage: list[str]) -> Iterator[Found]:
    """Yield a message with its CDR, nothing where it cannot be decompressed."""
    topic, kind, stamp_ns, data = found
    try:
        yield topic, kind, stamp_ns, unpacked(data)
    except library("zstandard").ZstdError as error:
        damage.append(f"{path.name}: a message of {topic} cannot be decompressed ({error})")


def unpacked(data: bytes) -> bytes:
    """Return the CDR of a message that may be compressed by itself, as some recordings have it.

    Raises:
        BagError: if zstandard is needed and not installed.
        zstandard.ZstdError: if it cannot be decompressed.
    """
    if not data.startswith(ZSTD_MAGIC):
        return data
    decompressed: bytes = library("zstandard").ZstdDecompressor().decompressobj().decompress(data)
    return decompressed


def unpack_file(path: Path, folder: Path, damage: list[str]) -> Path:
    """Write a file compressed with zstd to a folder, as far as it can be decompressed; return the copy.

    Args:
        path: the file, whose name ends in `.zstd`.
        folder: of the copy, which has the name without that.
        damage: gets a line where it ends too early.

    Raises:
        BagError: if zstandard is not installed.
    """
    zstandard = library("zstandard")
    target = folder / path.stem
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    with path.open("rb") as source, target.open("wb") as copy:
        try:
            while block := source.read(COPY_BYTES):
                copy.write(unpacker.decompress(block))
            if not unpacker.eof:
                damage.append(f"{path.name} ends before its compressed data do")
        except zstandard.ZstdError as error:
            damage.append(f"{path.name} cannot be decompressed beyond byte {copy.tell()} of its content ({error})")
    return target


def _words(error: Exception) -> str:
    """Return what an error says, its kind where it says nothing."""
    return str(error) or type(error).__name__
