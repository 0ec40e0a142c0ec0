"""Stage `train_inception`: InceptionV3 without its top, frozen, cut, and a new head to train.

In: the split, and the trunk's weights. Out: `models/train_inception.keras`;
`plots/train_inception.csv` and the two figures of the notebook beside it;
`metrics/train_inception.json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from catsdogs import inception, params, runtime, stage, training, weights
from catsdogs.augmentation import Augmentation
from catsdogs.features import BoundedViews, FeatureCache, Features

from pydantic import Field

if TYPE_CHECKING:
    import keras


class TrainInception(params.Training):
    weights: Annotated[str, Field(min_length=1)]
    cut: Literal[inception.BLOCKS]
    untrained: inception.Untrained
    dense: params.Layers
    dropout: params.Share
    views: Annotated[params.Whole, Field(ge=0, le=10_000)]
    cache_gb: Annotated[params.Real, Field(gt=0)]
    augmentation: Augmentation


def main() -> None:
    settings, pinned = runtime.begin_training("train_inception", TrainInception)
    batches, validation = training.open_batches(settings, settings.augmentation)
    file = weights.locate(settings.weights)
    trunk = inception.build_trunk(batches.shape[0], settings.cut, file)
    if file is None:
        print("the trunk is untrained (train_inception.weights: random): a rehearsal only")
        trunk = inception.awaken(trunk, batches, settings.untrained)
    trunk = inception.with_scaling(trunk)
    cache = FeatureCache(trunk, pinned, settings.cache_gb)
    if settings.views:
        seen = BoundedViews(batches, cache, settings.views)
    else:
        seen = Features(batches, cache)
    head = build_head(cache.shape, settings)
    origin = file.name if file and settings.weights != "imagenet" else settings.weights
    training.train(
        "train_inception",
        head,
        settings,
        pinned,
        seen,
        Features(validation, cache),
        {"weights": origin},
        [file] if file else [],
        join(trunk, head),
    )
    print(f"trunk features: {cache.read:,} times read, {cache.computed:,} times computed")


def build_head(shape: tuple[int, ...], settings: TrainInception) -> keras.Model:
    """Build the classifier, which is all that is trained: from features to P(dog).

    The frozen trunk gives the same features of an image at every step, so they come from the
    cache, and training computes nothing below the head.
    """
    import keras
    from keras import layers

    features = keras.Input(shape)
    signal = layers.Flatten()(features)
    for units in settings.dense:
        signal = layers.Dense(units, activation="relu")(signal)
    signal = layers.Dropout(settings.dropout)(signal)
    return keras.Model(features, layers.Dense(1, activation="sigmoid")(signal), name="head")


def join(trunk: keras.Model, head: keras.Model) -> keras.Model:
    """Put a head behind the trunk: a model from RGB pixels, 0-255, to P(dog)."""
    import keras

    signal = trunk.output
    for layer in head.layers[1:]:
        signal = layer(signal)
    return keras.Model(trunk.input, signal, name="inception")


if __name__ == "__main__":
    stage.run(main)
