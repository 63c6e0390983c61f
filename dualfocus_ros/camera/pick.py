# SPDX-License-Identifier: Apache-2.0
"""Chooses a camera by name. A driver, and what it needs, is imported only when it is chosen."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from dualfocus_ros.camera.base import FocusCamera
from dualfocus_ros.camera.device import DeviceConfig, FocusDevice
from dualfocus_ros.errors import CameraError

# name -> (module, camera class, config class), imported when chosen: cameras that know metres by themselves.
CAMERAS: dict[str, tuple[str, str, str]] = {
    "simulated": ("dualfocus_ros.camera.simulated", "SimulatedCamera", "SimulatedConfig"),
    "folder": ("dualfocus_ros.camera.folder", "FolderCamera", "FolderConfig"),
}
# The same of devices whose lens moves in units of its own: a lens file makes cameras of them.
DEVICES: dict[str, tuple[str, str, str]] = {
    "v4l2": ("dualfocus_ros.camera.v4l2", "V4l2Device", "V4l2Config"),
    "picamera2": ("dualfocus_ros.camera.picamera2", "Picamera2Device", "Picamera2Config"),
    "depthai": ("dualfocus_ros.camera.depthai", "DepthaiDevice", "DepthaiConfig"),
    "genicam": ("dualfocus_ros.camera.genicam", "GenicamDevice", "GenicamConfig"),
    "optotune": ("dualfocus_ros.camera.optotune", "OptotuneDevice", "OptotuneConfig"),
    "simulated_lens": ("dualfocus_ros.camera.simulated_lens", "SimulatedLensDevice", "SimulatedLensConfig"),
}
# What their libraries are called and how to get them; empty: they need none.
LIBRARIES: dict[str, tuple[str, str]] = {
    "v4l2": ("linuxpy", "pip install linuxpy"),
    "picamera2": ("picamera2", "sudo apt install python3-picamera2"),
    "depthai": ("depthai", "pip install depthai"),
    "genicam": ("pypylon", "pip install pypylon"),
    "optotune": ("serial", "sudo apt install python3-serial, or pip install pyserial"),
    "simulated_lens": ("", ""),
}
DEVICE_CHOICES: tuple[str, ...] = tuple(DEVICES)
CAMERA_CHOICES: tuple[str, ...] = (*CAMERAS, *DEVICES)


def config_class(name: str) -> type[Any]:
    """Return the dataclass that holds the settings of the camera of that name.

    Raises:
        CameraError: if there is no camera of that name.
    """
    module, _, config = _entry(name, {**CAMERAS, **DEVICES})
    found: type[Any] = getattr(importlib.import_module(module), config)
    return found


def make_camera(name: str, config: Any = None) -> FocusCamera:
    """Return the camera of that name, not yet entered.

    Args:
        name: a key of `CAMERAS`, or of `DEVICES`, which becomes a camera by the lens file that its config names.
        config: an object of `config_class(name)`; None: its defaults.

    Raises:
        CameraError: if there is no camera of that name, or the config is another camera's.
        ParameterError: if a default of the config is not usable.
        CalibrationError: if the lens file of a device is missing or not usable.
    """
    if name in DEVICES:
        from dualfocus_ros.camera.hardware import HardwareCamera
        from dualfocus_ros.lens_file import load_lens

        config = _checked(name, config)
        return HardwareCamera(make_device(name, config), load_lens(config.lens), config)
    made: FocusCamera = _make(name, _checked(name, config), {**CAMERAS, **DEVICES})
    return made


def make_device(name: str, config: Any = None) -> FocusDevice:
    """Return the device of that name, not yet entered.

    Args:
        name: a key of `DEVICES`.
        config: an object of `config_class(name)`; None: its defaults.

    Raises:
        CameraError: if there is no device of that name, or the config is another camera's.
    """
    _entry(name, DEVICES)
    made: FocusDevice = _make(name, _checked(name, config), DEVICES)
    return made


def device_config(name: str) -> type[DeviceConfig]:
    """Return the dataclass that holds the settings of the device of that name.

    Raises:
        CameraError: if there is no device of that name.
    """
    _entry(name, DEVICES)
    return config_class(name)


def _checked(name: str, config: Any) -> Any:
    """Return the config, the default one for None, of the class that this camera takes."""
    expected = config_class(name)
    if config is None:
        return expected()
    if not isinstance(config, expected):
        raise CameraError(
            f"expected the camera {name!r} to get a {expected.__name__}, got a {type(config).__name__}"
        )
    return config


def _make(name: str, config: Any, table: Mapping[str, tuple[str, str, str]]) -> Any:
    module, made, _ = _entry(name, table)
    return getattr(importlib.import_module(module), made)(config)


def _entry(name: str, table: Mapping[str, tuple[str, str, str]]) -> tuple[str, str, str]:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CameraError(f"expected camera to be one of {list(table)}, got {name!r}{hint}")
    return table[name]
