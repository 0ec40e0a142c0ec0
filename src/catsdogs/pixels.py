"""The array of all images, `data/split/images.npy`: written image by image, read row by row."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np


class PixelWriter:
    """Writes images one after another into a `.npy` file whose number of rows is not known yet."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.rows = file, size, 0
        self._write_header()

    def append(self, image: np.ndarray) -> int:
        """Write one size×size×3 uint8 image; return its row."""
        self.file.write(np.ascontiguousarray(image, np.uint8).tobytes())
        self.rows += 1
        return self.rows - 1

    def close(self) -> None:
        """Write the number of rows into the header; the file itself stays open."""
        self.file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        shape = (self.rows, self.size, self.size, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)  # padded, so it may be rewritten


class PixelReader:
    """Reads rows of a uint8 `.npy` file of shape N×size×size×3.

    It reads with `preadv`, not through a memory map: threads can share it, and the memory that a
    process is seen to use is what it asked for, not the file.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        version = np.lib.format.read_magic(self.file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(self.file)
        if version != (1, 0) or fortran_order or dtype != np.uint8 or len(shape) != 4:
            raise ValueError(f"{path} is not an array of RGB images")
        self.shape = shape
        self.start = self.file.tell()
        self.stride = int(np.prod(shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int]) -> np.ndarray:
        """Return images by row: uint8, len(rows)×size×size×3."""
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for image, row in zip(pixels, rows, strict=True):
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")
            offset = self.start + int(row) * self.stride
            if os.preadv(self.file.fileno(), [image], offset) != self.stride:
                raise EOFError(f"{self.file.name} ends within row {row}")
        return pixels
