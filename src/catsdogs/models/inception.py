"""InceptionV3 without its top: cut, frozen, and taken apart for fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from catsdogs import params
from catsdogs.data.batches import TrainingBatches
from catsdogs.stage import UserError, one_line

import numpy as np
from pydantic import Field

if TYPE_CHECKING:
    import keras

BLOCKS = tuple(f"mixed{number}" for number in range(11))
SMALLEST = 75  # pixels; with fewer, nothing is left for InceptionV3's last blocks


class Untrained(params.Section):
    """How a trunk of random weights is calibrated so that its features tell images apart."""

    statistics_batches: params.Count  # training batches that estimate batch normalisation
    offset: Annotated[params.Real, Field(ge=0)]  # of every normalised signal, before its ReLU
    threshold: Annotated[params.Real, Field(ge=0)]  # subtracted from each feature, before a ReLU


def build_trunk(size: int, cut: str, file: Path | None) -> keras.Model:
    """Build InceptionV3 up to the block `cut`, frozen.

    Weights files hold the whole network, so Keras builds the whole network to read them. What lies
    above the cut is dropped before anything is computed with it.

    Args:
        size: side of the images in pixels.
        cut: the last block: at 150 pixels, `mixed7` gives 7×7×768.
        file: weights in the layout of Keras' own file, or None for random ones.

    Returns:
        A model from pixels scaled to -1…1, N×size×size×3, to features.

    Raises:
        UserError: the weights are not InceptionV3's.
    """
    import keras

    whole = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(size, size, 3), name="inception_v3"
    )
    if file:
        try:
            whole.load_weights(file)
        except (ValueError, OSError, KeyError) as error:
            reason = one_line(error)
            raise UserError(f"{file} does not hold weights of InceptionV3: {reason}") from None
    trunk = keras.Model(whole.input, whole.get_layer(cut).output, name="trunk")
    trunk.trainable = False
    return trunk


def scaling() -> keras.Layer:
    """Return the layer from 0-255 to -1…1, which the ImageNet weights were trained on."""
    from keras import layers

    return layers.Rescaling(1 / 127.5, offset=-1, name="scaling")


def calibrate(trunk: keras.Model, batches: TrainingBatches, untrained: Untrained) -> keras.Model:
    """Make the features of a random trunk tell images apart.

    Batch normalisation gets the mean and variance of some training batches; without them the
    signal fades from block to block. An offset keeps more of the signal from being lost to the
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
    trunk.trainable = True  # frozen normalisation ignores the batch
    for step in range(untrained.statistics_batches):
        for layer in normalisations:
            layer.momentum = step / (step + 1)  # a plain average over the batches so far
        trunk(scale(batches(step)[0]), training=True)
    features = layers.Rescaling(1.0, offset=-untrained.threshold)(trunk.output)
    calibrated = keras.Model(trunk.input, layers.ReLU()(features), name=trunk.name)
    calibrated.trainable = False
    return calibrated


def divide(trunk: keras.Model, above: str) -> tuple[keras.Model, keras.Model]:
    """Divide a trunk, so that its upper part can be trained.

    Args:
        trunk: from pixels scaled to -1…1 to features.
        above: the last block of the lower part; another one has to be above it.

    Returns:
        The lower part, frozen, and the upper part. Batch normalisation stays frozen there, in
        inference mode: a few images would spoil its statistics of many.
    """
    import keras

    seam = trunk.get_layer(above).output
    lower = keras.Model(trunk.input, seam, name="trunk")
    lower.trainable = False
    upper = keras.Model(seam, trunk.output, name="blocks")
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return lower, upper


def fold(trunk: keras.Model) -> keras.Model:
    """Build batch normalisation into the convolutions before it, which saves a pass over each.

    Args:
        trunk: a network in inference mode, whose convolutions have no bias of their own.

    Returns:
        A network with the same outputs but for rounding, frozen.
    """
    import keras
    from keras import layers

    def with_bias(layer: keras.Layer) -> keras.Layer:
        if not isinstance(layer, layers.Conv2D):
            return layer
        return layers.Conv2D.from_config(layer.get_config() | {"use_bias": True})

    def call(layer: keras.Layer, signal: Any, **_: Any) -> Any:
        return signal if isinstance(layer, layers.BatchNormalization) else layer(signal)

    folded = keras.models.clone_model(trunk, clone_function=with_bias, call_function=call)
    for layer in trunk.layers:
        if isinstance(layer, layers.BatchNormalization):
            convolution = layer.input._keras_history.operation
            scale = 1 / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
            if layer.scale:
                scale = scale * layer.gamma.numpy()
            kernel = convolution.kernel.numpy() * scale
            bias = layer.beta.numpy() - layer.moving_mean.numpy() * scale
            folded.get_layer(convolution.name).set_weights([kernel, bias])
    folded.trainable = False
    return folded


def join(first: keras.Model, *others: keras.Model) -> keras.Model:
    """Chain models; the last is a head, whose layers become the joined model's own."""
    import keras

    *blocks, head = others
    signal = first.output
    for model in blocks:
        signal = model(signal)
    for layer in head.layers[1:]:
        signal = layer(signal)
    return keras.Model(first.input, signal, name="inception")


def with_scaling(trunk: keras.Model) -> keras.Model:
    """Make a trunk take RGB pixels, 0-255; it stays in inference mode."""
    import keras

    # With a name, a trunk's description does not depend on what was built before it.
    pixels = keras.Input(trunk.input_shape[1:], name="pixels")
    return keras.Model(pixels, trunk(scaling()(pixels), training=False), name="features")
