# SPDX-License-Identifier: Apache-2.0
"""Writes a data set as focal stacks on disk, which all commands read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualfocus_ros.datasets.base import Dataset, Source
from dualfocus_ros.errors import DatasetError
from dualfocus_ros.stackio import save_stack


@dataclass(frozen=True)
class Export:
    """What was written: the folder of the split, the number of stacks, and how many of them have no truth."""

    folder: Path
    stacks: int
    without_truth: int


def export_dataset(
    dataset: Dataset,
    root: Path,
    out: Path,
    split: str | None = None,
    limit: int | None = None,
    watch: Callable[[Sequence[Source]], Iterable[Source]] = iter,
) -> Export:
    """Write `<out>/<data set>/<split>/<stack>/`.

    The folder of the split must not be there, or be empty, so that what is in it in the end is of one run:
    stacks of another split, or of a run that ended early, would be scored as if they belonged to it.

    Args:
        dataset: what to write.
        root: folder of the data.
        out: made if it is not there.
        split: None is the default one.
        limit: only the first so many stacks; None is all.
        watch: given the stacks, yields them as they are worked on (a progress bar).

    Raises:
        DatasetError: if the data are not as expected, the folder is not empty, or the limit is below 1.
        StackError: if a stack cannot be written.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"expected a limit of at least 1 stack, got {limit}")
    split = split or dataset.default_split
    sources = dataset.sources(root, split)[:limit]
    folder = out / dataset.name / split
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(f"expected {folder} to be empty or not there, so that no runs mix: remove it first")
    without_truth = 0
    for source in watch(sources):
        loaded = source.load()
        save_stack(out / loaded.path, loaded.stack, loaded.ground_truth_m, loaded.meta)
        without_truth += loaded.ground_truth_m is None
    return Export(folder, len(sources), without_truth)
