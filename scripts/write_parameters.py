# SPDX-License-Identifier: Apache-2.0
"""Write config/*.yaml and docs/parameters.md from the dataclasses that hold the defaults.

Run it after a change of a parameter; a test compares the files with what this script would write.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from pathlib import Path
from typing import Any, get_type_hints

from dualfocus_ros.nodes import camera_node, depth_node, evaluation_node, replay_node
from dualfocus_ros.nodes.base import NodeConfig

ROOT = Path(__file__).resolve().parent.parent
NODES = {
    "camera": (camera_node, "Parameters of the camera node (executable camera_node)"),
    "depth": (depth_node, "Parameters of the depth node (executable depth_node)"),
    "replay": (replay_node, "Parameters of the replay node (executable replay_node)"),
    "evaluation": (evaluation_node, "Parameters of the evaluation node (executable evaluation_node)"),
}


ROS_TYPES = {bool: "bool", int: "int", float: "double", tuple[float, ...]: "double[]"}


def all_parameters(module: Any) -> list[tuple[str, dataclasses.Field[Any], Any]]:
    """Return (name, field, type) of every parameter of a node module."""
    found = []
    for prefix, kind in (("", NodeConfig), *module.PARAMETERS):
        hints = get_type_hints(kind)
        found += [(prefix + f.name, f, hints[f.name]) for f in dataclasses.fields(kind)]
    return found


def as_yaml(value: Any) -> str:
    """Return a default as ROS parameter YAML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isinf(value):
        return ".inf"
    if isinstance(value, tuple):
        return str(list(value))
    if isinstance(value, float):
        text = repr(value)
        return text if "e" not in text else f"{value:.12f}".rstrip("0")
    return f'"{value}"' if isinstance(value, str) else str(value)


def constraint(f: dataclasses.Field[Any]) -> str:
    """Return the range or the choices of a parameter in words."""
    if "choices" in f.metadata:
        return ", ".join(f.metadata["choices"])
    low, high = f.metadata.get("min"), f.metadata.get("max")
    if low is None and high is None:
        return ""
    if high is None or (isinstance(high, float) and math.isinf(high)):
        return f"at least {low:g}"
    return f"{low:g} to {high:g}"


def yaml_file(node: str) -> str:
    """Return the text of config/NODE.yaml."""
    module, title = NODES[node]
    lines = [f"# {title}, with their defaults.", "# Written by scripts/write_parameters.py."]
    lines += ["/**:", "  ros__parameters:"]
    section = ""
    for name, f, _ in all_parameters(module):
        prefix, _, last = name.rpartition(".")
        if prefix != section:
            section = prefix
            lines.append(f"    {section}:")
        indent = " " * (6 if section else 4)
        unit = f" [{f.metadata['unit']}]" if "unit" in f.metadata else ""
        limits = constraint(f)
        text = f.metadata["doc"] + unit + (f" ({limits})" if limits else "")
        lines += textwrap.wrap(text, 110, initial_indent=indent + "# ", subsequent_indent=indent + "# ")
        lines.append(f"{indent}{last}: {as_yaml(f.default)}")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """Return the text of docs/parameters.md."""
    lines = [
        "# Parameters",
        "",
        "Written by `scripts/write_parameters.py` from the code. Parameters are read-only once the node has",
        "started, except those marked live. A parameter that a node does not have is an error at its start.",
    ]
    for node, (module, title) in NODES.items():
        lines += ["", f"## {title}", "", f"Defaults: `config/{node}.yaml`.", ""]
        lines += [
            "| parameter | type | default | range | live | meaning |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for name, f, kind in all_parameters(module):
            unit = f" [{f.metadata['unit']}]" if "unit" in f.metadata else ""
            live = "yes" if f.metadata.get("live") else ""
            meaning = f.metadata["doc"] + unit
            row = [
                f"`{name}`",
                ROS_TYPES.get(kind, "string"),
                f"`{as_yaml(f.default)}`",
                constraint(f),
                live,
                meaning,
            ]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Return every file that this script owns with its text."""
    texts = {ROOT / "config" / f"{node}.yaml": yaml_file(node) for node in NODES}
    return texts | {ROOT / "docs" / "parameters.md": markdown()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
