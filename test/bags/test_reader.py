# SPDX-License-Identifier: Apache-2.0
"""Recordings that are whole, in every layout that rosbag2 writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rosbags.rosbag2")

from bag_damage import (
    IMAGE,
    INFO,
    START_NS,
    STEP_NS,
    TOPICS,
    file_of,
    image,
    messages,
    read,
    record,
    record_file,
    record_mcap,
)
from rosbags import rosbag2

from dualfocus_ros.bags.library import typestore
from dualfocus_ros.bags.reader import Bag
from dualfocus_ros.bags.writer import BagWriter
from dualfocus_ros.errors import BagError

COUNT = 24
RECORDED = messages(COUNT)


def by_rosbags(path: Path, storage: str, mode: str) -> Path:
    """Write with the library itself, for the ways to compress that this package does not write."""
    writer = rosbag2.Writer(path, version=8, storage_plugin=rosbag2.StoragePlugin[storage])
    writer.set_compression(rosbag2.CompressionMode[mode], rosbag2.CompressionFormat.ZSTD)
    with writer:
        connections = {t: writer.add_connection(t, IMAGE, typestore=typestore()) for t in TOPICS}
        for topic, stamp_ns, data in RECORDED:
            writer.write(connections[topic], stamp_ns, data)
    return path


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "mcap folder": lambda p: record(p, RECORDED),
    "sqlite3 folder": lambda p: record(p, RECORDED, "sqlite3"),
    "mcap file": lambda p: record_file(p, RECORDED),
    "sqlite3 file": lambda p: record_file(p, RECORDED, "sqlite3"),
    "mcap zstd chunks": lambda p: record(p, RECORDED, compress=True),
    "sqlite3 zstd messages": lambda p: record(p, RECORDED, "sqlite3", compress=True),
    "sqlite3 zstd messages, file": lambda p: record_file(p, RECORDED, "sqlite3", compress=True),
    "mcap zstd messages": lambda p: by_rosbags(p, "MCAP", "MESSAGE"),
    "mcap zstd messages, file": lambda p: file_of(by_rosbags(p, "MCAP", "MESSAGE")),
    "mcap zstd files": lambda p: by_rosbags(p, "MCAP", "FILE"),
    "sqlite3 zstd files": lambda p: by_rosbags(p, "SQLITE3", "FILE"),
    "sqlite3 zstd files, file": lambda p: file_of(by_rosbags(p, "SQLITE3", "FILE")),
    "mcap lz4 chunks": lambda p: lz4(p.with_suffix(".mcap")),
    "mcap without chunks": lambda p: record_mcap(p.with_suffix(".mcap"), RECORDED, use_chunking=False),
    "mcap without index": lambda p: record_mcap(
        p.with_suffix(".mcap"), RECORDED, use_summary_offsets=False, use_statistics=False, repeat_channels=False
    ),
}


def lz4(path: Path) -> Path:
    from mcap.writer import CompressionType

    return record_mcap(path, RECORDED, compression=CompressionType.LZ4, chunk_size=200_000)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout: str, tmp_path: Path) -> None:
    path = LAYOUTS[layout](tmp_path / "bag")
    with Bag(path) as bag:
        assert {t.name: (t.message_type, t.count) for t in bag.topics.values()} == {
            "/a": (IMAGE, 12),
            "/b": (IMAGE, 12),
        }
        assert (bag.start_ns, bag.end_ns) == (START_NS, START_NS + (COUNT - 1) * STEP_NS)
        assert bag.duration_s == pytest.approx((COUNT - 1) * 0.01)
        assert bag.place(START_NS + 1_234_567_890) == "1.235 s into the recording"
        assert [(m.topic, m.stamp_ns, m.data) for m in bag.messages(TOPICS)] == RECORDED
        # It can be read again, and of one topic.
        assert [m.stamp_ns for m in bag.messages(["/b"])] == [s for t, s, _ in RECORDED if t == "/b"]
        assert list(bag.messages(["/none"])) == []
        assert bag.damage == []


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_start_is_inside_and_stop_outside(storage: str, tmp_path: Path) -> None:
    path = record(tmp_path / "bag", RECORDED, storage)
    found, damage = read(path, start_ns=START_NS + 5 * STEP_NS, stop_ns=START_NS + 20 * STEP_NS)
    assert found == RECORDED[5:20]
    assert damage == ""


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_come_in_the_order_of_their_times(storage: str, tmp_path: Path) -> None:
    shuffled = [RECORDED[i ^ 1] for i in range(COUNT)]
    found, damage = read(record(tmp_path / "bag", shuffled, storage))
    assert found == RECORDED
    assert damage == ""


def test_an_order_that_an_unindexed_file_cannot_give_is_no_damage(tmp_path: Path) -> None:
    shuffled = [RECORDED[i ^ 1] for i in range(COUNT)]
    found, damage = read(record_mcap(tmp_path / "bag.mcap", shuffled, use_chunking=False))
    assert sorted(found) == sorted(RECORDED)
    assert damage == ""


def test_messages_of_one_stamp_all_come(tmp_path: Path) -> None:
    same = [(topic, START_NS, data) for topic, _, data in RECORDED]
    assert sorted(read(record(tmp_path / "bag", same))[0]) == sorted(same)


def split(folder: Path, storage: str, parts: int) -> Path:
    """Write a recording in several files, numbered as rosbag2 does."""
    folder.mkdir()
    suffix = {"mcap": ".mcap", "sqlite3": ".db3"}[storage]
    for i in range(parts):
        file = record_file(folder / "part", RECORDED[2 * i : 2 * i + 2], storage)
        file.rename(folder / f"bag_{i}{suffix}")
        shutil.rmtree(folder / "part")
    return folder


def metadata(folder: Path, names: list[str], count: int) -> None:
    listed = "".join(f"\n    - {name}" for name in names)
    (folder / "metadata.yaml").write_text(
        f"rosbag2_bagfile_information:\n  relative_file_paths:{listed}\n  message_count: {count}\n"
    )


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_files_of_a_split_recording_come_in_order(storage: str, tmp_path: Path) -> None:
    """The second comes before the tenth, with metadata.yaml and without."""
    folder = split(tmp_path / "bag", storage, 12)
    found, damage = read(folder)
    assert found == RECORDED
    assert "has no metadata.yaml" in damage and len(damage.splitlines()) == 1
    metadata(folder, [f.name for f in folder.iterdir()], COUNT)
    assert read(folder) == (RECORDED, "")


def test_a_missing_file_of_a_split_recording_is_told(tmp_path: Path) -> None:
    folder = split(tmp_path / "bag", "mcap", 12)
    metadata(folder, [f"bag_{i}.mcap" for i in range(12)], COUNT)
    (folder / "bag_4.mcap").unlink()
    found, damage = read(folder)
    assert found == RECORDED[:8] + RECORDED[10:]
    assert damage.splitlines() == [
        "metadata.yaml names bag_4.mcap, which is missing",
        "metadata.yaml tells of 24 messages, in the recording are 22",
    ]


def test_a_file_that_metadata_does_not_know_is_read_and_told(tmp_path: Path) -> None:
    """As after a crash behind a split."""
    folder = split(tmp_path / "bag", "sqlite3", 12)
    metadata(folder, [f"bag_{i}.db3" for i in range(11)], COUNT - 2)
    found, damage = read(folder)
    assert found == RECORDED
    assert damage == "metadata.yaml does not name bag_11.db3: it is read, too"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("message_count: 24", "message_count: 99"), "tells of 99 messages"),
        (lambda text: text.replace("name: /a", "name: /other"), ""),
        (lambda text: text.replace("type: sensor_msgs/msg/Image", "type: std_msgs/msg/String"), ""),
        (lambda text: text.replace("storage_identifier: mcap", "storage_identifier: sqlite3"), ""),
        (lambda text: text[: len(text) // 4], "metadata.yaml cannot be read"),
        (lambda text: "", "metadata.yaml cannot be read"),
        (lambda text: "\t{]", "metadata.yaml cannot be read"),
        (lambda text: "- 1\n- 2\n", "metadata.yaml cannot be read"),
    ],
)
def test_metadata_that_lies_changes_nothing(change: Callable[[str], str], told: str, tmp_path: Path) -> None:
    path = record(tmp_path / "bag", RECORDED)
    text = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(change(text))
    assert change(text) != text
    with Bag(path) as bag:
        assert [(m.topic, m.stamp_ns, m.data) for m in bag.messages(TOPICS)] == RECORDED
        assert {t.name: t.message_type for t in bag.topics.values()} == {"/a": IMAGE, "/b": IMAGE}
        assert (told in "\n".join(bag.damage)) if told else (bag.damage == [])


def test_a_topic_of_two_types_has_that_of_most_messages(tmp_path: Path) -> None:
    """A writer of this package refuses to write it; rosbag2 does not."""
    path = tmp_path / "bag"
    with rosbag2.Writer(path, version=8, storage_plugin=rosbag2.StoragePlugin.MCAP) as writer:
        first = writer.add_connection("/a", INFO, typestore=typestore())
        second = writer.add_connection("/a", IMAGE, typestore=typestore(), serialization_format="cdr ")
        writer.write(first, START_NS, b"\0\1\0\0")
        for i in (1, 2):
            writer.write(second, START_NS + i, image(i))
    with Bag(path) as bag:
        assert [(m.message_type, m.stamp_ns - START_NS) for m in bag.messages(["/a"])] == [
            (INFO, 0),
            (IMAGE, 1),
            (IMAGE, 2),
        ]
        assert (bag.topics["/a"].message_type, bag.topics["/a"].count) == (IMAGE, 2)
        assert any(line.startswith("/a has messages of two types") for line in bag.damage)


def test_an_archive_beside_what_was_unpacked_of_it_is_read_once(tmp_path: Path) -> None:
    folder = by_rosbags(tmp_path / "bag", "MCAP", "FILE")
    plain = record_file(tmp_path / "plain", RECORDED)
    shutil.copy(plain, folder / file_of(folder).stem)
    assert read(folder) == (RECORDED, "")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "none", "does not exist: check the path"),
        (lambda p: _touch(p / "a.txt"), "is none: a folder with metadata.yaml, or a file with a name ending in"),
        (lambda p: p, "is none: a folder with"),
        (lambda p: _touch(p / "metadata.yaml").parent, "none is there"),
        (lambda p: record(p / "bag", []), "found none"),
        (lambda p: record(p / "bag", [], "sqlite3"), "found none"),
        (lambda p: _touch(p / "a.mcap"), "a.mcap is damaged"),
        (lambda p: _touch(p / "a.db3"), "a.db3 is damaged"),
        (lambda p: _touch(p / "a.mcap.zstd"), "a.mcap.zstd ends before its compressed data do"),
        (lambda p: _touch(p / "a.mcap", b"garbage" * 5000), "a.mcap is damaged"),
        (lambda p: _touch(p / "a.db3", b"garbage" * 5000), "a.db3 is damaged"),
        (lambda p: _touch(p / "a.db3.zstd", b"garbage" * 5000), "a.db3.zstd cannot be decompressed"),
    ],
)
def test_what_holds_no_messages_is_refused(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(BagError, match="^[^\n]*$") as caught, Bag(path):
        pass
    assert words in str(caught.value)


def _touch(path: Path, data: bytes = b"") -> Path:
    path.write_bytes(data)
    return path


def test_a_profile_other_than_that_of_ros_2_is_told(tmp_path: Path) -> None:
    found, damage = read(record_mcap(tmp_path / "a.mcap", RECORDED[:4], profile="other"))
    assert found == RECORDED[:4]
    assert "Profile is not ros2" in damage


def test_messages_that_only_the_journal_has_are_told(tmp_path: Path) -> None:
    path = record(tmp_path / "bag", RECORDED, "sqlite3")
    _touch(file_of(path).with_name("bag.db3-wal"), b"x")
    found, damage = read(path)
    assert found == RECORDED
    assert damage == "bag.db3 was not closed: the messages in bag.db3-wal are not read"


def test_an_error_leaves_no_file_open(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    import gc

    path = _touch(tmp_path / "a.mcap", record_file(tmp_path / "bag", RECORDED).read_bytes()[:100])
    with pytest.raises(BagError), Bag(path):
        pass
    gc.collect()
    assert [w for w in recwarn if issubclass(w.category, ResourceWarning)] == []


def test_without_the_library_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(tmp_path / "bag", RECORDED[:2])
    monkeypatch.setitem(__import__("sys").modules, "rosbags.rosbag2", None)
    with pytest.raises(BagError, match="pip install rosbags"), Bag(path):
        pass
    with pytest.raises(BagError, match="pip install rosbags"), BagWriter(tmp_path / "other"):
        pass
