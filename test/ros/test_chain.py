# SPDX-License-Identifier: Apache-2.0
"""The live chain over DDS: camera_node and depth_node as processes of their own, a third one listens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import QoSProfile
from ros_helpers import (
    ENGINE,
    ROOT,
    SMALL,
    START_S,
    TINY,
    Peer,
    Processes,
    SyntheticCamera,
    by_stamp,
    chain,
    plane,
    ros_args,
    stamp_ns,
    wait_until,
)
from sensor_msgs.msg import CameraInfo, Image, JointState, PointCloud2

from dualfocus_ros import messages
from dualfocus_ros.alignment.aligner import Aligner
from dualfocus_ros.engine.pick import make_engine
from dualfocus_ros.estimator import DepthEstimator
from dualfocus_ros.evaluation.metrics import score
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.nodes.runner import NodeSet
from dualfocus_ros.types import FocalSlice, FocalStack, Intrinsics, LensModel

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]

SLICES, NEAR_M, FAR_M = 8, 0.4, 5.0
WIDTH, HEIGHT = SMALL["simulated.width"], SMALL["simulated.height"]
PITCH_M, FOCAL_LENGTH_M = SMALL["simulated.pixel_pitch_m"], 0.016
# The classical engine reaches an AbsRel of 0.113 in process on this scene at this small size (the best single
# depth for all pixels scores 0.36); the chain may add nothing to that.
MAX_ABS_REL = 0.13
INPUTS = {
    "image": (Image, "/camera/image_raw"),
    "info": (CameraInfo, "/camera/camera_info"),
    "lens": (JointState, "/camera/lens"),
    "truth": (Image, "/camera/ground_truth/depth"),
}
OUTPUTS = {
    "depth": (Image, "/dualfocus/depth"),
    "camera_info": (CameraInfo, "/dualfocus/camera_info"),
    "points": (PointCloud2, "/dualfocus/points"),
    "confidence": (Image, "/dualfocus/confidence"),
    "all_in_focus": (Image, "/dualfocus/all_in_focus"),
    "millimetres": (Image, "/millimetres/depth"),
}


class Recording:
    """What was heard of one run of the chain, by topic and stamp."""

    def __init__(self, processes: Processes, peer: Peer, got: dict[str, list[Any]]) -> None:
        self.processes = processes
        self.peer = peer
        self.live = got
        self._wait(sweeps=4)
        self.frozen = {name: by_stamp(list(kept)) for name, kept in got.items()}

    def _wait(self, sweeps: int) -> None:
        def complete() -> bool:
            self.processes.alive()
            stamps = [{stamp_ns(m) for m in list(kept)} for kept in self.live.values()]
            return len(set.intersection(*stamps)) >= sweeps

        wait_until(
            complete,
            60,
            lambda: f"{sweeps} stamps on all topics, got {[(n, len(k)) for n, k in self.live.items()]}",
        )

    def __getitem__(self, name: str) -> dict[int, Any]:
        return self.frozen[name]

    def stamps(self, *names: str) -> list[int]:
        """Return the stamps for which all of these have come, oldest first; there are some."""
        found = sorted(set.intersection(*(set(self.frozen[n]) for n in names)))
        assert found
        return found


@pytest.fixture(scope="class")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    with chain(tmp_path_factory.mktemp("chain")) as (processes, peer):
        got = {name: peer.collect(kind, topic) for name, (kind, topic) in {**INPUTS, **OUTPUTS}.items()}
        # Each stack by itself, so that it can be estimated once more here; see test_alignment.py for the rest.
        alone = {"residual": "none", "denoise": False}
        processes.start("depth_node", alone)
        processes.start("depth_node", {**alone, "depth_encoding": "16UC1"}, {"__node": "millimetres"})
        processes.start("camera_node", {**SMALL, "sweep.slices": SLICES})
        yield Recording(processes, peer, got)


def intrinsics(info: Any) -> Intrinsics:
    return Intrinsics(info.width, info.height, info.k[0], info.k[4], info.k[2], info.k[5])


def lens_values(message: Any) -> dict[str, float]:
    return dict(zip(message.name, message.position, strict=True))


def rgb_of(image: Any) -> np.ndarray:
    assert (image.encoding, image.step, len(image.data)) == (
        "rgb8",
        3 * image.width,
        3 * image.width * image.height,
    )
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)


def cloud_of(cloud: Any) -> np.ndarray:
    """Return (H, W) records with x, y, z, r, g, b; fail where the layout is not the promised one."""
    fields = [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields]
    assert fields == [("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1), ("rgb", 12, 7, 1)]
    assert (cloud.point_step, cloud.row_step) == (16, 16 * cloud.width)
    assert len(cloud.data) == cloud.row_step * cloud.height
    assert not cloud.is_bigendian
    # PCL and RViz: the float's bits are 0x00RRGGBB, little endian.
    layout = [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in ("b", "g", "r", "a")]
    return np.frombuffer(cloud.data, np.dtype(layout)).reshape(cloud.height, cloud.width)


class TestRecordedRun:
    """One run of the chain, looked at from all sides."""

    def test_outputs_of_a_stack_share_the_stamp_of_one_camera_frame(self, heard: Recording) -> None:
        # The fixture waits for four stamps that came on all ten topics. Best effort may lose a message more, but
        # then the frame is known from another topic: a stamp that no frame has is an invented one.
        assert len(heard.stamps(*INPUTS, *OUTPUTS)) >= 4
        inputs = [heard[name] for name in INPUTS]
        for name in OUTPUTS:
            for stamp, message in heard[name].items():
                assert message.header.frame_id == "camera_optical_frame", name
                assert stamp < min(map(min, inputs)) or any(stamp in known for known in inputs), name

    def test_the_stamp_is_that_of_the_nearest_focus_which_sees_least(self, heard: Recording) -> None:
        for stamp in heard.stamps("depth", "lens"):
            assert lens_values(heard["lens"][stamp])["focus_distance"] == pytest.approx(NEAR_M, rel=1e-9)
            assert heard["lens"][stamp].velocity[0] == 0.0

    def test_layout_of_the_images(self, heard: Recording) -> None:
        for name, encoding, dtype in (
            ("depth", "32FC1", np.float32),
            ("confidence", "32FC1", np.float32),
            ("truth", "32FC1", np.float32),
            ("millimetres", "16UC1", np.uint16),
        ):
            for message in heard[name].values():
                assert (message.encoding, message.width, message.height) == (encoding, WIDTH, HEIGHT), name
                plane(message, dtype)
        for message in (*heard["all_in_focus"].values(), *heard["image"].values()):
            assert rgb_of(message).shape == (HEIGHT, WIDTH, 3)

    def test_depth_is_the_metres_of_the_scene(self, heard: Recording) -> None:
        for stamp in heard.stamps("depth", "truth", "confidence"):
            depth_m, truth_m = plane(heard["depth"][stamp]), plane(heard["truth"][stamp])
            confidence = plane(heard["confidence"][stamp])
            finite = np.isfinite(depth_m)
            assert depth_m[finite].min() > 0.9 * NEAR_M
            assert depth_m[finite].max() < 1.1 * FAR_M
            result = score(depth_m, truth_m, (NEAR_M, FAR_M), confidence)
            assert result.abs_rel < MAX_ABS_REL
            assert result.coverage > 0.95
            assert confidence.min() >= 0.0
            assert confidence.max() <= 1.0
            # Dropping the least confident pixels first lowers the error well below dropping at random.
            assert result.sparsification < 0.8

    def test_depth_is_what_the_estimator_says_of_the_published_frames(self, heard: Recording) -> None:
        """The stack is put together here by hand: the frames at rest from the reference frame on."""
        still = sorted(s for s in heard.stamps("image", "info", "lens") if heard["lens"][s].velocity[0] == 0.0)
        compared = 0
        for stamp in heard.stamps("depth", "image", "info", "lens", "camera_info", "all_in_focus", "confidence"):
            at = still.index(stamp)
            frames = still[at : at + SLICES]
            focus_m = [lens_values(heard["lens"][s])["focus_distance"] for s in frames]
            if len(frames) < SLICES or focus_m != sorted(set(focus_m)):
                continue  # a frame was lost on its way to this test, or is still under way
            assert focus_m[0] == pytest.approx(NEAR_M)
            assert focus_m[-1] == pytest.approx(FAR_M)
            slices = [
                FocalSlice(rgb_of(heard["image"][s]), s, f, intrinsics(heard["info"][s]))
                for s, f in zip(frames, focus_m, strict=True)
            ]
            lens = LensModel(FOCAL_LENGTH_M, 1.4, PITCH_M)
            with make_engine("classical") as engine:
                expected = DepthEstimator(engine, aligner=Aligner(denoise=False)).estimate(
                    FocalStack.from_slices(slices, lens, reference=0)
                )
            np.testing.assert_allclose(plane(heard["depth"][stamp]), expected.depth_m, rtol=1e-4)
            np.testing.assert_allclose(plane(heard["confidence"][stamp]), expected.confidence, atol=1e-3)
            assert np.abs(rgb_of(heard["all_in_focus"][stamp]).astype(int) - expected.all_in_focus).max() <= 1
            assert intrinsics(heard["camera_info"][stamp]) == expected.intrinsics
            compared += 1
        assert compared >= 1

    def test_millimetres_are_the_rounded_metres(self, heard: Recording) -> None:
        for stamp in heard.stamps("depth", "millimetres"):
            depth_m = plane(heard["depth"][stamp]).astype(np.float64)
            found_mm = plane(heard["millimetres"][stamp], np.uint16)
            finite = np.isfinite(depth_m)
            assert np.abs(found_mm[finite] - 1000.0 * depth_m[finite]).max() <= 0.501
            assert (found_mm[~finite] == 0).all()
            assert 500 < np.median(found_mm) < 5000

    def test_camera_info_of_the_depth_is_that_of_its_reference_frame(self, heard: Recording) -> None:
        for stamp in heard.stamps("camera_info", "info"):
            of_depth, of_camera = heard["camera_info"][stamp], heard["info"][stamp]
            assert (of_depth.width, of_depth.height) == (WIDTH, HEIGHT)
            np.testing.assert_array_equal(of_depth.k, of_camera.k)
            assert list(of_depth.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
            fx, _, cx, _, fy, cy = of_depth.k[:6]
            assert list(of_depth.p) == [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0]

    def test_cloud_is_the_back_projected_depth(self, heard: Recording) -> None:
        v, u = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
        for stamp in heard.stamps("points", "depth", "camera_info", "all_in_focus"):
            cloud = cloud_of(heard["points"][stamp])
            assert cloud.shape == (HEIGHT, WIDTH)
            k = heard["camera_info"][stamp].k
            depth_m = plane(heard["depth"][stamp]).astype(np.float64)
            finite = np.isfinite(depth_m)
            for name, expected in (
                ("x", (u - k[2]) / k[0] * depth_m),
                ("y", (v - k[5]) / k[4] * depth_m),
                ("z", depth_m),
            ):
                np.testing.assert_allclose(cloud[name][finite], expected[finite], rtol=1e-5, atol=1e-9)
                assert np.isnan(cloud[name][~finite]).all()
            # REP 103: x to the right and y down in the optical frame.
            assert cloud["x"][finite & (u == WIDTH - 1)].min() > 0.0
            assert cloud["y"][finite & (v == HEIGHT - 1)].min() > 0.0
            colours = np.stack([cloud[c] for c in "rgb"], axis=-1)
            np.testing.assert_array_equal(colours, rgb_of(heard["all_in_focus"][stamp]))

    def test_camera_info_of_the_camera_follows_its_focus(self, heard: Recording) -> None:
        still = [s for s in heard.stamps("info", "lens") if heard["lens"][s].velocity[0] == 0.0]
        seen = set()
        for stamp in still:
            s = lens_values(heard["lens"][stamp])["focus_distance"]
            v = FOCAL_LENGTH_M * s / (s - FOCAL_LENGTH_M)
            k = heard["info"][stamp].k
            assert k[0] == pytest.approx(v / PITCH_M, rel=1e-9)
            assert k[4] == pytest.approx(v / PITCH_M, rel=1e-9)
            assert (k[2], k[5]) == ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
            seen.add(round(k[0], 6))
        assert len(seen) == SLICES

    def test_lens_messages_name_their_values_in_metres(self, heard: Recording) -> None:
        spaced_dpt = np.linspace(1 / NEAR_M, 1 / FAR_M, SLICES)
        for message in heard["lens"].values():
            names = ["focus_distance", "focal_length", "f_number", "pixel_pitch", "sweep_slices"]
            assert list(message.name) == names
            values = lens_values(message)
            assert values["sweep_slices"] == SLICES
            assert values["focal_length"] == FOCAL_LENGTH_M
            assert values["f_number"] == 1.4
            assert values["pixel_pitch"] == pytest.approx(PITCH_M)
            assert NEAR_M - 1e-9 <= values["focus_distance"] <= FAR_M + 1e-9
            if message.velocity[0] == 0.0:
                assert np.abs(spaced_dpt - 1 / values["focus_distance"]).min() < 1e-9

    def test_lens_messages_tell_the_speed_of_the_focus(self, heard: Recording) -> None:
        lens = [m for _, m in sorted(heard["lens"].items())]
        told = 0
        for message, following in zip(lens, lens[1:], strict=False):
            speed, focus_m = message.velocity[0], lens_values(message)["focus_distance"]
            # ds/dt = s^2 times the speed in dioptres, of which this lens has 20 a second at most.
            assert abs(speed) / focus_m**2 <= 20.0 * (1 + 1e-6)
            way_m = lens_values(following)["focus_distance"] - focus_m
            if abs(speed) > 1e-5 and way_m and stamp_ns(following) - stamp_ns(message) < 300_000_000:
                # A moving lens goes on in its direction; it may have arrived in the middle of the exposure.
                assert (way_m > 0.0) == (speed > 0.0)
                told += 1
        assert told

    def test_max_depth_is_live_and_marks_what_is_farther(self, heard: Recording) -> None:
        def set_max(value: float) -> Any:
            new = Parameter(
                name="max_depth_m", value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
            )
            answer = heard.peer.call(
                SetParameters, "/dualfocus/set_parameters", SetParameters.Request(parameters=[new])
            )
            return answer.results[0]

        before = plane(next(iter(heard["depth"].values())))
        limit_m = float(np.median(before))
        assert set_max(limit_m).successful
        try:
            live = heard.live["depth"]
            seen = len(live)
            (limited,) = wait_until(
                lambda: [p for p in map(plane, live[seen:]) if np.isposinf(p).any()][:1], 20, "limited depth"
            )
            assert limited[np.isfinite(limited)].max() <= np.float32(limit_m)
            assert 0.35 < np.isposinf(limited).mean() < 0.65
            refused = set_max(-1.0)
            assert not refused.successful
            assert refused.reason
        finally:
            assert set_max(math.inf).successful

    def test_diagnostics_report_what_runs(self, heard: Recording) -> None:
        peer = heard.peer
        wait_until(
            lambda: peer.diagnostic("/dualfocus") == "running", 10, lambda: str(peer.diagnostic("/dualfocus"))
        )
        wait_until(lambda: peer.diagnostic("/camera") == "sweeping", 10, lambda: str(peer.diagnostic("/camera")))
        assert peer.diagnostic("/dualfocus", "engine") == "classical"
        assert peer.diagnostic("/dualfocus", "focus positions") == str(SLICES)
        assert 0.0 < float(peer.diagnostic("/dualfocus", "latency from last frame [ms]") or 0) < 5000.0
        assert float(peer.diagnostic("/dualfocus", "rate of camera/image_raw [Hz]") or 0) > 5.0
        assert int(peer.diagnostic("/dualfocus", "dropped: lens_moving") or 0) >= 1


def test_sliding_mode_gives_a_depth_for_each_frame(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        # Every frame counts here, so none may be lost on its way: reliable from end to end.
        depths = peer.collect(Image, "/dualfocus/depth", QoSProfile(depth=100))
        reliable = {
            f"qos_overrides./camera/{topic}.subscription.reliability": "reliable"
            for topic in ("image_raw", "camera_info", "lens")
        }
        processes.start("depth_node", {"mode": "sliding", "breathing": "none", **reliable})
        camera = SyntheticCamera(peer, "", depth_m=0.8)
        camera.wait_for_subscribers()
        camera.sweep_until(depths)
        camera.sweep()
        wait_until(lambda: stamp_ns(depths[-1]) == camera.stamp_ns, 10, "depth of the newest frame")
        sent = []
        before = len(depths)
        for position in camera.POSITIONS_DPT * 2:
            sent.append(camera.frame(position))
            wait_until(lambda: len(depths) >= before + len(sent), 10, "a depth for this frame")
        found = [stamp_ns(d) for d in depths[before:]]
        assert found == sent
        all_stamps = [stamp_ns(d) for d in depths]
        assert all(a < b for a, b in zip(all_stamps, all_stamps[1:], strict=False))
        for depth in depths[before:]:
            assert np.nanmedian(plane(depth)) == pytest.approx(0.8, rel=0.05)


TWO_ROBOTS = """
import sys
from functools import partial
from dualfocus_ros.nodes.signals import hold_stop_signals
hold_stop_signals()
from rclpy.parameter import Parameter
from dualfocus_ros.nodes.camera_node import CameraNode
from dualfocus_ros.nodes.depth_node import DepthNode
from dualfocus_ros.nodes.runner import run_until_stopped
makers, engine = [], Parameter("engine", value="classical")
for name, width in (("left", 64), ("right", 80)):
    own = [Parameter("simulated.width", value=width), Parameter("frame_id", value=f"{name}_optical")]
    makers.append(partial(CameraNode, namespace=name, parameter_overrides=own))
    makers.append(partial(DepthNode, namespace=name, parameter_overrides=[engine]))
raise SystemExit(run_until_stopped(makers, sys.argv))
"""


def test_two_namespaces_do_not_mix(tmp_path: Path) -> None:
    shared = {k: v for k, v in TINY.items() if k != "simulated.width"}
    with chain(tmp_path) as (processes, peer):
        got = {
            (name, topic): peer.collect(Image, f"/{name}/{topic}")
            for name in ("left", "right")
            for topic in ("dualfocus/depth", "camera/image_raw")
        }
        # Only a wildcard reaches both cameras: -p would also give the depth nodes these parameters.
        file = tmp_path / "cameras.yaml"
        lines = [f"    {k}: {v}" for k, v in shared.items()]
        file.write_text("\n".join(["/*/camera:", "  ros__parameters:", *lines]))
        processes.run(TWO_ROBOTS, ["--ros-args", "--params-file", str(file)])

        def enough() -> bool:
            processes.alive()
            return all(len(got[name, "dualfocus/depth"]) >= 3 for name in ("left", "right"))

        wait_until(enough, START_S, "three depths of each")
        for name, width in (("left", 64), ("right", 80)):
            images = by_stamp(got[name, "camera/image_raw"])
            for stamp, depth in by_stamp(got[name, "dualfocus/depth"]).items():
                assert (depth.width, depth.header.frame_id) == (width, f"{name}_optical")
                assert stamp in images or stamp < min(images)


def test_points_are_only_computed_for_subscribers(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = messages.PointCloudWriter.write

    def counted(self: Any, *args: Any) -> Any:
        written.append(1)
        return write(self, *args)

    monkeypatch.setattr(messages.PointCloudWriter, "write", counted)
    with Peer() as peer, NodeSet([DepthNode], ["--", *ros_args({"breathing": "none", **ENGINE})]) as nodes:
        camera = SyntheticCamera(peer, "")
        camera.wait_for_subscribers()
        idle = peer.diagnostic

        def idle_stacks() -> bool:
            camera.sweep()
            return int(idle("/dualfocus", "dropped: stack: nobody subscribes") or 0) >= 2

        wait_until(idle_stacks, 20, "stacks that nobody wants")
        depths = peer.collect(Image, "/dualfocus/depth")
        wait_until(lambda: nodes.nodes[0].outputs[0].get_subscription_count(), 10, "the subscriber")
        for _ in range(3):
            camera.sweep_until(depths)
        assert written == []
        clouds = peer.collect(PointCloud2, "/dualfocus/points")
        camera.sweep_until(clouds)
        assert written
        nodes.check()


@pytest.mark.shared
def test_folder_camera_orders_the_balls(tmp_path: Path) -> None:
    """Real photographs: near ball before middle ball before far ball and background, in the published depth."""
    folder = ROOT.parent / "shared" / "real_stacks" / "balls"
    if not folder.is_dir():
        pytest.skip("the photographs in shared/real_stacks/balls are not beside this checkout")
    with chain(tmp_path) as (processes, peer):
        depths = peer.collect(Image, "/dualfocus/depth")
        processes.start("depth_node")
        folder_params = {
            "driver": "folder",
            "folder.path": folder,
            "folder.max_width": 320,
            "folder.rate_hz": 10.0,
        }
        processes.start("camera_node", folder_params)
        wait_until(lambda: processes.alive() and depths, 60, "depth of the photographs")
        depth_m = plane(depths[-1])
    assert depth_m.shape == (180, 320)
    # Rows and columns in the photograph with the nearest focus, whose field of view the depth has.
    near, middle, far, wall = (
        float(np.nanmedian(depth_m[rows, columns]))
        for rows, columns in (
            (slice(45, 165), slice(20, 165)),
            (slice(15, 75), slice(205, 270)),
            (slice(3, 32), slice(164, 190)),
            (slice(2, 20), slice(3, 38)),
        )
    )
    assert 0.1 < near < 0.8 * middle
    assert middle < 0.8 * far
    assert middle < 0.8 * wall
    assert np.isfinite(depth_m).mean() > 0.9
