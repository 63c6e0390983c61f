# SPDX-License-Identifier: Apache-2.0
"""The Fast DDS profile: set where the user has none, and checked by what its XML says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dualfocus_ros import dds, share
from dualfocus_ros.errors import InputError

NEW, OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
PROFILE = """<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <transport_descriptors><transport_descriptor>
    <transport_id>one</transport_id><type>{type}</type><segment_size>{size}</segment_size>
  </transport_descriptor></transport_descriptors>
  <participant profile_name="p" is_default_profile="{default}"><rtps>
    <userTransports><transport_id>{used}</transport_id></userTransports>
    <useBuiltinTransports>false</useBuiltinTransports>
  </rtps></participant>
</profiles>"""


def _profile(
    folder: Path, type: str = "SHM", size: str = "33554432", default: str = "true", used: str = "one"
) -> Path:
    path = folder / "profile.xml"
    path.write_text(PROFILE.format(type=type, size=size, default=default, used=used))
    return path


@pytest.mark.parametrize(("distro", "name"), [("humble", OLD), ("jazzy", OLD), ("kilted", NEW), ("rolling", NEW)])
def test_sets_the_variable_that_the_release_reads(distro: str, name: str) -> None:
    environ = {"ROS_DISTRO": distro}
    assert dds.use_profile(environ)
    assert environ == {"ROS_DISTRO": distro, name: str(dds.profile_path())}
    check = dds.check_profile(environ)
    assert check.ok
    assert check.segment_bytes == 32 * 2**20


@pytest.mark.parametrize("name", [NEW, OLD])
def test_respects_the_profile_of_the_user(name: str) -> None:
    environ = {name: "/somewhere/mine.xml"}
    assert not dds.use_profile(environ)
    assert environ == {name: "/somewhere/mine.xml"}


def test_no_profile_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check = dds.check_profile({"ROS_DISTRO": "kilted"})
    assert (check.ok, check.path, check.segment_bytes) == (False, None, 512 * 1024)
    assert NEW in check.text
    assert "lost" in check.text


def test_variable_that_the_release_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check = dds.check_profile({"ROS_DISTRO": "jazzy", NEW: str(dds.profile_path())})
    assert not check.ok
    assert f"{NEW} is set, but this ROS release does not read it" in check.text
    assert f"export {OLD}={dds.profile_path()}" in check.text


def test_profile_in_the_working_directory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _profile(tmp_path).rename(tmp_path / "DEFAULT_FASTDDS_PROFILES.xml")
    assert dds.check_profile({}).ok


@pytest.mark.parametrize(
    ("change", "segment", "words"),
    [
        ({"size": "1048576"}, 1048576, "1.0 MiB"),
        ({"type": "UDPv4"}, None, "no shared-memory"),
        ({"used": "other"}, None, "no shared-memory"),
        ({"default": "false"}, 512 * 1024, "0.5 MiB"),
    ],
)
def test_profile_that_is_too_small(
    tmp_path: Path, change: dict[str, str], segment: int | None, words: str
) -> None:
    path = _profile(tmp_path, **change)
    check = dds.check_profile({NEW: str(path), OLD: str(path)})
    assert (check.ok, check.path, check.segment_bytes) == (False, path, segment)
    assert words in check.text


@pytest.mark.parametrize("content", [None, "<profiles>", ""])
def test_unreadable_profile(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "broken.xml"
    if content is not None:
        path.write_text(content)
    check = dds.check_profile({NEW: str(path), OLD: str(path)})
    assert not check.ok
    assert "cannot be read" in check.text
    assert str(path) in check.text


def test_other_middleware_needs_no_profile() -> None:
    assert dds.check_profile({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}).ok


def test_share_directory_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "site" / "dualfocus_ros" / "share.py"
    monkeypatch.setattr(share, "__file__", str(code))
    prefix = tmp_path / "prefix"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages"
    marker.mkdir(parents=True)
    (marker / "dualfocus_ros").touch()
    environ = {"AMENT_PREFIX_PATH": os.pathsep.join([str(tmp_path / "else"), str(prefix)])}
    assert share.share_directory(environ) == prefix / "share" / "dualfocus_ros"
    monkeypatch.setattr("sys.prefix", str(tmp_path / "else"))
    with pytest.raises(InputError, match="source the setup file"):
        share.share_directory({})
