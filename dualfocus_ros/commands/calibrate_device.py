# SPDX-License-Identifier: Apache-2.0
"""The device that a calibration works with: its options, its settings, and where its images come from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualfocus_ros.camera.device import DeviceConfig, FocusDevice


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--camera NAME` and `-p NAME:=VALUE`."""
    parser.add_argument(
        "--camera",
        default="v4l2",
        metavar="NAME",
        help="driver: v4l2, picamera2, depthai, genicam, optotune, or simulated_lens to rehearse",
    )
    parser.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="setting of the driver, as in docs/parameters.md without its prefix; may be given several times",
    )


def device_settings(camera: str, assignments: list[str], lens: str = "") -> DeviceConfig:
    """Return the settings of a driver with assignments (NAME:=VALUE) put in.

    Raises:
        CameraError: if there is no such driver.
        ParameterError: if a name is not one of the driver's, or a value is not of its type.
    """
    import dataclasses
    import difflib

    import yaml

    from dualfocus_ros.camera.pick import device_config
    from dualfocus_ros.errors import ParameterError

    config = device_config(camera)
    kinds = {f.name: type(f.default) for f in dataclasses.fields(config)}
    given: dict[str, object] = {"lens": lens} if lens and "lens" in kinds else {}
    for text in assignments:
        name, separator, value = text.partition(":=")
        if not separator:
            raise ParameterError(f"expected a parameter as NAME:=VALUE, got {text!r}")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(kinds)}"
            raise ParameterError(f"the camera {camera!r} has no parameter {name!r}: {hint}")
        read = value if kinds[name] is str else yaml.safe_load(value)
        if kinds[name] is float and isinstance(read, int) and not isinstance(read, bool):
            read = float(read)
        if type(read) is not kinds[name]:
            raise ParameterError(f"expected {name} to be of type {kinds[name].__name__}, got {value!r}")
        given[name] = read
    return config(**given)  # type: ignore[arg-type]


@contextmanager
def opened(camera: str, config: DeviceConfig) -> Iterator[FocusDevice]:
    """Yield the device of a driver, open; where another node has its images, they are subscribed to meanwhile."""
    from dualfocus_ros.camera.pick import make_device

    device = make_device(camera, config)
    if getattr(device, "feed", None) is None:
        with device:
            yield device
        return
    from dualfocus_ros.nodes.image_feed import feeding

    with feeding(device, config), device:
        yield device
