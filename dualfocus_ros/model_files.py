# SPDX-License-Identifier: Apache-2.0
"""Files of networks: a manifest NAME.json, and beside it the files that it names with their SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dualfocus_ros.errors import EngineError

_CHUNK = 1 << 20


def read_manifest(path: Path) -> dict[str, Any]:
    """Return what a manifest holds, unchecked.

    Raises:
        EngineError: if it cannot be read, or is no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(f"cannot read the manifest {path}: {error.strerror}") from error
    except ValueError as error:
        raise EngineError(f"expected {path} to be the manifest of a network in JSON: {error}") from error
    if not isinstance(data, dict):
        raise EngineError(f"expected {path} to hold a JSON object, got {type(data).__name__}")
    return data


def is_file_name(value: object) -> bool:
    """Say whether a value can be the name of a file beside the manifest: a text without folders."""
    return isinstance(value, str) and bool(value) and Path(value).name == value


def file_beside(manifest: Path, name: str, sha256: object, advice: str) -> Path:
    """Return the path of a file beside the manifest.

    Args:
        manifest: path of it.
        name: of the file, see `is_file_name`.
        sha256: of the file as the manifest has it, hexadecimal.
        advice: what to do where the file is not there or another one; ends the error.

    Raises:
        EngineError: if it is not there, cannot be read, or is another one.
    """
    path = manifest.parent / name
    if not path.is_file():
        raise EngineError(f"{manifest}: expected the network {path} beside it, found none: {advice}")
    found = sha256_of(path)
    if found != sha256:
        raise EngineError(
            f"{path}: its SHA-256 is {found[:12]}..., {manifest.name} says {str(sha256)[:12]}...: the file is "
            f"damaged or of another version; {advice}"
        )
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        EngineError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}; check path and permissions") from error
    return digest.hexdigest()
