# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from dualfocus_ros.errors import InputError
from dualfocus_ros.learning.runs import CHECKPOINT, read_checkpoint, stop_on_signals, write_checkpoint


def test_what_was_written_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    assert read_checkpoint(path, ("step",)) is None
    for step in (1, 2):
        write_checkpoint(path, {"step": step, "model": torch.arange(step)})
    saved = read_checkpoint(path, ("step", "model"))
    assert saved is not None and saved["step"] == 2
    torch.testing.assert_close(saved["model"], torch.arange(2))
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_dies_while_writing_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    write_checkpoint(path, {"step": 1})
    with pytest.raises(AttributeError):
        write_checkpoint(path, {"step": lambda: None})  # which cannot be written
    assert read_checkpoint(path, ("step",)) == {"step": 1}


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"expected a checkpoint of x in .*checkpoint\.pt: .*; take another"):
        read_checkpoint(path, ("step",), what="a checkpoint of x")
    write_checkpoint(path, {"step": 1})
    with pytest.raises(InputError, match=r"expected a checkpoint in .*, but it has no \['pairs'\]; take another"):
        read_checkpoint(path, ("step", "pairs"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_does_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert signal.getsignal(number) == before
