# SPDX-License-Identifier: Apache-2.0
"""The focal stacks of a recording, as the depth node would see them, with their true depth if it was recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dualfocus_ros import decoding
from dualfocus_ros.bags.library import deserialize
from dualfocus_ros.bags.reader import Bag, BagMessage
from dualfocus_ros.bags.topics import ROLES, RecordedTopics, TopicNames, find_topics
from dualfocus_ros.errors import BagError, DualFocusError, MessageError, StackError
from dualfocus_ros.evaluation.matching import StampMatcher
from dualfocus_ros.evaluation.results import Evaluation, StampNames
from dualfocus_ros.evaluation.stacks import Sample
from dualfocus_ros.stack import BufferConfig, FocalStackBuffer
from dualfocus_ros.types import FloatImage, FocalStack

# A truth that comes as late as this after its image is still found.
TRUTH_DELAY_S = 2.0
# Without a limit to the age of a stack, truths are kept for this long.
LONGEST_SWEEP_S = 30.0


@dataclass(frozen=True)
class _Recorded:
    """A message of true depth, and in words where in the recording it is."""

    data: bytes
    place: str


# Stacks that are complete, each with its true depth as recorded.
Decided = list[tuple[FocalStack, _Recorded | None]]
Adder = Callable[[BagMessage], Decided]


class BagStacks:
    """Reads the stacks of one recording in the order in which they were complete. Read it once.

    `notes` says what is wrong with the recording, and `counts` what was read and left out, once it was read.
    """

    def __init__(
        self,
        bag: Bag,
        names: TopicNames | None = None,
        buffer: BufferConfig | None = None,
        tolerance_s: float = 0.0,
    ) -> None:
        """Find the topics.

        Args:
            bag: already entered.
            names: of the topics, where they are not to be found.
            buffer: when frames become a stack, as the depth node has it.
            tolerance_s: largest difference between the stamps of a stack's reference and of its true depth.

        Raises:
            BagError: if a topic is missing or has the wrong type.
        """
        self.topics: RecordedTopics = find_topics(bag.topics, names)
        self._bag = bag
        self._buffer = FocalStackBuffer(buffer)
        longest_s = self._buffer.config.max_stack_age_s or LONGEST_SWEEP_S
        self._matcher: StampMatcher[FocalStack, _Recorded] = StampMatcher(tolerance_s, longest_s + TRUTH_DELAY_S)
        self._read: Counter[str] = Counter()
        self._troubles: dict[tuple[str, str], str] = {}
        self._trouble_counts: Counter[tuple[str, str]] = Counter()
        self._unusable: Counter[str] = Counter()
        self._unusable_matches = 0
        self._names = StampNames()
        self._size: tuple[int, ...] = ()
        self._stamp_ns: dict[str, int] = {}
        self._stacks = 0
        self._adders: dict[str, Adder] = {
            self.topics.truth: self._add_truth,
            self.topics.image: self._add_image,
            self.topics.camera_info: self._add_info,
            self.topics.lens: self._add_lens,
        }

    @property
    def has_truth(self) -> bool:
        """Whether true depth was recorded."""
        return bool(self.topics.truth)

    def samples(self, start_ns: int | None = None, stop_ns: int | None = None) -> Iterator[Sample]:
        """Yield the stacks.

        Args:
            start_ns: messages recorded before that are not read.
            stop_ns: nor those recorded then or later.

        Raises:
            StackError: if there is no complete stack at all. The message says why.
        """
        for message in self._bag.messages(self.topics.names(), start_ns, stop_ns):
            for stack, truth in self._add(message):
                yield self._sample(stack, truth)
        only = self._buffer.flush()
        if only and not self._stacks:
            count = len(only[0].slices)
            self._note("", "only", f"there is but one sweep, of {count} focus positions: it is taken as whole")
        for stack, truth in [*self._match(only), *self._matcher.finish()]:
            yield self._sample(stack, truth)
        if not self._stacks:
            raise StackError(f"{self._bag.path} has no complete focus sweep: {self._why()}")

    @property
    def images_read(self) -> int:
        """How many images were read so far."""
        return self._read[self.topics.image]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is wrong with the recording, in words."""
        told = []
        for key, text in self._troubles.items():
            more = self._trouble_counts[key] - 1
            told.append(text + (f" (and {more} more of {key[0]} like that)" if more else ""))
        return (*self._bag.damage, *told)

    @property
    def counts(self) -> dict[str, int]:
        """What was read and what was left out, by name."""
        counts = {f"messages of {topic}": self._read[topic] for topic in self.topics.names()}
        counts["focal stacks"] = self._stacks
        counts |= {f"frames dropped: {reason}": n for reason, n in sorted(self._buffer.drops.items()) if n}
        counts |= {f"unusable messages of {topic}": n for topic, n in sorted(self._unusable.items()) if n}
        if self.has_truth:
            counts["stacks with true depth"] = self._matcher.matched - self._unusable_matches
            counts["stacks without true depth of their stamp"] = self._matcher.unmatched
            counts["true depth images of no stack"] = self._matcher.truths_seen - self._matcher.truths_used
        return counts

    def complete(self, evaluation: Evaluation) -> Evaluation:
        """Return an evaluation of these stacks, with notes and counts."""
        counts = {**self.counts, "stacks that failed": len(evaluation.failures)}
        return replace(evaluation, notes=self.notes, counts=counts)

    def _add(self, message: BagMessage) -> Decided:
        """Take one message; return the stacks that are complete now and their truths."""
        self._read[message.topic] += 1
        try:
            return self._adders[message.topic](message)
        except DualFocusError as error:
            self._trouble(message, type(error).__name__, str(error))
            return []

    def _add_image(self, message: BagMessage) -> Decided:
        m = self._decoded(message, "image")
        image = decoding.image_from_message(m)
        if self._size and image.shape[:2] != self._size:
            before = f"{self._size[1]} x {self._size[0]}"
            now = f"{image.shape[1]} x {image.shape[0]}"
            self._trouble(message, "size", f"the images change from {before} to {now} pixels", unusable=False)
        self._size = image.shape[:2]
        stamp_ns = decoding.stamp_to_ns(m.header.stamp)
        return self._match(self._buffer.add_image(stamp_ns, image, m.header.frame_id))

    def _add_info(self, message: BagMessage) -> Decided:
        m = self._decoded(message, "camera_info")
        intrinsics = decoding.intrinsics_from_message(m)
        return self._match(self._buffer.add_intrinsics(decoding.stamp_to_ns(m.header.stamp), intrinsics))

    def _add_lens(self, message: BagMessage) -> Decided:
        return self._match(
            self._buffer.add_lens_state(decoding.lens_state_from_message(self._decoded(message, "lens")))
        )

    def _add_truth(self, message: BagMessage) -> Decided:
        # Most of them belong to no stack: decoded are those that do.
        m = self._decoded(message, "truth")
        return self._matcher.add_truth(
            decoding.stamp_to_ns(m.header.stamp), _Recorded(message.data, self._place(message))
        )

    def _decoded(self, message: BagMessage, role: str) -> Any:
        """Return the message with the fields of its type; note stamps that go back."""
        expected = ROLES[role].message_type
        if message.message_type != expected:
            raise BagError(f"expected a message of type {expected}, got {message.message_type}")
        m = deserialize(expected, message.data)
        stamp_ns = decoding.stamp_to_ns(m.header.stamp)
        before_ns = self._stamp_ns.get(message.topic, stamp_ns)
        if stamp_ns < before_ns:
            by = f"the stamp goes back by {(before_ns - stamp_ns) * 1e-9:.3f} s"
            self._trouble(message, "stamp", by, unusable=False)
        self._stamp_ns[message.topic] = stamp_ns
        return m

    def _match(self, stacks: list[FocalStack]) -> Decided:
        if not self.has_truth:
            return [(stack, None) for stack in stacks]
        done = []
        for stack in stacks:
            done += self._matcher.add_estimate(stack.stamp_ns, stack)
        return done

    def _sample(self, stack: FocalStack, truth: _Recorded | None) -> Sample:
        bag = self._bag.path.absolute()
        path = Path(bag.name) / self._names.name(stack.stamp_ns)
        self._stacks += 1
        return Sample(path, bag.stem, stack, None if truth is None else self._truth_m(stack, truth))

    def _truth_m(self, stack: FocalStack, truth: _Recorded) -> FloatImage | None:
        """Return the true depth of a stack, None where the message does not give it."""
        topic = self.topics.truth
        try:
            depth_m = decoding.depth_from_message(deserialize(ROLES["truth"].message_type, truth.data))
            wanted = stack.slices[stack.reference].image.shape[:2]
            if depth_m.shape != wanted:
                got, expected = (f"{shape[1]} x {shape[0]}" for shape in (depth_m.shape, wanted))
                raise MessageError(f"expected true depth of {expected} pixels as the images, got {got}")
            return depth_m
        except DualFocusError as error:
            self._note(topic, type(error).__name__, f"{topic}, {truth.place}: {error}; left out")
            self._unusable[topic] += 1
            self._unusable_matches += 1
            return None

    def _trouble(self, message: BagMessage, kind: str, text: str, *, unusable: bool = True) -> None:
        """Note something wrong with a message: the first of its kind with its place, the others counted."""
        place, left_out = self._place(message), "; left out" if unusable else ""
        self._note(message.topic, kind, f"{message.topic}, {place}: {text}{left_out}")
        self._unusable[message.topic] += unusable

    def _place(self, message: BagMessage) -> str:
        """Return in words where in the recording the message is that was read last of its topic."""
        return f"message {self._read[message.topic]}, {self._bag.place(message.stamp_ns)}"

    def _note(self, topic: str, kind: str, text: str) -> None:
        self._trouble_counts[topic, kind] += 1
        self._troubles.setdefault((topic, kind), text)

    def _why(self) -> str:
        """Say why there is no stack."""
        left_out = {reason: n for reason, n in self._buffer.drops.items() if n}
        read = ", ".join(f"{self._read[topic]} messages of {topic}" for topic in self.topics.names())
        notes = f"; {'; '.join(self.notes)}" if self.notes else ""
        return f"read {read}; frames left out: {left_out or 'none'}{notes}"
