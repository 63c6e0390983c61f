# SPDX-License-Identifier: Apache-2.0
"""Compiled engines on disk: found again by all that they depend on, never read half, never taken for another.

A plan, as TensorRT calls a compiled engine, runs with the version of the library and the kind of GPU that it was
built for. So the name of its file is a digest of all that, and the file says it once more, in the clear, with the
length and the SHA-256 of what follows.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from dualfocus_ros.errors import EngineError

MAGIC = b"DUALFOCUS-PLAN-1\n"
ANY = "any"
POLL_S = 0.1
LONGEST_HEADER = 1 << 16
ENVIRONMENT = "DUALFOCUS_ENGINE_CACHE"


@dataclass(frozen=True)
class PlanKey:
    """All that a plan depends on.

    Attributes:
        model: name of the network, for people.
        onnx_sha256: of the network file.
        precision: of the network, fp32 or fp16.
        library: tensorrt or tensorrt_rtx.
        library_version: of it.
        gpu: name of the GPU; ANY where the plan runs on all.
        compute_capability: of the GPU, e.g. 8.7, or ANY.
        driver: version of CUDA that the driver supports, or ANY.
        profiles: the shapes that it is compiled for, in words, in order.
    """

    model: str
    onnx_sha256: str
    precision: str
    library: str
    library_version: str
    gpu: str
    compute_capability: str
    driver: str
    profiles: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of the file, e.g. `dualfocus_small_fp16-tensorrt-10.3.0-1f0c...plan`."""
        digest = hashlib.sha256(_line(asdict(self))).hexdigest()[:16]
        return f"{self.model}-{self.library}-{self.library_version}-{digest}.plan"


class PlanCache:
    """A folder of compiled engines that several processes may share."""

    def __init__(
        self, folder: str | Path | None = None, report: Callable[[str], None] = lambda text: None
    ) -> None:
        """Take a folder; it is made when the first plan is stored.

        Args:
            folder: None: $DUALFOCUS_ENGINE_CACHE, else ~/.cache/dualfocus_ros (or below $XDG_CACHE_HOME).
            report: told, in a sentence, of files that cannot be used and of waiting for another process.
        """
        self.folder = default_folder() if folder is None else Path(folder).expanduser()
        self._report = report

    def get(self, key: PlanKey, build: Callable[[], bytes], go_on: Callable[[], bool] = lambda: True) -> bytes:
        """Return the plan, from disk or else built, and stored for the next time.

        While one process builds a plan, others that want the same wait for it, as long as `go_on()`.

        Raises:
            EngineError: if the folder cannot be written, the wait was ended, or as `build`.
        """
        plan = self.load(key)
        if plan is not None:
            return plan
        with self._lock(key, go_on):
            plan = self.load(key)  # another process may have built it meanwhile
            if plan is None:
                plan = build()
                self.store(key, plan)
        return plan

    def load(self, key: PlanKey) -> bytes | None:
        """Return the plan of that key; None if there is none, or what is there cannot be used (reported)."""
        path = self.folder / key.file_name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report(f"cannot read {path}: {error.strerror}; the engine is built anew")
            return None
        try:
            return _unpacked(content, key)
        except ValueError as error:
            self._report(f"{path} is {error}; the engine is built anew")
            return None

    def store(self, key: PlanKey, plan: bytes) -> Path:
        """Write a plan; the file appears whole or not at all. Return its path.

        Raises:
            EngineError: if it cannot be written.
        """
        path = self.folder / key.file_name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _packed(key, plan))
        except OSError as error:
            raise self._unusable(path, error) from error
        return path

    def discard(self, key: PlanKey) -> None:
        """Remove the plan of that key, which has proved to be of no use."""
        try:
            (self.folder / key.file_name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(self.folder / key.file_name, error) from error

    @contextmanager
    def _lock(self, key: PlanKey, go_on: Callable[[], bool]) -> Iterator[None]:
        path = self.folder / f"{key.file_name}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise self._unusable(path, error) from error
        with file:  # closing it frees the lock, as does the end of the process, however it comes
            if not _locked(file):
                self._report(f"another process builds {key.file_name}: waiting for it")
                while not _locked(file):
                    if not go_on():
                        raise EngineError(f"stopped while another process built {key.file_name}")
                    time.sleep(POLL_S)
            yield

    def _unusable(self, path: Path, error: OSError) -> EngineError:
        return EngineError(
            f"cannot write {path}: {error.strerror}; compiled engines need a folder: set engine_cache, or "
            f"{ENVIRONMENT}, to one that can be written"
        )


def _locked(file: IO[str]) -> bool:
    """Lock the file, if nobody else has; return whether it is."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def default_folder() -> Path:
    """Return where compiled engines lie if nobody says otherwise."""
    if folder := os.environ.get(ENVIRONMENT):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dualfocus_ros"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, even if the power fails; raise OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _packed(key: PlanKey, plan: bytes) -> bytes:
    header = {"key": asdict(key), "bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()}
    return MAGIC + _line(header) + plan


def _unpacked(content: bytes, key: PlanKey) -> bytes:
    """Return the plan of a file; raise ValueError with what is wrong with it."""
    if not content.startswith(MAGIC):
        raise ValueError("not a file of compiled engines")
    end = content.find(b"\n", len(MAGIC), len(MAGIC) + LONGEST_HEADER)
    try:
        header: Any = json.loads(content[len(MAGIC) : end]) if end > 0 else None
        length, digest, found = header["bytes"], header["sha256"], header["key"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError("damaged in its header") from error
    wanted = json.loads(_line(asdict(key)))
    if found != wanted:
        other = [name for name in wanted if not isinstance(found, dict) or found.get(name) != wanted[name]]
        raise ValueError(f"of another {', '.join(other)}")
    plan = content[end + 1 :]
    if len(plan) != length:
        raise ValueError(f"truncated: {len(plan)} of {length} bytes")
    if hashlib.sha256(plan).hexdigest() != digest:
        raise ValueError("damaged: its SHA-256 is another")
    return plan


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True).encode() + b"\n"
