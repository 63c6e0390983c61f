# SPDX-License-Identifier: Apache-2.0
"""`doctor`: what is installed and usable, and what is missing, in plain words."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NAME = "doctor"
HELP = "say what is installed and usable here, and what is missing"

OK, MISSING, OPTIONAL = "ok", "MISSING", "-"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `state` is OK, MISSING (needed) or OPTIONAL (not there, not needed)."""

    topic: str
    state: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 if something that the nodes need is missing."""
    findings = examine()
    width = max(len(f.topic) for f in findings)
    for f in findings:
        print(f"{f.state:>7}  {f.topic:<{width}}  {f.text}")
    missing = [f.topic for f in findings if f.state == MISSING]
    print()
    if missing:
        print(f"not ready: {', '.join(missing)}")
        return 1
    print("ready: everything that the nodes need is here")
    return 0


def examine() -> list[Finding]:
    """Return all findings; no check of one thing can fail the others."""
    findings: list[Finding] = []
    for check in (
        _python,
        _libraries,
        _recordings,
        _files,
        _ros,
        _messages,
        _dds,
        _bridge,
        _runtime,
        _models,
        _engines,
        _gpu,
        _cameras,
    ):
        findings += _guarded(check)
    return findings


def _guarded(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - a broken installation is what this command is for
        text = f"cannot be examined: {type(error).__name__}: {error}"
        return [Finding(check.__name__.strip("_"), MISSING, text)]


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 10)
    text = f"{platform.python_version()} on {platform.machine()}"
    yield Finding("Python", OK if good else MISSING, text if good else f"{text}: expected 3.10 or newer")


def _libraries() -> Iterator[Finding]:
    for module, package, needed in (
        ("numpy", "python3-numpy", True),
        ("cv2", "python3-opencv", True),
        ("yaml", "python3-yaml", True),
        ("tabulate", "python3-tabulate", True),
        ("matplotlib", "python3-matplotlib", True),
        ("tqdm", "python3-tqdm", False),
        ("scipy", "python3-scipy", False),
        ("jinja2", "python3-jinja2", False),
    ):
        if importlib.util.find_spec(module) is None:
            yield Finding(module, MISSING if needed else OPTIONAL, f"not installed: apt install {package}, or pip")
        else:
            yield Finding(module, OK, str(getattr(importlib.import_module(module), "__version__", "")))


def _recordings() -> Iterator[Finding]:
    import importlib.metadata as metadata

    missing = [p for p in ("rosbags", "mcap", "zstandard") if importlib.util.find_spec(p) is None]
    if missing:
        text = (
            f"not installed, record, replay and evaluate of recordings cannot run: pip install {' '.join(missing)}"
        )
        yield Finding("recordings", OPTIONAL, text)
    else:
        yield Finding("recordings", OK, f"rosbags {metadata.version('rosbags')}, mcap {metadata.version('mcap')}")


def _files() -> Iterator[Finding]:
    from dualfocus_ros.errors import DualFocusError
    from dualfocus_ros.share import share_directory

    try:
        yield Finding("package files", OK, str(share_directory()))
    except DualFocusError as error:
        yield Finding("package files", MISSING, str(error))


def _ros() -> Iterator[Finding]:
    if importlib.util.find_spec("rclpy") is None:
        yield Finding("rclpy", MISSING, "not installed: source /opt/ros/DISTRO/setup.bash, or make setup")
        return
    import importlib.metadata as metadata

    import rclpy
    from rclpy.utilities import get_rmw_implementation_identifier

    try:
        version = metadata.version("rclpy")
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    distro = os.environ.get("ROS_DISTRO") or "not sourced (wheels)"
    yield Finding("rclpy", OK, f"{version}, ROS distribution: {distro}")
    rclpy.init(args=[])
    try:
        yield Finding("middleware", OK, get_rmw_implementation_identifier())
    finally:
        rclpy.try_shutdown()


def _messages() -> Iterator[Finding]:
    for package in ("sensor_msgs", "std_srvs", "diagnostic_msgs"):
        if importlib.util.find_spec(package) is None:
            yield Finding(package, MISSING, f"not installed: apt install ros-DISTRO-{package.replace('_', '-')}")
        else:
            yield Finding(package, OK, "")


def _dds() -> Iterator[Finding]:
    from dualfocus_ros.dds import check_profile

    result = check_profile()
    # Not MISSING: launch files and the demo put the profile in force themselves.
    yield Finding("Fast DDS profile", OK if result.ok else OPTIONAL, result.text)
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        text = f"{free / 2**20:.0f} MiB free in shared memory"
        if free < 64 * 2**20:
            text += ", expected 64: give a container --shm-size=256m or --ipc=host"
            yield Finding("shared memory", MISSING, text)
        else:
            yield Finding("shared memory", OK, text)


def _bridge() -> Iterator[Finding]:
    if importlib.util.find_spec("cv_bridge") and importlib.util.find_spec("cv_bridge.boost"):
        yield Finding("cv_bridge", OK, "converts images")
    else:
        yield Finding("cv_bridge", OPTIONAL, "not here: images are converted by OpenCV itself, with equal results")


def _runtime() -> Iterator[Finding]:
    if importlib.util.find_spec("onnxruntime") is None:
        remedy = (
            "pip install onnxruntime (or onnxruntime-gpu); engine:=classical or --engine classical works without"
        )
        yield Finding("onnxruntime", OPTIONAL, f"not installed, the network cannot run: {remedy}")
        return
    runtime = importlib.import_module("onnxruntime")
    yield Finding("onnxruntime", OK, f"{runtime.__version__}, {', '.join(runtime.get_available_providers())}")


def _models() -> Iterator[Finding]:
    from dualfocus_ros.engine.manifest import list_models, load_manifest, models_folder
    from dualfocus_ros.engine.onnx import OnnxEngine
    from dualfocus_ros.engine.selfcheck import self_check
    from dualfocus_ros.errors import DualFocusError

    runs = importlib.util.find_spec("onnxruntime") is not None
    paths = list_models(models_folder())
    if not paths:
        yield Finding("models", OPTIONAL, f"none in {models_folder()}: the network cannot run without one")
    for path in paths:
        try:
            manifest = load_manifest(path)
            text = manifest.summary()
            if runs and manifest.self_check is not None:
                with OnnxEngine(path) as engine:
                    text += f"; self-check passed, {100 * (self_check(engine, manifest) or 0.0):.1g} % off"
            yield Finding(f"model {path.stem}", OK, text)
        except DualFocusError as error:
            yield Finding(f"model {path.stem}", MISSING, str(error))


def _engines() -> Iterator[Finding]:
    from dualfocus_ros.engine.pick import AUTO, ENGINE_CHOICES, make_engine
    from dualfocus_ros.errors import DualFocusError

    for name in ENGINE_CHOICES:
        try:
            with make_engine(name) as engine:
                own = "" if engine.name == name else f"{engine.name}, "
                yield Finding(f"engine {name}", OK, f"{own}runs on {engine.device}")
        except DualFocusError as error:
            # What the nodes run by default must run.
            yield Finding(f"engine {name}", MISSING if name == AUTO else OPTIONAL, str(error))


def _gpu() -> Iterator[Finding]:
    jetson = Path("/etc/nv_tegra_release")
    if jetson.is_file():
        yield Finding("GPU", OK, "Jetson, " + jetson.read_text(encoding="utf-8").splitlines()[0].strip("# "))
        return
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Finding("GPU", OPTIONAL, "no NVIDIA GPU (no nvidia-smi): every engine runs on the CPU")
        return
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    found = result.stdout.strip().replace("\n", "; ")
    yield Finding("GPU", OK if found and result.returncode == 0 else OPTIONAL, found or result.stderr.strip())


def _cameras() -> Iterator[Finding]:
    from dualfocus_ros.camera.pick import CAMERAS, LIBRARIES
    from dualfocus_ros.lens_file import list_lenses

    yield Finding("camera drivers", OK, ", ".join(CAMERAS))
    for name, (module, remedy) in LIBRARIES.items():
        there = not module or importlib.util.find_spec(module) is not None
        text = f"needs {module}, not installed: {remedy}" if not there else module and f"{module} is installed"
        yield Finding(f"camera driver {name}", OK if there else OPTIONAL, text)
    yield Finding("lens files", OK, ", ".join(list_lenses()))
    names = [
        f"/dev/{p.name} ({(p / 'name').read_text(encoding='utf-8').strip()})"
        for p in sorted(Path("/sys/class/video4linux").glob("video*"))
    ]
    if names:
        yield Finding("camera devices", OK, "; ".join(names))
    else:
        yield Finding("camera devices", OPTIONAL, "none: the simulated and the folder camera work without")
