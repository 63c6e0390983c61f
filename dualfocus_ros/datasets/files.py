# SPDX-License-Identifier: Apache-2.0
"""Reads the file formats of the data sets; every error names the file, what was expected and what came.

What only data sets need (h5py, SciPy, OpenEXR, tqdm) is loaded by name, when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualfocus_ros.errors import DatasetError
from dualfocus_ros.types import FloatImage

# Module -> name for pip.
PIP_NAMES = {"scipy.io": "scipy"}
# OpenCV says in float what it reads from 8 bit; values of h5 files may be a rounding error outside.
LEVEL_TOLERANCE = 0.5
JPEG, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def need(module: str) -> Any:
    """Return a module that is not among what the package needs by itself.

    Raises:
        DatasetError: with what to install, if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = PIP_NAMES.get(module, module)
        raise DatasetError(
            f"this data set needs {name} ({error}): pip install {name}, or, in a checkout, all that "
            "data sets need: pip install '.[datasets]'"
        ) from error


def first_folder(candidates: Iterable[Path], what: str) -> Path:
    """Return the first folder that exists.

    Raises:
        DatasetError: if none does; names all of them.
    """
    listed = list(candidates)
    for path in listed:
        if path.is_dir():
            return path
    raise DatasetError(f"expected {what} in {' or '.join(map(str, listed))}, found no such folder")


def decode(path: Path) -> npt.NDArray[Any]:
    """Return what an image file holds, (H, W) or (H, W, C), colours as OpenCV orders them (BGR).

    Raises:
        DatasetError: if the file is missing, or is no whole image.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DatasetError(f"expected {path}, cannot read it: {error.strerror}") from error
    # Raw values: no EXIF rotation, no change of bit depth. OpenCV raises on some damaged files and is silent on
    # others.
    try:
        image: npt.NDArray[Any] | None = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        image = None
    # Of a JPEG that was cut off, OpenCV makes grey pixels. Its end marker cannot occur inside of compressed data.
    cut = data[:2].tobytes() == JPEG and data.tobytes().rfind(JPEG_SCAN) > data.tobytes().rfind(JPEG_END)
    if image is None or cut:
        raise DatasetError(f"cannot decode {path} ({data.size} bytes): expected a whole image")
    return image


def read_rgb(path: Path, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.uint8]:
    """Return a colour image (H, W, 3) uint8, RGB.

    Raises:
        DatasetError: as `decode`, or if it is no 8-bit colour image, or not of the (H, W) expected.
    """
    image = decode(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise DatasetError(f"expected 8-bit colour in {path}, got {image.dtype} of shape {image.shape}")
    check_shape(image.shape[:2], shape, path)
    return np.ascontiguousarray(image[..., 2::-1])


def read_grey(path: Path, dtype: type[np.generic], shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
    """Return an image of one channel (H, W) of the type expected.

    Raises:
        DatasetError: as `decode`, or if it has colours, another type or another size.
    """
    image = decode(path)
    if image.dtype != dtype or image.ndim != 2:
        raise DatasetError(
            f"expected one channel of {np.dtype(dtype).name} in {path}, got {image.dtype} of shape {image.shape}"
        )
    check_shape(image.shape, shape, path)
    return image


def read_pfm(path: Path) -> FloatImage:
    """Return the one channel (H, W) float32 of a PFM file; infinity stays (no value, at Middlebury).

    Raises:
        DatasetError: as `read_grey`.
    """
    return read_grey(path, np.float32)


def read_exr(path: Path, channels: tuple[str, ...], shape: tuple[int, ...] | None = None) -> FloatImage:
    """Return one channel (H, W) float32 of an OpenEXR file: the first of `channels` that it has.

    Raises:
        DatasetError: if OpenEXR is not installed, or the file is missing, damaged, has none of the channels or
            another size.
    """
    library = need("OpenEXR")
    if not path.is_file():
        raise DatasetError(f"expected {path}, there is no such file")
    try:
        found = library.File(str(path), separate_channels=True).channels()
    except Exception as error:  # noqa: BLE001 - whatever the library makes of a damaged file
        raise DatasetError(f"cannot read {path} as OpenEXR: {error}") from error
    for name in channels:
        if name in found:
            values = np.asarray(found[name].pixels, np.float32)
            check_shape(values.shape, shape, path)
            return values
    raise DatasetError(f"expected a channel {' or '.join(channels)} in {path}, got {', '.join(sorted(found))}")


def check_shape(got: tuple[int, ...], expected: tuple[int, ...] | None, where: object) -> None:
    """Raise DatasetError if a shape is not the one expected; None is any."""
    if expected is not None and tuple(got) != tuple(expected):
        raise DatasetError(f"expected shape {tuple(expected)} in {where}, got {tuple(got)}")


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file (MATLAB's v7.3 is one) for reading.

    Raises:
        DatasetError: if h5py is not installed, or the file is missing or damaged, also where that shows only
            when data are read.
    """
    h5py = need("h5py")
    if not path.is_file():
        raise DatasetError(f"expected {path}, there is no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"cannot read {path} as HDF5, is it whole? {error}") from error


def h5_dataset(file: Any, key: str, shape: tuple[int | None, ...]) -> Any:
    """Return a data set of an open HDF5 file, not read yet.

    Args:
        file: from `open_h5`.
        key: its name.
        shape: what it must have; None is any length.

    Raises:
        DatasetError: if it is not there, or of another shape.
    """
    if key not in file:
        raise DatasetError(f"expected {key} in {file.filename}, it has {', '.join(sorted(file)) or 'nothing'}")
    found = file[key]
    got = tuple(getattr(found, "shape", ()))
    if len(got) != len(shape) or any(b is not None and a != b for a, b in zip(got, shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise DatasetError(f"expected {key} of shape ({wanted}) in {file.filename}, got {got}")
    return found


def read_mat(path: Path, key: str) -> npt.NDArray[Any]:
    """Return a variable of a MATLAB file older than v7.3, without dimensions of length 1.

    Raises:
        DatasetError: if SciPy is not installed, the file is missing or damaged, or has no such variable.
    """
    if not path.is_file():
        raise DatasetError(f"expected {path}, there is no such file")
    try:
        found = need("scipy.io").loadmat(str(path))
    except DatasetError:
        raise
    except Exception as error:  # noqa: BLE001 - SciPy raises a dozen kinds on damaged files
        raise DatasetError(f"cannot read {path} as MATLAB: {error}") from error
    if key not in found:
        names = ", ".join(sorted(n for n in found if not n.startswith("__")))
        raise DatasetError(f"expected {key} in {path}, it has {names or 'nothing'}")
    return np.asarray(found[key]).squeeze()


def to_levels(values: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    """Return values of 0 to 255 in any type as uint8, rounded.

    Raises:
        DatasetError: if a value is outside of that.
    """
    low, high = float(np.min(values)), float(np.max(values))
    if not (low >= -LEVEL_TOLERANCE and high <= 255.0 + LEVEL_TOLERANCE):
        raise DatasetError(f"expected levels of 0 to 255 in {where}, got {low:g} to {high:g}")
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def read_lines(path: Path) -> list[list[str]]:
    """Return the words of every line of a text file that is not empty.

    Raises:
        DatasetError: if it cannot be read, or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path} as text: {error}") from error
    return [words for line in text.splitlines() if (words := line.split())]
