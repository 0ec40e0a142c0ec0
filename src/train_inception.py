"""Stage `train_inception`: InceptionV3, cut and frozen, with a new head that is trained.

If `fine_tuning.above` says so, a second phase trains the trunk's upper blocks with the head, at a
small rate.

In: the split, and the trunk's weights. Out: `models/train_inception.keras` and `.json`; the curves
and the notebook's two figures in `plots/training`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from catsdogs import params, stage
from catsdogs.data.augmentation import Augmentation
from catsdogs.models import inception, weights
from catsdogs.models.features import BoundedViews, CachedFeatures, FeatureCache
from catsdogs.training import loop

from pydantic import Field

if TYPE_CHECKING:
    import keras


class FineTuning(loop.Phase):
    above: Literal[("none", *inception.BLOCKS[:-1])]  # type: ignore[valid-type]


class TrainInception(loop.Settings):
    weights: Annotated[str, Field(min_length=1)]
    cut: Literal[inception.BLOCKS]  # type: ignore[valid-type]
    untrained: inception.Untrained
    dense: params.Layers
    dropout: params.Share
    views: Annotated[params.Whole, Field(ge=0, le=10_000)]
    fine_tuning: FineTuning
    augmentation: Augmentation

    def conflicts(self, name: str, sections: Mapping[str, Any]) -> Iterator[str]:
        yield from super().conflicts(name, sections)
        above = self.fine_tuning.above
        if above != "none" and inception.BLOCKS.index(above) >= inception.BLOCKS.index(self.cut):
            yield (
                f"{name}.fine_tuning.above is {above}, and nothing of the trunk is above it: "
                f"name a block below {name}.cut, which is {self.cut}, or none"
            )
        if "split" in sections and sections["split"].image_size < inception.SMALLEST:
            yield (
                f"split.image_size is {sections['split'].image_size} and InceptionV3 "
                f"({name}) needs at least {inception.SMALLEST}"
            )

    def phases(self) -> dict[str, loop.Phase]:
        second = {} if self.fine_tuning.above == "none" else {"fine_tuning": self.fine_tuning}
        return super().phases() | {f"{key}.epochs": phase for key, phase in second.items()}

    def files(self) -> list[Path]:
        file = weights.locate(self.weights)
        return [file] if file else []


def main() -> None:
    with loop.begin("train_inception", TrainInception) as training:
        settings, batches = training.settings, training.batches(training.settings.augmentation)
        file = weights.locate(settings.weights)
        trunk = inception.build_trunk(batches.shape[0], settings.cut, file)
        if file is None:
            print("the trunk is untrained (train_inception.weights: random): a rehearsal only")
            trunk = inception.calibrate(trunk, batches, settings.untrained)
        above = settings.fine_tuning.above
        frozen, *blocks = [trunk] if above == "none" else inception.divide(trunk, above)
        head = build_head(trunk.output_shape[1:], settings)
        whole = inception.join(inception.with_scaling(frozen), *blocks, head)
        whole.summary()

        fit(training, head, trunk, settings)
        if blocks:
            fit(training, inception.join(*blocks, head), frozen, settings.fine_tuning)
        origin = file.name if file and settings.weights != "imagenet" else settings.weights
        training.write(whole, {"weights": origin})


def build_head(shape: tuple[int, ...], settings: TrainInception) -> keras.Model:
    """Build the classifier, from features to P(second class).

    It computes in float32. A step is bound by reading and writing its weights, so that 16-bit
    products would only add their conversion.
    """
    import keras
    from keras import layers

    features = keras.Input(shape)
    signal = layers.Flatten()(features)
    for units in settings.dense:
        signal = layers.Dense(units, activation="relu", dtype="float32")(signal)
    signal = layers.Dropout(settings.dropout)(signal)
    return keras.Model(
        features, layers.Dense(1, activation="sigmoid", dtype="float32")(signal), name="head"
    )


def fit(
    training: loop.Training[TrainInception],
    model: keras.Model,
    trunk: keras.Model,
    phase: loop.Phase,
) -> None:
    """Fit a model to the features of the frozen trunk below it.

    A frozen trunk gives the same features of an image at every step. They come from a cache, and
    the training computes nothing below the model.
    """
    settings, batches = training.settings, training.batches(training.settings.augmentation)
    folded = inception.with_scaling(inception.fold(trunk))
    cache = FeatureCache(folded, training.runtime, training.runtime.cache_gb)
    views = settings.views
    seen = BoundedViews(batches, cache, views) if views else CachedFeatures(batches, cache)
    training.fit(model, seen, CachedFeatures(training.validation(), cache), phase)
    print(f"trunk features: {cache.read:,} times read, {cache.computed:,} times computed")


if __name__ == "__main__":
    stage.run(main)
