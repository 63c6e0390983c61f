# SPDX-License-Identifier: Apache-2.0
"""Chooses an engine by name. Vendor libraries are imported only by the engine that is chosen."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from functools import cache

from dualfocus_ros.engine.base import CompilerOptions, DepthEngine
from dualfocus_ros.engine.manifest import DEFAULT_MODEL
from dualfocus_ros.errors import EngineError

# name -> module:class, imported when chosen.
ENGINES = {
    "tensorrt": "dualfocus_ros.engine.tensorrt:TensorRtEngine",
    "onnx": "dualfocus_ros.engine.onnx:OnnxEngine",
    "torch": "dualfocus_ros.engine.torch:TorchEngine",
    "classical": "dualfocus_ros.engine.classical:ClassicalEngine",
}
AUTO = "auto"
ENGINE_CHOICES: tuple[str, ...] = (AUTO, *ENGINES)
WITHOUT_MODEL = ("classical",)
COMPILED = ("tensorrt",)
BY_DEFAULT = CompilerOptions()


@dataclass(frozen=True)
class EngineChoice:
    """The engine that a name stands for.

    Attributes:
        name: one of `ENGINES`.
        reason: why, as a part of a sentence; empty where the engine was named.
    """

    name: str
    reason: str = ""


def choose_engine(name: str) -> EngineChoice:
    """Return which engine a name stands for; tells what `auto` means here.

    `auto` is the best engine that runs the network. It never stands for `classical`: where the network cannot
    run, the user must hear of it, not get another depth.

    Raises:
        EngineError: if there is no engine of that name.
    """
    if name == AUTO:
        why_not = tensorrt_obstacle()
        if not why_not:
            return EngineChoice("tensorrt", "auto: the fastest on this GPU")
        return EngineChoice("onnx", f"auto: TensorRT cannot run here, {why_not}")
    if name not in ENGINES:
        near = difflib.get_close_matches(name, ENGINE_CHOICES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise EngineError(f"expected engine to be one of {list(ENGINE_CHOICES)}, got {name!r}{hint}")
    return EngineChoice(name)


@cache
def tensorrt_obstacle() -> str:
    """Return why the tensorrt engine cannot run here, in words; empty if it can."""
    from dualfocus_ros.engine.tensorrt import obstacle

    return obstacle()


def takes_model(name: str) -> bool:
    """Say whether the engine of that name, or the one that `auto` stands for, runs a model."""
    return choose_engine(name).name not in WITHOUT_MODEL


def make_engine(name: str, model: str | None = None, options: CompilerOptions = BY_DEFAULT) -> DepthEngine:
    """Return the engine of that name, not yet entered; entering loads what it needs, or says what is missing.

    Args:
        name: one of `ENGINE_CHOICES`.
        model: name or path of the model, see `manifest.find_model`; None: the default one.
        options: for engines that compile.

    Raises:
        EngineError: if there is no engine of that name, or a model is given to one that takes none.
    """
    chosen = choose_engine(name).name
    module, _, cls = ENGINES[chosen].partition(":")
    make = getattr(importlib.import_module(module), cls)
    if takes_model(chosen):
        given = (DEFAULT_MODEL if model is None else model,)
        engine: DepthEngine = make(*given, options) if chosen in COMPILED else make(*given)
        return engine
    if model is not None:
        raise EngineError(f"the {chosen} engine takes no model, got {model!r}: leave the model out")
    engine = make()
    return engine


def describe(engine: DepthEngine, asked: str) -> str:
    """Return which engine runs where, and why it was taken, for logs: `engine NAME on DEVICE (REASON)`."""
    reason = choose_engine(asked).reason
    return f"engine {engine.name} on {engine.device}" + (f" ({reason})" if reason else "")
