# SPDX-License-Identifier: Apache-2.0
"""Files in the formats of the data sets, as the tests make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np


def texture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB with detail of 2 to 8 px."""
    rng = np.random.default_rng(seed)
    image = np.full((*shape, 3), 128.0)
    for cell in (2, 4, 8):
        coarse = rng.uniform(-40, 40, (shape[0] // cell + 1, shape[1] // cell + 1, 3))
        image += np.kron(coarse, np.ones((cell, cell, 1)))[: shape[0], : shape[1]]
    return np.clip(image, 0, 255).astype(np.uint8)


def write_image(path: Path, rgb: np.ndarray) -> None:
    """Write RGB or one channel by the suffix (png, jpg, tif, pfm); JPEG of the best quality, colours in full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = whole if path.suffix == ".jpg" else []
    assert cv2.imwrite(str(path), rgb[..., ::-1] if rgb.ndim == 3 else rgb, options)


def write_exr(path: Path, **channels: np.ndarray) -> None:
    """Write channels (H, W), half or single precision."""
    import OpenEXR

    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {name: np.ascontiguousarray(v) for name, v in channels.items()}).write(str(path))


def write_h5(path: Path, **arrays: Any) -> None:
    """Write an HDF5 file with these data sets."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def damage(path: Path) -> None:
    """Cut a file off in the middle."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
