# SPDX-License-Identifier: Apache-2.0
"""The lens at a GenICam camera.

Features of the SFNC 2.7.1, category OpticControl (23.4): OpticControllerInitialize, FocusInitialize, the states
OpticControllerStatus and FocusStatus (Basler: Busy, NotBusy, NotInitialized), FocalPower in dioptres, and
FocusStepper in steps, where 0 is the closest focus. Basler cameras from before it have LensConnection and
LensOpticalPower; their FocusStepper is no position but the step of their autofocus, in dioptres.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from dualfocus_ros.camera.device import ActuatorRange
from dualfocus_ros.camera.genicam_nodes import Nodes
from dualfocus_ros.errors import CameraError, DeviceError, LensError

AUTO = "auto"
FOCUS_NODES = ("FocalPower", "LensOpticalPower", "FocusStepper")
UNITS = {"FocalPower": "dpt", "LensOpticalPower": "dpt", "FocusStepper": "steps"}
STATES = ("FocusStatus", "OpticControllerStatus")
TEMPERATURES = ("OpticControllerTemperature", "DeviceTemperature", "TemperatureAbs")
# A stepper finds its end stops when it is initialised.
INITIALIZE_S = 20.0
# Some lenses take no command while they move.
BUSY_S = 3.0
POLL_S = 0.01
# How long a temperature counts.
TEMPERATURE_AGE_S = 1.0


class GenicamLens:
    """The focus of a camera that moves its lens. One thread uses it.

    Attributes:
        reach: positions that it takes.
    """

    def __init__(self, nodes: Nodes, focus_node: str, camera: str, check: Callable[[], None]) -> None:
        """Take the lens over: initialise it where it is not yet, and turn autofocus off.

        Args:
            nodes: of the camera.
            focus_node: name of the feature that sets the focus; auto: the first of `FOCUS_NODES`.
            camera: what to call the camera in errors.
            check: raises DeviceError where waiting is to end.

        Raises:
            CameraError: if the camera moves no lens.
            DeviceError: if no lens is connected, or it does not get ready.
        """
        self._nodes, self._camera, self._check = nodes, camera, check
        self._temperature_c: float | None = None
        self._temperature_at_s = -TEMPERATURE_AGE_S
        self._initialize()
        for switch in ("FocusAuto", "FocusAutoMode"):
            if "Off" in nodes.entries(switch):
                nodes.set(switch, "Off")
        self.name = self._choose(focus_node)
        limits = nodes.limits(self.name)
        if limits is None or not nodes.writable(self.name):
            raise DeviceError(
                f"{camera}: expected {self.name} to have a range and to be writable: is the lens connected?"
            )
        unit = UNITS.get(self.name) or nodes.unit(self.name)
        self.reach = ActuatorRange(limits.low, limits.high, limits.step, unit)
        nodes.remember(self.name)
        self._whole = isinstance(nodes.read(self.name), int)

    def move_to(self, position: float) -> None:
        """Command a position; a lens that takes no command while it moves is waited for.

        Raises:
            LensError: if it is not within the range.
            DeviceError: if the lens refuses, or the camera is lost.
        """
        reach = self.reach
        slack = 0.5 * reach.step
        if not reach.low - slack <= position <= reach.high + slack:
            raise LensError(
                f"expected a position within {reach.low:g} .. {reach.high:g} {reach.unit}, got {position}"
            )
        nearest = reach.nearest(position)
        until = time.monotonic() + BUSY_S
        while not self._nodes.write(self.name, round(nearest) if self._whole else nearest):
            if time.monotonic() > until:
                raise DeviceError(f"{self._camera}: {self.name} does not take {nearest:g} {reach.unit}")
            self._check()
            time.sleep(POLL_S)

    def position(self) -> float | None:
        """Return the position that the camera tells: of some where the lens is, of others where it shall be."""
        value = self._nodes.read(self.name)
        return None if value is None else float(value)

    def moving(self) -> bool | None:
        """Say whether the camera says that the lens moves; None: it does not say.

        Raises:
            DeviceError: if it says that the lens failed, or is lost.
        """
        state = self._state()
        if state in ("Error", "NotConnected", "NotInitialized"):
            raise DeviceError(f"{self._camera}: the lens says {state}: is it connected, and not blocked?")
        return None if state is None else state == "Busy"

    def temperature_c(self) -> float | None:
        """Return the temperature of the lens, else of the camera, degrees Celsius; None: not known."""
        now = time.monotonic()
        if now >= self._temperature_at_s + TEMPERATURE_AGE_S:
            self._temperature_at_s = now
            found = self._nodes.first(*TEMPERATURES)
            self._temperature_c = float(self._nodes.read(found)) if found else None
        return self._temperature_c

    def come_to_rest(self) -> None:
        """Wait until the lens stands, for a while: until then it may not take where it was. Raises nothing."""
        until = time.monotonic() + BUSY_S
        with suppress(CameraError):
            while self.moving() and time.monotonic() < until:
                self._check()
                time.sleep(POLL_S)

    def _initialize(self) -> None:
        nodes = self._nodes
        if "Connect" in nodes.entries("LensConnection") and nodes.read("LensConnection") != "Connect":
            nodes.set("LensConnection", "Connect")
            self._wait_connected()
        for command, status in (("OpticControllerInitialize", STATES[1]), ("FocusInitialize", STATES[0])):
            if nodes.has(command) and nodes.read(status) in (None, "NotInitialized"):
                nodes.execute(command)
                self._wait_ready(command)

    def _wait_connected(self) -> None:
        until = time.monotonic() + BUSY_S
        while not any(self._nodes.writable(name) for name in FOCUS_NODES) and time.monotonic() < until:
            self._check()
            time.sleep(POLL_S)

    def _wait_ready(self, command: str) -> None:
        until = time.monotonic() + INITIALIZE_S
        while True:
            state = self._state()
            if state == "NotSupported":
                raise CameraError(f"{self._camera}: the camera does not support the lens that is connected")
            if state in ("Error", "NotConnected"):
                raise DeviceError(f"{self._camera}: the lens says {state}: is it connected, and not blocked?")
            if state not in ("Busy", "NotInitialized"):
                return
            if time.monotonic() > until:
                raise DeviceError(f"{self._camera}: {command}: the lens says {state} after {INITIALIZE_S:g} s")
            self._check()
            time.sleep(POLL_S)

    def _state(self) -> str | None:
        """Return the state of the focus, else of the controller."""
        found = [state for state in map(self._nodes.read, STATES) if state is not None]
        # Either may be the one that is not ready.
        return next((s for s in found if s not in ("Ready", "NotBusy")), found[0] if found else None)

    def _choose(self, wanted: str) -> str:
        names = FOCUS_NODES if wanted == AUTO else (wanted,)
        for name in names:
            value = self._nodes.read(name)
            # An autofocus' step is a number with a fraction, see above.
            if value is not None and (wanted != AUTO or name != "FocusStepper" or isinstance(value, int)):
                return name
        known = [name for name in names if self._nodes.has(name)]
        if known:
            raise DeviceError(f"{self._camera}: {known[0]} cannot be used: is the lens connected?")
        raise CameraError(
            f"{self._camera}: expected a camera that moves its lens, this one has no {' or '.join(names)}; a lens "
            "with a controller of its own needs another driver (optotune)"
        )
