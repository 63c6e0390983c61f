# SPDX-License-Identifier: Apache-2.0
"""What gets installed, and that the lists of versions and dependencies say the same."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Modules that packages of another name bring: import name -> rosdep key.
ROSDEP = {
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "yaml": "python3-yaml",
    "tabulate": "python3-tabulate",
    "matplotlib": "python3-matplotlib",
    "scipy": "python3-scipy",
    "jinja2": "python3-jinja2",
    "onnxruntime": "python3-onnxruntime-pip",
    "tqdm": "python3-tqdm",
}


def _setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what setup.py hands to setuptools, without building anything."""
    setuptools = pytest.importorskip("setuptools")
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return given


def _package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def _depends(kind: str) -> set[str]:
    return {(e.text or "").strip() for e in _package_xml().iter(kind)}


def test_setup_installs_what_the_share_directory_must_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    given = _setup_arguments(monkeypatch)
    installed = {f"{folder}/{Path(f).name}": f for folder, files in given["data_files"] for f in files}
    share = "share/dualfocus_ros"
    wanted = [p for top in ("launch", "config", "models") for p in (ROOT / top).rglob("*.*") if p.is_file()]
    for path in wanted:
        relative = path.relative_to(ROOT)
        if "__pycache__" in relative.parts or relative.name.startswith("."):
            continue
        if path.suffix == ".pt":  # to train on from, of no use to a node
            assert f"{share}/{relative}" not in installed
            continue
        assert installed[f"{share}/{relative}"] == str(relative)
    assert f"{share}/package.xml" in installed
    assert installed["share/ament_index/resource_index/packages/dualfocus_ros"] == "resource/dualfocus_ros"
    assert not [name for name in installed if "__pycache__" in name or name.endswith(".pyc")]


def test_setup_covers_every_module_and_runs_under_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    given = _setup_arguments(monkeypatch)
    folders = {p.parent for p in (ROOT / "dualfocus_ros").rglob("*.py")}
    assert set(given["packages"]) == {".".join(f.relative_to(ROOT).parts) for f in folders}
    # apt's OpenCV has no pip metadata: a requirement on it would break every installed script.
    assert given["install_requires"] == ["setuptools"]
    assert "pytest" in " ".join(given["extras_require"]["test"])
    names = {re.split(r"[<>=]", r)[0].lower() for r in given["extras_require"]["runtime"]}
    assert names == {
        *("numpy", "opencv-python-headless", "pyyaml", "tabulate", "tqdm", "scipy", "onnxruntime"),
        *("matplotlib", "jinja2"),
        *("rosbags", "mcap", "zstandard"),
    }


def test_a_build_has_the_templates_beside_the_code(tmp_path: Path) -> None:
    command = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    inside = Path("dualfocus_ros") / "evaluation"
    built = {p.name for p in (tmp_path / "lib" / inside).iterdir()}
    assert {p.name for p in (ROOT / inside).iterdir() if p.is_file()} == built
    assert {"report.html.j2", "report_parts.html.j2", "report.css"} <= built


def test_executables_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = _setup_arguments(monkeypatch)["entry_points"]["console_scripts"]
    names = set()
    for script in scripts:
        name, module, function = re.fullmatch(r"(\w+) = ([\w.]+):(\w+)", script).groups()  # type: ignore[union-attr]
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        names.add(name)
    assert names == {"camera_node", "depth_node", "evaluation_node", "replay_node", "dualfocus"}


def test_one_version_and_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    given, package = _setup_arguments(monkeypatch), _package_xml()
    assert package.get("format") == "3"
    for tag, key in (("name", "name"), ("version", "version"), ("license", "license")):
        assert package.findtext(tag) == given[key]
    assert package.findtext("export/build_type") == "ament_python"


def test_every_import_is_declared_in_package_xml() -> None:
    own = {"dualfocus_ros"} | set(sys.stdlib_module_names)
    declared = _depends("exec_depend")
    for path in [*(ROOT / "dualfocus_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        if "learning" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in {n.partition(".")[0] for n in names} - own:
                assert ROSDEP.get(name, name) in declared, f"{path.name} imports {name}"


@pytest.mark.parametrize("release", ["kilted", "jazzy"])
def test_lock_pins_everything_and_names_no_host(release: str) -> None:
    lines = (ROOT / "requirements" / f"{release}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(
        re.fullmatch(r"[a-z0-9.-]+==[\w.]+( ; python_full_version [<>=]+ '3\.\d+(\.\*)?')?", p) for p in pins
    )
    names = {p.partition("==")[0] for p in pins}
    prefix = "ros-" if release == "kilted" else "ros-jazzy-"
    assert {f"{prefix}rclpy", "ros-rmw-fastrtps-cpp", "numpy", "opencv-python-headless", "pytest"} <= names


def test_setup_cfg_puts_executables_where_ros2_run_looks() -> None:
    text = (ROOT / "setup.cfg").read_text()
    assert "script_dir=$base/lib/dualfocus_ros" in text
    assert "install_scripts=$base/lib/dualfocus_ros" in text


def test_files_that_the_readme_names_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert len(links) >= 3
    assert [link for link in links if not (ROOT / link).is_file()] == []
