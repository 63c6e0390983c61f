# SPDX-License-Identifier: Apache-2.0
"""The simulator against path-traced focal stacks: how fast focus measures fall with defocus.

The sharp picture of a rendered stack is put on a plane and refocused by the simulator. The content is then the
same on both sides, and what is compared is the optics alone: the modified Laplacian at 1, 2 and 4 px of blur
over that in focus, pixel by pixel, in linear light.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear  # noqa: E402
from dualfocus_ros.learning.scenes import Surface  # noqa: E402
from dualfocus_ros.learning.simulator import LightField, pupil, simulate  # noqa: E402
from dualfocus_ros.learning.textures import texture_bank  # noqa: E402

SHARED = Path(__file__).resolve().parents[3] / "shared" / "focal_stacks"
LEVELS_PX = (1.0, 2.0, 4.0)
# The rendered discs are within 5 % of the formula, and denoised; 5 % of a disc of 4 px is 7 % of the measure.
TOLERANCE = {1.0: 0.06, 2.0: 0.06, 4.0: 0.12}
# Of different content: rendered families differ from each other by as much.
LOOSE = {1.0: 0.05, 2.0: 0.1, 4.0: 0.15}
MIN_PIXELS = 300
BORDER = 14
# What straight lines between texels and the area of a pixel do to a picture shown texel by pixel.
PIXEL_AREA = np.array([0.125, 0.75, 0.125])

Array = npt.NDArray[np.float64]
Falls = dict[float, Array]


def measure(grey: Array) -> Array:
    """Return the modified Laplacian (Nayar and Nakagawa, 1994), mean over 9 x 9."""
    kernel = np.array([[-1.0, 2.0, -1.0]])
    return cv2.blur(np.abs(cv2.filter2D(grey, -1, kernel)) + np.abs(cv2.filter2D(grey, -1, kernel.T)), (9, 9))


def away_from_edges(w: Array, gain: float) -> npt.NDArray[np.bool_]:
    window = np.ones((21, 21))
    even = gain * (cv2.dilate(w, window) - cv2.erode(w, window)) < 0.7
    even[:BORDER] = even[-BORDER:] = even[:, :BORDER] = even[:, -BORDER:] = False
    return even


class Rendered:
    """The middle square of a stored stack in linear grey, with its optics by the formula of its README."""

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        depth_m = cv2.imread(str(folder / "depth.png"), cv2.IMREAD_UNCHANGED) * meta["depth_unit_m"]
        self.size = min(depth_m.shape)
        top, left = ((n - self.size) // 2 for n in depth_m.shape)
        self._cut = (slice(top, top + self.size), slice(left, left + self.size))
        depth_m = depth_m[self._cut]
        f_m, focus_m = meta["focal_length_m"], np.array(meta["focus_distance_m"])
        self.focus_dpt = 1 / focus_m
        self.gain = f_m / meta["f_number"] * f_m / meta["pixel_pitch_m"] * focus_m / (focus_m - f_m)
        self.w = np.where(depth_m > 0, 1 / np.maximum(depth_m, 1e-9), 0.0)
        self.even = away_from_edges(self.w, float(self.gain.max())) & (depth_m > 0)
        self.sharp = self._grey(folder / "aif.png")
        self.slices = [self._grey(folder / f"slice_{i:02d}.png") for i in range(len(focus_m))]

    def _grey(self, path: Path) -> Array:
        colour = srgb_to_linear(cv2.imread(str(path)) / 255.0)[self._cut]
        return colour @ np.array([0.0722, 0.7152, 0.2126])


def refocused(sharp: Array) -> dict[float, Array]:
    """Return the picture on a frontal plane at 0 and LEVELS_PX of blur, by the simulator."""
    size = len(sharp)
    bank = torch.from_numpy(np.broadcast_to(sharp[::-1, ::-1], (1, 3, size, size)).astype(np.float32))
    plane = Surface(
        outline="everywhere", relief="flat", centre_px=((size - 1) / 2,) * 2, half_size_px=(size / 2,) * 2,
        angle_rad=0.0, inverse_depth_dpt=1.0, slope_dpt=(0.0, 0.0), relief_dpt=0.0, texture=0, texel_per_px=1.0,
        texture_offset=(0.0, 0.0), gain=(1.0, 1.0, 1.0), contrast=1.0,
    )  # fmt: skip
    points = next(p for p in (pupil(np.random.default_rng(s), 90) for s in range(60)) if is_round(p, 90))
    field = LightField([plane], bank, (size, size), points, 4.0, (1.0, 2.0))
    return {b: field.refocus(1.0 + b / 4.0)[0].numpy().astype(float) for b in (0.0, *LEVELS_PX)}


def is_round(points: Array, count: int) -> bool:
    return len(points) == count and bool(np.hypot(*points.mean(axis=0)) < 0.02)


def falls_side_by_side(rendered: Rendered) -> dict[float, tuple[float, float]]:
    """Return the median fall at each level that enough pixels have: as rendered, and as simulated."""
    simulated = {b: measure(picture) for b, picture in refocused(rendered.sharp).items()}
    sharp = measure(cv2.sepFilter2D(rendered.sharp, -1, PIXEL_AREA, PIXEL_AREA))
    textured = rendered.even & (sharp > 0.01 * rendered.sharp.mean() + 0.004)
    pairs: dict[float, list[Array]] = {b: [] for b in LEVELS_PX}
    for picture, focus_dpt, gain in zip(rendered.slices, rendered.focus_dpt, rendered.gain, strict=True):
        found = measure(cv2.sepFilter2D(picture, -1, PIXEL_AREA, PIXEL_AREA))
        blur = gain * np.abs(rendered.w - focus_dpt)
        for b in LEVELS_PX:
            here = textured & (np.abs(blur / b - 1) < 0.07)
            pairs[b].append(np.stack([found[here] / sharp[here], simulated[b][here] / simulated[0.0][here]]))
    joined = {b: np.concatenate(p, axis=1) for b, p in pairs.items()}
    return {b: tuple(np.median(p, axis=1).tolist()) for b, p in joined.items() if p.shape[1] >= MIN_PIXELS}


@pytest.mark.shared
@pytest.mark.parametrize("family", ["fod", "room", "macro"])
def test_focus_measures_fall_with_defocus_as_in_path_traced_stacks(family: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("the validation stacks are not beside this checkout")
    ratios: dict[float, list[float]] = {b: [] for b in LEVELS_PX}
    for folder in sorted((SHARED / family).iterdir())[:6]:
        for b, (rendered, simulated) in falls_side_by_side(Rendered(folder)).items():
            ratios[b].append(simulated / rendered)
    compared = {b: float(np.median(r)) for b, r in ratios.items() if len(r) >= 2}
    assert len(compared) >= 2
    for b, ratio in compared.items():
        assert ratio == pytest.approx(1.0, abs=TOLERANCE[b]), f"at {b} px of blur: {ratios[b]}"


def falls(
    slices: Array, w: Array, focus_dpt: Array, gain: Array, even: npt.NDArray[np.bool_]
) -> dict[float, float]:
    """Return the median fall of the measure in coded slices (N, H, W) from the sharpest slice of each pixel."""
    measures = np.stack([measure(s) for s in slices])
    blur = gain[:, None, None] * np.abs(w - focus_dpt[:, None, None])
    sharp = np.take_along_axis(measures, blur.argmin(axis=0)[None], 0)[0]
    textured = even & (blur.min(axis=0) < 0.5) & (sharp > 6 / 255)
    out = {}
    for b in LEVELS_PX:
        chosen = textured & (blur > 0.8 * b) & (blur < 1.25 * b)
        if chosen.sum() >= MIN_PIXELS // 10:
            out[b] = float(np.median((measures / np.maximum(sharp, 1e-9))[chosen]))
    return out


@pytest.mark.shared
def test_random_scenes_fall_with_defocus_much_as_rendered_ones() -> None:
    """Content differs here; this notices scenes that are far sharper, softer or noisier than the world."""
    if not SHARED.is_dir():
        pytest.skip("the validation stacks are not beside this checkout")
    real: dict[float, list[float]] = {b: [] for b in LEVELS_PX}
    for family in ("fod", "room", "macro"):
        for folder in sorted((SHARED / family).iterdir())[:6]:
            r = Rendered(folder)
            coded = np.stack([linear_to_srgb(s) for s in r.slices])
            for b, fall in falls(coded, r.w, r.focus_dpt, r.gain, r.even).items():
                real[b].append(fall)
    ours: dict[float, list[float]] = {b: [] for b in LEVELS_PX}
    bank = torch.from_numpy(texture_bank(100, 0))
    # Few stacks have all of: texture, no edge near, slices at the right distance.
    # Medians of only 15 stacks still differ by 0.1.
    seeds = range(60)
    stacks = (s for k in seeds for s in simulate(np.random.default_rng(k), bank, (112, 112), [15, 15]))
    for stack in stacks:
        light = stack.light.mean(dim=1).numpy().astype(float)
        coded = linear_to_srgb(light * 0.6 / np.quantile(light, 0.98))
        w, gain = stack.inverse_depth.numpy().astype(float), np.full(15, stack.optics.blur_gain)
        even = away_from_edges(w, stack.optics.blur_gain)
        for b, fall in falls(coded, w, np.array(stack.optics.focus_dpt), gain, even).items():
            ours[b].append(fall)
    for b in LEVELS_PX:
        assert len(real[b]) >= 10 and len(ours[b]) >= 18
        assert np.median(ours[b]) == pytest.approx(np.median(real[b]), abs=LOOSE[b]), f"{ours[b]} {real[b]}"
