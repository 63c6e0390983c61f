# SPDX-License-Identifier: Apache-2.0
"""Commands of the command line, one a module, and the options that they share; see `cli`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualfocus_ros.engine.base import CompilerOptions

DEFAULT_ENGINE = "auto"
_ENGINE_HELP = (
    "auto (the network, on what is fastest here), tensorrt (the network on an NVIDIA GPU), onnx (the network on "
    "ONNX Runtime), torch (the network on PyTorch, for development) or classical (no network)"
)
_MODEL_HELP = "name of an installed model, or path of an .onnx file; dualfocus_small where not given"


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--engine NAME` and `--model MODEL` (None where not given)."""
    parser.add_argument("--engine", default=DEFAULT_ENGINE, metavar="NAME", help=_ENGINE_HELP)
    parser.add_argument("--model", metavar="MODEL", help=_MODEL_HELP)


def add_engines_arguments(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add `--engine NAME [NAME ...]` (None where not given) and `--model MODEL` (None where not given)."""
    parser.add_argument(
        "--engine",
        action="extend",
        nargs="+",
        metavar="NAME",
        help=f"{_ENGINE_HELP}; {DEFAULT_ENGINE} where not given; several: {purpose}",
    )
    parser.add_argument("--model", metavar="MODEL", help=_MODEL_HELP)


def add_residual_argument(parser: argparse.ArgumentParser, default: str | None = "auto") -> None:
    """Add `--residual NAME`."""
    parser.add_argument(
        "--residual",
        default=default,
        metavar="NAME",
        help="what finds the errors of alignment that meta.json does not tell: classical, network, none, or auto "
        "(classical, but nothing where the field of view is constant; the default)",
    )


def add_topic_arguments(parser: argparse._ActionsContainer) -> None:
    """Add `--image-topic TOPIC` and its like for the other topics of a recording (empty where not given)."""
    for name, what in (
        ("image", "images"),
        ("camera-info", "camera info"),
        ("lens", "lens states"),
        ("truth", "true depth (none: not used)"),
    ):
        parser.add_argument(
            f"--{name}-topic",
            default="",
            metavar="TOPIC",
            help=f"topic of the {what} in the recording; else found by name and type",
        )


def told_on_stderr() -> CompilerOptions:
    """Return options with which an engine that compiles says on standard error how far it is."""
    import sys

    from dualfocus_ros.engine.base import CompilerOptions

    return CompilerOptions(report=lambda text: print(text, file=sys.stderr, flush=True))
