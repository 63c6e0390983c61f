# SPDX-License-Identifier: Apache-2.0
import cv2
import numpy as np
import pytest

from dualfocus_ros.align import KeptSlices, align, align_by, metadata_intrinsics
from dualfocus_ros.errors import AlignmentError
from dualfocus_ros.types import FocalSlice, FocalStack, Intrinsics, LensModel

LENS = LensModel(0.016, 1.4, 22.5e-6)
DISTANCES_M = (0.4, 0.8, 2.0)
WIDTH, HEIGHT = 160, 120


def smooth_scene(x, y):
    """A band-limited picture given by a formula, so that any resampling of it is known exactly."""
    return 128 + 50 * np.sin(0.21 * x + 0.3) * np.cos(0.17 * y) + 40 * np.sin(0.05 * (x + y))


def render(k: Intrinsics) -> np.ndarray:
    """Sample the scene, which is fixed in normalised coordinates, with intrinsics k."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    picture = smooth_scene((x - k.cx_px) / k.fx_px * 700, (y - k.cy_px) / k.fy_px * 700)
    return np.rint(np.repeat(picture[..., None], 3, axis=2)).astype(np.uint8)


def make_stack(scales, shifts=((0, 0), (0, 0), (0, 0)), reported=True) -> FocalStack:
    slices = []
    base = Intrinsics(WIDTH, HEIGHT, 740.0, 740.0, 79.5, 59.5)
    for i, (s, scale, (dx, dy)) in enumerate(zip(DISTANCES_M, scales, shifts, strict=True)):
        true = Intrinsics(WIDTH, HEIGHT, 740 * scale, 740 * scale, 79.5 + dx, 59.5 + dy)
        slices.append(FocalSlice(render(true), i, s, true if reported else base))
    return FocalStack.from_slices(slices, LENS, reference=0, frame_id="camera")


def worst_inside(a, b, margin=12):
    cut = np.s_[margin:-margin, margin:-margin]
    return np.abs(a[cut].astype(int) - b[cut].astype(int)).max()


def test_camera_info_brings_all_slices_into_the_reference_frame():
    stack = make_stack((1.0, 0.99, 0.96), ((0, 0), (1.5, -0.75), (-2.25, 3.0)))
    aligned = align(stack, "camera_info")
    for image in aligned.images:
        assert worst_inside(image, stack.slices[0].image) <= 2
    assert worst_inside(stack.slices[2].image, stack.slices[0].image) > 20  # there was something to do
    assert worst_inside(aligned.images[0], stack.slices[0].image) <= 1  # the reference stays in its place
    assert aligned.intrinsics == stack.slices[0].intrinsics
    assert aligned.focus_dpt.tolist() == [2.5, 1.25, 0.5]
    assert aligned.blur_gain_px_per_dpt == pytest.approx(LENS.aperture_m * 740.0)


def test_thin_lens_scales_by_the_image_distance():
    v = [0.016 * s / (s - 0.016) for s in DISTANCES_M]
    stack = make_stack([x / v[0] for x in v], reported=False)
    assert worst_inside(stack.slices[2].image, stack.slices[0].image) > 5
    for mode in ("thin_lens", "auto"):  # auto: camera_info does not follow the focus
        for image in align(stack, mode).images:
            assert worst_inside(image, stack.slices[0].image) <= 2


def test_auto_takes_camera_info_when_it_follows_the_focus():
    stack = make_stack((1.0, 0.97, 0.9))
    assert metadata_intrinsics(stack, "auto") == tuple(s.intrinsics for s in stack.slices)


def test_none_leaves_the_images_alone():
    stack = make_stack((1.0, 0.9, 0.8))
    aligned = align(stack, "none")
    assert all(a is s.image for a, s in zip(aligned.images, stack.slices, strict=True))


def test_pixels_that_a_slice_does_not_see_are_invalid():
    stack = make_stack((1.0, 1.1, 1.0))  # slice 1 has the smaller field of view
    aligned = align(stack, "camera_info")
    assert aligned.valid is not None and aligned.valid.shape == (3, HEIGHT, WIDTH)
    assert aligned.valid[0].all() and aligned.valid[2].all()
    seen = aligned.valid[1]
    columns = np.flatnonzero(seen.any(axis=0))
    # x = 79.5 + (x0 - 79.5) * 1.1 lies inside -0.5 .. 159.5 for x0 in 6.77 .. 152.23
    assert (columns[0], columns[-1]) == (7, 152)
    rows = np.flatnonzero(seen.any(axis=1))
    assert (rows[0], rows[-1]) == (5, 114)


def test_residual_is_applied_on_top_and_reported_in_pixels():
    stack = make_stack((1.0, 0.99, 1.0), ((0, 0), (0, 0), (2.0, -1.0)), reported=False)
    residual = np.array([[1, 0, 0], [0.99, 0, 0], [1, 2.0, -1.0]], float)
    aligned = align(stack, "none", residual)
    for image in aligned.images:
        assert worst_inside(image, stack.slices[0].image) <= 2
    assert aligned.residual_px[2].tolist() == [0.0, 2.0, -1.0]
    assert aligned.residual_px[1, 0] == pytest.approx(-0.01 * np.hypot(79.5, 59.5))


def test_warp_does_not_fake_focus():
    """The sharpness of noise-free texture must not depend on the sub-pixel phase by more than 15 %."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.normal(128, 60, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 1.0)
    picture = np.clip(texture, 0, 255).astype(np.uint8)
    k = Intrinsics(WIDTH, HEIGHT, 740, 740, 79.5, 59.5)
    energy = []
    for phase in (0.0, 0.25, 0.5):
        slices = [FocalSlice(picture, i, s, k) for i, s in enumerate(DISTANCES_M)]
        residual = np.array([[1, 0, 0], [1, phase, phase], [1, 0, 0]], float)
        warped = align(FocalStack.from_slices(slices, LENS), "none", residual).images[1]
        energy.append(np.square(cv2.Laplacian(warped[9:-9, 9:-9], cv2.CV_32F)).mean())
    assert min(energy) / max(energy) > 0.85


def test_input_is_not_changed():
    stack = make_stack((1.0, 0.99, 0.96))
    before = [s.image.copy() for s in stack.slices]
    align(stack, "camera_info")
    assert all((a == s.image).all() for a, s in zip(before, stack.slices, strict=True))


def test_errors():
    stack = make_stack((1.0, 0.99, 0.96))
    with pytest.raises(AlignmentError, match="thin_lens.*'thinlens'"):
        align(stack, "thinlens")
    for bad in (np.ones((2, 3)), np.full((3, 3), np.nan), np.zeros((3, 3))):
        with pytest.raises(AlignmentError, match="residual"):
            align(stack, "none", bad)


def test_a_warp_of_16_bits_stays_within_those_of_the_image():
    rng = np.random.default_rng(0)
    image = np.where(rng.random((40, 60, 3)) < 0.5, 0, 4095).astype(np.uint16)
    warped = KeptSlices().warp(image, np.array([[1.01, 0.0, 0.3], [0.0, 1.01, 0.4]]), resample=True).aligned
    assert warped.max() == 4095 and warped.dtype == np.uint16


def test_intrinsics_that_are_known_already_are_those_of_the_metadata():
    stack = make_stack((1.0, 0.99, 0.96), reported=False)
    intrinsics = metadata_intrinsics(stack, "thin_lens")
    found, expected = align_by(stack, intrinsics), align(stack, "thin_lens")
    for a, b in zip(found.images, expected.images, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(AlignmentError, match="intrinsics of 3 slices, got 2"):
        align_by(stack, intrinsics[:2])
