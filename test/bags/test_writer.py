# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("rosbags.rosbag2")

import yaml
from bag_damage import IMAGE, START_NS, STEP_NS, file_of, image, messages, read, record
from mcap.reader import make_reader

from dualfocus_ros.bags.writer import BagWriter
from dualfocus_ros.errors import BagError

RECORDED = messages(10)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compress", [False, True])
def test_metadata_say_what_is_in_it(storage: str, compress: bool, tmp_path: Path) -> None:
    path = record(tmp_path / "bag", RECORDED, storage, compress=compress)
    told = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert told["storage_identifier"] == storage
    assert told["relative_file_paths"] == [file_of(path).name]
    assert told["message_count"] == 10
    assert told["starting_time"]["nanoseconds_since_epoch"] == START_NS
    assert told["duration"]["nanoseconds"] == 9 * STEP_NS
    assert {t["topic_metadata"]["name"]: t["message_count"] for t in told["topics_with_message_count"]} == {
        "/a": 5,
        "/b": 5,
    }
    assert (told["compression_mode"].lower(), told["compression_format"]) == (
        ("message", "zstd") if compress and storage == "sqlite3" else ("", "")
    )


def test_other_readers_find_the_messages(tmp_path: Path) -> None:
    with file_of(record(tmp_path / "a", RECORDED, compress=True)).open("rb") as file:
        found = [(c.topic, m.log_time, m.data) for s, c, m in make_reader(file).iter_messages()]
    assert found == RECORDED
    with sqlite3.connect(file_of(record(tmp_path / "b", RECORDED, "sqlite3"))) as database:
        query = (
            "SELECT name, timestamp, data FROM messages JOIN topics ON topics.id = topic_id ORDER BY messages.id"
        )
        assert list(database.execute(query)) == RECORDED
    database.close()


def test_compressed_is_smaller(tmp_path: Path) -> None:
    dark = [("/a", START_NS + i, bytes(100_000)) for i in range(10)]
    for storage in ("mcap", "sqlite3"):
        sizes = []
        for compress in (False, True):
            path = record(tmp_path / f"{storage}{compress}", dark, storage, compress=compress)
            sizes.append(file_of(path).stat().st_size)
        assert sizes[0] > 1_000_000 > 100_000 > sizes[1]


def test_what_was_written_before_an_error_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / "bag") as bag:
        for topic, stamp_ns, data in RECORDED:
            bag.write(topic, IMAGE, stamp_ns, data)
        raise ZeroDivisionError
    assert bag.counts == {"/a": 5, "/b": 5}
    assert read(tmp_path / "bag") == (RECORDED, "")


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    for path, storage, words in (
        (tmp_path / "there", "mcap", "never added to or replaced"),
        (tmp_path / "file", "mcap", "never added to or replaced"),
        (tmp_path / "file" / "bag", "mcap", "cannot write"),
        (tmp_path / "new", "bag", "expected a storage of mcap or sqlite3, got 'bag'"),
    ):
        with pytest.raises(BagError, match=words), BagWriter(path, storage):
            pass
    assert not (tmp_path / "new").exists()
    with (
        pytest.raises(BagError, match="topic /x: messages of type a/msg/B are not known"),
        BagWriter(tmp_path / "new") as bag,
    ):
        bag.write("/x", "a/msg/B", START_NS, b"")
    assert bag.counts == {}


@pytest.mark.parametrize(
    ("storage", "error"),
    [
        ("mcap", OSError(errno.ENOSPC, "No space left on device")),
        ("sqlite3", sqlite3.OperationalError("database or disk is full")),
    ],
)
def test_a_full_disk_is_a_known_error(
    storage: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    words = "cannot write .*(No space left on device|disk is full); what it has can be read"
    with pytest.raises(BagError, match=words), BagWriter(tmp_path / "bag", storage) as bag:
        bag.write("/a", IMAGE, START_NS, image(0))
        with monkeypatch.context() as patch:
            patch.setattr(bag._writer, "write", full)
            bag.write("/a", IMAGE, START_NS + 1, image(1))
    assert bag.counts == {"/a": 1}
    assert read(tmp_path / "bag") == ([("/a", START_NS, image(0))], "")
