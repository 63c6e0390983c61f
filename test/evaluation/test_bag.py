# SPDX-License-Identifier: Apache-2.0
"""Stacks of recordings: those that the depth node would see, scored as if they had never been recorded."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

from bag_helpers import IMAGE, INFO, LENS, START_NS, TRUTH, TYPES, Recorded, frames, recorded, write

from dualfocus_ros import messages
from dualfocus_ros.bags.topics import TopicNames
from dualfocus_ros.engine.classical import ClassicalEngine
from dualfocus_ros.errors import BagError, DualFocusError, ParameterError, StackError
from dualfocus_ros.estimator import EstimatorConfig
from dualfocus_ros.evaluation.results import Evaluation, Observation
from dualfocus_ros.evaluation.source import SourceOptions, open_source
from dualfocus_ros.evaluation.stacks import Sample, evaluate
from dualfocus_ros.stack import BufferConfig, FocalStackBuffer
from dualfocus_ros.types import CameraFrame, FocalStack

FRAMES = 44
# Of sweeps of 4 positions and a frame in between, on which the lens moves.
STACKS = 9


@pytest.fixture(scope="module")
def camera_frames() -> list[CameraFrame]:
    return frames(FRAMES)


@pytest.fixture
def recording(camera_frames: list[CameraFrame]) -> list[Recorded]:
    """Messages of its own for every test, to be spoilt."""
    return recorded(camera_frames)


def buffered(camera_frames: Iterable[CameraFrame], **config: Any) -> list[FocalStack]:
    """Return the stacks of frames that were never messages."""
    buffer = FocalStackBuffer(BufferConfig(**config))
    stacks = []
    for frame in camera_frames:
        stacks += buffer.add_lens_state(frame.lens_state)
        stacks += buffer.add_intrinsics(frame.stamp_ns, frame.intrinsics)
        stacks += buffer.add_image(frame.stamp_ns, frame.image, "optical")
    return stacks + buffer.flush()


def read(path: Path, options: SourceOptions | None = None, **config: Any) -> tuple[list[Sample], Evaluation]:
    """Return the stacks of a recording, with an evaluation that has no more than its notes and counts."""
    with open_source(path, BufferConfig(**config), options or SourceOptions()) as source:
        samples = list(source.samples)
        return samples, source.complete(Evaluation("none", "", ()))


def evaluated(path: Path, options: SourceOptions | None = None, **config: Any) -> Evaluation:
    with (
        open_source(path, BufferConfig(**config), options or SourceOptions()) as source,
        ClassicalEngine() as engine,
    ):
        return source.complete(evaluate(engine, source.samples, EstimatorConfig(), one_lens=True, look=True))


def named(stack: FocalStack) -> str:
    """Return the name of a stack of a recording: its stamp."""
    return f"{stack.stamp_ns // 10**9}.{stack.stamp_ns % 10**9:09d}"


def assert_same(found: FocalStack, expected: FocalStack) -> None:
    assert len(found.slices) == len(expected.slices) == 4
    for mine, theirs in zip(found.slices, expected.slices, strict=True):
        np.testing.assert_array_equal(mine.image, theirs.image)
        assert (mine.stamp_ns, mine.focus_distance_m) == (theirs.stamp_ns, theirs.focus_distance_m)
        assert mine.intrinsics == theirs.intrinsics
    assert (found.lens, found.reference) == (expected.lens, expected.reference)
    assert (found.stamp_ns, found.frame_id) == (expected.stamp_ns, "optical")


def truths(camera_frames: Iterable[CameraFrame]) -> dict[int, np.ndarray]:
    return {f.stamp_ns: f.ground_truth_m for f in camera_frames if f.ground_truth_m is not None}


def of(recording: Iterable[Recorded], topic: str) -> list[Recorded]:
    return [m for m in recording if m.topic == topic]


def shifted(m: Recorded, by_ns: int) -> None:
    """Change the stamp in the header of a message."""
    stamp = m.message.header.stamp
    at = stamp.sec * 1_000_000_000 + stamp.nanosec + by_ns
    stamp.sec, stamp.nanosec = divmod(at, 1_000_000_000)


@pytest.mark.parametrize(("storage", "compress"), [("mcap", False), ("mcap", True), ("sqlite3", True)])
@pytest.mark.parametrize("mode", ["sweep", "sliding"])
def test_stacks_are_those_of_the_buffer(
    storage: str, compress: bool, mode: str, camera_frames: list[CameraFrame], recording: list, tmp_path: Path
) -> None:
    samples, evaluation = read(write(tmp_path / "bag", recording, storage, compress=compress), mode=mode)
    expected = buffered(camera_frames, mode=mode)
    assert len(expected) >= STACKS and (mode == "sweep" or len(expected) > 3 * STACKS)
    assert len(samples) == len(expected)
    true = truths(camera_frames)
    for sample, stack in zip(samples, expected, strict=True):
        assert_same(sample.stack, stack)
        np.testing.assert_array_equal(sample.truth_m, true[stack.stamp_ns])
    assert [s.path.as_posix() for s in samples] == [f"bag/{named(s)}" for s in expected]
    assert {s.family for s in samples} == {"bag"}
    assert evaluation.notes == ()
    counts = dict(evaluation.counts)
    assert {counts[f"messages of {topic}"] for topic in TYPES} == {FRAMES}
    assert counts["focal stacks"] == counts["stacks with true depth"] == len(samples)
    assert counts["stacks without true depth of their stamp"] == 0
    assert counts["true depth images of no stack"] == FRAMES - len(samples)
    assert counts["frames dropped: lens_moving"] > 0


def test_numbers_are_those_of_the_stacks_without_a_recording(
    camera_frames: list[CameraFrame], recording: list, tmp_path: Path
) -> None:
    path = write(tmp_path / "bag", recording)
    true = truths(camera_frames)
    direct = [Sample(Path("x"), "x", s, true[s.stamp_ns]) for s in buffered(camera_frames)]
    seen: list[list[Observation]] = [[], []]
    results = []
    with open_source(path, BufferConfig(), SourceOptions()) as source:
        for samples, into in ((source.samples, seen[0]), (direct, seen[1])):
            with ClassicalEngine() as engine:
                config = EstimatorConfig()
                results.append(evaluate(engine, samples, config, into.append, one_lens=True, look=True))
    bag, other = results
    assert len(bag.stacks) == len(other.stacks) >= STACKS
    for mine, theirs in zip(*seen, strict=True):
        np.testing.assert_array_equal(mine.estimate.depth_m, theirs.estimate.depth_m)
        assert mine.result is not None and theirs.result is not None
        assert dataclasses.asdict(mine.result.metrics) == dataclasses.asdict(theirs.result.metrics)
        assert mine.result.bands == theirs.result.bands
    assert repr([s.plausibility for s in bag.looks]) == repr([s.plausibility for s in other.looks])
    # Known of this scene: the classical engine is about right on most of it.
    assert 0.0 < bag.total().metrics.abs_rel < 0.25


def test_without_truth_there_is_what_can_be_said_without(camera_frames: list, tmp_path: Path) -> None:
    evaluation = evaluated(write(tmp_path / "bag", recorded(camera_frames, truth=False)))
    assert evaluation.stacks == ()
    assert len(evaluation.looks) == len(evaluation.without_truth) == STACKS
    assert evaluation.look().coverage > 0.5
    assert not any("true depth" in name for name in evaluation.counts)


def test_truth_in_millimetres(camera_frames: list[CameraFrame], recording: list, tmp_path: Path) -> None:
    for m, frame in zip(of(recording, TRUTH), camera_frames, strict=True):
        depth_m = np.array(frame.ground_truth_m)
        depth_m[:5] = np.nan
        m.message = messages.depth_message(depth_m, frame.stamp_ns, "optical", encoding="16UC1")
    samples, evaluation = read(write(tmp_path / "bag", recording))
    assert evaluation.notes == () and len(samples) == STACKS
    true = truths(camera_frames)
    for sample in samples:
        assert sample.truth_m is not None
        assert np.isnan(sample.truth_m[:5]).all()
        np.testing.assert_allclose(sample.truth_m[5:], true[sample.stack.stamp_ns][5:], atol=0.0011)


@pytest.mark.parametrize("shift_ms", [-7, 7])
def test_truth_at_other_stamps_needs_a_tolerance(
    shift_ms: int, camera_frames: list[CameraFrame], recording: list, tmp_path: Path
) -> None:
    for m in of(recording, TRUTH):
        shifted(m, shift_ms * 1_000_000)
    path = write(tmp_path / "bag", recording)
    _, evaluation = read(path)
    assert evaluation.counts["stacks with true depth"] == 0
    assert evaluation.counts["stacks without true depth of their stamp"] == STACKS
    assert evaluation.counts["true depth images of no stack"] == FRAMES
    samples, evaluation = read(path, SourceOptions(tolerance_s=0.0075))
    assert evaluation.counts["stacks with true depth"] == STACKS
    for sample in samples:
        np.testing.assert_array_equal(sample.truth_m, truths(camera_frames)[sample.stack.stamp_ns])


def test_missing_truths_are_counted(camera_frames: list[CameraFrame], recording: list, tmp_path: Path) -> None:
    unknown = buffered(camera_frames)[2:5]
    without = {s.stamp_ns for s in unknown}
    gone = [m for m in of(recording, TRUTH) if m.stamp_ns - 3 in without]
    path = write(tmp_path / "bag", [m for m in recording if m not in gone])
    evaluation = evaluated(path)
    assert len(evaluation.stacks) == STACKS - 3
    assert [p.as_posix() for p in evaluation.without_truth] == [f"bag/{named(s)}" for s in unknown]
    assert evaluation.counts["stacks without true depth of their stamp"] == 3
    assert evaluation.counts["stacks with true depth"] == STACKS - 3
    assert len(evaluation.looks) == STACKS


def test_the_order_of_messages_does_not_matter(
    camera_frames: list[CameraFrame], recording: list, tmp_path: Path
) -> None:
    """Every message is up to 50 ms late; frames are 67 ms apart."""
    rng = random.Random(3)
    for m in recording:
        m.stamp_ns += rng.randrange(50_000_000)
    path = write(tmp_path / "bag", sorted(recording, key=lambda m: m.stamp_ns))
    samples, evaluation = read(path)
    expected = buffered(camera_frames)
    assert len(samples) == len(expected)
    for sample, stack in zip(samples, expected, strict=True):
        assert_same(sample.stack, stack)
        np.testing.assert_array_equal(sample.truth_m, truths(camera_frames)[stack.stamp_ns])
    assert evaluation.counts["stacks with true depth"] == STACKS


def test_start_and_end(camera_frames: list[CameraFrame], recording: list, tmp_path: Path) -> None:
    path = write(tmp_path / "bag", recording)
    first_ns = camera_frames[0].stamp_ns
    inside = [f for f in camera_frames if 0.8e9 <= f.stamp_ns - first_ns < 2.4e9]
    assert 20 < len(inside) < 30
    samples, evaluation = read(path, SourceOptions(start_s=0.8, end_s=2.4))
    expected = buffered(inside)
    assert len(samples) == len(expected) >= 3
    for sample, stack in zip(samples, expected, strict=True):
        assert_same(sample.stack, stack)
    assert evaluation.counts[f"messages of {IMAGE}"] == len(inside)
    everything, _ = read(path, SourceOptions(end_s=1e12))
    assert len(everything) == STACKS
    with pytest.raises(ParameterError, match="which is 2.867 s long, got 5.0 s"):
        read(path, SourceOptions(start_s=5.0))


@pytest.mark.parametrize(
    "options",
    [
        {"start_s": -1.0},
        {"start_s": float("nan")},
        {"start_s": 2.0, "end_s": 2.0},
        {"end_s": float("nan")},
        {"tolerance_s": -0.1},
        {"tolerance_s": float("nan")},
        {"tolerance_s": float("inf")},
    ],
)
def test_times_that_make_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        SourceOptions(**options)


def test_two_runs_give_the_same(recording: list, tmp_path: Path) -> None:
    path = write(tmp_path / "bag", recording)

    def numbers() -> str:
        e = evaluated(path, mode="sliding")
        e = dataclasses.replace(e, elapsed_s=0.0, engine_s=0.0, align_s=0.0)
        stacks = tuple(dataclasses.replace(s, runtime_s=0.0) for s in e.stacks)
        looks = tuple(dataclasses.replace(s, runtime_s=0.0) for s in e.looks)
        return repr(dataclasses.replace(e, stacks=stacks, looks=looks))

    assert numbers() == numbers()


# What is done to the messages; what is told; how many stacks and how many with truth are left.
Damage = Callable[[list[Recorded]], Iterable[Recorded]]


def spoilt(topic: str, change: Callable[[Recorded], None], which: slice = slice(20, 21)) -> Damage:
    def damage(recording: list[Recorded]) -> list[Recorded]:
        for m in of(recording, topic)[which]:
            change(m)
        return recording

    return damage


def set_fields(**values: Any) -> Callable[[Recorded], None]:
    def change(m: Recorded) -> None:
        for name, value in values.items():
            setattr(m.message, name, value)

    return change


def half_size(recording: list[Recorded]) -> list[Recorded]:
    """From the 24th frame on, every second pixel."""
    for image, info, truth in zip(*(of(recording, t)[24:] for t in (IMAGE, INFO, TRUTH)), strict=True):
        pixels = np.frombuffer(image.message.data, np.uint8).reshape(48, 64, -1)[::2, ::2]
        set_fields(height=24, width=32, step=pixels[0].size, data=pixels.tobytes())(image)
        k = info.message.k
        set_fields(height=24, width=32, k=[v / 2 if i != 8 else v for i, v in enumerate(k)])(info)
        depth = np.frombuffer(truth.message.data, np.float32).reshape(48, 64)[::2, ::2]
        set_fields(height=24, width=32, step=128, data=depth.tobytes())(truth)
    return recording


def back(recording: list[Recorded]) -> list[Recorded]:
    """From the 22nd frame on, all stamps are 5 s before."""
    for m in recording[4 * 22 :]:
        shifted(m, -5_000_000_000)
    return recording


class OfAnotherType(Recorded):
    @property
    def data(self) -> bytes:
        return b"\0\1\0\0\1\0"


def of_another_type(recording: list[Recorded]) -> list[Recorded]:
    """The 21st image is no image."""
    m = of(recording, IMAGE)[20]
    recording[recording.index(m)] = OfAnotherType(m.topic, m.stamp_ns, None)
    return recording


CASES: dict[str, tuple[Damage, list[str], int, int]] = {
    "image cut": (
        spoilt(IMAGE, set_fields(data=b"\0" * 100)),
        [f"{IMAGE}, message 21, 1.333 s into the recording: expected 9216 bytes of image data", "; left out"],
        STACKS - 1,
        STACKS - 1,
    ),
    "image encoding": (
        spoilt(IMAGE, set_fields(encoding="jpeg"), slice(20, 22)),
        [f"{IMAGE}, message 21, 1.333 s", "got 'jpeg'; left out", f"(and 1 more of {IMAGE} like that)"],
        STACKS - 1,
        STACKS - 1,
    ),
    "no message of its type": (
        of_another_type,
        [f"{IMAGE}, message 21, 1.333 s into the recording: expected 6 bytes to hold a sensor_msgs/msg/Image"],
        STACKS - 1,
        STACKS - 1,
    ),
    "lens names": (
        spoilt(LENS, set_fields(name=["a", "b", "c", "d", "e"])),
        [f"{LENS}, message 21, 1.333 s into the recording: lens: expected the names focus_distance"],
        STACKS - 1,
        STACKS - 1,
    ),
    "camera not calibrated": (
        spoilt(INFO, set_fields(k=[0.0] * 9)),
        [f"{INFO}, message 21, 1.333 s into the recording: expected a calibrated camera"],
        STACKS,
        STACKS,
    ),
    "truth encoding": (
        spoilt(TRUTH, set_fields(encoding="64FC1"), slice(0, None)),
        [
            f"{TRUTH}, message ",
            "expected a depth encoding of 32FC1, 16UC1; got '64FC1'; left out",
            f"(and {STACKS - 1} more",
        ],
        STACKS,
        0,
    ),
    "truth of another size": (
        spoilt(TRUTH, set_fields(height=24, width=32, step=128, data=b"\0" * 24 * 128), slice(0, None)),
        [f"{TRUTH}, message ", "expected true depth of 64 x 48 pixels as the images, got 32 x 24; left out"],
        STACKS,
        0,
    ),
    "two resolutions": (
        half_size,
        [f"{IMAGE}, message 25, 1.600 s into the recording: the images change from 64 x 48 to 32 x 24 pixels"],
        STACKS,
        STACKS,
    ),
    "stamps going backwards": (
        back,
        [f"{IMAGE}, message 23, 1.467 s into the recording: the stamp goes back by 4.933 s"],
        STACKS - 1,
        STACKS - 1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_told_with_topic_and_place_and_the_rest_evaluated(
    name: str, recording: list[Recorded], tmp_path: Path
) -> None:
    damage, words, stacks, with_truth = CASES[name]
    evaluation = evaluated(write(tmp_path / "bag", damage(recording)))
    notes = "\n".join(evaluation.notes)
    for expected in words:
        assert expected in notes
    assert (len(evaluation.looks), len(evaluation.stacks)) == (stacks, with_truth), notes
    assert evaluation.counts["focal stacks"] == stacks
    assert evaluation.counts["stacks with true depth"] == with_truth
    assert evaluation.failures == () and evaluation.counts["stacks that failed"] == 0
    left_out = sum(n for key, n in evaluation.counts.items() if key.startswith("unusable messages of"))
    assert left_out == {"image encoding": 2, "truth encoding": STACKS, "truth of another size": STACKS}.get(
        name, int("left out" in notes)
    )


def test_a_cut_recording_is_evaluated_as_far_as_it_goes(
    camera_frames: list[CameraFrame], recording: list, tmp_path: Path
) -> None:
    for storage in ("mcap", "sqlite3"):
        path = write(tmp_path / storage, recording, storage)
        (file,) = (f for f in path.iterdir() if f.suffix in (".mcap", ".db3"))
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
        evaluation = evaluated(path)
        images = evaluation.counts[f"messages of {IMAGE}"]
        assert FRAMES // 2 < images < 3 * FRAMES // 4
        assert len(evaluation.stacks) == len(buffered(camera_frames[:images])) >= STACKS // 2
        assert any(file.name in note for note in evaluation.notes)


@pytest.mark.parametrize("gone", [IMAGE, INFO, LENS])
def test_a_missing_topic_is_named(gone: str, recording: list, tmp_path: Path) -> None:
    path = write(tmp_path / "bag", [m for m in recording if m.topic != gone])
    kind = TYPES[gone]
    with pytest.raises(BagError, match=f"of type {kind} \\(such as {gone}\\) in the recording, it has /camera/"):
        read(path)


def test_a_topic_of_the_wrong_type_is_named(recording: list, tmp_path: Path) -> None:
    images = of(recording, IMAGE)
    for m in recording:
        if m.topic == LENS:
            m.message, m.message_type = images[0].message, TYPES[IMAGE]
    with pytest.raises(BagError, match=f"topic {LENS}: expected lens states of type sensor_msgs/msg/JointState"):
        read(write(tmp_path / "bag", recording))


def test_no_complete_sweep_says_why(camera_frames: list[CameraFrame], recording: list, tmp_path: Path) -> None:
    path = write(tmp_path / "bag", recording[: 4 * 2])
    with pytest.raises(StackError) as caught:
        read(path)
    assert "bag has no complete focus sweep: read 2 messages of /camera/image_raw, 2 messages of" in str(
        caught.value
    )
    moving = [m for m in recording if m.topic != LENS] + of(recording, LENS)[:1]
    with pytest.raises(StackError, match="'no_lens_state': "):
        read(write(tmp_path / "none", sorted(moving, key=lambda m: m.stamp_ns)))


def test_a_truth_that_cannot_be_scored_is_noted_and_the_others_are(recording: list, tmp_path: Path) -> None:
    spoilt(TRUTH, set_fields(data=np.full((48, 64), np.nan, np.float32).tobytes()), slice(0, 22))(recording)
    evaluation = evaluated(write(tmp_path / "bag", recording))
    assert 0 < len(evaluation.failures) < STACKS
    assert len(evaluation.stacks) == STACKS - len(evaluation.failures)
    assert all("no true depth inside the focus range" in why for _, why in evaluation.failures)
    assert evaluation.counts["stacks that failed"] == len(evaluation.failures)


def test_topics_can_be_named_and_truth_left_out(recording: list, tmp_path: Path) -> None:
    path = write(tmp_path / "bag", recording, rename=lambda t: t.replace("/camera", "/left/eye"))
    samples, _ = read(path, SourceOptions(names=TopicNames("/left/eye/image_raw", truth_topic="none")))
    assert len(samples) == STACKS
    assert all(sample.truth_m is None for sample in samples)


def test_reading_stops_where_evaluating_fails(recording: list, tmp_path: Path) -> None:
    """What the engine raises comes out, in its place, and no thread stays."""
    import threading

    from dualfocus_ros.errors import EngineError

    class Broken(ClassicalEngine):
        count = 0

        def infer(self, stack: Any) -> Any:
            self.count += 1
            if self.count == 3:
                raise EngineError("it broke")
            return super().infer(stack)

    path = write(tmp_path / "bag", recording)
    seen: list[Observation] = []
    before = threading.active_count()
    with open_source(path, BufferConfig(), SourceOptions()) as source, Broken() as engine:
        with pytest.raises(EngineError, match="it broke"):
            evaluate(engine, source.samples, EstimatorConfig(), seen.append, one_lens=True, look=True)
        assert engine.count == 3
    assert [o.result.path.name for o in seen if o.result] == [named(o.stack) for o in seen]
    assert len(seen) == 2
    assert threading.active_count() == before


def test_what_the_observer_raises_comes_out(recording: list, tmp_path: Path) -> None:
    def refuse(_: Observation) -> None:
        raise DualFocusError("no")

    path = write(tmp_path / "bag", recording)
    with (
        open_source(path, BufferConfig(), SourceOptions()) as source,
        ClassicalEngine() as engine,
        pytest.raises(DualFocusError, match="^no$"),
    ):
        evaluate(engine, source.samples, EstimatorConfig(), refuse, one_lens=True, look=True)


def test_stacks_that_share_the_frame_at_a_turn_both_have_their_truth(tmp_path: Path) -> None:
    """Back and forth: the nearest focus ends one run and begins the next, so two stacks have the stamp of it."""
    there = frames(6 * 12)
    still = [f for f in there if f.lens_state.focus_speed_mps == 0.0]
    sweeps = [still[i : i + 4] for i in range(0, len(still) - 3, 4)]
    turned: list[CameraFrame] = []
    for i, sweep in enumerate(sweeps):  # near to far, far to near, with one frame at each turn
        turned += (sweep if i % 2 == 0 else sweep[::-1])[(1 if i else 0) :]
    stamped = []
    for i, frame in enumerate(turned):
        stamp_ns = START_NS + i * 66_666_667
        state = dataclasses.replace(frame.lens_state, stamp_ns=stamp_ns)
        stamped.append(dataclasses.replace(frame, stamp_ns=stamp_ns, lens_state=state))
    samples, evaluation = read(write(tmp_path / "bag", recorded(stamped)))
    stamps = [s.stack.stamp_ns for s in samples]
    assert len(set(stamps)) < len(stamps), "some share a stamp, or this tests nothing"
    assert len({s.path for s in samples}) == len(samples)
    assert all(s.truth_m is not None for s in samples)
    assert evaluation.counts["stacks without true depth of their stamp"] == 0
    assert evaluation.counts["stacks with true depth"] == len(samples)
    of_stacks = evaluation.counts["true depth images of no stack"]
    assert of_stacks == len(stamped) - len(set(stamps))
