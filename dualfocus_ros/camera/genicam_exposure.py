# SPDX-License-Identifier: Apache-2.0
"""Exposure, gain, white balance, frame rate and triggers of a GenICam camera: set, and held during a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from dualfocus_ros.camera.device import DeviceConfig
from dualfocus_ros.camera.genicam_nodes import Nodes
from dualfocus_ros.camera.genicam_time import EXPOSURES
from dualfocus_ros.errors import CameraError

RATES = ("AcquisitionFrameRate", "AcquisitionFrameRateAbs")
# The rate that a camera reaches may be this much lower than asked before it is worth a note.
SAME_RATE = 0.95


@dataclass(frozen=True)
class Automatic:
    """An automatic, the features whose values it finds, and their selector with its entries."""

    what: str
    switch: str
    values: tuple[str, ...]
    selector: str = ""
    entries: tuple[str, ...] = ()


EXPOSURE = Automatic("exposure time", "ExposureAuto", EXPOSURES)
GAIN = Automatic("gain", "GainAuto", ("Gain", "GainRaw"))
WHITE_BALANCE = Automatic(
    "white balance",
    "BalanceWhiteAuto",
    ("BalanceRatio", "BalanceRatioAbs"),
    "BalanceRatioSelector",
    ("Red", "Green", "Blue"),
)
AUTOMATICS = (EXPOSURE, GAIN, WHITE_BALANCE)


def run_freely(nodes: Nodes, rate_hz: float) -> None:
    """Have the camera expose all the time, at this rate where it can, without triggers."""
    nodes.set("AcquisitionMode", "Continuous")
    for entry in nodes.entries("TriggerSelector"):
        with nodes.selected("TriggerSelector", entry):
            nodes.set("TriggerMode", "Off", ("TriggerSelector", entry))
    if not nodes.has("TriggerSelector"):
        nodes.set("TriggerMode", "Off")
    nodes.set("ExposureMode", "Timed")
    nodes.set("AcquisitionFrameRateEnable", True)
    if not any([nodes.set_nearest(name, rate_hz) for name in RATES if nodes.has(name)]):
        nodes.note("the camera does not let its frame rate be set")


def prepare(nodes: Nodes, config: DeviceConfig, camera: str) -> bool:
    """Set what the settings give, turn on the automatics that are to find the rest; say whether any runs.

    Raises:
        CameraError: if a given exposure or gain is out of the camera's range.
        DeviceError: if the camera is lost.
    """
    given = {EXPOSURE.what: config.exposure_s * 1e6, GAIN.what: config.gain}
    running = False
    for automatic in AUTOMATICS:
        if given.get(automatic.what, 0.0) > 0.0:
            _remember(nodes, automatic)
            _set_given(nodes, automatic, given[automatic.what], camera)
        elif config.hold_exposure:
            _remember(nodes, automatic)
            if automatic is EXPOSURE:
                # Else a dark scene lowers the frame rate.
                nodes.set_nearest("AutoExposureTimeUpperLimit", 1e6 / config.rate_hz)
            running |= "Continuous" in nodes.entries(automatic.switch) and nodes.set(
                automatic.switch, "Continuous"
            )
    return running


def hold(nodes: Nodes, config: DeviceConfig) -> bool:
    """Turn the automatics off, which keep what they found; say whether the exposure time is held.

    Raises:
        DeviceError: if the camera is lost.
    """
    for automatic in AUTOMATICS:
        found = nodes.read(automatic.switch)
        if config.hold_exposure and found not in (None, "Off") and not nodes.set(automatic.switch, "Off"):
            nodes.note(f"{automatic.switch} cannot be turned off: the {automatic.what} is not held")
    return nodes.read(EXPOSURE.switch) in (None, "Off")


def _remember(nodes: Nodes, automatic: Automatic) -> None:
    """Remember the values before the switch: they can be written only while that is off."""
    if automatic.selector:
        for entry in automatic.entries:
            if entry in nodes.entries(automatic.selector):
                with nodes.selected(automatic.selector, entry):
                    for name in automatic.values:
                        nodes.remember(name, (automatic.selector, entry))
    else:
        for name in automatic.values:
            nodes.remember(name)
    nodes.remember(automatic.switch)


def _set_given(nodes: Nodes, automatic: Automatic, value: float, camera: str) -> None:
    if nodes.read(automatic.switch) not in (None, "Off") and not nodes.set(automatic.switch, "Off"):
        nodes.note(f"{automatic.switch} cannot be turned off: the {automatic.what} asked for may not hold")
    name = nodes.first(*automatic.values)
    limits = nodes.limits(name) if name else None
    if name is None or limits is None:
        nodes.note(f"the camera does not let its {automatic.what} be set")
        return
    if not limits.low <= value <= limits.high:
        reach = f"{limits.low:g} .. {limits.high:g} {nodes.unit(name)}"
        raise CameraError(
            f"{camera}: expected the {automatic.what} within {reach}, the range of {name}, got {value:g}"
        )
    if not nodes.set_nearest(name, value):
        nodes.note(f"the camera does not take {name} {value:g}")
