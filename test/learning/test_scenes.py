# SPDX-License-Identifier: Apache-2.0
"""Surfaces and textures: what a point of a surface is, and that random scenes keep to what they promise."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dualfocus_ros.errors import InputError  # noqa: E402
from dualfocus_ros.learning.scenes import OUTLINES, RELIEFS, SceneLimits, Surface, random_scene  # noqa: E402
from dualfocus_ros.learning.textures import texture_bank  # noqa: E402

LIMITS = SceneLimits((96, 80), near_dpt=2.5, far_dpt=0.4)


def surface(outline: str = "box", relief: str = "flat", **changes: object) -> Surface:
    values: dict[str, object] = {
        "centre_px": (50.0, 40.0), "half_size_px": (20.0, 10.0), "angle_rad": 0.0, "inverse_depth_dpt": 1.0,
        "slope_dpt": (0.0, 0.0), "relief_dpt": 0.0, "texture": 0, "texel_per_px": 1.0,
        "texture_offset": (0.0, 0.0), "gain": (1.0, 1.0, 1.0), "contrast": 1.0,
    }  # fmt: skip
    return Surface(outline=outline, relief=relief, **(values | changes))  # type: ignore[arg-type]


def pixels(width: int = 100, height: int = 80):
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return x, y


def test_local_coordinates_turn_with_the_surface() -> None:
    turned = surface(angle_rad=math.pi / 2)  # its u axis points along +y, down
    u, v = turned.local(torch.tensor([50.0, 40.0]), torch.tensor([60.0, 40.0]))
    np.testing.assert_allclose(u.numpy(), [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(v.numpy(), [0.0, 1.0], atol=1e-6)


@pytest.mark.parametrize(
    ("outline", "area"),
    [("ellipse", math.pi), ("box", 4.0), ("ring", math.pi / 2), ("frame", 4 * (1 - 0.75**2)), ("rod", 4.0)],
)
def test_outlines_cover_their_area(outline: str, area: float) -> None:
    s = surface(outline, angle_rad=0.3)
    x, y = pixels(1000, 800)
    covered = s.covers(*s.local(x / 10, y / 10))
    assert float(covered.sum()) / 100 == pytest.approx(area * 20 * 10, rel=0.01)


def test_every_outline_and_relief_is_finite_and_covers_something() -> None:
    x, y = pixels()
    for outline in OUTLINES:
        covered = surface(outline, phase=1.0).covers(*surface(outline).local(x, y))
        assert covered is None if outline == "everywhere" else 20 < int(covered.sum()) <= 40 * 20 + 60
    for relief in RELIEFS:
        s = surface(relief=relief, relief_dpt=0.5, phase=0.7)
        w = s.inverse_depth(*s.local(x, y))
        assert bool(torch.isfinite(w).all())


def test_reliefs_have_the_height_they_say() -> None:
    u, v = torch.tensor([0.0, 0.6, 0.0]), torch.tensor([0.0, 0.0, 0.8])
    bowl = surface(relief="bowl", relief_dpt=0.5).inverse_depth(u, v)
    np.testing.assert_allclose(bowl.numpy(), [1.5, 1.0 + 0.5 * 0.8, 1.0 + 0.5 * 0.6], atol=1e-6)
    cylinder = surface(relief="cylinder", relief_dpt=0.5).inverse_depth(u, v)
    np.testing.assert_allclose(cylinder.numpy(), [1.5, 1.4, 1.5], atol=1e-6)
    roof = surface(relief="roof", relief_dpt=0.5, phase=0.0).inverse_depth(u, v)
    np.testing.assert_allclose(roof.numpy(), [1.5, 1.2, 1.5], atol=1e-6)
    slanted = surface(slope_dpt=(0.2, -0.1)).inverse_depth(u, v)
    np.testing.assert_allclose(slanted.numpy(), [1.0, 1.12, 0.92], atol=1e-6)


@pytest.mark.parametrize("texel_per_px", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_textures_have_their_scale_in_pixels(texel_per_px: float, angle: float) -> None:
    """A grating of 16 texels has a period of 16 / texel_per_px pixels along the surface's u axis."""
    t = np.arange(64)
    grating = (0.5 + 0.4 * np.sin(2 * np.pi * (t + 0.5) / 16)).astype(np.float32)
    bank = torch.from_numpy(np.broadcast_to(grating, (1, 3, 64, 64)).copy())
    s = surface(texel_per_px=texel_per_px, angle_rad=angle)
    along = torch.arange(-12.0, 12.0, 0.25) / texel_per_px  # stays inside one tile
    x, y = 50 + along * math.cos(angle), 40 + along * math.sin(angle)
    found = s.colour(*s.local(x, y), bank)[1].numpy()
    t = along.numpy() * texel_per_px
    basis = np.column_stack([np.sin(2 * np.pi * t / 16), np.cos(2 * np.pi * t / 16), np.ones_like(t)])
    residue = found - basis @ np.linalg.lstsq(basis, found, rcond=None)[0]
    assert np.abs(residue).max() < 0.015  # straight lines between texels
    assert found.max() - found.min() == pytest.approx(0.8, rel=0.05)


def test_contrast_and_gain_of_a_texture() -> None:
    bank = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    x, y = pixels(64, 64)
    u, v = (c.reshape(-1) for c in surface().local(x, y))
    plain = surface(contrast=0.0, gain=(0.5, 1.0, 2.0), texture=1).colour(u, v, bank)
    expected = bank[1].mean(dim=(1, 2)) * torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(plain, expected[:, None].expand_as(plain), atol=1e-6, rtol=1e-5)
    full, half = (surface(contrast=c).colour(u, v, bank) for c in (1.0, 0.5))
    assert float(half.std()) == pytest.approx(0.5 * float(full.std()), rel=0.05)


def test_random_scenes_fill_the_picture_and_stay_mostly_in_the_focus_range() -> None:
    rng = np.random.default_rng(0)
    kinds, inside = set(), []
    span = LIMITS.near_dpt - LIMITS.far_dpt
    for _ in range(200):
        scene = random_scene(rng, LIMITS, textures=5)
        assert scene[0].outline == "everywhere" and 1 <= len(scene) <= 24
        for s in scene:
            assert 0 <= s.texture < 5 and s.inverse_depth_dpt > 0 and min(s.half_size_px) > 0
            assert s.outline in OUTLINES and s.relief in RELIEFS and 0.0 < s.contrast <= 1.0
            kinds.add((s.outline, s.relief))
            inside.append(LIMITS.far_dpt - 0.1 * span <= s.inverse_depth_dpt <= LIMITS.near_dpt + 0.1 * span)
    assert {k[0] for k in kinds} == set(OUTLINES) and {k[1] for k in kinds} == set(RELIEFS)
    assert np.mean(inside) > 0.9


def test_objects_are_not_far_nearer_than_the_nearest_focus() -> None:
    """A lens that reaches far: 5 % beyond the range must not be many times as near as the nearest focus."""
    rng = np.random.default_rng(1)
    limits = SceneLimits((96, 80), near_dpt=2.5, far_dpt=0.1)
    nearest = [max(s.inverse_depth_dpt for s in random_scene(rng, limits, 5)) for _ in range(300)]
    assert max(nearest) < 1.15 * limits.near_dpt


def test_a_bank_is_linear_light_of_many_kinds() -> None:
    bank = texture_bank(24, seed=3)
    assert bank.shape == (24, 3, 256, 256) and bank.dtype == np.float32
    assert bank.min() >= 0.0 and bank.max() <= 1.0
    assert np.array_equal(bank[:2], texture_bank(2, seed=3))
    contrast = bank.std(axis=(1, 2, 3))
    assert contrast.min() < 0.08 and contrast.max() > 0.2
    assert len({t.tobytes() for t in bank}) == 24


def test_photographs_are_used_and_decoded(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    blue = np.zeros((300, 400, 3), np.uint8)
    blue[..., 0] = 188  # OpenCV writes blue first; 188 of sRGB is half of the light
    cv2.imwrite(str(tmp_path / "deep" / "blue.png"), blue)
    cv2.imwrite(str(tmp_path / "small.png"), blue[:100, :100])
    means = texture_bank(30, 0, tmp_path).mean(axis=(2, 3))
    photos = [m for m in means if m[2] == pytest.approx(0.503, abs=0.05) and m[0] == m[1] == 0.0]
    assert 4 <= len(photos) <= 20


def test_a_folder_without_photographs_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="at least 256 px"):
        texture_bank(1, 0, tmp_path)
