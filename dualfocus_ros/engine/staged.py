# SPDX-License-Identifier: Apache-2.0
"""Runs a network in two stages with ONNX Runtime: slices as they come, the rest when the stack is complete.

What the encoder finds in a slice is written into the row of the slice in arrays of the whole stack, and joined
with what it finds in the next, for the head. A slice that was in its row before, by its number, is not worked on
again. The encoder gets one slice at a time, also where more are there: several at once are some 6 % faster, but
give other last bits, and depth would depend on when the slices came.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dualfocus_ros.engine.manifest import ENCODED, JOINED, OUTPUTS, SCALES, STRIDE
from dualfocus_ros.engine.pixels import fill_planes
from dualfocus_ros.image_encodings import bits_used
from dualfocus_ros.types import AlignedStack, FloatImage, Image

FOUND = tuple(OUTPUTS)[:2]


class StagedNetwork:
    """Two sessions, and what the first found in the slices of the last stack. One thread uses it at a time."""

    def __init__(self, encoder: Any, head: Any) -> None:
        """Take the sessions of ONNX Runtime."""
        self._encoder, self._head = encoder, head
        self._channels = {output.name: int(output.shape[1]) for output in encoder.get_outputs()}
        self._rows: dict[str, FloatImage] = {}
        self._planes: FloatImage = np.zeros((0, 3, 0, 0), np.float32)
        self._size: tuple[int, int, int] = (0, 0, 0)  # slices, height, width
        self._bits = 8
        self._known: list[int | None] = []  # number of the slice in each row

    def run(self, stack: AlignedStack, lens: dict[str, FloatImage]) -> tuple[FloatImage, FloatImage]:
        """Return inverse depth and confidence (H, W).

        Args:
            stack: without gaps, see `pixels.without_gaps`.
            lens: what else the network is to know of it.
        """
        count, (height, width) = len(stack.images), stack.images[0].shape[:2]
        bits = bits_used(stack.images)
        if self._size != (count, height, width) or self._bits != bits:
            self._start((count, height, width), bits)
        numbers: list[int | None] = list(stack.numbers) or [None] * count
        if stack.valid is not None:
            # What a slice does not see is filled from its neighbours: it is no longer the slice of its number.
            numbers = [n if valid.all() else None for n, valid in zip(numbers, stack.valid, strict=True)]
        stale = [row for row in range(count) if numbers[row] is None or numbers[row] != self._known[row]]
        for row in stale:
            self._known[row] = None  # until all is done: the encoder may fail
        for row in stale:
            self._encode(stack.images[row], row)
        self._join(stale)
        self._known = numbers
        found = self._head.run(list(FOUND), {**{name: self._rows[name] for name in JOINED}, **lens})
        return found[0][:height, :width], found[1][:height, :width]

    def prepare(self, image: Image, number: int, row: int, count: int) -> None:
        """Work on a slice of a stack to come, if that is like the last one.

        Args:
            image: aligned, seen as a whole.
            number: of it, see `AlignedStack.numbers`.
            row: which of the slices it will be, 0 is the nearest.
            count: how many there will be.
        """
        if self._size != (count, *image.shape[:2]) or self._known[row] == number:
            return
        if image.dtype == np.uint16 and bits_used([image]) > self._bits:
            return
        self._known[row] = None
        self._encode(image, row)
        self._join([row])
        self._known[row] = number

    def _start(self, size: tuple[int, int, int], bits: int) -> None:
        """Make room for stacks of another size."""
        count, height, width = size
        padded = (height + -height % STRIDE, width + -width % STRIDE)
        self._size, self._bits, self._known = size, bits, [None] * count
        self._planes = np.empty((1, 3, *padded), np.float32)
        self._rows = {}
        for name in ENCODED:
            divisor = int(name.rpartition("_")[2])
            shape = (count, self._channels[name], padded[0] // divisor, padded[1] // divisor)
            self._rows[name] = np.zeros(shape, np.float32)
        for scale in SCALES:
            self._rows[f"joined_{scale}"] = np.zeros_like(self._rows[f"own_{scale}"])

    def _encode(self, image: Image, row: int) -> None:
        """Work on a slice and write what is found into its row."""
        fill_planes(image, self._bits, self._planes[0])
        binding = self._encoder.io_binding()
        planes = self._planes
        binding.bind_input("images", "cpu", 0, np.float32, planes.shape, planes.ctypes.data)
        for name in ENCODED:
            found = self._rows[name][row : row + 1]
            binding.bind_output(name, "cpu", 0, np.float32, found.shape, found.ctypes.data)
        self._encoder.run_with_iobinding(binding)

    def _join(self, changed: list[int]) -> None:
        """Join what the encoder found in slices that are new, and in those before them, with the next; see JOINED.

        Where one of the neighbours is yet to come this is repeated when it is there.
        """
        last = self._size[0] - 1
        for scale in SCALES:
            own, ahead, joined = (self._rows[f"{kind}_{scale}"] for kind in ("own", "ahead", "joined"))
            for row in {row for new in changed for row in (new - 1, new) if 0 <= row < last}:
                np.add(own[row], ahead[row + 1], out=joined[row])
            if last in changed or last - 1 in changed:
                np.multiply(ahead[last], 2.0, out=joined[last])
                joined[last] -= ahead[last - 1]
                joined[last] += own[last]
