# SPDX-License-Identifier: Apache-2.0
"""Small recordings of any messages, whole and damaged; made without ROS."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dualfocus_ros.bags.library import library, typestore
from dualfocus_ros.bags.reader import Bag, BagMessage
from dualfocus_ros.bags.writer import BagWriter

START_NS = 1_700_000_000_000_000_000
STEP_NS = 10_000_000
IMAGE = "sensor_msgs/msg/Image"
INFO = "sensor_msgs/msg/CameraInfo"
LENS = "sensor_msgs/msg/JointState"
TOPICS = ("/a", "/b")


@functools.lru_cache(maxsize=256)
def image(number: int, size: int = 60_000) -> bytes:
    """Return the CDR of an image of noise; of 60 kB, 17 of them fill a chunk of the writer."""
    types = typestore().types
    stamp = types["builtin_interfaces/msg/Time"](sec=number, nanosec=0)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
    data = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
    message = types[IMAGE](header, 1, size, "mono8", 0, size, data)
    return bytes(typestore().serialize_cdr(message, IMAGE))


Message = tuple[str, int, bytes]


def messages(count: int, size: int = 60_000) -> list[Message]:
    """Return topic, stamp and CDR of images, on the two topics in turn."""
    return [(TOPICS[i % 2], START_NS + i * STEP_NS, image(i, size)) for i in range(count)]


def record(path: Path, recorded: Sequence[Message], storage: str = "mcap", *, compress: bool = False) -> Path:
    """Write a folder."""
    with BagWriter(path, storage, compress=compress) as bag:
        for topic, stamp_ns, data in recorded:
            bag.write(topic, IMAGE, stamp_ns, data)
    return path


def record_file(path: Path, recorded: Sequence[Message], storage: str = "mcap", **options: Any) -> Path:
    """Write a folder; return its one file."""
    return file_of(record(path, recorded, storage, **options))


def file_of(folder: Path) -> Path:
    """Return the one file of a recording that holds messages."""
    (file,) = (f for f in folder.iterdir() if f.name != "metadata.yaml")
    return file


def record_mcap(path: Path, recorded: Sequence[Message], profile: str = "ros2", **options: Any) -> Path:
    """Write a single file with the writer of MCAP, which knows other compressions than that of this package."""
    writer = library("mcap.writer").Writer(str(path), **options)
    writer.start(profile=profile, library="test")
    schema = writer.register_schema(IMAGE, "ros2msg", b"")
    channels = {}
    for topic, stamp_ns, data in recorded:
        if topic not in channels:
            channels[topic] = writer.register_channel(topic, "cdr", schema)
        writer.add_message(channels[topic], stamp_ns, data, stamp_ns)
    writer.finish()
    return path


def chunks(path: Path) -> list[tuple[int, int]]:
    """Return start and length in bytes of the chunks of an MCAP file."""
    with path.open("rb") as file:
        summary = library("mcap.reader").make_reader(file).get_summary()
    return sorted((c.chunk_start_offset, c.chunk_length) for c in summary.chunk_indexes)


def read(path: Path, **options: int) -> tuple[list[Message], str]:
    """Return what a recording has on the two topics, and its damage in words."""
    with Bag(path) as bag:
        found = [_plain(m) for m in bag.messages(TOPICS, **options)]
        return found, "\n".join(bag.damage)


def _plain(message: BagMessage) -> Message:
    assert message.message_type == IMAGE
    return message.topic, message.stamp_ns, message.data
