# SPDX-License-Identifier: Apache-2.0
"""What a training run tells: a progress bar, loss curves and scores on stored stacks."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dualfocus_ros.errors import DualFocusError, InputError
from dualfocus_ros.learning.validate import validate
from dualfocus_ros.stackio import find_stacks, load_stack

PROGRESS = ("step", "stacks", "seconds", "learning_rate", "loss")
TERMS = (*PROGRESS, "depth", "confidence", "gradient", "probability", "spatial", "focal")
SCORES = ("step", "stacks", "family", "abs_rel", "rmse_m", "bump")


class Log:
    """A CSV file of rows with rising `step`."""

    def __init__(self, path: Path, columns: Sequence[str], step: int):
        """Open it for a run that stands at `step`: rows beyond, of a part that was lost, are dropped.

        Raises:
            InputError: if there is a file of other columns.
        """
        rows = []
        if path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames is not None and tuple(reader.fieldnames) != tuple(columns):
                    raise InputError(f"expected {path} to have the columns {list(columns)}: move it away")
                rows = [row for row in reader if int(row["step"]) <= step]
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()
        self._writer.writerows(rows)
        self._file.flush()

    def write(self, row: dict[str, object]) -> None:
        """Write one row, at once."""
        self._writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Journal:
    """Progress bar with the time to go, loss curves in train.csv, scores in scores.csv."""

    def __init__(self, run: Path, folders: Sequence[Path], step: int, steps: int, print_every_s: float):
        """Open the files of a run.

        Args:
            run: its folder.
            folders: of stored stacks with ground truth to score.
            step: where the run stands.
            steps: where it ends.
            print_every_s: seconds between redraws of the bar.

        Raises:
            InputError: if a folder holds a stack without ground truth.
            DualFocusError: if it holds none, or one cannot be read.
        """
        self._stacks = [path for folder in folders for path in find_stacks(folder)]
        if blind := [path for path in self._stacks if load_stack(path).ground_truth_m is None]:
            raise InputError(f"expected stacks with ground truth to validate on, but {blind[0]} has no depth.png")
        self._log, self._scores = Log(run / "train.csv", TERMS, step), Log(run / "scores.csv", SCORES, step)
        self._sums: dict[str, list[Tensor]] = {}
        self._first, self._start = step, time.monotonic()
        self._bar = tqdm(total=steps, initial=step, unit="step", mininterval=print_every_s)

    def note(self, terms: dict[str, Tensor]) -> None:
        """Take down the losses of one step."""
        for name, value in terms.items():
            self._sums.setdefault(name, []).append(value)
        self._bar.update()

    def log(self, step: int, stacks: int, seconds: float, learning_rate: float) -> None:
        """Log the means of the losses since the last time."""
        means = {name: float(torch.stack(values).mean()) for name, values in self._sums.items()}
        self._log.write(
            {"step": step, "stacks": stacks, "seconds": seconds, "learning_rate": learning_rate, **means}
        )
        speed = (step - self._first) / (time.monotonic() - self._start)
        self._bar.set_postfix(loss=f"{means['loss']:.4f}", steps_per_s=f"{speed:.2f}")
        self._sums.clear()

    def score(self, network: nn.Module, step: int, stacks: int, device: torch.device) -> None:
        """Score the network on the stored stacks and log that; an error is told, and training goes on."""
        if not self._stacks:
            return
        try:
            evaluation = validate(network, self._stacks, device)
        except DualFocusError as error:
            self._bar.write(f"step {step}: no scores: {error}")
            return
        groups = (*evaluation.families(), evaluation.total())
        for group in groups:
            found = {name: getattr(group.metrics, name) for name in ("abs_rel", "rmse_m", "bump")}
            self._scores.write({"step": step, "stacks": stacks, "family": group.name, **found})
        line = "  ".join(f"{g.name} {g.metrics.abs_rel:.4f}/{g.metrics.rmse_m:.4f}" for g in groups)
        self._bar.write(f"step {step}: AbsRel/RMSE m  {line}")

    def close(self) -> None:
        """End the bar and close the files."""
        self._bar.close()
        self._log.close()
        self._scores.close()
