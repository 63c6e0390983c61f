# SPDX-License-Identifier: Apache-2.0
"""The commands that run nodes, as a user starts them: in a process of their own."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")


def start(*args, cwd=None):
    return subprocess.Popen(
        [sys.executable, "-m", "dualfocus_ros", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_demo_prints_rate_latency_and_error_and_writes_its_pictures(tmp_path):
    process = start("demo", "--duration", "8", "--output", str(tmp_path / "out"))
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    last = [line for line in out.splitlines() if line.startswith("depth ")][-1]
    numbers = re.fullmatch(
        r"depth ([\d.]+) Hz \| latency (\d+) ms from last frame to depth \| error against truth: AbsRel ([\d.]+), "
        r"RMSE ([\d.]+) m, delta1 ([\d.]+), coverage ([\d.]+)",
        last,
    )
    assert numbers, last
    rate, latency, abs_rel, rmse, delta1, coverage = map(float, numbers.groups())
    # Ten positions at 15 frames/s are 1.5 stacks/s at the most, and the fly-back takes some frames more.
    assert 0 < rate <= 1.5 and latency > 0
    assert abs_rel < 0.10 and rmse < 0.45 and delta1 > 0.85 and coverage == 1.0
    depth = np.load(tmp_path / "out" / "depth.npy")
    assert depth.shape == (480, 640) and depth.dtype == np.float32 and 0.4 < np.nanmedian(depth) < 5.0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "depth.npy",
        "confidence.npy",
        "all_in_focus.png",
        "preview.png",
        "points.ply",
    }
    assert "Traceback" not in out


@pytest.mark.parametrize("after_s", [0.5, 2.0, 4.5])
def test_demo_ends_cleanly_on_ctrl_c(tmp_path, after_s):
    process = start("demo", "--output", str(tmp_path))
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    out, _ = process.communicate(timeout=20)
    assert time.monotonic() - sent < 6.0
    assert process.returncode == 0, out
    assert "Traceback" not in out


def test_demo_refuses_an_unknown_engine(tmp_path):
    process = start("demo", "--engine", "clasical", "--output", str(tmp_path))
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "did you mean 'classical'" in out and "Traceback" not in out


def test_benchmark_measures_what_it_names(tmp_path):
    file = tmp_path / "numbers.json"
    process = start(
        "benchmark",
        "--engine",
        "classical",
        "--width",
        "160",
        "--height",
        "120",
        "--slices",
        "4",
        "--seconds",
        "1",
        "--json",
        str(file),
    )
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    numbers = json.loads(file.read_text())
    assert 20 <= numbers["input"]["frames"] <= 33  # a second at 30 Hz
    assert 0 < numbers["input"]["callback_ms"] < numbers["input"]["cpu_ms"]
    output = numbers["output"]
    assert set(output["each_ms"]) == {"depth", "camera_info", "points", "confidence", "all_in_focus"}
    assert output["all_ms"] > output["depth_points_ms"] > output["each_ms"]["points"] > 0
    (engine,) = numbers["engines"]
    assert engine["name"] == "classical" and numbers["slices"] == 4
    assert 0 < engine["whole_ms"] <= engine["whole_p99_ms"] and engine["memory_mb"] > 30
    assert engine["last_ms"] is None and engine["most_differs"] == 0.0
    assert "publish depth + points" in out
    sweep, sliding = numbers["path"]["sweep"], numbers["path"]["sliding"]
    assert sweep["engine"] == sliding["engine"] == "classical" and len(sweep["run_ms"]) == 10
    assert 0 < min(sweep["run_ms"]) <= sweep["latency_ms"] <= sweep["latency_p99_ms"] <= max(sweep["run_ms"])
    assert 0 < sliding["maps_per_s"] < 40  # no more than frames
    assert "from the last image message of a sweep to its depth message" in out
