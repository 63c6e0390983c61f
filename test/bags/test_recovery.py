# SPDX-License-Identifier: Apache-2.0
"""Recordings that are damaged: what is whole is read, what is not is told, and nothing else happens."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("rosbags.rosbag2")

from bag_damage import START_NS, STEP_NS, TOPICS, chunks, file_of, messages, read, record, record_file, record_mcap
from mcap.writer import CompressionType

from dualfocus_ros.bags.reader import Bag
from dualfocus_ros.errors import BagError

COUNT = 48
RECORDED = messages(COUNT)
# Of these, cheap to write and to read, one chunk holds all.
SMALL = messages(COUNT, size=2_000)
HEAD = 4_000  # bytes in which the types of all topics are for sure


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def spoil(path: Path, start: int, data: bytes) -> Path:
    content = bytearray(path.read_bytes())
    content[start : start + len(data)] = data
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("recorded", [RECORDED, SMALL], ids=["chunks", "one chunk"])
@pytest.mark.parametrize(("storage", "compress"), [("mcap", False), ("mcap", True), ("sqlite3", False)])
def test_what_comes_before_the_end_of_a_cut_file_is_read(
    recorded: list, storage: str, compress: bool, tmp_path: Path
) -> None:
    whole = record_file(tmp_path / "bag", recorded, storage, compress=compress).read_bytes()
    rng = random.Random(0)
    for size in (*(rng.randrange(HEAD, len(whole)) for _ in range(12)), len(whole) - 1):
        for path in (tmp_path / "bag", file_of(tmp_path / "bag")):
            file_of(tmp_path / "bag").write_bytes(whole[:size])
            # One message may be cut and one left out, and two pages or blocks of what is compressed lost.
            lost_bytes = 2 * 131_072 if compress else 2 * 4096
            around = len(whole) - sum(len(data) for _, _, data in recorded)
            least = int((size - lost_bytes - around) / len(recorded[0][2]) - 2)
            try:
                found, damage = read(path)
            except BagError:
                assert least <= 0
                continue
            assert found == recorded[: len(found)]
            assert len(found) >= least, size
            assert damage, size


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_file_cut_anywhere_gives_messages_or_an_error(storage: str, tmp_path: Path) -> None:
    file = record_file(tmp_path / "bag", SMALL, storage)
    whole = file.read_bytes()
    for size in (*range(0, HEAD, 97), *range(len(whole) - 1500, len(whole), 131)):
        cut(file, len(whole))
        file.write_bytes(whole[:size])
        try:
            found, damage = read(tmp_path / "bag")
        except BagError as error:
            assert "\n" not in str(error)
            continue
        assert found == SMALL[: len(found)]
        assert damage


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compress", [False, True])
def test_random_damage_gives_messages_or_an_error(storage: str, compress: bool, tmp_path: Path) -> None:
    """No message that was lost is passed over in silence, whatever was overwritten, and none comes twice."""
    whole = record_file(tmp_path / "bag", SMALL, storage, compress=compress).read_bytes()
    file = file_of(tmp_path / "bag")
    rng = random.Random(1)
    for _ in range(40):
        content = bytearray(whole)
        start, size = rng.randrange(len(whole)), rng.choice([1, 10, 1000, 20_000])
        size = min(size, len(whole) - start)
        content[start : start + size] = rng.choice([bytes(size), rng.randbytes(size)])
        file.write_bytes(content)
        for path in (tmp_path / "bag", file):
            try:
                found, damage = read(path)
            except BagError as error:
                assert "\n" not in str(error)
                continue
            assert damage or len(found) == COUNT
            assert len({stamp for _, stamp, _ in found}) == len(found)


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
@pytest.mark.parametrize("index", [True, False])
def test_all_but_a_damaged_chunk_is_read(compression: CompressionType, index: bool, tmp_path: Path) -> None:
    """With 3 messages a chunk; what shows the damage is the checksum."""
    options = {"compression": compression, "chunk_size": 150_000}
    path = record_mcap(tmp_path / "a.mcap", RECORDED, **options)
    found_chunks = chunks(path)
    assert len(found_chunks) == COUNT // 3
    start, length = found_chunks[5]
    spoil(path, start + length // 2, bytes(100))
    if not index:
        cut(path, path.stat().st_size - 20)
    found, damage = read(path)
    assert found == RECORDED[:15] + RECORDED[18:]
    assert f"a.mcap: the chunk at byte {start} cannot be read" in damage
    if index:
        assert "a.mcap: not everything can be read after 0.140 s into the recording" in damage
        # 15, 16 and 17 were lost; even ones are on /a.
        assert "a.mcap: 1 of 24 messages of /a cannot be read" in damage
        assert "a.mcap: 2 of 24 messages of /b cannot be read" in damage
    assert read(path) == (found, damage)


def test_what_a_damaged_index_leads_to_is_read_with_what_is_left_of_it(tmp_path: Path) -> None:
    """The length of a chunk is no more: behind it reading goes on where the index says that one starts."""
    path = record_mcap(tmp_path / "a.mcap", RECORDED, chunk_size=150_000)
    start, _ = chunks(path)[5]
    spoil(path, start + 1, b"\xff" * 40)
    found, damage = read(path)
    assert found == RECORDED[:15] + RECORDED[18:]
    assert f"a.mcap cannot be read from byte {start} on" in damage


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
def test_a_chunk_that_is_cut_is_read_as_far_as_it_goes(compression: CompressionType, tmp_path: Path) -> None:
    path = record_mcap(tmp_path / "a.mcap", RECORDED, compression=compression, chunk_size=10_000_000)
    ((start, length),) = chunks(path)
    found, damage = read(cut(path, start + length // 2))
    assert 16 <= len(found) <= 24
    assert found == RECORDED[: len(found)]
    assert f"a.mcap cannot be read from byte {start} on" in damage


def test_an_index_that_counts_other_messages_is_not_believed(tmp_path: Path) -> None:
    """So that a recording is not taken to be empty, and its topics to be missing."""
    path = record_mcap(tmp_path / "a.mcap", SMALL)
    content = path.read_bytes()
    counts = content.rindex(b"\x01\x00" + (24).to_bytes(8, "little"))
    spoil(path, counts + 2, bytes(8))
    with Bag(path) as bag:
        assert {name: topic.count for name, topic in bag.topics.items()} == {"/a": 24, "/b": 24}
        assert "a.mcap is damaged (its index contradicts itself)" in bag.damage[0]
        assert sorted((m.topic, m.stamp_ns, m.data) for m in bag.messages(TOPICS)) == sorted(SMALL)


def test_messages_that_an_index_knows_and_the_file_has_not_are_counted(tmp_path: Path) -> None:
    """Without a checksum, as the writer of this package leaves it, zeros in a chunk are passed over."""
    path = record_file(tmp_path / "bag", SMALL)
    at = path.read_bytes().index(SMALL[20][2])
    spoil(path, at - 31, b"\x77")  # the kind of the record: one that nobody knows
    found, damage = read(path)
    assert found == SMALL[:20] + SMALL[21:]
    assert damage == "bag.mcap: 1 of 24 messages of /a cannot be read"


def test_damaged_rows_of_a_database_are_passed_over(tmp_path: Path) -> None:
    """Of one row the pages are gone that follow its first."""
    path = record_file(tmp_path / "bag", RECORDED, "sqlite3")
    content = bytearray(path.read_bytes())
    at = content.index(RECORDED[10][2][20_000:20_100])
    page = at // 4096 * 4096
    content[page : page + 4] = (1 << 30).to_bytes(4, "big")  # the number of the page that comes next
    path.write_bytes(content)
    found, damage = read(path)
    assert found == RECORDED[:10] + RECORDED[11:]
    assert "bag.db3: message 11 cannot be read" in damage
    assert "bag.db3: 1 of 24 messages of /a cannot be read" in damage


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_message_that_cannot_be_decompressed_is_left_out(storage: str, tmp_path: Path) -> None:
    bad = b"\x28\xb5\x2f\xfd" + b"\xff" * 100  # says that it is compressed
    recorded = [*SMALL[:4], ("/a", START_NS + 4 * STEP_NS, bad), *SMALL[5:8]]
    found, damage = read(record(tmp_path / "bag", recorded, storage))
    assert found == SMALL[:4] + SMALL[5:8]
    assert "a message of /a cannot be decompressed" in damage
    assert "1 of 4 messages of /a cannot be read" in damage


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_damaged_file_of_a_split_recording_stays_in_its_place(storage: str, tmp_path: Path) -> None:
    parts = [RECORDED[:16], RECORDED[16:32], RECORDED[32:]]
    folder = tmp_path / "bag"
    folder.mkdir()
    for i, part in enumerate(parts):
        file = record_file(tmp_path / f"part{i}", part, storage)
        if i == 1:
            cut(file, file.stat().st_size * 3 // 4)
        file.rename(folder / f"bag_{i}{file.suffix}")
    found, damage = read(folder)
    lost = [m for m in RECORDED if m not in found]
    assert found == [m for m in RECORDED if m not in lost]
    assert 1 <= len(lost) <= 6 and all(m in parts[1] for m in lost)
    assert "bag_1" in damage and "bag_0" not in damage and "bag_2" not in damage


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_garbage_in_one_file_leaves_the_others(storage: str, tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    file = record_file(tmp_path / "part", SMALL, storage)
    (folder / f"bag_0{file.suffix}").write_bytes(b"garbage" * 1000)
    file.rename(folder / f"bag_1{file.suffix}")
    found, damage = read(folder)
    assert found == SMALL
    assert f"bag_0{file.suffix} is damaged" in damage


def test_a_compressed_file_that_is_cut_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    import zstandard

    raw = record_file(tmp_path / "bag", RECORDED).read_bytes()
    packed = zstandard.ZstdCompressor().compress(raw)
    path = tmp_path / "a.mcap.zstd"
    path.write_bytes(packed[: len(packed) // 2])
    found, damage = read(path)
    assert 18 <= len(found) <= 24
    assert found == RECORDED[: len(found)]
    assert "a.mcap.zstd ends before its compressed data do" in damage


def test_part_of_a_damaged_recording(tmp_path: Path) -> None:
    path = record_mcap(tmp_path / "a.mcap", RECORDED, chunk_size=150_000)
    spoil(path, sum(chunks(path)[5]) - 100, bytes(50))
    found, _ = read(path, start_ns=START_NS + 10 * STEP_NS, stop_ns=START_NS + 30 * STEP_NS)
    assert found == RECORDED[10:15] + RECORDED[18:30]


def test_reading_changes_no_database(tmp_path: Path) -> None:
    file = record_file(tmp_path / "bag", RECORDED, "sqlite3")
    cut(file, file.stat().st_size // 2)
    before = file.read_bytes()
    read(file)
    assert file.read_bytes() == before
    assert [f.name for f in file.parent.iterdir() if f.suffix not in (".db3", ".yaml")] == []


def test_rows_of_other_types_than_messages_have_are_left_out(tmp_path: Path) -> None:
    file = record_file(tmp_path / "bag", SMALL, "sqlite3")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET data = 'text' WHERE id = 3")
        database.execute("UPDATE messages SET timestamp = 'now' WHERE id = 5")
        database.execute("DROP INDEX timestamp_idx")
    database.close()
    found, damage = read(file)
    assert [m for m in SMALL if m not in found] == [SMALL[2], SMALL[4]]
    assert damage
