# SPDX-License-Identifier: Apache-2.0
"""A script: does the real depthai have every call that `fake_depthai` offers, with the same parameters?

It needs no camera. pybind11 tells signatures only in docstrings.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

ENUMS = ("CameraBoardSocket", "ImgResizeMode", "CameraControl.AutoFocusMode", "ImgFrame.Type")
# Calls of classes that both have under one name, and where the fake's one class is two in the real module.
COMMON = {
    "CameraControl": ("CameraControl",),
    "ImgFrame": ("ImgFrame",),
    "Device": ("Device",),
    "DeviceInfo": ("DeviceInfo",),
    "Pipeline": ("Pipeline",),
}
OF_VERSION: dict[int, dict[str, tuple[str, ...]]] = {
    3: {"node.Camera": ("node.Camera",), "MessageQueue": ("MessageQueue",)},
    2: {
        "node.ColorCamera": ("node.ColorCamera",),
        "node.XLinkIn": ("node.XLinkIn",),
        "node.XLinkOut": ("node.XLinkOut",),
        "MessageQueue": ("DataOutputQueue", "DataInputQueue"),
    },
}
# The others come from calls.
MADE_BY_USERS = ("CameraControl", "Device", "DeviceInfo", "Pipeline")
# Parts of the fake that no user of depthai calls.
OWN = {"need", "run", "check", "add", "streams"}


def main() -> list[str]:
    """Return what the real depthai lacks."""
    import depthai

    version = 3 if hasattr(depthai.Pipeline, "start") else 2
    # As a script, its folder is on the path.
    fake = importlib.import_module("fake_depthai").FakeOak(version).module()
    fake.MessageQueue = importlib.import_module("fake_depthai_nodes").MessageQueue
    wrong = []
    for ours, theirs in {**COMMON, **OF_VERSION[version]}.items():
        for name, signature in calls_of(part(fake, ours)):
            if name == "__init__" and ours not in MADE_BY_USERS:
                continue
            if not any(matches(getattr(part(depthai, t), name, None), signature) for t in theirs):
                wrong.append(f"{ours}.{name}({', '.join(map(str, signature))})")
    for enum in (e for e in ENUMS if part(fake, e) is not None):
        wrong += [f"{enum}.{m}" for m in part(fake, enum).__members__ if not hasattr(part(depthai, enum), m)]
    for attribute in ("socket", "sensorName", "hasAutofocus"):
        wrong += [] if hasattr(depthai.CameraFeatures, attribute) else [f"CameraFeatures.{attribute}"]
    wrong += [] if hasattr(depthai.ChipTemperature, "average") else ["ChipTemperature.average"]
    wrong += ports_of(depthai, version)
    return wrong


def ports_of(depthai: Any, version: int) -> list[str]:
    """Return what the real inputs and outputs lack."""
    if version == 3:
        wanted = {
            "Node.Output": "createOutputQueue",
            "Node.Input": "createInputQueue",
            "node.Camera": "inputControl",
        }
        for queue in wanted.items():
            found = getattr(part(depthai, queue[0]), queue[1]).__doc__ or ""
            if "Queue" in queue[1] and not ("maxSize: int" in found and "blocking: bool" in found):
                return [f"{queue[0]}.{queue[1]}"]
        return [] if hasattr(depthai.MessageQueue, "QueueException") else ["MessageQueue.QueueException"]
    wanted_v2 = (("node.ColorCamera", "preview inputControl"), ("node.XLinkIn", "out"), ("node.XLinkOut", "input"))
    lacking = [f"{n}.{a}" for n, names in wanted_v2 for a in names.split() if not hasattr(part(depthai, n), a)]
    lacking += [f"Node.Input.{a}" for a in ("setBlocking", "setQueueSize") if not hasattr(depthai.Node.Input, a)]
    return lacking + ([] if hasattr(depthai.Node.Output, "link") else ["Node.Output.link"])


def part(module: Any, name: str) -> Any:
    """Return what a dotted name means, None where it means nothing."""
    for step in name.split("."):
        module = getattr(module, step, None)
    return module


def calls_of(fake: type) -> list[tuple[str, list[inspect.Parameter]]]:
    """Return the calls that a class of the fake offers, each with its parameters."""
    found = []
    for name, function in inspect.getmembers(fake, inspect.isfunction):
        if name == "__init__" or not (name.startswith("_") or name in OWN):
            parameters = list(inspect.signature(function).parameters.values())
            found.append((name, [p for p in parameters if p.name != "self"]))
    return found


def matches(real: Any, wanted: list[inspect.Parameter]) -> bool:
    """Say whether one of the overloads takes these parameters and needs no others.

    Those that the fake takes by position only may have another name: depthai 2 and 3 name them differently.
    """
    for line in (getattr(real, "__doc__", None) or "").splitlines():
        told = re.match(r"(?:\d+\. )?\w+\((.*)\) -> ", line)
        if told is None:
            continue
        # A comma within brackets separates no parameters.
        parts = [p for p in re.split(r", (?=\w+: )", told[1]) if p and not p.startswith("self")]
        by_position = sum(p.kind is p.POSITIONAL_ONLY for p in wanted)
        names = {p.split(":")[0]: "=" in p for p in parts[by_position:]}
        by_name = [p.name for p in wanted[by_position:]]
        needed = {name for name, has_default in names.items() if not has_default}
        if len(parts) >= by_position and needed <= set(by_name) <= set(names):
            return True
    return False


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    lacks = main()
    print("\n".join(lacks))
    sys.exit(bool(lacks))
