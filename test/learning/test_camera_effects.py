# SPDX-License-Identifier: Apache-2.0
"""What the camera adds, against OpenCV, the runtime's own sRGB curve and the statistics of electrons."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dualfocus_ros.align import KeptSlices  # noqa: E402
from dualfocus_ros.camera.sensor import linear_to_srgb, srgb_to_linear  # noqa: E402
from dualfocus_ros.learning.camera_effects import (  # noqa: E402
    Effects,
    encode,
    expose,
    jpeg,
    quantise,
    random_effects,
    realigned,
)


def nothing(slices: int) -> Effects:
    """A camera without imperfections."""
    return Effects(
        gain=1.0, flicker=np.ones(slices), vignetting=0.0, magnification=np.ones(slices),
        residual=np.zeros((slices, 3)), full_well=math.inf, read_noise=5.0, response="srgb", jpeg_quality=0,
    )  # fmt: skip


def generator(seed: int = 0):
    return torch.Generator().manual_seed(seed)


def plain(levels: list[float], size: int = 64):
    """Return (N, 3, size, size) linear light, one level a slice."""
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, size, size).contiguous()


def picture(seed: int = 0, size: int = 96, sigma: float = 1.5) -> np.ndarray:
    """Return a smooth random picture (size, size) in 0.1 .. 0.9."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((size, size)), (0, 0), sigma)
    return (0.1 + 0.8 * (noise - noise.min()) / (noise.max() - noise.min())).astype(np.float32)


def as_stack(grey: np.ndarray, slices: int):
    return torch.from_numpy(grey)[None, None].expand(slices, 3, -1, -1).contiguous()


def decoded(coded) -> np.ndarray:
    """Return the linear light that a coded stack stands for."""
    return srgb_to_linear(coded.numpy())


def test_no_effects_leave_only_the_coding() -> None:
    light = torch.rand((3, 3, 16, 24), generator=generator(1)) * 1.2
    expected = np.rint(linear_to_srgb(light.numpy()) * 255) / 255
    found = expose(light, nothing(3), generator()).numpy()
    # A value half-way between two levels may go either way in single precision.
    assert (np.abs(found - expected) < 1e-6).mean() > 0.999 and np.abs(found - expected).max() < 1.01 / 255


def test_srgb_is_that_of_the_simulated_sensor() -> None:
    light = torch.linspace(0, 1, 5001)
    np.testing.assert_allclose(encode(light, "srgb").numpy(), linear_to_srgb(light.numpy()), atol=2e-6)
    np.testing.assert_allclose(encode(light, 2.2).numpy(), light.numpy() ** (1 / 2.2), atol=2e-6)


def test_quantise_gives_the_nearest_of_256_levels() -> None:
    coded = torch.linspace(-0.2, 1.2, 3001)
    found = quantise(coded).numpy() * 255
    np.testing.assert_allclose(found, np.rint(found), atol=1e-4)
    assert np.abs(found - np.clip(coded.numpy(), 0, 1) * 255).max() <= 0.5 + 1e-4
    assert len(np.unique(np.rint(found))) == 256


@pytest.mark.parametrize("response", ["srgb", 2.2])
@pytest.mark.parametrize(("full_well", "read_noise"), [(1000.0, 3.0), (2000.0, 30.0), (20000.0, 5.0)])
def test_noise_has_the_variance_of_electrons(full_well: float, read_noise: float, response: float | str) -> None:
    levels = [0.1, 0.3, 0.6]
    effects = replace(nothing(3), full_well=full_well, read_noise=read_noise, response=response)
    coded = expose(plain(levels, 128), effects, generator(2)).numpy()
    light = srgb_to_linear(coded) if response == "srgb" else coded**2.2
    for found, level in zip(light, levels, strict=True):
        electrons = level * full_well + read_noise**2  # variance: shot plus read noise
        # 8 bits add a rounding error of 1 / 12 level^2, as wide in light as the curve is steep there.
        step = np.diff(
            (srgb_to_linear if response == "srgb" else lambda c: c**2.2)(level_around(level, response))
        )[0]
        expected = electrons / full_well**2 + step**2 / 12
        assert found.var() == pytest.approx(expected, rel=0.05)
        assert found.mean() == pytest.approx(level, rel=0.01)
        red, green = (c.ravel() - c.mean() for c in found[:2])
        assert abs((red * green).mean()) < 0.03 * found.var()  # colours are exposed apart


def level_around(light: float, response: float | str) -> np.ndarray:
    """Return the two neighbouring coded levels around a linear light."""
    code = float(linear_to_srgb(light)) if response == "srgb" else light ** (1 / 2.2)
    below = math.floor(code * 255)
    return np.array([below, below + 1]) / 255


def test_the_same_generator_gives_the_same_noise() -> None:
    effects = replace(nothing(2), full_well=1000.0)
    first, second, other = (expose(plain([0.2, 0.5], 16), effects, generator(s)) for s in (5, 5, 6))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_gain_and_flicker_scale_the_light_of_each_slice() -> None:
    effects = replace(nothing(3), gain=1.5, flicker=np.array([1.0, 0.8, 1.2]))
    coded = expose(plain([0.4, 0.4, 0.4], 8), effects, generator())
    np.testing.assert_allclose(decoded(coded).mean(axis=(1, 2, 3)), [0.6, 0.48, 0.72], rtol=0.01)


def test_vignetting_darkens_the_corners() -> None:
    light = decoded(expose(plain([0.5], 65), replace(nothing(1), vignetting=0.4), generator()))[0, 0]
    assert light[32, 32] == pytest.approx(0.5, rel=0.01)
    assert light[0, 0] == pytest.approx(0.3, rel=0.015) and light[-1, 0] == pytest.approx(0.3, rel=0.015)
    assert light[32, 0] == pytest.approx(0.4, rel=0.015)


@pytest.mark.parametrize("quality", [40, 70, 85, 95])
def test_jpeg_leaves_grey_as_libjpeg_does(quality: int) -> None:
    grey = np.rint(255 * picture(3, 128, 1.0)).astype(np.uint8)
    data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    expected = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(float)
    stack = torch.from_numpy(grey.astype(np.float32) / 255)[None, None].expand(1, 3, -1, -1)
    found = quantise(jpeg(stack, quality))[0, 1].numpy() * 255.0
    loss, ours = np.mean((expected - grey) ** 2), np.mean((found - grey) ** 2)
    assert ours == pytest.approx(loss, rel=0.1)  # as much is lost
    # And nearly the same: what differs are coefficients at the border of a step, and the rounding of grey levels.
    psnr = 10 * math.log10(255**2 / np.mean((found - expected) ** 2))
    assert psnr > (44.0 if quality >= 70 else 40.0) and np.mean((found - expected) ** 2) < 0.5 * loss + 0.1


def dots(size: int = 97) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture with soft dots and their positions (K, 2), x and y."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    centres = np.array([[24.0, 20.0], [48.0, 48.0], [70.0, 30.0], [30.0, 72.0], [74.0, 70.0]])
    image = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.0**2)) for cx, cy in centres)
    return (0.05 + 0.8 * np.asarray(image)).astype(np.float32), centres


def find_dots(light: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return the centroids (K, 2) of dots in linear light within 9 px of `near`."""
    y, x = np.mgrid[: light.shape[0], : light.shape[1]].astype(float)
    found = []
    for cx, cy in near:
        weight = np.where(np.hypot(x - cx, y - cy) < 9, np.maximum(light - 0.06, 0), 0)
        found.append(((x * weight).sum() / weight.sum(), (y * weight).sum() / weight.sum()))
    return np.array(found)


def test_the_residual_moves_the_picture_by_what_it_says() -> None:
    grey, centres = dots()
    residual = np.array([[0.0, 0, 0], [0, 1.0, 0], [0, 0, 0.7], [0.005, 0, 0], [-0.004, -0.6, 0.8]])
    coded = expose(as_stack(grey, 5), replace(nothing(5), residual=residual), generator())
    for image, (scale, dx, dy) in zip(decoded(coded), residual, strict=True):
        expected = (1 + scale) * (centres - 48) + 48 + [dx, dy]  # x right, y down, about the middle
        np.testing.assert_allclose(find_dots(image[1], centres), expected, atol=0.06)


def test_the_warp_by_the_metadata_undoes_the_magnification() -> None:
    grey, centres = dots()
    effects = replace(nothing(3), magnification=np.array([1.0, 0.96, 0.91]))
    for image in decoded(expose(as_stack(grey, 3), effects, generator())):
        np.testing.assert_allclose(find_dots(image[0], centres), centres, atol=0.06)


def test_magnification_and_residual_together_leave_the_residual() -> None:
    grey, centres = dots()
    effects = replace(
        nothing(2), magnification=np.array([1.0, 0.92]), residual=np.array([[0, 0, 0], [0.004, 0.9, -0.7]])
    )
    image = decoded(expose(as_stack(grey, 2), effects, generator()))[1, 2]
    # The lens shifts the picture on the sensor; the warp magnifies this as well.
    expected = 1.004 * (centres - 48) + 48 + np.array([0.9, -0.7]) / 0.92
    np.testing.assert_allclose(find_dots(image, centres), expected, atol=0.06)


def test_a_registered_picture_keeps_most_of_its_contrast() -> None:
    grey = picture(4)
    effects = replace(nothing(2), magnification=np.array([1.0, 0.93]))
    first, second = expose(as_stack(grey, 2), effects, generator()).numpy()[:, 0, 10:-10, 10:-10]
    assert np.abs(second - first).mean() < 0.02
    assert second.std() == pytest.approx(first.std(), rel=0.05)


def test_random_effects_keep_their_limits() -> None:
    rng = np.random.default_rng(7)
    focus_dpt = np.linspace(8.0, 0.5, 6)
    drawn = [random_effects(rng, focus_dpt, 0.004) for _ in range(300)]
    for e in drawn:
        assert e.magnification[0] == 1.0 and np.all((e.magnification >= 0.9) & (e.magnification <= 1.0))
        assert not e.residual[0].any()  # the reference has none
        assert np.abs(e.residual[:, 0]).max() <= 0.005 and np.abs(e.residual[:, 1:]).max() <= 1.0
        assert e.full_well >= 800 and 0.7 <= e.read_noise <= 12 and 0 <= e.vignetting <= 0.5
        assert e.jpeg_quality == 0 or 70 <= e.jpeg_quality < 98
    breathing = next(e for e in drawn if e.magnification[-1] < 1)
    v = 1 / (1 / 0.004 - focus_dpt)  # image distances of the thin lens
    np.testing.assert_allclose(breathing.magnification, v / v[0], rtol=1e-9)
    assert 0.6 < np.mean([e.magnification[-1] < 1 for e in drawn]) < 0.8
    assert 0.3 < np.mean([bool(e.residual.any()) for e in drawn]) < 0.5
    assert all((random_effects(rng, focus_dpt, 0.0).magnification == 1).all() for _ in range(20))


def test_pictures_are_realigned_by_the_kernel_of_the_package() -> None:
    """Training sees what the warp of `align` makes of a picture."""
    rng = np.random.default_rng(0)
    size, scale = (96, 128), 0.97
    image = (
        cv2.GaussianBlur(rng.integers(0, 256, (*size, 3)).astype(np.float32), (0, 0), 0.8).round().astype(np.uint8)
    )
    cx, cy = (size[1] - 1) / 2, (size[0] - 1) / 2
    ref_to_slice = np.array([[scale, 0.0, cx * (1 - scale)], [0.0, scale, cy * (1 - scale)]])
    expected = KeptSlices().warp(image, ref_to_slice, resample=True).aligned
    planes = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    found = 255.0 * realigned(planes, torch.tensor([1.0 / scale]))[0].permute(1, 2, 0).numpy()
    difference = np.abs(found - expected)[4:-4, 4:-4]
    # OpenCV 4 rounds places to 1/32 of a pixel; the steepest edges here change by 85 levels a pixel.
    assert difference.max() < 3.0 and difference.mean() < 0.5
