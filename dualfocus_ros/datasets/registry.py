# SPDX-License-Identifier: Apache-2.0
"""All data sets, by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from dualfocus_ros.datasets import (
    arkitscenes,
    ddff12,
    fod500,
    light_field,
    mobile_depth,
    nyu,
    smartphone,
    stereo,
)
from dualfocus_ros.datasets.base import Dataset, DatasetStack
from dualfocus_ros.errors import DatasetError

DATASETS: tuple[Dataset, ...] = (
    *nyu.DATASETS,
    fod500.DATASET,
    ddff12.DATASET,
    *arkitscenes.DATASETS,
    mobile_depth.DATASET,
    light_field.DATASET,
    smartphone.DATASET,
    *stereo.DATASETS,
)


def find_dataset(name: str) -> Dataset:
    """Return the data set of a name.

    Raises:
        DatasetError: if there is none; names all, and the one that is nearest.
    """
    by_name = {d.name: d for d in DATASETS}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DatasetError(f"expected a data set out of {', '.join(by_name)}, got {name!r}{hint}")


def open_dataset(name: str, root: str | Path, split: str | None = None) -> Iterator[DatasetStack]:
    """Return the stacks of a data set one by one, each read when it is asked for.

    Args:
        name: one of `DATASETS`.
        root: folder of the data.
        split: None is the one that the literature reports.

    Raises:
        DatasetError: at once, if name or split is unknown or the data are not there as expected; while iterating,
            if a file is damaged.
    """
    return find_dataset(name).stacks(root, split)
