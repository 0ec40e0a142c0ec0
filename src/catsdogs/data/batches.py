"""Batches: which images a training sees at which step.

The batch of step s, its augmentation included, is a function of the seed and s alone. So a
training can resume at any step, and the number of reader threads changes nothing.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from catsdogs.data.augmentation import Augmentation, augment
from catsdogs.files import read_csv
from catsdogs.layout import shard_name
from catsdogs.runtime import keep_memory
from catsdogs.stage import UserError
from catsdogs.workers import WHOLE, Part

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import DTypeLike

PREFETCH = 4  # batches that are ready before they are needed
OPEN = 128  # shards that stay open; a process may open 256 files on macOS


class PixelReader:
    """Reads images by row from the shards that `split` writes. Threads can share it.

    The shards are uint8 `.npy` files of shape n×size×size×3; each n may differ. They are not
    mapped into memory: they would count as memory that the process uses.

    Attributes:
        shape: that of all images, N×size×size×3.

    Raises:
        UserError: a shard is missing, or has images of another size.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.absolute().glob("*.npy"))
        headers = [_read_header(path) for path in self.paths]
        alike = {(offset, shape[1:]) for offset, shape in headers}
        names = [shard_name(number) for number in range(len(headers))]
        if len(alike) != 1 or [path.name for path in self.paths] != names:
            raise UserError(f"{folder} is not as the stage `split` writes it: run `dvc repro`")
        ((self._offset, image),) = alike
        self._starts = list(accumulate((shape[0] for _, shape in headers), initial=0))
        self.shape = (self._starts[-1], *image)
        self._open = lru_cache(OPEN)(partial(Path.open, mode="rb", buffering=0))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return a new array of the images in the given rows, uint8, n×size×size×3."""
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for image, row in zip(pixels, rows, strict=True):
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")
            shard = bisect_right(self._starts, row) - 1
            place = self._offset + (int(row) - self._starts[shard]) * image.nbytes
            if self._read(image, self.paths[shard], place) != image.nbytes:
                raise EOFError(f"{self.paths[shard]} ends within row {row}")
        return pixels

    def _read(self, image: np.ndarray, path: Path, place: int) -> int:
        if hasattr(os, "preadv"):  # one call: at each, threads compete for the interpreter's lock
            held = self._open(path)  # or another thread's miss might close it
            return os.preadv(held.fileno(), [image.data], place)
        with path.open("rb", buffering=0) as file:  # a thread must not move another's position
            file.seek(place)
            return file.readinto(image.data)


def _read_header(path: Path) -> tuple[int, tuple[int, ...]]:
    """Return where the pixels of a shard begin, and their shape."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        if version != (1, 0) or fortran_order or dtype != np.uint8 or len(shape) != 4:
            raise ValueError(f"{path} is not an array of RGB images")
        return file.tell(), shape


class Batches(Protocol):
    """What a model is fitted to: a function from a step to its inputs and labels."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""

    @property
    def dtype(self) -> DTypeLike:
        """The type of the inputs."""

    def __call__(self, step: int, part: Part = WHOLE) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs, N×`shape`, and labels, float32, N, of a step or of a part of it."""


class SizedBatches(Batches, Protocol):
    """Batches of which there is a fixed number."""

    def __len__(self) -> int:
        """Return the number of batches."""


class Subset(NamedTuple):
    """One side of the split: each image's row among the pixels, its name and its label."""

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

    def __call__(self, step: int, part: Part = WHOLE) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of a step, uint8, batch×size×size×3, and their labels, float32."""
        _, chosen = self.choose(step, part)
        images = self.pixels[self.subset.rows[chosen]]
        if self.augmentation:
            rng = np.random.default_rng([self.seed, 1, step])
            augment(images, self.augmentation, rng, out=images, part=part)
        return images, self.subset.labels[chosen]

    def choose(self, step: int, part: Part = WHOLE) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each image of a step, the number of the pass and its place in the subset."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        places = places[part.of(self.batch_size)]
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

    def __call__(self, step: int, part: Part = WHOLE) -> tuple[np.ndarray, np.ndarray]:
        """Return the images and labels of a step; the last batch may be smaller."""
        batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
        rows, labels = self.rows[batch], self.labels[batch]
        mine = part.of(len(rows))
        return self.pixels[rows[mine]], labels[mine]


def feed(
    batches: Batches, first: int, last: int, readers: int = 1, part: Part = WHOLE
) -> tf.data.Dataset | Iterator[tuple[np.ndarray, np.ndarray]]:
    """Feed the batches of the steps from `first` to `last` - 1 to Keras, in their order.

    Args:
        batches: safe to be called by several threads if there are several readers.
        first: the first step.
        last: the step after the last one.
        readers: threads that read ahead.
        part: of each batch, which this process computes.

    Returns:
        A dataset for TensorFlow, and an iterator for other backends.
    """
    import keras

    read = partial(read_ahead, partial(batches, part=part), first, last, readers)
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
    batches: Callable[[int], tuple[np.ndarray, np.ndarray]], first: int, last: int, readers: int
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
