# SPDX-License-Identifier: Apache-2.0
"""The ROS environment of the tests: never the network, a domain of its own per worker, the DDS profile."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from pathlib import Path
from typing import IO

# Several test processes share the cores: threads of BLAS that wait for each other would take most of them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from dualfocus_ros import dds

# Above 101 the ports of a domain overlap with those that Linux hands out to anybody.
DOMAINS = 101
_held: list[IO[str]] = []


def claim_domain() -> int:
    """Return a ROS domain id that no other test process on this machine uses, until this process ends."""
    for offset in range(DOMAINS):
        domain = 1 + (os.getpid() + offset) % DOMAINS
        try:
            lock = open(Path(tempfile.gettempdir()) / f"dualfocus_ros_domain_{domain}.lock", "w")  # noqa: SIM115
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        _held.append(lock)
        return domain
    raise RuntimeError(f"no free ROS domain id in 1..{DOMAINS}: are that many tests running?")


def pytest_configure(config: pytest.Config) -> None:
    """Set what every node that a test starts must see, before rclpy is imported."""
    # A ROS installation has set it; the wheels' environment is a prefix of its own but sets nothing.
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    if (Path(sys.prefix) / "share" / "ament_index").is_dir() and sys.prefix not in prefixes:
        prefixes.append(sys.prefix)
    if prefixes:
        os.environ["AMENT_PREFIX_PATH"] = os.pathsep.join(prefixes)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if os.environ.get("ROS_DISTRO") == "humble":  # knows only this
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    os.environ["ROS_DOMAIN_ID"] = str(claim_domain())
    if "ROS_LOG_DIR" not in os.environ:
        os.environ["ROS_LOG_DIR"] = str(Path(tempfile.gettempdir()) / f"dualfocus_ros_log_{os.getuid()}")
    dds.use_profile()
