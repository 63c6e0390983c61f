# SPDX-License-Identifier: Apache-2.0
"""Reads trained weights: those of a run's checkpoint, or those that ship."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import swa_utils

from dualfocus_ros.errors import InputError
from dualfocus_ros.learning.network import DualFocusNet, NetworkConfig

Network = TypeVar("Network", bound=nn.Module)
RECORD = ("config", "weights", "step", "stacks", "seconds")  # of a run, in its checkpoint


def load_network(path: Path) -> tuple[DualFocusNet, dict[str, Any]]:
    """Return the averaged network of a checkpoint or weights file, in evaluation mode, and the record of its run.

    Raises:
        InputError: if the file is neither.
    """
    return read_network(path, lambda config: DualFocusNet(NetworkConfig(**config)), RECORD, "DualFocus")


def read_network(
    path: Path, make: Callable[[dict[str, Any]], Network], record: Sequence[str], of: str
) -> tuple[Network, dict[str, Any]]:
    """Return the averaged network of any checkpoint or weights, in evaluation mode, and the record of its run.

    Args:
        path: of the file.
        make: returns the network of a configuration that was saved.
        record: keys of a checkpoint that are the record of its run; a weights file has it in one.
        of: what the network is of, for errors.

    Raises:
        InputError: if the file is neither.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict):
            raise TypeError(f"it holds a {type(saved).__name__}")
        network = make(saved["network"])
        if "averaged" in saved:
            averaged = saved["averaged"]
            state = {k.removeprefix("module."): v for k, v in averaged.items() if k.startswith("module.")}
            training = {key: saved[key] for key in record}
        else:
            state, training = saved["model"], saved["training"]
        network.load_state_dict(state)
    except (OSError, LookupError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"expected a checkpoint or weights of {of} in {path}: {reason}") from error
    return network.eval(), training


def load_mean(paths: Sequence[Path]) -> tuple[DualFocusNet, dict[str, Any]]:
    """Return the network whose weights are the mean of several, and the record of the last one's run.

    Where one was trained on from another, that can be better than either (Wortsman et al., "Model soups", ICML
    2022). The records of the others are in its `mean_with`.

    Args:
        paths: of checkpoints or weights, at least one.

    Raises:
        InputError: if one of them is neither, or they are not of one network.
    """
    networks, records = zip(*(load_network(path) for path in paths), strict=True)
    training = records[-1]
    for path, network in zip(paths, networks, strict=True):
        if network.config != networks[-1].config:
            raise InputError(f"expected weights of {networks[-1].config} in {path}, got {network.config}")
    mean = swa_utils.AveragedModel(networks[-1], use_buffers=True)
    for network in networks:
        mean.update_parameters(network)
    if len(networks) > 1:
        training = {**training, "mean_with": list(records[:-1])}
    return mean.module, training
