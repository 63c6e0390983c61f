# SPDX-License-Identifier: Apache-2.0
"""Runs style, types, tests and the check of the installed package; the last line counts tests over all parts.

Usage: python scripts/run_tests.py [--jobs N] [--only lint|unit|learning|fields|colcon]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("lint", "unit", "learning", "fields", "colcon")
BIN = Path(sys.executable).parent


def lint(reports: Path, jobs: int) -> bool:
    """Check style, formatting and types; each runs, whatever the others say."""
    commands = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])
    return all([run([str(BIN / command[0]), *command[1:]]) for command in commands])


def unit(reports: Path, jobs: int) -> bool:
    """Run every test but those of learning, module by module on `jobs` processes."""
    options = ["-n", str(jobs), "--dist", "loadscope", "--ignore", "test/learning"]
    return pytest(reports / "unit.xml", options)


def learning(reports: Path, jobs: int) -> bool:
    """Run the tests of learning; on their own, since they would starve nodes that run in real time beside them."""
    if importlib.util.find_spec("torch") is None:
        print("left out: PyTorch is not installed, see `make help`")
        return True
    return pytest(reports / "learning.xml", ["-n", str(jobs), "--dist", "loadscope", "test/learning"])


def fields(reports: Path, jobs: int) -> bool:
    """Run what touches messages once more, with rclpy checking the type of every message field.

    It never does so on Kilted by itself, and always on Humble.
    """
    paths = [
        "test/ros",
        *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "test").glob("test_messages*.py"))),
    ]
    # Their messages are those of the others, and each takes a minute.
    long = ("test_device_loss", "test_camera_recovery", "test_shutdown", "test_commands")
    left_out = [f"--ignore=test/ros/{name}.py" for name in long]
    options = ["-n", str(jobs), "--dist", "loadscope", *left_out, *paths]
    return pytest(reports / "fields.xml", options, ROS_PYTHON_CHECK_FIELDS="1")


def colcon(reports: Path, jobs: int) -> bool:
    """Build, install, run and test the package as a ROS 2 workspace does."""
    return run(["bash", "scripts/colcon_check.sh", str(reports / "colcon.xml")])


def pytest(report: Path, options: list[str], **environ: str) -> bool:
    """Run pytest with a report for the count."""
    return run([sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *options], **environ)


def run(command: list[str], **environ: str) -> bool:
    """Run a command in the checkout; return whether it succeeded."""
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, check=False).returncode == 0


def count(reports: Path) -> tuple[int, int, int]:
    """Return passed, failed and skipped tests over all reports."""
    total = failed = skipped = 0
    for report in reports.glob("*.xml"):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def main() -> int:
    """Run the parts asked for; return 0 if all succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="test processes (default: 2)")
    parser.add_argument("--only", choices=PARTS, help="one part only")
    args = parser.parse_args()
    import rclpy  # noqa: F401 - the tests of the nodes would all be skipped without it

    functions = {"lint": lint, "unit": unit, "learning": learning, "fields": fields, "colcon": colcon}
    broken = []
    with tempfile.TemporaryDirectory(prefix="dualfocus_ros_tests_") as folder:
        for part in [args.only] if args.only else PARTS:
            print(f"== {part}", flush=True)
            start = time.monotonic()
            if not functions[part](Path(folder), args.jobs):
                broken.append(part)
            print(
                f"== {part}: {'FAILED' if part in broken else 'ok'}, {time.monotonic() - start:.0f} s", flush=True
            )
        passed, failed, skipped = count(Path(folder))
    if args.only == "lint":
        return int(bool(broken))
    if not passed + failed:
        broken.append("no test ran")
    if broken:
        print(f"FAILED: {', '.join(broken)}")
    # A part can fail without a failed test (style, a build): it must not read as success.
    print(f"{passed} passed, {max(failed, len(broken))} failed, {skipped} skipped")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
