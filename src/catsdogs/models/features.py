"""Features of a frozen trunk: computed once per image, then read from a cache on disk.

A file of the cache holds the features of one batch of images. Its name is a hash of everything
that they depend on: the pixels, the trunk's layers and weights, and what decides the last bits. So
a changed image, weight or augmentation never meets an old feature.

`diskcache` does not serve here: it has had no release since 2023, it stores arrays by pickle, and
it would read a whole batch to return one image.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from catsdogs import layout
from catsdogs.data.augmentation import augment
from catsdogs.data.batches import FixedBatches, TrainingBatches
from catsdogs.files import replacing
from catsdogs.runtime import Runtime, fingerprint
from catsdogs.workers import WHOLE, Part

import numpy as np
from filelock import FileLock

if TYPE_CHECKING:
    import keras

SPARE = 0.1  # share of the cache that is emptied at a time


class FeatureCache:
    """Features by the images that they are of, kept in `.cache/features` of the main checkout."""

    def __init__(self, trunk: keras.Model, runtime: Runtime, gigabytes: float) -> None:
        """Prepare a trunk.

        Args:
            trunk: from RGB pixels, 0-255, to features; used in inference mode.
            runtime: what decides the last bits.
            gigabytes: the limit of the whole cache; what was not used for longest makes room.
        """
        self.shape: tuple[int, ...] = trunk.output_shape[1:]
        self.limit = int(gigabytes * 1e9)
        self._trunk, self._computing = trunk, threading.Lock()
        self._depends_on = _hash(trunk) + repr(fingerprint(runtime)).encode()
        self.computed = self.read = 0  # calls of `get` that had to compute, that could read
        self._room = 0  # bytes; 0 while it is not known
        self._warned = False

    def key(self, images: np.ndarray) -> str:
        """Hash images, uint8, N×height×width×3, with all else that their features depend on."""
        hashed = hashlib.sha256(self._depends_on + repr(images.shape).encode())
        hashed.update(images.tobytes())
        return hashed.hexdigest()

    def get(
        self, key: str, images: Callable[[], np.ndarray], row: int | None = None
    ) -> np.ndarray:
        """Return the features of a batch, float32, N×`shape`, or of one image of it.

        Args:
            key: as from `key`.
            images: gives the batch if its features have to be computed.
            row: which image; all by default.
        """
        path = layout.FEATURES / key[:2] / key[2:]
        found = self._read(path, row)
        if found is None:
            with _lock(path):  # another experiment may be computing the same features
                found = self._read(path, row)
                if found is None:
                    with self._computing:  # Keras' models are not safe in threads
                        computed = np.asarray(self._trunk.predict_on_batch(images()), np.float32)
                        self.computed += 1
                    self._write(path, computed)
                    return computed if row is None else computed[row]
        self.read += 1
        return found

    def _read(self, path: Path, row: int | None) -> np.ndarray | None:
        try:
            found = unpack(path, self.shape, row)
        except (OSError, ValueError, IndexError):
            return None  # missing, unreadable or cut off: it is computed again
        with suppress(OSError):  # a cache that may only be read
            os.utime(path)  # so that `_make_room` keeps what is in use
        return found

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
        files = []
        for path in layout.FEATURES.glob("*/*"):
            with suppress(FileNotFoundError):  # another process makes room, too
                files.append((path.stat(), path))
        used = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if used + size <= self.limit * (1 - SPARE):
                break
            path.unlink(missing_ok=True)
            used -= stat.st_size
        # Others store too, so it looks again long before it has filled all of this itself.
        self._room = max(0, self.limit - used - size) // 4


class CachedFeatures:
    """Batches of images, each as the features of a trunk."""

    dtype = np.float32

    def __init__(self, batches: TrainingBatches | FixedBatches, cache: FeatureCache) -> None:
        self.batches, self.cache, self.shape = batches, cache, cache.shape

    def __len__(self) -> int:
        return len(cast("Sized", self.batches))

    def __call__(self, step: int, part: Part = WHOLE) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of a step's images, float32, and their labels, float32."""
        images, labels = self.batches(step, part)
        return self.cache.get(self.cache.key(images), lambda: images), labels


class BoundedViews:
    """Training batches in which each image has a fixed number of augmented views, seen in turn.

    The views are computed in the order of the images, not of the steps. So each view goes through
    the trunk once, however long the training.
    """

    dtype = np.float32

    def __init__(self, batches: TrainingBatches, cache: FeatureCache, views: int) -> None:
        self.batches, self.cache, self.views, self.shape = batches, cache, views, cache.shape
        self._key = lru_cache(maxsize=None)(lambda *place: cache.key(self._images(*place)))

    def __call__(self, step: int, part: Part = WHOLE) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of a step's images, float32, and their labels, float32."""
        passes, chosen = self.batches.choose(step, part)
        features = np.empty((len(chosen), *self.shape), np.float32)
        for i, (number, image) in enumerate(zip(passes, chosen, strict=True)):
            group, row = divmod(int(image), self.batches.batch_size)
            place = (int(number) % self.views, group)
            features[i] = self.cache.get(self._key(*place), partial(self._images, *place), row)
        return features, self.batches.subset.labels[chosen]

    def _images(self, view: int, part: int) -> np.ndarray:
        """Return a part of the images, as many as a batch has, in one of their views."""
        batches, size = self.batches, self.batches.batch_size
        images = batches.pixels[batches.subset.rows[part * size : (part + 1) * size]]
        if not batches.augmentation:
            return images
        rng = np.random.default_rng([batches.seed, 2, view, part])
        return augment(images, batches.augmentation, rng)


def pack(features: np.ndarray) -> bytes:
    """Pack features without loss; a ReLU has set most of them to zero.

    The format: the number of images; where the values of each image begin and end; for each image
    one bit per feature, set if it is not zero; the values. It takes 0.63 of the bytes of SciPy's
    CSR format, and one image is read 7 times as fast.

    Args:
        features: float32, N×….
    """
    flat = features.reshape(len(features), -1)
    present = flat.view(np.uint32) != 0  # keeps a zero's sign
    ends = np.count_nonzero(present, axis=1).cumsum()
    head = np.array([len(flat), 0, *ends], "<u4")
    values = flat[present].astype("<f4")
    return head.tobytes() + np.packbits(present, axis=1).tobytes() + values.tobytes()


def unpack(path: Path, shape: tuple[int, ...], row: int | None = None) -> np.ndarray:
    """Read a file of what `pack` returned.

    Args:
        path: the file.
        shape: of one image's features.
        row: which image; all by default.

    Returns:
        float32, N×`shape`, or `shape`.

    Raises:
        ValueError, IndexError: the file is not whole.
    """
    size = math.prod(shape)
    width = -(-size // 8)  # bytes of an image's bits
    with path.open("rb") as file:
        count = int(np.fromfile(file, "<u4", 1)[0])
        ends = np.fromfile(file, "<u4", count + 1).astype(int)
        bits = file.tell()
        if path.stat().st_size != bits + count * width + 4 * ends[-1]:
            raise ValueError(f"{path} does not have the size that it claims")
        first, last = (0, count) if row is None else (row, row + 1)
        file.seek(bits + first * width)
        packed = np.fromfile(file, "u1", (last - first) * width).reshape(-1, width)
        file.seek(bits + count * width + 4 * ends[first])
        values = np.fromfile(file, "<f4", ends[last] - ends[first])
    present = np.unpackbits(packed, axis=1, count=size).view(bool)
    features = np.zeros(present.shape, np.float32)
    features[present] = values
    return features.reshape(shape if row is not None else (count, *shape))


def _hash(trunk: keras.Model) -> bytes:
    """Hash what a trunk computes with: its layers and the values of its weights."""
    # A layer that learns in a later phase computes the same here.
    layers = trunk.to_json().replace('"trainable": true', '"trainable": false')
    hashed = hashlib.sha256(layers.encode())
    for weight in trunk.weights:
        hashed.update(weight.numpy().tobytes())
    return hashed.digest()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep other processes from writing into a file's folder, if a lock can be made."""
    with ExitStack() as stack:
        with suppress(OSError):  # which will keep `_write` from writing, too, and it says so
            stack.enter_context(FileLock(f"{path.parent}.lock"))
        yield
