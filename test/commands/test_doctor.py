# SPDX-License-Identifier: Apache-2.0
import argparse
import re
import sys

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


def lines(out):
    """Return topic -> (state, text) of a report."""
    found = {}
    for line in out.splitlines():
        match = re.match(r" *(ok|MISSING|-)  (\S+(?: \S+)*) {2,}(.*)", line)
        if match:
            found[match[2]] = (match[1], match[3])
    return found


def test_models_and_what_runs_them(monkeypatch, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    tiny_models = pytest.importorskip("tiny_models")
    (tmp_path / "models").mkdir()
    tiny_models.tiny_model(tmp_path / "models", "dualfocus_small")
    tiny_models.tiny_model(tmp_path / "models", "broken").write_bytes(b"cut off")
    monkeypatch.setattr("dualfocus_ros.engine.manifest.share_directory", lambda: tmp_path)
    doctor.run(NO_OPTIONS)
    found = lines(capsys.readouterr().out)
    state, text = found["onnxruntime"]
    assert state == "ok" and text.startswith(onnxruntime.__version__) and "CPUExecutionProvider" in text
    assert found["model dualfocus_small"] == ("ok", "1.23 M parameters, fp32, trained on 3 to 15 slices")
    assert found["model broken"][0] == "MISSING" and "SHA-256" in found["model broken"][1]
    assert found["engine onnx"][0] == "ok" and found["engine onnx"][1].startswith("runs on cpu, ")
    assert found["engine auto"][0] == "ok" and found["engine auto"][1].startswith("onnx, runs on cpu, ")


def test_the_network_that_cannot_run_is_told(monkeypatch, tmp_path, capsys):
    found = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("dualfocus_ros.engine.manifest.share_directory", lambda: tmp_path)
    doctor.run(NO_OPTIONS)
    report = lines(capsys.readouterr().out)
    assert report["models"] == ("-", f"none in {tmp_path / 'models'}: the network cannot run without one")
    for topic in ("onnxruntime", "engine auto", "engine onnx"):
        assert "pip install onnxruntime" in report[topic][1] and report[topic][0] != "ok"
        assert "engine:=classical or --engine classical works without" in report[topic][1]
    assert report["engine classical"] == ("ok", "runs on cpu")


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
