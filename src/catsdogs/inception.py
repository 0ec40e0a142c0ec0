"""InceptionV3 without its top, frozen and cut: weights go in, a model of features comes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from catsdogs import params
from catsdogs.batches import TrainingBatches
from catsdogs.stage import UserError

from pydantic import Field

if TYPE_CHECKING:
    import keras

BLOCKS = tuple(f"mixed{number}" for number in range(11))
SMALLEST = 75  # pixels, below which InceptionV3's last blocks have nothing left


class Untrained(params.Section):
    """How a trunk of random weights is made to pass on what it sees."""

    statistics_batches: params.Count  # training batches that normalisation is estimated from
    offset: Annotated[params.Real, Field(ge=0)]  # of every normalised signal, before its ReLU
    threshold: Annotated[params.Real, Field(ge=0)]  # what of each feature is cut off below


def build_trunk(size: int, cut: str, file: Path | None) -> keras.Model:
    """Build InceptionV3 up to the block `cut`, frozen.

    Weights files are laid out for the whole network, so that is what Keras builds to read them;
    what lies above the cut is dropped before anything is computed with it.

    Args:
        size: side of the images in pixels.
        cut: the last block: at 150 pixels, `mixed7` gives 7×7×768.
        file: weights in the layout of Keras' own file, or None for random ones.

    Returns:
        A model from pixels scaled to -1…1, N×size×size×3, to features.

    Raises:
        UserError: the images are too small, or the weights are not InceptionV3's.
    """
    import keras

    if size < SMALLEST:
        raise UserError(f"split.image_size is {size} and InceptionV3 needs at least {SMALLEST}")
    whole = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(size, size, 3), name="inception_v3"
    )
    if file:
        try:
            whole.load_weights(file)
        except (ValueError, OSError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{file} does not hold weights of InceptionV3: {reason}") from None
    trunk = keras.Model(whole.input, whole.get_layer(cut).output, name="trunk")
    trunk.trainable = False
    return trunk


def scaling() -> keras.Layer:
    """From 0-255 to -1…1, which is what the ImageNet weights were trained on."""
    from keras import layers

    return layers.Rescaling(1 / 127.5, offset=-1)


def awaken(trunk: keras.Model, batches: TrainingBatches, untrained: Untrained) -> keras.Model:
    """Make a random trunk's features tell images apart.

    Batch normalisation gets the mean and variance of some training batches, without which the
    signal fades from block to block, and an offset, with which fewer of its signs are lost to the
    ReLUs. The threshold leaves about one feature in eight active, as in a trained trunk.

    Returns:
        The trunk with the threshold behind it, frozen.
    """
    import keras
    from keras import layers

    normalisations = [
        layer for layer in trunk.layers if isinstance(layer, layers.BatchNormalization)
    ]
    for layer in normalisations:
        layer.beta.assign(layer.beta + untrained.offset)
    scale = scaling()
    trunk.trainable = True  # frozen normalisation would not look at the batch
    for step in range(untrained.statistics_batches):
        for layer in normalisations:
            layer.momentum = step / (step + 1)  # a plain average over the batches so far
        trunk(scale(batches(step)[0]), training=True)
    features = layers.Rescaling(1.0, offset=-untrained.threshold)(trunk.output)
    awake = keras.Model(trunk.input, layers.ReLU()(features), name=trunk.name)
    awake.trainable = False
    return awake


def with_scaling(trunk: keras.Model) -> keras.Model:
    """Let a trunk begin with RGB pixels, 0-255; it stays in inference mode."""
    import keras

    pixels = keras.Input(trunk.input_shape[1:])
    return keras.Model(pixels, trunk(scaling()(pixels), training=False))
