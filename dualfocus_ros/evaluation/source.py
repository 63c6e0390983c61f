# SPDX-License-Identifier: Apache-2.0
"""Where the stacks of an evaluation come from: a folder of stacks, a recording, or a published data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dualfocus_ros.bags.reader import METADATA, SUFFIXES, Bag, is_bag_file
from dualfocus_ros.bags.topics import TopicNames
from dualfocus_ros.datasets.registry import find_dataset
from dualfocus_ros.errors import ParameterError, StackError
from dualfocus_ros.evaluation.bag import BagStacks
from dualfocus_ros.evaluation.results import Evaluation
from dualfocus_ros.evaluation.stacks import Sample, read_samples
from dualfocus_ros.stack import BufferConfig
from dualfocus_ros.stackio import DEPTH_NAME, find_stacks


@dataclass(frozen=True)
class OpenSource:
    """A source that is being read.

    Attributes:
        samples: the stacks, to be read once.
        total: number of units of `done`.
        unit: what `done` counts.
        done: how far reading has come.
        one_lens: whether the stacks come from one camera, one after the other.
        look: whether there is need to say what can be said without a true depth.
        complete: adds what the source knows to an evaluation.
    """

    samples: Iterator[Sample]
    total: int
    unit: str
    done: Callable[[], int]
    one_lens: bool
    look: bool
    complete: Callable[[Evaluation], Evaluation] = field(default=lambda evaluation: evaluation)


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source.

    Attributes:
        dataset: name of the data set that is there; empty: none.
        split: of the data set; None: what the literature reports.
        names: of the topics of a recording, where they are not to be found.
        tolerance_s: largest difference between the stamps of depth and truth of a recording.
        start_s: seconds into the recording at which to start.
        end_s: seconds into the recording at which to end; None: at its end.

    Raises:
        ParameterError: if a time makes no sense.
    """

    dataset: str = ""
    split: str | None = None
    names: TopicNames = field(default_factory=TopicNames)
    tolerance_s: float = 0.0
    start_s: float = 0.0
    end_s: float | None = None

    def __post_init__(self) -> None:
        """Check the times; raise ParameterError."""
        if self.split is not None and not self.dataset:
            raise ParameterError(f"expected a split only of a data set, got {self.split!r} and no data set")
        if not 0.0 <= self.tolerance_s < math.inf:
            raise ParameterError(f"expected a tolerance of at least 0 s, got {self.tolerance_s}")
        if not 0.0 <= self.start_s < (math.inf if self.end_s is None else self.end_s):
            raise ParameterError(f"expected 0 <= start < end in seconds, got {self.start_s} and {self.end_s}")


def is_bag(path: Path) -> bool:
    """Say whether this looks like a recording rather than a folder of stacks."""
    if path.is_dir():
        return (path / METADATA).is_file() or any(is_bag_file(f) for f in path.iterdir())
    return is_bag_file(path)


@contextmanager
def open_source(path: Path, buffer: BufferConfig, options: SourceOptions) -> Iterator[OpenSource]:
    """Open a folder of stacks, a recording, or a data set as its authors publish it.

    Args:
        path: of either.
        buffer: when the frames of a recording become a stack.
        options: how to read it.

    Raises:
        DatasetError: if the data set is not known or not there.
        BagError: if a recording cannot be read or lacks a topic.
        StackError: if a folder holds no stack.
        ParameterError: if an option is for something else than what is there.
    """
    if not options.dataset and is_bag(path):
        with Bag(path) as bag:
            yield _of_bag(bag, buffer, options)
        return
    plain = SourceOptions(options.dataset, options.split)
    if options != plain:
        raise ParameterError(f"topics, tolerance, start and end are those of a recording, {path} is none")
    yield _of_dataset(path, options) if options.dataset else _of_folders(_stacks_in(path))


def _stacks_in(path: Path) -> tuple[Path, ...]:
    try:
        return find_stacks(path)
    except StackError as error:
        names = f"a folder with {METADATA}, or with files ending in {' or '.join(SUFFIXES)}"
        raise StackError(f"{error}; nor is it a recording, {names}") from error


def _of_folders(paths: tuple[Path, ...]) -> OpenSource:
    look = not any((path / DEPTH_NAME).exists() for path in paths)
    return _counted(read_samples(paths), len(paths), look=look)


def _of_dataset(root: Path, options: SourceOptions) -> OpenSource:
    found = find_dataset(options.dataset).sources(root, options.split)
    samples = (replace(Sample.of(source.load()), family=options.dataset) for source in found)
    return _counted(samples, len(found), look=True)


def _counted(stacks: Iterator[Sample], total: int, *, look: bool) -> OpenSource:
    """Return stacks of a lens each as a source that counts them."""
    read = 0

    def samples() -> Iterator[Sample]:
        nonlocal read
        for sample in stacks:
            yield sample
            read += 1

    return OpenSource(samples(), total, "stack", lambda: read, one_lens=False, look=look)


def _of_bag(bag: Bag, buffer: BufferConfig, options: SourceOptions) -> OpenSource:
    stacks = BagStacks(bag, options.names, buffer, options.tolerance_s)
    start_ns = bag.start_ns + round(options.start_s * 1e9) if options.start_s > 0.0 else None
    if options.start_s > bag.duration_s:
        raise ParameterError(
            f"expected a start within the recording, which is {bag.duration_s:.3f} s long, got {options.start_s} s"
        )
    ends = options.end_s is not None and options.end_s <= bag.duration_s
    stop_ns = bag.start_ns + round((options.end_s or 0.0) * 1e9) if ends else None
    images = bag.topics[stacks.topics.image].count
    return OpenSource(
        stacks.samples(start_ns, stop_ns),
        images,
        "image",
        lambda: stacks.images_read,
        one_lens=True,
        look=True,
        complete=stacks.complete,
    )


def without_breathing(samples: Iterator[Sample]) -> Iterator[Sample]:
    """Yield samples that say nothing of their field of view, so that the estimator's configuration decides."""
    for sample in samples:
        yield replace(sample, breathing=None)
