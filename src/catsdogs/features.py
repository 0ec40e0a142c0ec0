"""What a frozen trunk makes of images: computed once, then read from files.

A file holds the features of one batch of images. Its name is a hash of all that they depend on:
the images' pixels, the trunk's layers and weights, and what decides the last bits. So a changed
image, weight or augmentation never meets an old feature, whoever stored it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from catsdogs import layout
from catsdogs.augmentation import augment
from catsdogs.batches import FixedBatches, TrainingBatches
from catsdogs.files import replacing
from catsdogs.runtime import Runtime, last_bits

import numpy as np

if TYPE_CHECKING:
    import keras

SPARE = 0.1  # of the cache is emptied at a time


class FeatureCache:
    """Features by the images that they are of, kept in `.cache/features` of the checkout."""

    def __init__(self, trunk: keras.Model, pinned: Runtime, gigabytes: float) -> None:
        """Make a trunk ready.

        Args:
            trunk: from RGB pixels, 0-255, to features; used in inference mode.
            pinned: what decides the last bits.
            gigabytes: of all features together; the longest unused make room.
        """
        self.shape: tuple[int, ...] = trunk.output_shape[1:]
        self.limit = int(gigabytes * 1e9)
        self._compute = _compile(trunk)
        given = _fingerprint(trunk) + repr(last_bits(pinned)).encode()
        self._depends_on = hashlib.sha256(given).digest()
        self.computed = self.read = 0  # how often
        self._room = 0  # not known yet
        self._warned = False

    def name(self, images: np.ndarray) -> str:
        """Hash images, uint8, N×height×width×3, and all that their features depend on besides."""
        hashed = hashlib.sha256(self._depends_on + repr(images.shape).encode())
        hashed.update(np.ascontiguousarray(images))
        return hashed.hexdigest()

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the features of images, float32, N×`shape`, stored or computed now."""
        return self.stored(self.name(images), lambda: images)

    def stored(
        self, name: str, images: Callable[[], np.ndarray], row: int | None = None
    ) -> np.ndarray:
        """Return the features of the images of this name, or of one of them.

        Args:
            name: as `name` gives it.
            images: gives the images, where they are needed.
            row: which of them; all by default.
        """
        path = layout.FEATURES / name[:2] / name[2:]
        found = self._read(path, row)
        if found is None:
            with _alone(path.parent):  # two experiments at once share the work
                found = self._read(path, row)
                if found is None:
                    computed = self._compute(images())
                    self.computed += 1
                    self._write(path, computed)
                    return computed if row is None else computed[row]
        self.read += 1
        return found

    def _read(self, path: Path, row: int | None) -> np.ndarray | None:
        try:
            with path.open("rb") as file:
                with suppress(OSError):  # where it may only be read
                    now = time.time_ns()
                    os.utime(file.fileno(), ns=(now, now))  # so that what is in use stays
                return unpack(file.fileno(), self.shape, row)
        except (OSError, EOFError):
            return None  # and it is computed, whatever kept it from being read

    def _write(self, path: Path, computed: np.ndarray) -> None:
        content = pack(computed)
        try:
            self._make_room(len(content))
            with replacing(path) as part:
                part.write_bytes(content)
        except OSError as error:
            if not self._warned:
                print(f"features are not kept: {error}", file=sys.stderr, flush=True)
            self._warned = True

    def _make_room(self, size: int) -> None:
        self._room -= size
        if self._room >= 0:
            return
        files = [path for path in layout.FEATURES.glob("*/*") if path.is_file()]
        # Another process may be taking some of them away at the same time.
        stats = [(path, stat) for path in files if (stat := _stat(path))]
        used = sum(stat.st_size for _, stat in stats)
        for path, stat in sorted(stats, key=lambda each: each[1].st_mtime_ns):
            if used + size <= self.limit * (1 - SPARE):
                break
            path.unlink(missing_ok=True)
            used -= stat.st_size
        # Others store too: so it looks again long before it has filled all of this itself.
        self._room = max(0, self.limit - used - size) // 4


class Features:
    """Batches of images as a trunk's features of them."""

    def __init__(self, batches: TrainingBatches | FixedBatches, cache: FeatureCache) -> None:
        self.batches, self.cache = batches, cache
        self.shape, self.dtype = cache.shape, np.float32

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of a step's images, float32, and their labels, float32."""
        images, labels = self.batches(step)
        return self.cache.features(images), labels


class BoundedViews:
    """Training batches in which each image has so many augmented views, seen in turn.

    The views are computed in the images' own order, not in that of the steps: so the features of
    each are needed once, however long the training.
    """

    def __init__(self, batches: TrainingBatches, cache: FeatureCache, views: int) -> None:
        self.batches, self.cache, self.views = batches, cache, views
        self.shape, self.dtype = cache.shape, np.float32
        self._name = lru_cache(maxsize=None)(self._hash)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of a step's images, float32, and their labels, float32."""
        turns, chosen = self.batches.choose(step)
        features = np.empty((len(chosen), *self.shape), np.float32)
        for target, turn, image in zip(features, turns, chosen, strict=True):
            part, row = divmod(int(image), self.batches.batch_size)
            view = int(turn) % self.views
            target[...] = self.cache.stored(
                self._name(view, part), lambda view=view, part=part: self._images(view, part), row
            )
        return features, self.batches.subset.labels[chosen]

    def _hash(self, view: int, part: int) -> str:
        return self.cache.name(self._images(view, part))

    def _images(self, view: int, part: int) -> np.ndarray:
        batches, size = self.batches, self.batches.batch_size
        images = batches.pixels[batches.subset.rows[part * size : (part + 1) * size]]
        rng = np.random.default_rng([batches.seed, 2, view, part])
        return augment(images, batches.augmentation, rng)


def pack(features: np.ndarray) -> bytes:
    """Pack features, most of which a ReLU has set to zero, without loss.

    For each image one bit per feature, whether it is there; where each image's begin and end;
    and what is there.

    Args:
        features: float32, N×….
    """
    flat = features.reshape(len(features), -1)
    there = flat.view(np.uint32) != 0  # so that a zero's sign is kept
    ends = np.count_nonzero(there, axis=1).cumsum()
    head = np.concatenate([[len(flat), 0], ends]).astype("<u4")
    parts = head, np.packbits(there, axis=1), flat[there].astype("<f4")
    return b"".join(part.tobytes() for part in parts)


def unpack(file: int, shape: tuple[int, ...], row: int | None = None) -> np.ndarray:
    """Read what `pack` made.

    Args:
        file: the descriptor of a file.
        shape: of an image's features.
        row: of one image; all by default.

    Returns:
        float32, N×`shape`, or `shape`.

    Raises:
        EOFError: the file is not whole.
    """
    size = int(np.prod(shape))
    (count,) = _take(file, 0, 1, "<u4")
    ends = _take(file, 4, count + 1, "<u4")
    width = -(-size // 8)
    masks, values = 4 + 4 * (count + 1), 4 + 4 * (count + 1) + count * width
    if os.fstat(file).st_size != values + 4 * ends[-1]:
        raise EOFError
    first, last = (0, count) if row is None else (row, row + 1)
    bits = _take(file, masks + first * width, (last - first) * width, "u1").reshape(-1, width)
    there = np.unpackbits(bits, axis=1, count=size).view(bool)
    features = np.zeros(there.shape, np.float32)
    features[there] = _take(file, values + 4 * ends[first], ends[last] - ends[first], "<f4")
    return features.reshape(shape if row is not None else (count, *shape))


def _take(file: int, offset: int, count: int, dtype: str) -> np.ndarray:
    size = int(count) * np.dtype(dtype).itemsize
    content = os.pread(file, size, int(offset))
    if len(content) != size:
        raise EOFError
    return np.frombuffer(content, dtype)


def _fingerprint(trunk: keras.Model) -> bytes:
    """Hash all that a trunk computes with: its layers, and their weights' values."""
    # What will learn later computes as if it would not.
    layers = trunk.to_json().replace('"trainable": true', '"trainable": false')
    hashed = hashlib.sha256(layers.encode())
    for weight in trunk.weights:
        hashed.update(weight.numpy().tobytes())
    return hashed.digest()


def _compile(trunk: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    import tensorflow as tf

    pixels = tf.TensorSpec((None, *trunk.input_shape[1:]), tf.uint8)
    function = tf.function(lambda images: trunk(images, training=False), input_signature=[pixels])
    return lambda images: function(tf.constant(images)).numpy()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder for a while, if there can be one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder, os.O_RDONLY)
    except OSError:  # which keeping anything in it will meet as well, and tell
        yield
        return
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
