# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, ROS stays at the edge, and nothing heavy is loaded before it is needed."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "dualfocus_ros"
# A module may import from its own level and from those before it; a name covers what is below it. `learning`
# stands beside: see the tests of it.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("share", "dds", "launching"),
    ("types", "optics", "lens_calibration", "lens_file", "onnx_runtime", "model_files", "bags"),
    ("image_encodings", "camera", "sweep", "smart_sweep", "focus_sweep", "stackio"),
    ("pairing", "told_sweep", "stack"),
    ("calibration",),
    ("noise", "photometry"),
    ("align",),
    ("alignment",),
    ("engine",),
    ("estimator",),
    ("geometry",),
    ("decoding",),
    ("evaluation", "datasets", "outputs", "messages", "parameters"),
    ("nodes",),
    ("commands",),
    ("cli", "__main__"),
)
# The stored stack names one of the ways to align; it aligns nothing.
EXCEPTIONS = {("stackio", "align"): {"Breathing"}}
ROS_PACKAGES = (
    "rclpy",
    "rcl_interfaces",
    "builtin_interfaces",
    "std_srvs",
    "ament_index_python",
    "cv_bridge",
    "tf2_ros",
)
MAY_USE_ROS = ("messages", "parameters", "nodes", "commands")
# launch files need launch; a ROS user has it, and it is imported where a function needs it.
LIGHT = ("errors", "share", "dds", "launching")


@lru_cache(maxsize=1)
def imports() -> dict[str, dict[str, set[str]]]:
    """Return, for every module of the package, the modules that it imports anywhere, each with the names."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[1:-1] if parts[-1] == "__init__" else parts[1:])
        found[name] = _imports_of(ast.parse(path.read_text()), name)
    assert len(found) > 40
    return found


def _imports_of(tree: ast.Module, name: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.setdefault(alias.name, set())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert node.module is not None
            for alias in node.names:
                # `from package import module` is an import of that module.
                inner = f"{node.module}.{alias.name}"
                if node.module.partition(".")[0] == PACKAGE and _is_module(inner):
                    found.setdefault(inner, set())
                else:
                    found.setdefault(node.module, set()).add(alias.name)
    return found


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def own_imports(module: str) -> dict[str, set[str]]:
    """Return the modules of the package that a module imports, without the package's name."""
    return {
        name.partition(".")[2]: names
        for name, names in imports()[module].items()
        if name.partition(".")[0] == PACKAGE and "." in name
    }


def level(module: str) -> int:
    top = module.partition(".")[0]
    for i, names in enumerate(LEVELS):
        if top in names:
            return i
    raise AssertionError(f"module {module} has no place in the order of imports: give it one in LEVELS")


def is_ros(name: str) -> bool:
    top = name.partition(".")[0]
    return top in ROS_PACKAGES or top.endswith(("_msgs", "_interfaces", "_msgs_py"))


MODULES = [m for m in imports() if m and not m.startswith("learning")]


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {other}, which stands above it"
        for module in MODULES
        for other, names in own_imports(module).items()
        if level(other) > level(module) and names != EXCEPTIONS.get((module, other))
    ]
    assert wrong == []


def test_there_are_no_circles() -> None:
    waiting = {m: {o for o in own_imports(m) if o in imports() and o != m} for m in imports()}
    while waiting:
        free = {m for m, others in waiting.items() if not others}
        assert free, f"these import each other in a circle: {sorted(waiting)}"
        waiting = {m: others - free for m, others in waiting.items() if m not in free}


def test_ros_stays_at_the_edge() -> None:
    inner = [m for m in MODULES if m.partition(".")[0] not in MAY_USE_ROS]
    assert len(inner) > 30
    assert {m: used for m in inner if (used := {name for name in imports()[m] if is_ros(name)})} == {}


def test_the_edge_is_where_ros_is_used() -> None:
    """So that the test before looks for what is really there."""
    users = {m.partition(".")[0] for m in imports() if any(is_ros(n) for n in imports()[m])}
    assert {"messages", "parameters", "nodes"} <= users


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_only_light_ones(module: str) -> None:
    assert {name.partition(".")[0] for name in own_imports(module)} <= set(LIGHT)
    assert not {name.partition(".")[0] for name in imports()[module]} & {"numpy", "cv2", "matplotlib"}


def test_nothing_outside_imports_learning_or_torch() -> None:
    for module in MODULES:
        assert "learning" not in {name.partition(".")[0] for name in own_imports(module)}, module
        assert "torch" not in {name.partition(".")[0] for name in imports()[module]}, module


def test_learning_stands_on_the_core_and_knows_no_ros() -> None:
    learning = [m for m in imports() if m.startswith("learning")]
    assert len(learning) > 8
    for module in learning:
        above = {o for o in own_imports(module) if o.partition(".")[0] in (*MAY_USE_ROS, "cli", "__main__")}
        assert above == set(), module
        assert not any(is_ros(name) for name in imports()[module]), module


def loaded_by(statement: str, watched: list[str]) -> list[str]:
    """Return which of the watched modules are loaded after a statement, in a fresh process."""
    code = f"import json, sys\n{statement}\nprint(json.dumps([m for m in {watched!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    result: list[str] = json.loads(done.stdout)
    return result


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="rclpy is not installed")
@pytest.mark.parametrize("node", ["depth_node", "camera_node", "replay_node"])
def test_nodes_load_no_learning_framework_and_no_plotting(node: str) -> None:
    heavy = ["torch", "tensorrt", "onnxruntime", "onnx", "matplotlib", "scipy"]
    # numpy is watched to see that the watching works.
    assert loaded_by(f"import {PACKAGE}.nodes.{node}", ["numpy", *heavy]) == ["numpy"]


def test_command_line_parser_loads_nothing_heavy() -> None:
    assert loaded_by(f"import {PACKAGE}.cli", [f"{PACKAGE}.cli", "numpy", "cv2", "rclpy", "yaml"]) == [
        f"{PACKAGE}.cli"
    ]


def test_executables_hold_the_stop_signals_before_anything_heavy_loads() -> None:
    module = f"{PACKAGE}.nodes.executables"
    assert loaded_by(f"import {module}", [module, "rclpy", "numpy", "cv2"]) == [module]
