# SPDX-License-Identifier: Apache-2.0
"""Chooses a camera by name. A driver, and what it needs, is imported only when it is chosen."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from dualfocus_ros.camera.base import FocusCamera
from dualfocus_ros.errors import CameraError

# name -> (module, camera class, config class), imported when chosen.
CAMERAS: dict[str, tuple[str, str, str]] = {
    "simulated": ("dualfocus_ros.camera.simulated", "SimulatedCamera", "SimulatedConfig"),
    "folder": ("dualfocus_ros.camera.folder", "FolderCamera", "FolderConfig"),
}
CAMERA_CHOICES: tuple[str, ...] = tuple(CAMERAS)


def config_class(name: str) -> type[Any]:
    """Return the dataclass that holds the settings of the camera of that name.

    Raises:
        CameraError: if there is no camera of that name.
    """
    module, _, config = _entry(name)
    found: type[Any] = getattr(importlib.import_module(module), config)
    return found


def make_camera(name: str, config: Any = None) -> FocusCamera:
    """Return the camera of that name, not yet entered.

    Args:
        name: a key of `CAMERAS`.
        config: an object of `config_class(name)`; None: its defaults.

    Raises:
        CameraError: if there is no camera of that name, or the config is another camera's.
        ParameterError: if a default of the config is not usable.
    """
    module, camera, _ = _entry(name)
    expected = config_class(name)
    if config is None:
        config = expected()
    if not isinstance(config, expected):
        raise CameraError(
            f"expected the camera {name!r} to get a {expected.__name__}, got a {type(config).__name__}"
        )
    made: FocusCamera = getattr(importlib.import_module(module), camera)(config)
    return made


def _entry(name: str) -> tuple[str, str, str]:
    if name not in CAMERAS:
        near = difflib.get_close_matches(name, CAMERAS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CameraError(f"expected camera to be one of {list(CAMERAS)}, got {name!r}{hint}")
    return CAMERAS[name]
