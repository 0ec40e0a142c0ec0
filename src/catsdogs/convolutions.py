"""What a CNN's convolutions look for, and what they find: a model goes in, arrays come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


def first_kernels(model: keras.Model) -> np.ndarray:
    """The first convolution's kernels, float32, filters×height×width×3."""
    return np.moveaxis(_convolutions(model)[0].get_weights()[0], -1, 0)


def as_colours(kernels: np.ndarray) -> np.ndarray:
    """Make weights colours: grey (0.5) is zero, and each kernel's largest weight is 0 or 1.

    Args:
        kernels: N×height×width×3.

    Returns:
        float, 0…1, of the same shape; a kernel of zeros is all grey.
    """
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * kernels / np.where(largest > 0, largest, 1)


def feature_maps(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """Follow images through a CNN.

    Args:
        model: whose convolutions stand in it as layers of its own.
        images: RGB, 0-255, N×size×size×3.

    Returns:
        What comes out of each convolution and its ReLU, float32, N×rows×columns×channels.
    """
    import keras

    parts = [keras.Model(model.inputs[0], layer.output) for layer in _convolutions(model)]
    return [part(images.astype(np.float32), training=False).numpy() for part in parts]


def varied(maps: np.ndarray, count: int) -> np.ndarray:
    """Choose channels that are active and unlike one another, in ascending order.

    The most active ones are often copies of the image, all nearly the same. So, out of twice as
    many of these, the first is chosen, then always that which correlates least with those before.

    Args:
        maps: N×rows×columns×channels.
        count: how many; fewer where there are fewer.
    """
    answers = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    ranked = np.argsort(-answers.mean(axis=0), kind="stable")
    active = ranked[: 2 * count]
    with np.errstate(invalid="ignore"):  # a constant channel correlates with nothing
        likeness = np.abs(np.corrcoef(answers[:, active], rowvar=False)).reshape(2 * active.shape)
    likeness = np.nan_to_num(likeness, nan=1).round(6)  # coarser than a processor's last bits
    chosen = [0]
    while len(chosen) < min(count, len(active)):
        nearest = likeness[chosen].max(axis=0)
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
    return np.sort(active[chosen])


def _convolutions(model: keras.Model) -> list[keras.layers.Conv2D]:
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
