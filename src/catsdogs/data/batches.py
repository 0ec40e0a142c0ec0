"""Batches: which images a training sees at which step.

The batch of step s, its augmentation included, is a function of the seed and s alone. So a
training can resume at any step, and the number of reader threads changes nothing.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from catsdogs.data.augmentation import Augmentation, augment
from catsdogs.files import read_csv
from catsdogs.runtime import keep_memory

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import DTypeLike

PREFETCH = 4  # batches that are ready before they are needed


class PixelReader:
    """Reads images by row from a uint8 `.npy` file of shape N×size×size×3. Threads can share it.

    It does not map the file into memory: the file would count as memory that the process uses.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
        if version != (1, 0) or fortran_order or dtype != np.uint8 or len(shape) != 4:
            raise ValueError(f"{path} is not an array of RGB images")
        self.path, self.shape = path.absolute(), shape
        self._stride = int(np.prod(shape[1:]))
        self._opened = threading.local()  # a thread must not move another's position in the file

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return images by row: uint8, len(rows)×size×size×3."""
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for image, row in zip(pixels, rows, strict=True):
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")
            if self._read(image, self._start + int(row) * self._stride) != self._stride:
                raise EOFError(f"{self.path} ends within row {row}")
        return pixels

    def _read(self, image: np.ndarray, start: int) -> int:
        if not hasattr(self._opened, "file"):
            self._opened.file = self.path.open("rb", buffering=0)
        if hasattr(os, "preadv"):  # one call: at each, threads compete for the interpreter's lock
            return os.preadv(self._opened.file.fileno(), [image.data], start)
        self._opened.file.seek(start)
        return self._opened.file.readinto(image)


class Batches(Protocol):
    """What a model is fitted to: a function from a step to its inputs and labels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""

    @property
    def dtype(self) -> DTypeLike:
        """The type of the inputs."""

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a step's inputs, N×`shape`, and labels, float32, N."""


class SizedBatches(Batches, Protocol):
    """Batches of which there is a fixed number."""

    def __len__(self) -> int:
        """Return the number of batches."""


class Subset(NamedTuple):
    """One side of the split: each image's row in the array of pixels, its name and its label."""

    rows: np.ndarray  # int64, N
    names: list[str]
    labels: np.ndarray  # float32, N: the positions of their classes, 0 or 1


def read_subset(path: Path) -> Subset:
    """Read `train.csv` or `validation.csv`."""
    lines = read_csv(path)
    return Subset(
        np.array([int(line["row"]) for line in lines]),
        [line["name"] for line in lines],
        np.array([float(line["label"]) for line in lines], np.float32),
    )


class TrainingBatches:
    """Endless batches: pass after pass over the images, each pass in a new order."""

    dtype = np.uint8

    def __init__(
        self,
        pixels: PixelReader,
        subset: Subset,
        batch_size: int,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.pixels, self.subset, self.batch_size = pixels, subset, batch_size
        self.seed, self.augmentation = seed, augmentation
        self.shape: tuple[int, ...] = pixels.shape[1:]
        self._permutation = lru_cache(maxsize=2)(self._permute)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of a step, uint8, batch×size×size×3, and their labels, float32."""
        _, chosen = self.choose(step)
        images = self.pixels[self.subset.rows[chosen]]
        if self.augmentation:
            rng = np.random.default_rng([self.seed, 1, step])
            augment(images, self.augmentation, rng, out=images)
        return images, self.subset.labels[chosen]

    def choose(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each image of a step, the number of the pass and its place in the subset."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        passes, places = np.divmod(places, len(self.subset.rows))
        chosen = [self._permutation(each)[places[passes == each]] for each in np.unique(passes)]
        return passes, np.concatenate(chosen)

    def _permute(self, number: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, number]).permutation(len(self.subset.rows))


class FixedBatches:
    """The same batches at every pass: a subset's images in its order, or the first of them."""

    dtype = np.uint8

    def __init__(
        self, pixels: PixelReader, subset: Subset, batch_size: int, limit: int | None = None
    ) -> None:
        self.pixels, self.batch_size = pixels, batch_size
        self.shape: tuple[int, ...] = pixels.shape[1:]
        self.rows, self.labels = subset.rows[:limit], subset.labels[:limit]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images and labels of a step; the last batch may be smaller."""
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        return self.pixels[self.rows[part]], self.labels[part]


def feed(
    batches: Batches, first: int, last: int, readers: int = 1
) -> tf.data.Dataset | Iterator[tuple[np.ndarray, np.ndarray]]:
    """Feed the batches of the steps from `first` to `last` - 1 to Keras, in their order.

    Args:
        batches: safe to be called by several threads if there are several readers.
        first: the first step.
        last: the step after the last one.
        readers: threads that read ahead.

    Returns:
        A dataset for TensorFlow, and an iterator for other backends.
    """
    import keras

    read = partial(read_ahead, batches, first, last, readers)
    if keras.backend.backend() != "tensorflow":
        return read()
    import tensorflow as tf

    inputs = tf.TensorSpec((None, *batches.shape), batches.dtype)
    labels = tf.TensorSpec((None,), tf.float32)
    # The end of an iterator waits for the autotuner, which sleeps for many seconds at a time.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1  # not the threads that the steps compute with
    tensors = tf.data.Dataset.from_generator(read, output_signature=(inputs, labels))
    return tensors.prefetch(1).with_options(options)


def read_ahead(
    batches: Batches, first: int, last: int, readers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of the steps from `first` to `last` - 1 while threads read the next."""
    keep_memory()  # here, because the first iterator of tf.data undoes it
    pool = ThreadPoolExecutor(readers)
    try:
        steps = iter(range(first, last))
        reading = deque(pool.submit(batches, step) for step in islice(steps, readers + PREFETCH))
        while reading:
            batch = reading.popleft().result()
            reading.extend(pool.submit(batches, step) for step in islice(steps, 1))
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
