# SPDX-License-Identifier: Apache-2.0
"""Finds the files that are installed beside the code: configuration, launch files, models."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from dualfocus_ros.errors import InputError

PACKAGE = "dualfocus_ros"
_MARKER = Path("share") / "ament_index" / "resource_index" / "packages" / PACKAGE


def share_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder that holds `config/`, `launch/` and `models/`.

    Looked for in this order: the source tree when the code runs from it (an editable or symlinked install),
    the prefixes of AMENT_PREFIX_PATH, the Python prefix. The first comes first so that code and files
    are always of one version.

    Args:
        environ: environment variables; None: those of this process.

    Raises:
        InputError: if the package is not installed completely.
    """
    environ = os.environ if environ is None else environ
    source = Path(__file__).resolve().parent.parent
    if (source / "package.xml").is_file() and (source / "config").is_dir():
        return source
    prefixes = [p for p in environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in map(Path, [*prefixes, sys.prefix]):
        if (prefix / _MARKER).is_file():
            return prefix / "share" / PACKAGE
    raise InputError(
        f"expected the files of {PACKAGE} in a prefix of AMENT_PREFIX_PATH ({prefixes or 'not set'}) or in "
        f"{sys.prefix}, found none: source the setup file of your workspace, or install the package again"
    )


def shared_file(*parts: str) -> Path:
    """Return the path of an installed file, e.g. `shared_file("config", "depth.yaml")`.

    Raises:
        InputError: if there is no such file.
    """
    path = share_directory().joinpath(*parts)
    if not path.is_file():
        raise InputError(f"expected the file {path}, found none: install the package again")
    return path
