# SPDX-License-Identifier: Apache-2.0
"""What all runs of training share: a checkpoint in the folder of the run, and signals that end it in order."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from dualfocus_ros.errors import InputError

CHECKPOINT = "checkpoint.pt"
SAVE_EVERY_S = 60.0


def read_checkpoint(
    path: Path, keys: Sequence[str], device: torch.device | str = "cpu", what: str = "a checkpoint"
) -> dict[str, Any] | None:
    """Return what a checkpoint holds, or None where there is no such file.

    Args:
        path: of the checkpoint.
        keys: what it must hold.
        device: where its tensors go.
        what: it is to be, for errors.

    Raises:
        InputError: if it cannot be read, or a key is missing.
    """
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        missing = [key for key in keys if key not in saved]
    except (OSError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"expected {what} in {path}: {reason}; take another folder") from error
    if missing:
        raise InputError(f"expected {what} in {path}, but it has no {missing}; take another folder")
    return saved


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; a run that dies while writing keeps the one before."""
    partial = path.with_name(path.name + ".partial")
    torch.save(dict(state), partial)
    os.replace(partial, path)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT or SIGTERM has come; neither does anything else meanwhile."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
