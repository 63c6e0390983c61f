# SPDX-License-Identifier: Apache-2.0
"""Chooses an engine by name. Vendor libraries are imported only by the engine that is chosen."""

from __future__ import annotations

import difflib
import importlib

from dualfocus_ros.engine.base import DepthEngine
from dualfocus_ros.errors import EngineError

# name -> module:class, imported when chosen.
ENGINES = {"classical": "dualfocus_ros.engine.classical:ClassicalEngine"}
ENGINE_CHOICES: tuple[str, ...] = tuple(ENGINES)


def make_engine(name: str) -> DepthEngine:
    """Return the engine of that name, not yet entered.

    Raises:
        EngineError: if there is no engine of that name.
    """
    if name not in ENGINES:
        near = difflib.get_close_matches(name, ENGINES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise EngineError(f"expected engine to be one of {list(ENGINES)}, got {name!r}{hint}")
    module, _, cls = ENGINES[name].partition(":")
    engine: DepthEngine = getattr(importlib.import_module(module), cls)()
    return engine
