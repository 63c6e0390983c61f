# SPDX-License-Identifier: Apache-2.0
import argparse
import re

import pytest

from dualfocus_ros.commands import doctor

NO_OPTIONS = argparse.Namespace()


def test_says_what_is_here(capsys):
    pytest.importorskip("rclpy")
    assert doctor.run(NO_OPTIONS) == 0
    out = capsys.readouterr().out
    for words in ("ok  rclpy", "ok  engine classical", "runs on cpu", "rmw_fastrtps_cpp", "simulated, folder"):
        assert words in out
    assert "MISSING" not in out and out.rstrip().endswith("everything that the nodes need is here")


def test_a_missing_library_is_named_with_the_remedy(monkeypatch, capsys):
    found = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "cv2" else found(name))
    assert doctor.run(NO_OPTIONS) == 1
    out = capsys.readouterr().out
    assert "MISSING  cv2" in out and "apt install python3-opencv" in out
    assert re.search(r"^not ready: cv2\b", out, re.MULTILINE)


def test_a_check_that_breaks_is_reported_and_the_others_go_on(monkeypatch, capsys):
    def _gpu():
        raise OSError("no such device")
        yield

    monkeypatch.setattr(doctor, "_gpu", _gpu)
    assert doctor.run(NO_OPTIONS) == 1
    out = capsys.readouterr().out
    assert "cannot be examined: OSError: no such device" in out and "camera drivers" in out


def test_a_small_shared_memory_segment_is_told(monkeypatch, tmp_path, capsys):
    pytest.importorskip("rclpy")
    profile = tmp_path / "small.xml"
    profile.write_text(
        "<dds><profiles><transport_descriptors><transport_descriptor><transport_id>s</transport_id><type>SHM</type>"
        "<segment_size>1048576</segment_size></transport_descriptor></transport_descriptors>"
        '<participant is_default_profile="true"><rtps><userTransports><transport_id>s</transport_id>'
        "</userTransports></rtps></participant></profiles></dds>"
    )
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, str(profile))
    doctor.run(NO_OPTIONS)
    out = capsys.readouterr().out
    assert "1.0 MiB" in out and "will be lost" in out
