# SPDX-License-Identifier: Apache-2.0
"""Commands of the command line, one a module, and the options that they share; see `cli`."""

from __future__ import annotations

import argparse

DEFAULT_ENGINE = "auto"
_ENGINE_HELP = "auto (the network), onnx (the network on ONNX Runtime) or classical (no network)"
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
