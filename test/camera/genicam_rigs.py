# SPDX-License-Identifier: Apache-2.0
"""Cameras for the tests of the GenICam driver: pylon's emulated one with a lens, and one without pylon."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import pytest
from genicam_fake import FakeWorld
from genicam_stand_in import Lens, with_lens

from dualfocus_ros.camera.genicam import GenicamConfig

# Read when pylon starts, by whoever imports it first.
os.environ["PYLON_CAMEMU"] = "2"
QUICK = {"auto_time_s": 0.0, "rate_hz": 100.0, "width": 640, "height": 480}


def config(**changes: Any) -> GenicamConfig:
    return GenicamConfig(**{**QUICK, **changes})


def install(monkeypatch: pytest.MonkeyPatch, pylon: Any, genicam: Any) -> None:
    for name, module in (("pypylon.pylon", pylon), ("pypylon.genicam", genicam)):
        monkeypatch.setitem(sys.modules, name, module)
    if "pypylon" not in sys.modules:
        monkeypatch.setitem(sys.modules, "pypylon", type(sys)("pypylon"))


class Emulated:
    """pylon's emulated camera, with a lens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str = "FocalPower") -> None:
        pylon = pytest.importorskip("pypylon.pylon")
        self.genicam = importlib.import_module("pypylon.genicam")
        self.lens = Lens(self.genicam, kind)
        self.pylon = with_lens(pylon, self.genicam, self.lens)
        install(monkeypatch, self.pylon, self.genicam)

    @property
    def camera(self) -> Any:
        return self.pylon.opened[-1]

    def fail_frames(self, count: int) -> None:
        nodes = self.camera.GetNodeMap()
        nodes.GetNode("ForceFailedBufferCount").SetValue(count)
        nodes.GetNode("ForceFailedBuffer").Execute()


class Faked:
    """A camera without pypylon, as old or new versions of it show it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str = "FocalPower", **more: Any) -> None:
        self.world = FakeWorld(kind, **more)
        self.genicam, self.lens = self.world.genicam, self.world.lens
        install(monkeypatch, self.world.pylon, self.genicam)

    def fail_frames(self, count: int) -> None:
        self.world.failing = count
