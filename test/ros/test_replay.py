# SPDX-License-Identifier: Apache-2.0
"""Round trip: the simulated camera live, recorded, replayed and evaluated gives the same depth and numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")
pytest.importorskip("onnxruntime")

from bag_helpers import IMAGE, INFO, LENS, TRUTH, frames, recorded, write
from lifecycle_msgs.msg import Transition
from ros_helpers import (
    COMMAND,
    LISTEN,
    SMALL,
    START_S,
    NotConnectedError,
    Peer,
    Processes,
    SyntheticCamera,
    by_stamp,
    chain,
    plane,
    stamp_ns,
    wait_until,
    wait_until_connected,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import SetBool

from dualfocus_ros import decoding, messages
from dualfocus_ros.bags.library import deserialize
from dualfocus_ros.bags.reader import Bag
from dualfocus_ros.cli import main

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]

DEPTH, CONFIDENCE = "/dualfocus/depth", "/dualfocus/confidence"
# Works on slices when they come, live and in a replay, and on whole stacks in `evaluate`.
ENGINE = {"engine": "onnx"}
SWEEPS = 6
# What the nodes take, and from one publisher each.
CONNECTED = {("/dualfocus", topic): 1 for topic in (IMAGE, INFO, LENS)} | {
    ("/evaluation", topic): 1 for topic in (DEPTH, CONFIDENCE, LENS, TRUTH)
}


@dataclass
class Run:
    """Depth images by stamp, and what the evaluation node wrote."""

    depths: dict[int, np.ndarray]
    scores: dict[str, Any]


@dataclass
class RoundTrip:
    """The same frames live, replayed, and the recording of them."""

    bag: Path
    live: Run
    replayed: Run
    recorded: str


def _scores(file: Path) -> dict[str, Any]:
    (evaluation,) = json.loads(file.read_text())["evaluations"]
    return dict(evaluation)


def _depths(got: list[Any]) -> dict[int, np.ndarray]:
    return {stamp: plane(message) for stamp, message in by_stamp(got).items()}


def _again(run: Callable[[Path], Any], folder: Path, attempts: int = 3) -> Any:
    """Run in a new folder until everybody is connected."""
    for attempt in range(attempts):
        place = folder / str(attempt)
        place.mkdir()
        try:
            return place, run(place)
        except NotConnectedError as error:
            print(f"attempt {attempt}: {error}")
    raise AssertionError(f"not connected in {attempts} attempts")


def _wait_for_the_last_depth(peer: Peer, depths: list[Any]) -> None:
    """Wait until the depth node has done what it has got, and whoever listens has it."""
    peer.diagnostics.clear()
    wait_until(
        lambda: peer.diagnostic("/dualfocus", "stacks completed") == str(len(depths)),
        START_S,
        lambda: f"{peer.diagnostic('/dualfocus', 'stacks completed')} depths, {len(depths)} came",
    )
    time.sleep(0.3)


def _live(folder: Path) -> tuple[Run, str]:
    """Run the camera live while it is recorded; nothing is missed, as the camera starts last."""
    with chain(folder) as (processes, peer):
        depths = peer.collect(Image, DEPTH)
        processes.start("depth_node", ENGINE)
        evaluation = processes.start("evaluation_node", {"json": str(folder / "live.json")})
        recorder = processes.run(COMMAND, ["record", str(folder / "bag"), "--topics", DEPTH])
        camera = processes.start("camera_node", {**SMALL, "sweep.slices": 5, "autostart": False})
        peer.change_state("/camera", Transition.TRANSITION_CONFIGURE)

        # Depth and evaluation take the lens, depth and recorder the image, evaluation and recorder the truth.
        heard = {IMAGE: 2, INFO: 2, LENS: 3, TRUTH: 2}
        wanted = {("/camera", topic): n for topic, n in heard.items()} | {("/dualfocus", DEPTH): 3}
        wait_until_connected(processes, peer, {**wanted, **CONNECTED})
        peer.change_state("/camera", Transition.TRANSITION_ACTIVATE)
        wait_until(lambda: processes.alive() and len(depths) >= SWEEPS, 60, lambda: f"depth, {len(depths)} came")
        running = wait_until(lambda: peer.diagnostic("/evaluation", "AbsRel, mean"), START_S, "running metrics")
        assert 0.0 < float(running) < 0.3
        camera.signal()
        camera.wait(10)
        _wait_for_the_last_depth(peer, depths)
        for process in (evaluation, recorder):
            process.signal()
            assert process.wait(20) == 0, process.output
        assert "against true depth" in evaluation.output
        return Run(_depths(depths), _scores(folder / "live.json")), recorder.output


def _replayed(bag: Path, folder: Path) -> Run:
    with chain(folder) as (processes, peer):
        depths = peer.collect(Image, DEPTH)
        processes.start("depth_node", {**ENGINE, "use_sim_time": True})
        file = folder / "replayed.json"
        evaluation = processes.start("evaluation_node", {"json": str(file), "use_sim_time": True})
        replay = processes.run(COMMAND, ["replay", str(bag), "--wait", str(START_S), "--paused"])
        wait_until_connected(processes, peer, CONNECTED)
        assert peer.call(SetBool, "/replay/pause", SetBool.Request(data=False)) is not None
        assert replay.wait(90) == 0, replay.output
        _wait_for_the_last_depth(peer, depths)
        evaluation.signal()
        assert evaluation.wait(20) == 0, evaluation.output
        return Run(_depths(depths), _scores(file))


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    folder, (live, output) = _again(_live, tmp_path_factory.mktemp("live"))
    bag = folder / "bag"
    _, replayed = _again(lambda place: _replayed(bag, place), tmp_path_factory.mktemp("replayed"))
    return RoundTrip(bag, live, replayed, output)


def test_replay_gives_the_same_depth_as_live(round_trip: RoundTrip) -> None:
    live, replayed = round_trip.live.depths, round_trip.replayed.depths
    assert len(live) >= SWEEPS
    assert sorted(replayed) == sorted(live)
    for stamp, depth_m in live.items():
        np.testing.assert_array_equal(replayed[stamp], depth_m)


def test_the_recorded_depth_is_the_depth_that_was_heard(round_trip: RoundTrip) -> None:
    found = {}
    with Bag(round_trip.bag) as bag:
        for message in bag.messages([DEPTH]):
            image = deserialize(message.message_type, message.data)
            found[decoding.stamp_to_ns(image.header.stamp)] = decoding.depth_from_message(image)
    assert sorted(found) == sorted(round_trip.live.depths)
    for stamp, depth_m in found.items():
        np.testing.assert_array_equal(depth_m, round_trip.live.depths[stamp])
    assert f"{DEPTH}: {len(found)} messages, 0 lost" in round_trip.recorded


def test_evaluate_gives_the_numbers_of_the_live_evaluation_node(round_trip: RoundTrip, tmp_path: Path) -> None:
    file = tmp_path / "offline.json"
    assert main(["evaluate", str(round_trip.bag), "--engine", "onnx", "--json", str(file)]) == 0
    offline = _scores(file)
    assert len(offline["stacks"]) == len(round_trip.live.depths)
    for other in (round_trip.live.scores, round_trip.replayed.scores):
        assert len(other["stacks"]) == len(offline["stacks"])
        for mine, theirs in zip(offline["stacks"], other["stacks"], strict=True):
            for name in ("abs_rel", "rmse_m", "delta1", "bump", "coverage", "sparsification", "bands"):
                assert mine[name] == theirs[name], name
        assert other["total"]["abs_rel"] == offline["total"]["abs_rel"]
    assert 0.0 < offline["total"]["abs_rel"] < 0.2


def stamps_of(bag: Path) -> list[int]:
    """Return the stamps of the images of a recording."""
    with Bag(bag) as opened:
        found = [deserialize(m.message_type, m.data) for m in opened.messages([IMAGE])]
    return [decoding.stamp_to_ns(m.header.stamp) for m in found]


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 1.2 s, on topics of another camera."""
    path = tmp_path_factory.mktemp("bag") / "swept"
    return write(path, recorded(frames(36)), rename=lambda t: "/robot/lens_cam" + t.removeprefix("/camera"))


class Listener:
    """Everything that a replay publishes, with the time at which it came."""

    def __init__(self, peer: Peer, prefix: str = "/camera") -> None:
        self.images: list[Any] = peer.collect(Image, f"{prefix}/image_raw")
        self.infos: list[Any] = peer.collect(CameraInfo, f"{prefix}/camera_info")
        self.lenses: list[Any] = peer.collect(JointState, f"{prefix}/lens")
        self.truths: list[Any] = peer.collect(Image, f"{prefix}/ground_truth/depth")
        self.clock: list[Any] = peer.collect(Clock, "/clock")

        self.came: list[int] = []
        peer.node.create_subscription(
            Image, f"{prefix}/image_raw", lambda _: self.came.append(time.monotonic_ns()), LISTEN
        )

    def clock_ns(self) -> list[int]:
        return [decoding.stamp_to_ns(m.clock) for m in self.clock]


def replay(processes: Processes, bag: Path, *options: str) -> Any:
    return processes.run(COMMAND, ["replay", str(bag), "--wait", str(START_S), *options])


def test_all_messages_come_with_their_own_timing_and_clock(bag: Path, tmp_path: Path) -> None:
    names = [
        word
        for role, topic in (("image", "image_raw"), ("camera-info", "camera_info"), ("lens", "lens"))
        for word in (f"--{role}-topic", f"/robot/lens_cam/{topic}")
    ]
    with chain(tmp_path) as (processes, peer):
        listener = Listener(peer)
        process = replay(processes, bag, *names)
        start = wait_until(lambda: listener.images and time.monotonic(), START_S, "an image")
        wait_until(lambda: len(listener.images) == 36, 20, lambda: f"all images, {len(listener.images)} came")
        took_s = time.monotonic() - start
        assert process.wait(20) == 0, process.output
        with Bag(bag) as opened:
            duration_s, start_ns, end_ns = opened.duration_s, opened.start_ns, opened.end_ns
        assert 0.7 * duration_s < took_s < duration_s + 2.0
        assert len(listener.infos) == len(listener.lenses) == len(listener.truths) == 36
        clock = listener.clock_ns()
        assert clock == sorted(clock)
        assert start_ns <= clock[0] <= start_ns + 50_000_000
        assert clock[-1] == end_ns
        assert max(b - a for a, b in zip(clock, clock[1:], strict=False)) < 200_000_000


def test_part_of_a_recording_at_another_rate_on_another_topic(bag: Path, tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        listener = Listener(peer, "/other")
        remaps = [
            word
            for topic in ("image_raw", "camera_info", "lens")
            for word in ("--remap", f"camera/{topic}:=/other/{topic}")
        ]
        process = replay(processes, bag, "--rate", "0.25", "--start", "0.4", "--end", "0.8", "--no-clock", *remaps)
        assert process.wait(40) == 0, process.output
        with Bag(bag) as opened:
            inside = [
                decoding.stamp_to_ns(deserialize(m.message_type, m.data).header.stamp)
                for m in opened.messages(
                    ["/robot/lens_cam/image_raw"],
                    opened.start_ns + 400_000_000,
                    opened.start_ns + 800_000_000,
                )
            ]
        assert 5 < len(inside) < 31
        lasted_s = (listener.came[-1] - listener.came[0]) * 1e-9
        recorded_s = (inside[-1] - inside[0]) * 1e-9
        assert 3.0 * recorded_s < lasted_s < 6.0 * recorded_s
        assert [stamp_ns(m) for m in listener.images] == inside
        assert listener.clock == []


def test_pause_loop_and_rate_while_it_plays(bag: Path, tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        listener = Listener(peer)
        process = replay(processes, bag, "--loop", "--paused")
        process.wait_for_output("recording of")
        time.sleep(1.5)
        assert listener.images == []

        def pause(value: bool) -> None:
            answer = peer.call(SetBool, "/replay/pause", SetBool.Request(data=value))
            assert answer is not None and answer.success

        pause(False)
        wait_until(lambda: len(listener.images) > 80, 20, "the second round")
        pause(True)
        time.sleep(0.3)
        standing = len(listener.images)
        time.sleep(1.0)
        assert len(listener.images) == standing
        assert "paused" in str(peer.diagnostic("/replay"))
        stamps = [stamp_ns(m) for m in listener.images]
        assert stamps[36:72] == stamps[:36] == sorted(stamps[:36])
        process.signal()
        assert process.wait(10) == 0, process.output


def test_a_replay_that_cannot_start_says_why(bag: Path, tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        for options, words in (
            ([str(tmp_path / "none")], ("does not exist",)),
            (
                [str(bag), "--lens-topic", "/robot/lens_cam/len"],
                ("no topic", "did you mean /robot/lens_cam/lens?"),
            ),
            ([str(bag), "--image-topic", "/robot/lens_cam/camera_info"], ("expected images", "CameraInfo there")),
            ([str(bag), "--start", "9"], ("expected start_s before end_s", "s long")),
            (
                [str(bag), "--start", "0.0001", "--end", "0.0002", "--wait", "0"],
                ("no message of", "check start_s"),
            ),
        ):
            process = processes.run(COMMAND, ["replay", *options])
            assert process.wait(30) == 1, process.output
            assert len(process.lines("error:", *words)) == 1, process.output
            assert "Traceback" not in process.output


def test_evaluation_without_truth_says_so(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        process = processes.start("evaluation_node", {"json": str(tmp_path / "scores.json")})
        wait_until(
            lambda: "no messages, or only one, on" in str(peer.diagnostic("/evaluation")),
            START_S,
            lambda: str(peer.diagnostic("/evaluation")),
        )
        assert TRUTH in str(peer.diagnostic("/evaluation"))
        process.signal()
        assert process.wait(20) == 0, process.output
        assert process.lines("nothing was scored", TRUTH, DEPTH)
        assert not (tmp_path / "scores.json").exists()


class Inputs:
    """Publishes depth, truth and what else the evaluation node takes."""

    def __init__(self, peer: Peer) -> None:
        node = peer.node
        self.depth = node.create_publisher(Image, DEPTH, 10)
        self.truth = node.create_publisher(Image, TRUTH, 10)
        wait_until(
            lambda: self.depth.get_subscription_count() and self.truth.get_subscription_count(),
            START_S,
            "the evaluation node",
        )
        time.sleep(0.3)

    def send(self, stamp: int) -> None:
        truth_m = np.full((24, 32), 2.0, np.float32)
        self.truth.publish(messages.depth_message(truth_m, stamp, "optical"))
        self.depth.publish(messages.depth_message(1.1 * truth_m, stamp, "optical"))
        time.sleep(0.05)


def test_depth_is_scored_without_lens_states_and_without_confidence(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        file = tmp_path / "scores.json"
        process = processes.start("evaluation_node", {"json": str(file)})
        inputs = Inputs(peer)
        for i in range(3):
            inputs.send((10 + i) * 1_000_000_000)
        time.sleep(0.5)
        process.signal()
        assert process.wait(20) == 0, process.output
        stacks = _scores(file)["stacks"]
        assert [s["path"] for s in stacks] == [f"live/{10 + i}.000000000" for i in range(3)]
        assert [s["abs_rel"] for s in stacks] == pytest.approx([0.1] * 3, rel=1e-4)


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Processes(tmp_path) as processes:
        process = processes.start("evaluation_node", {"json": str(tmp_path / "file" / "scores.json")})
        assert process.wait(30) == 1, process.output
        assert process.lines("error: cannot write", "scores.json") and "Traceback" not in process.output


def test_topics_without_messages_are_told(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        silent = peer.node.create_publisher(JointState, LENS, 10)
        images = peer.node.create_publisher(Image, IMAGE, 10)
        recorder = processes.run(COMMAND, ["record", str(tmp_path / "bag"), "--duration", "1"])
        wait_until(lambda: silent.get_subscription_count(), START_S, "the recorder")
        while recorder.popen.poll() is None:
            images.publish(messages.rgb_message(np.zeros((4, 4, 3), np.uint8), time.time_ns(), "optical"))
            time.sleep(0.05)
        assert recorder.wait(20) == 0, recorder.output
        assert recorder.lines(f"{LENS}: published, but no message came")
        assert recorder.lines(f"{INFO}: nobody published it")


def test_the_replay_goes_through_its_life_cycle_again(bag: Path, tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        listener = Listener(peer)
        process = processes.start(
            "replay_node", {"bag": str(bag), "autostart": False, "wait_s": 10.0, "end_delay_s": 30.0, "rate": 4.0}
        )
        assert peer.change_state("/replay", Transition.TRANSITION_CONFIGURE)
        for rounds in (1, 2):
            assert peer.change_state("/replay", Transition.TRANSITION_ACTIVATE)
            wait_until(lambda n=rounds: len(listener.images) >= 36 * n, 30, "the whole recording")
            assert peer.change_state("/replay", Transition.TRANSITION_DEACTIVATE)
        time.sleep(0.5)
        assert process.popen.poll() is None, "being deactivated while it waits at the end does not end it"
        assert len(listener.images) == 72
        process.signal()
        assert process.wait(10) == 0, process.output


def test_recording_what_nobody_publishes_is_an_error(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        process = processes.run(COMMAND, ["record", str(tmp_path / "bag")])
        time.sleep(3.0)
        process.signal()
        assert process.wait(20) == 1, process.output
        assert process.lines("none came: is the camera running?", "/camera/image_raw")
        assert not (tmp_path / "bag").exists()


@pytest.mark.parametrize("options", [("--storage", "sqlite3"), ("--compress",)], ids=["sqlite3", "compress"])
def test_recording_in_another_format(options: tuple[str, ...], tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        recorder = processes.run(COMMAND, ["record", str(tmp_path / "bag"), "--duration", "1", *options])
        recorder.wait_for_output("waiting for somebody to publish")
        camera = SyntheticCamera(peer, "")
        camera.wait_for_subscribers()
        while recorder.popen.poll() is None:
            camera.sweep()
        assert recorder.wait(20) == 0, recorder.output
    with Bag(tmp_path / "bag") as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
        assert set(counts) == {IMAGE, INFO, LENS} and min(counts.values()) >= 6
        assert bag.damage == []
    assert f"{IMAGE}: {counts[IMAGE]} messages, 0 lost" in recorder.output


def test_names_that_cannot_be_recorded_are_one_line(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        for output, options, words in (
            ("bag", ("--topics", "depth??"), ("expected names of topics", "depth??")),
            ("bag", ("--camera", "bad name"), ("expected names of topics", "bad name")),
            ("bag.mcap", (), ("a recording is a folder", "expected")),
        ):
            process = processes.run(COMMAND, ["record", str(tmp_path / output), *options])
            assert process.wait(30) == 1, process.output
            assert process.lines("dualfocus:", *words) and "Traceback" not in process.output
        assert not (tmp_path / "bag").exists()


def test_a_topic_of_another_type_is_not_recorded_silently(tmp_path: Path) -> None:
    with chain(tmp_path) as (processes, peer):
        peer.node.create_publisher(CameraInfo, IMAGE, 10)
        process = processes.run(COMMAND, ["record", str(tmp_path / "bag")])
        assert process.wait(20) == 1, process.output
        assert process.lines(f"topic {IMAGE}: expected sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo")
