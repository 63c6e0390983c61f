# SPDX-License-Identifier: Apache-2.0
"""Runs a network under training on stored stacks, by the code that evaluates every engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from dualfocus_ros.engine.base import EngineOutput
from dualfocus_ros.engine.pixels import colour_planes, hide_unseen
from dualfocus_ros.evaluation.stacks import Evaluation, evaluate_stacks
from dualfocus_ros.learning.focus import all_in_focus
from dualfocus_ros.learning.network import DualFocusNet
from dualfocus_ros.types import AlignedStack


class NetworkEngine:
    """A DepthEngine around a network that lies in memory."""

    name = "network"

    def __init__(self, network: DualFocusNet, device: torch.device):
        """Take the network, in evaluation mode and on the device."""
        self._network, self._device = network, device

    @property
    def device(self) -> str:
        """Where it runs."""
        return str(self._device)

    def infer(self, stack: AlignedStack) -> EngineOutput:
        """Estimate depth; see `engine.base`."""
        images = torch.from_numpy(colour_planes(stack, np.zeros((0, 3, 0, 0), np.float32)))[None].to(self._device)
        focus = torch.tensor(stack.focus_dpt, dtype=torch.float32, device=self._device)[None]
        gain = torch.tensor([stack.blur_gain_px_per_dpt], dtype=torch.float32, device=self._device)
        with torch.inference_mode():
            found = self._network(images, focus, gain)
            sharp = all_in_focus(images, focus, found.inverse_depth)[0]
        depth_m = 1.0 / found.inverse_depth[0].clamp(min=1e-9)
        coded = (sharp.permute(1, 2, 0).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
        depth, confidence = hide_unseen(stack, depth_m.cpu().numpy(), found.confidence[0].cpu().numpy())
        return EngineOutput(depth, confidence, coded.cpu().numpy())

    def __enter__(self) -> NetworkEngine:
        """Do nothing: the network is loaded."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


def validate(network: DualFocusNet, stacks: Sequence[Path], device: torch.device) -> Evaluation:
    """Score the network on stored stacks with ground truth; leaves its mode as it was.

    Raises:
        DualFocusError: if a stack cannot be read or scored.
    """
    training = network.training
    network.eval()
    try:
        return evaluate_stacks(NetworkEngine(network, device), stacks)
    finally:
        network.train(training)
