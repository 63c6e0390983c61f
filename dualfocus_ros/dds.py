# SPDX-License-Identifier: Apache-2.0
"""The Fast DDS profile without which whole images are lost, and the check that it is in force.

Imports no ROS. Fast DDS reads the variables when a process makes its first node, so set them before.
"""

from __future__ import annotations

import importlib.metadata
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from dualfocus_ros.share import shared_file

# Kilted and later read the first (and warn about the second), Humble to Jazzy only the second.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_OLD_DISTROS = ("humble", "iron", "jazzy")
_FIRST_NEW_RCLPY = 9
# Three organised 640x480 clouds of 16 bytes a point (4.9 MB each): one written, one sent, one being read.
MIN_SEGMENT_BYTES = 3 * 640 * 480 * 16
# What Fast DDS takes without a profile.
DEFAULT_SEGMENT_BYTES = 512 * 1024
_ADVICE = "large images and point clouds will be lost between processes"


@dataclass(frozen=True)
class ProfileCheck:
    """What the Fast DDS profile in force means for large messages.

    Attributes:
        ok: True if images and clouds of 640x480 pass between processes.
        path: the profile in force; None where none is.
        segment_bytes: size of the shared-memory segment that it gives; None where that is not known.
        text: one line for people; where not `ok`, with what to do.
    """

    ok: bool
    path: Path | None
    segment_bytes: int | None
    text: str


def profile_path() -> Path:
    """Return the path of the profile that this package ships.

    Raises:
        InputError: if it is not installed.
    """
    return shared_file("config", "fastdds.xml")


def profile_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that put the shipped profile in force; empty where the user has chosen one.

    Raises:
        InputError: if the profile is not installed.
    """
    environ = os.environ if environ is None else environ
    if any(environ.get(name) for name in PROFILE_VARIABLES):
        return {}
    return {_variables_read(environ)[0]: str(profile_path())}


def use_profile(environ: MutableMapping[str, str] | None = None) -> bool:
    """Put the shipped profile in force for this process and its children; respects one that the user set.

    Args:
        environ: changed in place; None: the environment of this process.

    Returns:
        True if the shipped profile was set, False if the user had set one.

    Raises:
        InputError: if the profile is not installed.
    """
    environ = os.environ if environ is None else environ
    variables = profile_environment(environ)
    environ.update(variables)
    return bool(variables)


def check_profile(environ: Mapping[str, str] | None = None) -> ProfileCheck:
    """Read the profile in force and tell whether large messages pass. Never raises on a bad profile.

    Where no variable names a profile, `DEFAULT_FASTDDS_PROFILES.xml` in the working directory counts, which
    Fast DDS reads too.
    """
    environ = os.environ if environ is None else environ
    other = environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if "fastrtps" not in other:
        return ProfileCheck(True, None, None, f"middleware is {other}: the Fast DDS profile does not apply")
    read = _variables_read(environ)
    remedy = f"export {read[0]}={profile_path()} (launch files and the demo do so themselves)"
    chosen = _chosen(environ, read)
    if chosen is None:
        unread = [name for name in PROFILE_VARIABLES if environ.get(name)]
        why = f" ({unread[0]} is set, but this ROS release does not read it)" if unread else ""
        text = f"no Fast DDS profile in force{why}: {_ADVICE}; {remedy}"
        return ProfileCheck(False, None, DEFAULT_SEGMENT_BYTES, text)
    try:
        segment = _segment_bytes(ElementTree.parse(chosen).getroot())
    except (OSError, ElementTree.ParseError) as error:
        text = f"the Fast DDS profile {chosen} cannot be read ({error}): {_ADVICE}; {remedy}"
        return ProfileCheck(False, chosen, None, text)
    if segment is None:
        text = f"the Fast DDS profile {chosen} sets no shared-memory transport: {_ADVICE} or slow; {remedy}"
        return ProfileCheck(False, chosen, None, text)
    size = f"{segment / 2**20:.1f} MiB of shared memory"
    if segment < MIN_SEGMENT_BYTES:
        need = f"expected at least {MIN_SEGMENT_BYTES / 2**20:.1f}"
        text = f"the Fast DDS profile {chosen} gives {size}, {need}: {_ADVICE}; {remedy}"
        return ProfileCheck(False, chosen, segment, text)
    return ProfileCheck(True, chosen, segment, f"Fast DDS profile {chosen}: {size}")


def _variables_read(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that the ROS release at hand reads, the one to set first."""
    distro = environ.get("ROS_DISTRO", "")
    try:
        old = int(importlib.metadata.version("rclpy").partition(".")[0]) < _FIRST_NEW_RCLPY
    except (importlib.metadata.PackageNotFoundError, ValueError):
        old = False
    if distro:
        old = distro in _OLD_DISTROS
    return PROFILE_VARIABLES[1:] if old else PROFILE_VARIABLES


def _chosen(environ: Mapping[str, str], names: tuple[str, ...]) -> Path | None:
    for name in names:
        if environ.get(name):
            return Path(environ[name])
    local = Path("DEFAULT_FASTDDS_PROFILES.xml")
    return local if local.is_file() else None


def _segment_bytes(root: ElementTree.Element) -> int | None:
    """Return the segment size of the default participant's shared-memory transport; None where it has none."""
    sizes: dict[str, int] = {}
    for transport in _all(root, "transport_descriptor"):
        if _text(transport, "type").upper() == "SHM":
            size = _text(transport, "segment_size")
            sizes[_text(transport, "transport_id")] = int(size) if size.isdigit() else DEFAULT_SEGMENT_BYTES
    for participant in _all(root, "participant"):
        if participant.get("is_default_profile") != "true":
            continue
        used = [(u.text or "").strip() for u in _all(participant, "transport_id")]
        found = [sizes[name] for name in used if name in sizes]
        if found:
            return max(found)
        builtin = _text(participant, "useBuiltinTransports")
        return None if builtin in ("false", "0") else DEFAULT_SEGMENT_BYTES
    return DEFAULT_SEGMENT_BYTES


def _all(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if e.tag.rpartition("}")[2] == tag]


def _text(element: ElementTree.Element, tag: str) -> str:
    found = _all(element, tag)
    return (found[0].text or "").strip() if found else ""
