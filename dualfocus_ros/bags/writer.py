# SPDX-License-Identifier: Apache-2.0
"""Writes recordings: a rosbag2 folder with one file, mcap or sqlite3."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any

from dualfocus_ros.bags.library import library, typestore
from dualfocus_ros.errors import BagError

STORAGES = ("mcap", "sqlite3")
# Of metadata.yaml: the oldest that rosbags writes. It was not tried whether the rosbag2 of every ROS 2 reads it.
FORMAT_VERSION = 8
WRITE_ERRORS = (OSError, sqlite3.Error)


class BagWriter:
    """Writes one recording. A context manager: leaving it completes the files. One thread uses it."""

    def __init__(self, path: str | Path, storage: str = "mcap", *, compress: bool = False) -> None:
        """Choose what to write.

        Args:
            path: folder, which must not exist.
            storage: `mcap` or `sqlite3`.
            compress: with zstd: chunks of mcap, single messages of sqlite3.
        """
        self.path = Path(path)
        self._storage, self._compress = storage, compress
        self._writer: Any = None
        self._connections: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def check(self) -> None:
        """Raise what `__enter__` would raise on what can be known before anything is written.

        Raises:
            BagError: if the folder exists, the storage is unknown, or rosbags is not installed.
        """
        if self._storage not in STORAGES:
            raise BagError(f"expected a storage of {' or '.join(STORAGES)}, got {self._storage!r}")
        library("rosbags.rosbag2")
        if self.path.suffix in (".mcap", ".db3"):
            raise BagError(f"a recording is a folder with its file inside: expected {self.path.with_suffix('')}")
        if self.path.exists():
            raise BagError(f"{self.path} exists: a recording is never added to or replaced, choose another name")

    def __enter__(self) -> BagWriter:
        """Make the folder. The thread that enters is the one that writes and leaves.

        Raises:
            BagError: as `check`, or if it cannot be made.
        """
        self.check()
        rosbag2 = library("rosbags.rosbag2")
        plugin = rosbag2.StoragePlugin[self._storage.upper()]
        try:
            self._writer = rosbag2.Writer(self.path, version=FORMAT_VERSION, storage_plugin=plugin)
            if self._compress:
                chunks = rosbag2.CompressionMode.STORAGE
                mode = chunks if self._storage == "mcap" else rosbag2.CompressionMode.MESSAGE
                self._writer.set_compression(mode, rosbag2.CompressionFormat.ZSTD)
            self._writer.open()
        except WRITE_ERRORS as error:
            raise BagError(f"cannot write {self.path}: {_words(error)}; check path and permissions") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Complete the recording, also after an error: what was written until then is of use."""
        try:
            self._writer.close()
        except WRITE_ERRORS as problem:
            raise self._failed(problem) from problem

    def write(self, topic: str, message_type: str, stamp_ns: int, data: bytes | memoryview) -> None:
        """Add a message.

        Args:
            topic: absolute name.
            message_type: as `sensor_msgs/msg/Image`; a topic has one.
            stamp_ns: when it was received.
            data: CDR.

        Raises:
            BagError: if the type is not known, or it cannot be written, as on a full disk.
        """
        connection = self._connections.get(topic)
        try:
            if connection is None:
                connection = self._connections[topic] = self._add(topic, message_type)
            self._writer.write(connection, stamp_ns, data)
        except WRITE_ERRORS as error:
            raise self._failed(error) from error
        self.counts[topic] = self.counts.get(topic, 0) + 1

    def _add(self, topic: str, message_type: str) -> Any:
        if message_type not in typestore().types:
            raise BagError(f"topic {topic}: messages of type {message_type} are not known here, so not recorded")
        return self._writer.add_connection(topic, message_type, typestore=typestore())

    def _failed(self, error: Exception) -> BagError:
        return BagError(f"cannot write {self.path}: {_words(error)}; what it has can be read")


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
