"""The notebook's small CNN, which `train_basic` and `train_augmented` train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import keras


Initializer = Literal["glorot_uniform", "glorot_normal", "he_uniform", "he_normal"]


def too_small(stage: str, filters: Sequence[int], sections: Mapping[str, Any]) -> Iterator[str]:
    """Yield a problem if the images are too small for so many convolutions."""
    if "split" in sections:
        side = size = sections["split"].image_size
        for _ in filters:
            side = (side - 2) // 2
        if side < 1:
            yield (
                f"split.image_size is {size}, of which the {len(filters)} convolutions of "
                f"{stage}.filters leave nothing: shorten filters, or raise split.image_size"
            )


def build(
    size: int,
    filters: Sequence[int],
    dense: Sequence[int],
    initializer: Initializer = "glorot_uniform",
) -> keras.Model:
    """Build 3×3 convolutions, each followed by 2×2 max pooling, then dense layers.

    With the notebook's size 150, filters 32, 64, 128 and dense layers 128, 512 it has 4,894,913
    parameters.

    Args:
        size: side of the images in pixels.
        filters: the number of filters of each convolution.
        dense: the units of each hidden dense layer.
        initializer: of the weights of all layers but the last.

    Returns:
        A model from RGB pixels, 0-255, N×size×size×3, to P(second class), N×1.
    """
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((size, size, 3)), layers.Rescaling(1 / 255)])
    for count in filters:
        model.add(layers.Conv2D(count, 3, activation="relu", kernel_initializer=initializer))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    for units in dense:
        model.add(layers.Dense(units, activation="relu", kernel_initializer=initializer))
    model.add(layers.Dense(1, activation="sigmoid", dtype="float32"))
    return model
