"""Stage `train_inception`: InceptionV3 without its top, frozen, cut, and a new head to train.

In: the split, and the trunk's weights. Out: `models/train_inception.keras`;
`plots/train_inception.csv` and the two figures of the notebook beside it;
`metrics/train_inception.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from catsdogs import params, runtime, stage, training, weights
from catsdogs.augmentation import Augmentation
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


class TrainInception(params.Training):
    weights: Annotated[str, Field(min_length=1)]
    cut: Literal[BLOCKS]
    untrained: Untrained
    dense: params.Layers
    dropout: params.Share
    augmentation: Augmentation


def main() -> None:
    settings, pinned = runtime.begin_training("train_inception", TrainInception)
    batches = training.open_batches(settings, settings.augmentation)
    file = weights.locate(settings.weights)
    trunk = build_trunk(batches.image_size, settings.cut, file)
    if file is None:
        print("the trunk is untrained (train_inception.weights: random): a rehearsal only")
        trunk = awaken(trunk, batches, settings.untrained)
    model = add_head(trunk, settings)
    origin = file.name if file and settings.weights != "imagenet" else settings.weights
    files = [file] if file else []
    training.train("train_inception", model, settings, pinned, batches, {"weights": origin}, files)


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


def add_head(trunk: keras.Model, settings: TrainInception) -> keras.Model:
    """Put the scaling before the trunk and a classifier behind it.

    Returns:
        A model from RGB pixels, 0-255, to P(dog). The trunk stays in inference mode.
    """
    import keras
    from keras import layers

    pixels = keras.Input(trunk.input_shape[1:])
    signal = layers.Flatten()(trunk(scaling()(pixels), training=False))
    for units in settings.dense:
        signal = layers.Dense(units, activation="relu")(signal)
    signal = layers.Dropout(settings.dropout)(signal)
    return keras.Model(pixels, layers.Dense(1, activation="sigmoid")(signal), name="inception")


if __name__ == "__main__":
    stage.run(main)
