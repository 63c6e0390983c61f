# SPDX-License-Identifier: Apache-2.0
"""The camera behind `v4l2_stand_in`: controls with automatics, a lens that lags, a rolling shutter at a rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

Bgr = npt.NDArray[np.uint8]


@dataclass
class FakeControl:
    """A control of linuxpy's ControlID `key`.

    `master` is the switch that must be at `manual` for writes; `follows` the switch that moves the value to
    `target` while it is at one of `automatic`.
    """

    key: str
    name: str
    value: int
    minimum: int = 0
    maximum: int = 1
    step: int = 1
    kind: str = "BOOLEAN"
    menu: tuple[int, ...] = ()
    master: str = ""
    manual: int = 0
    follows: str = ""
    automatic: tuple[int, ...] = (1,)
    target: int = 0
    default: int = field(init=False)
    last_manual: int = field(init=False)

    def __post_init__(self) -> None:
        self.default = self.last_manual = self.value


def uvc_controls(*, new_names: bool = True, without: Iterable[str] = (), **values: int) -> dict[str, FakeControl]:
    """Return the controls of a camera like the C920; `values` are those it powers up with, by key."""
    made = [
        FakeControl(
            "EXPOSURE_AUTO", ("Exposure, Auto", "Auto Exposure")[new_names], 3, 0, 3, 1, "MENU", menu=(1, 3)
        ),
        FakeControl(
            "EXPOSURE_ABSOLUTE",
            ("Exposure (Absolute)", "Exposure Time, Absolute")[new_names],
            25,
            3,
            2047,
            1,
            "INTEGER",
            master="EXPOSURE_AUTO",
            manual=1,
            follows="EXPOSURE_AUTO",
            automatic=(0, 3),
            target=17,
        ),
        FakeControl(
            "EXPOSURE_AUTO_PRIORITY", ("Exposure, Auto Priority", "Exposure, Dynamic Framerate")[new_names], 1
        ),
        FakeControl(
            "GAIN", "Gain", 10, 0, 255, 1, "INTEGER", follows="EXPOSURE_AUTO", automatic=(0, 3), target=64
        ),
        FakeControl(
            "AUTO_WHITE_BALANCE", ("White Balance Temperature, Auto", "White Balance, Automatic")[new_names], 1
        ),
        FakeControl(
            "WHITE_BALANCE_TEMPERATURE",
            "White Balance Temperature",
            4000,
            2000,
            6500,
            1,
            "INTEGER",
            master="AUTO_WHITE_BALANCE",
            follows="AUTO_WHITE_BALANCE",
            target=5200,
        ),
        FakeControl("POWER_LINE_FREQUENCY", "Power Line Frequency", 2, 0, 2, 1, "MENU", menu=(0, 1, 2)),
        FakeControl("FOCUS_AUTO", ("Focus, Auto", "Focus, Automatic Continuous")[new_names], 1),
        FakeControl(
            "FOCUS_ABSOLUTE",
            ("Focus (absolute)", "Focus, Absolute")[new_names],
            30,
            0,
            250,
            5,
            "INTEGER",
            master="FOCUS_AUTO",
        ),
    ]
    controls = {c.key: c for c in made if c.key not in set(without)}
    for key, value in values.items():
        controls[key].value = controls[key].default = controls[key].last_manual = value
    return controls


def vcm_controls() -> dict[str, FakeControl]:
    """Return the control of a lens driver like dw9714: 10 bits, and nothing else."""
    return {"FOCUS_ABSOLUTE": FakeControl("FOCUS_ABSOLUTE", "Focus, Absolute", 0, 0, 1023, 1, "INTEGER")}


@dataclass(frozen=True)
class Shot:
    """What a frame was exposed with, from `start_s` of the first row to `end_s` of the last, CLOCK_MONOTONIC."""

    sequence: int
    position: float
    exposure_s: float
    gain: int
    start_s: float
    end_s: float


def flat_picture(shot: Shot) -> Bgr:
    """Return a grey picture whose brightness is the position of the lens, modulo 256."""
    return np.full((48, 64, 3), round(shot.position) % 256, np.uint8)


class FakeCamera:
    """A camera. Set its public attributes before or while it runs.

    Attributes:
        controls: by key; `lens_controls` those of a lens node of its own, where there is one.
        formats: pixel format -> sizes -> rates in Hz.
        render: makes the picture (H, W, 3) BGR of the size that was set.
        rate_hz: of frames; S_PARM sets it.
        lens_lag_s: time constant of the lens.
        fate: of a frame by its sequence number: good, lost, error, truncated, garbage or short.
        delay_s: how much later than usual a frame is done, by its sequence number.
        stamps: soe, eof, packet (marked SOE, but late, as of uvcvideo), unknown (no clock told) or wild.
        inactive: what writing a value does while its automatic is on: EACCES, EIO or ignored.
        forgetful: turning an automatic off brings back the last manual value.
        waits_for_stream: focus commands before the first frame do nothing.
        shots: of all frames that were handed to a buffer, by sequence.
        focus_log: (time, position, whether the lens obeyed) of all focus commands.
    """

    def __init__(
        self, controls: dict[str, FakeControl] | None = None, render: Callable[[Shot], Bgr] = flat_picture
    ) -> None:
        self.controls = uvc_controls() if controls is None else controls
        self.lens_controls: dict[str, FakeControl] | None = None
        self.render = render
        self.formats: dict[str, dict[tuple[int, int], tuple[float, ...]]] = {
            "YUYV": {(64, 48): (200.0, 100.0), (128, 96): (20.0,)},
            "MJPG": {(64, 48): (200.0,), (128, 96): (200.0,)},
        }
        self.driver, self.card = "uvcvideo", "Fake Camera"
        self.rate_hz = 200.0
        self.lens_lag_s = 0.01
        self.fate: Callable[[int], str] = lambda sequence: "good"
        self.delay_s: Callable[[int], float] = lambda sequence: 0.0
        self.stamps = "soe"
        self.inactive = "EACCES"
        self.forgetful = False
        self.waits_for_stream = True
        self.shots: dict[int, Shot] = {}
        self.focus_log: list[tuple[float, float, bool]] = []
        self.power_up()

    def power_up(self) -> None:
        """Forget everything, as a camera does that was unplugged."""
        self.pixel_format, self.size = next(iter(self.formats)), (64, 48)
        for c in [*self.controls.values(), *(self.lens_controls or {}).values()]:
            c.value = c.last_manual = c.default
        focus = (self.lens_controls or self.controls).get("FOCUS_ABSOLUTE")
        self._moves = [(0.0, float(focus.value if focus else 0))]

    def is_active(self, c: FakeControl) -> bool:
        """Say whether a value can be written now."""
        return not c.master or c.master not in self.controls or self.controls[c.master].value == c.manual

    def write(self, c: FakeControl, value: int, runs: bool, of_lens_node: bool) -> None:
        """Set a control that is active; `runs` says whether frames have come."""
        before, c.value = c.value, value
        if c.key == "FOCUS_ABSOLUTE":
            obeys = runs or of_lens_node or not self.waits_for_stream
            self.focus_log.append((time.monotonic(), float(value), obeys))
            if obeys:
                self._moves.append((time.monotonic(), float(value)))
        for other in self.controls.values():
            if other.follows != c.key:
                continue
            if before not in other.automatic and value in other.automatic:
                other.last_manual = other.value
            elif self.forgetful and before in other.automatic and value not in other.automatic:
                other.value = other.last_manual

    def position(self, at_s: float) -> float:
        """Return where the lens is at a time."""
        where = self._moves[0][1]
        for (since, target), until in zip(
            self._moves, [*(t for t, _ in self._moves[1:]), float("inf")], strict=True
        ):
            if since > at_s:
                break
            where = target + (where - target) * math.exp(-(min(at_s, until) - since) / self.lens_lag_s)
        return where

    def run_automatics(self) -> None:
        """Bring what automatics find nearer to its target: once a frame."""
        for c in self.controls.values():
            switch = self.controls.get(c.follows)
            if switch is not None and switch.value in c.automatic:
                c.value += math.trunc((c.target - c.value) / 2) or (c.target > c.value) - (c.target < c.value)

    def shoot(self, sequence: int, start_s: float) -> Shot:
        """Return the exposure that began at a time."""
        period = 1.0 / self.rate_hz
        held = self.controls.get("EXPOSURE_ABSOLUTE")
        exposure = min(held.value * 1e-4 if held else 0.3 * period, period)
        end = start_s + exposure + 0.5 * period  # the readout takes half a period
        gain = self.controls["GAIN"].value if "GAIN" in self.controls else 0
        return Shot(sequence, self.position((start_s + end) / 2.0), exposure, gain, start_s, end)

    def stamp_s(self, shot: Shot) -> float:
        """Return what the driver writes into the buffer."""
        readout = 0.5 / self.rate_hz
        return {
            "soe": shot.start_s,
            "eof": shot.end_s,
            "packet": shot.start_s + shot.exposure_s + 0.8 * readout,
            "unknown": 1e9 + shot.start_s,
            "wild": shot.start_s - 3600.0,
        }[self.stamps]


def encode(image: Bgr, pixel_format: str, row_bytes: int) -> bytes:
    """Return a picture as a camera sends it, its rows `row_bytes` apart (0: tight), padded with 0xEE."""
    if pixel_format == "MJPG":
        return cv2.imencode(".jpg", image)[1].tobytes()
    rows = _samples(image, pixel_format)
    padded = np.full((rows.shape[0], max(row_bytes, rows.shape[1])), 0xEE, np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded.tobytes()


def _samples(image: Bgr, pixel_format: str) -> Bgr:
    """Return the rows (R, bytes); BT.601, limited range."""
    height, width = image.shape[:2]
    b, g, r = (image[..., i].astype(np.float64) for i in range(3))
    y = np.rint(16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256).astype(np.uint8)
    u = np.rint(128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256).astype(np.uint8)
    v = np.rint(128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256).astype(np.uint8)
    chroma = np.stack([u[:, ::2], v[:, ::2]], -1).reshape(height, width)
    if pixel_format in ("YUYV", "UYVY"):
        pair = (y, chroma) if pixel_format == "YUYV" else (chroma, y)
        return np.stack(pair, -1).reshape(height, 2 * width)
    if pixel_format == "NV12":
        return np.concatenate([y, chroma[::2]])
    if pixel_format == "Y16":
        return (image[..., 1].astype("<u2") * 257).view(np.uint8).reshape(height, 2 * width)
    plain = {"GREY": image[..., 1], "BGR3": image, "RGB3": image[..., ::-1]}[pixel_format]
    return np.ascontiguousarray(plain).reshape(height, -1)


def row_bytes_of(pixel_format: str, width: int) -> int:
    """Return the bytes of a tight row; 0 for JPEG."""
    return {"MJPG": 0, "NV12": 1, "GREY": 1, "YUYV": 2, "UYVY": 2, "Y16": 2, "BGR3": 3, "RGB3": 3}[
        pixel_format
    ] * width
