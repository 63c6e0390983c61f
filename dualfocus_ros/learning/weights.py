# SPDX-License-Identifier: Apache-2.0
"""Reads trained weights: those of a run's checkpoint, or those that ship."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from dualfocus_ros.errors import InputError
from dualfocus_ros.learning.network import DualFocusNet, NetworkConfig


def load_network(path: Path) -> tuple[DualFocusNet, dict[str, Any]]:
    """Return the averaged network of a checkpoint or weights file, in evaluation mode, and the record of its run.

    Raises:
        InputError: if the file is neither.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict):
            raise TypeError(f"it holds a {type(saved).__name__}")
        network = DualFocusNet(NetworkConfig(**saved["network"]))
        if "averaged" in saved:
            averaged = saved["averaged"]
            state = {k.removeprefix("module."): v for k, v in averaged.items() if k.startswith("module.")}
            keys = ("config", "weights", "step", "stacks", "seconds")
            training = {key: saved[key] for key in keys}
        else:
            state, training = saved["model"], saved["training"]
        network.load_state_dict(state)
    except (OSError, LookupError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"expected a checkpoint or weights of DualFocus in {path}: {reason}") from error
    return network.eval(), training
