# SPDX-License-Identifier: Apache-2.0
"""Reads what can be read of damaged recordings: from start to end, without an index."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from dualfocus_ros.bags.library import library
from dualfocus_ros.errors import BagError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
COPY_BYTES = 1 << 20
# After this many messages in a row that cannot be read, a database is taken to have ended.
LOST_IN_A_ROW = 4096
# Records longer than this are not records.
MAX_RECORD_BYTES = 1 << 30

# Topic, message type, log time in nanoseconds, CDR.
Found = tuple[str, str, int, bytes]


def scan_mcap(path: Path, damage: list[str]) -> Iterator[Found]:
    """Yield the messages of an MCAP file in the order in which they were written, as far as it goes.

    Args:
        path: the file.
        damage: gets a line for everything that cannot be read, when it is come to.

    Raises:
        BagError: if mcap is not installed.
    """
    reader = library("mcap.stream_reader")
    records = library("mcap.records")
    types: dict[int, str] = {}
    topics: dict[int, tuple[str, str]] = {}
    with path.open("rb") as file:
        stream = reader.StreamReader(file, emit_chunks=True, record_size_limit=MAX_RECORD_BYTES).records
        while True:
            start = file.tell()
            try:
                record = next(stream, None)
            except Exception as error:  # noqa: BLE001 - what damage does to a decoder is anybody's guess
                damage.append(f"{path.name} cannot be read from byte {start} on ({_words(error)})")
                return
            if record is None or isinstance(record, records.DataEnd):
                return
            try:
                inner = reader.breakup_chunk(record, True) if isinstance(record, records.Chunk) else [record]
            except Exception as error:  # noqa: BLE001 - as above
                damage.append(f"{path.name}: the chunk at byte {start} cannot be read ({_words(error)})")
                continue
            for r in inner:
                if isinstance(r, records.Schema):
                    types[r.id] = r.name
                elif isinstance(r, records.Channel):
                    topics[r.id] = (r.topic, types.get(r.schema_id, ""))
                elif isinstance(r, records.Message) and r.channel_id in topics:
                    yield (*topics[r.channel_id], r.log_time, unpacked(r.data))


def scan_sqlite(path: Path, damage: list[str]) -> Iterator[Found]:
    """Yield the messages of an SQLite file in the order in which they were written, as far as it goes.

    Args:
        path: the file.
        damage: gets a line where something cannot be read.

    Raises:
        BagError: if it is no database of messages.
    """
    database = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        try:
            topics = {i: (name, kind) for i, name, kind in database.execute("SELECT id, name, type FROM topics")}
        except sqlite3.Error as error:
            raise BagError(f"expected a recording with a table of topics, {path} has none: {error}") from error
        last, lost = 0, 0
        while lost < LOST_IN_A_ROW:
            try:
                query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
                for row, topic, stamp_ns, data in database.execute(query, (last,)):
                    last, lost = row, 0
                    if topic in topics:
                        yield (*topics[topic], stamp_ns, unpacked(data))
                break
            except sqlite3.Error as error:
                if lost == 0:
                    damage.append(f"{path.name} cannot be read beyond message {last} ({error})")
                last, lost = last + 1, lost + 1
    finally:
        database.close()


def unpacked(data: bytes) -> bytes:
    """Return the CDR of a message that may be compressed by itself, as some SQLite recordings have it."""
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
