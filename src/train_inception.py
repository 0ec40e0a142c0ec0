"""Stage `train_inception`: InceptionV3 without its top, frozen, cut, and a new head to train.

Then, if a parameter says so, the trunk's upper blocks learn with the head, at a small rate.

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
    from catsdogs.training import Phase

    import keras


class FineTuning(params.Section):
    above: Literal[("none", *inception.BLOCKS[:-1])]
    epochs: params.Count
    learning_rate: params.Positive


class TrainInception(params.Training):
    weights: Annotated[str, Field(min_length=1)]
    cut: Literal[inception.BLOCKS]
    untrained: inception.Untrained
    dense: params.Layers
    dropout: params.Share
    views: Annotated[params.Whole, Field(ge=0, le=10_000)]
    cache_gb: Annotated[params.Real, Field(gt=0)]
    fine_tuning: FineTuning
    augmentation: Augmentation


def main() -> None:
    settings, pinned = runtime.begin_training("train_inception", TrainInception)
    batches, validation = training.open_batches(settings, settings.augmentation)
    file = weights.locate(settings.weights)
    trunk = inception.build_trunk(batches.shape[0], settings.cut, file)
    if file is None:
        print("the trunk is untrained (train_inception.weights: random): a rehearsal only")
        trunk = inception.awaken(trunk, batches, settings.untrained)
    above = settings.fine_tuning.above
    frozen, *blocks = [trunk] if above == "none" else inception.divide(trunk, above)
    features = FeatureCache(inception.with_scaling(trunk), pinned, settings.cache_gb)
    head = build_head(features.shape, settings)
    whole = inception.join(inception.with_scaling(frozen), *blocks, head)
    whole.summary()

    def fit(run: training.Run, model: keras.Model, cache: FeatureCache, phase: Phase) -> None:
        """Fit what stands above a part of the trunk to that part's features."""
        views = settings.views
        seen = BoundedViews(batches, cache, views) if views else Features(batches, cache)
        run.fit(model, seen, Features(validation, cache), phase)
        print(f"trunk features: {cache.read:,} times read, {cache.computed:,} times computed")

    with training.begin("train_inception", settings, pinned, [file] if file else []) as run:
        fit(run, head, features, settings)
        if blocks:
            features = FeatureCache(inception.with_scaling(frozen), pinned, settings.cache_gb)
            fit(run, inception.join(*blocks, head), features, settings.fine_tuning)
        origin = file.name if file and settings.weights != "imagenet" else settings.weights
        run.write(whole, {"weights": origin})


def build_head(shape: tuple[int, ...], settings: TrainInception) -> keras.Model:
    """Build the classifier: from features to P(dog).

    A frozen trunk gives the same features of an image at every step, so they come from the
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


if __name__ == "__main__":
    stage.run(main)
