"""What a small CNN's convolutions look for, and what they find in an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

MOST = 8  # convolutions that fit on one page


def can_be_drawn(model: keras.Model) -> bool:
    """Whether a model has a few convolutions as its own layers, the first one on RGB."""
    layers = _convolutions(model)
    return 1 <= len(layers) <= MOST and layers[0].kernel.shape[2] == 3


def first_kernels(model: keras.Model) -> np.ndarray:
    """The first convolution's kernels, float32, filters×height×width×3."""
    return np.moveaxis(_convolutions(model)[0].get_weights()[0], -1, 0)


def kernels_to_rgb(kernels: np.ndarray) -> np.ndarray:
    """Turn weights into colours: grey (0.5) is zero, and each kernel's largest weight is 0 or 1.

    Args:
        kernels: N×height×width×3.

    Returns:
        float, 0…1, of the same shape; a kernel of zeros is all grey.
    """
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    return 0.5 + 0.5 * kernels / np.where(largest > 0, largest, 1)


def feature_maps(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """Compute what each convolution finds.

    Args:
        model: its convolutions are layers of its own, not of a nested model.
        images: RGB, 0-255, N×size×size×3.

    Returns:
        For each convolution its output, after its activation, float32, N×rows×columns×channels.
    """
    import keras

    parts = [keras.Model(model.inputs[0], layer.output) for layer in _convolutions(model)]
    return [part(images.astype(np.float32), training=False).numpy() for part in parts]


def select_distinct_channels(maps: np.ndarray, count: int) -> np.ndarray:
    """Select channels that are active and differ from one another.

    The most active channels are often near copies of the image. So take twice as many of these,
    start with the first, and add the one that correlates least with those already selected.

    Args:
        maps: N×rows×columns×channels.
        count: how many to select; fewer if there are fewer.

    Returns:
        Their numbers in ascending order.
    """
    flat = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
    active = np.argsort(-flat.mean(axis=0), kind="stable")[: 2 * count]
    with np.errstate(invalid="ignore"):  # a constant channel correlates with nothing
        correlation = np.abs(np.corrcoef(flat[:, active], rowvar=False)).reshape(2 * active.shape)
    correlation = np.nan_to_num(correlation, nan=1).round(6)  # coarser than a CPU's last bits
    selected = [0]
    while len(selected) < min(count, len(active)):
        closest = correlation[selected].max(axis=0)
        closest[selected] = np.inf
        selected.append(int(closest.argmin()))
    return np.sort(active[selected])


def _convolutions(model: keras.Model) -> list[keras.layers.Conv2D]:
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
