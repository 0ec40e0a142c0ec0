"""Which images a training sees, and when: a step goes in, its batch comes out.

The batch of step s, with its augmentation, is a function of the seed and s alone. So a training
can go on anywhere, and the number of threads that read does not matter.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from catsdogs.augmentation import Augmentation, augment
from catsdogs.files import read_csv
from catsdogs.pixels import PixelReader

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

AHEAD = 4  # batches that are ready before they are asked for


class Batches(Protocol):
    """What a model can be fed with: a step's inputs, N×`shape`, and labels, float32, N."""

    shape: tuple[int, ...]
    dtype: type[np.generic]

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a step's inputs and labels."""


class SizedBatches(Batches, Protocol):
    """Batches of which there are so many."""

    def __len__(self) -> int:
        """Return their number."""


class Subset(NamedTuple):
    """One side of the split: each image's row in the array of pixels, its name and its label."""

    rows: np.ndarray  # int64, N
    names: list[str]
    labels: np.ndarray  # float32, N: 0 cat, 1 dog


def read_subset(path: Path) -> Subset:
    """Read `train.csv` or `validation.csv`."""
    lines = read_csv(path)
    return Subset(
        np.array([int(line["row"]) for line in lines]),
        [line["name"] for line in lines],
        np.array([float(line["label"]) for line in lines], np.float32),
    )


class TrainingBatches:
    """Endless batches: pass after pass over the images, each pass in an order of its own."""

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
        self.shape, self.dtype = pixels.shape[1:], np.uint8
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of a step, uint8, batch×size×size×3, and their labels, float32."""
        _, chosen = self.choose(step)
        images = self.pixels[self.subset.rows[chosen]]
        if self.augmentation:
            images = augment(
                images, self.augmentation, np.random.default_rng([self.seed, 1, step])
            )
        return images, self.subset.labels[chosen]

    def choose(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return how often each image of a step was seen before, and its place in the subset."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        turns, places = np.divmod(places, len(self.subset.rows))
        chosen = [self._order(turn)[places[turns == turn]] for turn in np.unique(turns)]
        return turns, np.concatenate(chosen)

    def _shuffle(self, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0, turn]).permutation(len(self.subset.rows))


class FixedBatches:
    """The same batches at every pass: a subset's images in its order, or the first so many."""

    def __init__(
        self, pixels: PixelReader, subset: Subset, batch_size: int, limit: int | None = None
    ) -> None:
        self.pixels, self.batch_size = pixels, batch_size
        self.shape, self.dtype = pixels.shape[1:], np.uint8
        self.rows, self.labels = subset.rows[:limit], subset.labels[:limit]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images and labels of a step; the last batch may be smaller."""
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        return self.pixels[self.rows[part]], self.labels[part]


def dataset(batches: Batches, first: int, last: int) -> tf.data.Dataset:
    """Feed the batches of steps `first` to `last` - 1 to Keras, prepared while it computes.

    Args:
        batches: give what a step takes.
        first: the first step.
        last: the step to stop before.
    """
    import tensorflow as tf

    def load(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs, labels = tf.numpy_function(batches, [step], (batches.dtype, tf.float32))
        inputs.set_shape((None, *batches.shape))
        labels.set_shape((None,))
        return inputs, labels

    options = tf.data.Options()
    # Ending an iterator waits for the autotuner, which sleeps for up to many seconds at a time.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1  # not the threads that the steps compute with
    steps = tf.data.Dataset.range(first, last)
    return steps.map(load).prefetch(AHEAD).with_options(options)
