"""Stage `evaluate`: every validation image through every model.

In: the split, the three models. Out: `data/predictions.csv`; `metrics/evaluate.json`; in
`plots/evaluate/curves`, for each model, its ROC, precision-recall and calibration curves and its
confusions; in `plots/evaluate/pictures`, what the small CNNs look for and find, and where each
model looked in its worst mistakes, in its best hits and in images that are the same in every
experiment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from catsdogs import (
    checkpoints,
    convolutions,
    examples,
    explanations,
    figures,
    layout,
    models,
    params,
    runtime,
    scores,
    stage,
)
from catsdogs.batches import FixedBatches, Subset, dataset, read_subset
from catsdogs.files import write_csv, write_json
from catsdogs.gradcam import heat
from catsdogs.pixels import PixelReader

import numpy as np
import pandas as pd
from pydantic import Field

if TYPE_CHECKING:
    import keras


# Those whose convolutions can be shown on a page; Inception's are far too many.
CNNS = ("train_basic", "train_augmented")

Pictures = Annotated[params.Whole, Field(ge=2, le=60, multiple_of=2)]  # half of them cats


class Evaluate(params.Section):
    batch_size: params.Count
    confidence: Annotated[params.Real, Field(gt=0, lt=1)]
    calibration_bins: Annotated[params.Whole, Field(ge=2, le=100)]
    mistakes: Annotated[params.Whole, Field(ge=1, le=60)]
    hits: Pictures
    same_images: Pictures
    channels: Annotated[params.Whole, Field(ge=1, le=16)]


def main() -> None:
    settings = params.load("evaluate", Evaluate)
    began = time.time_ns()
    runtime.pin(params.load("runtime", runtime.Runtime))
    pixels, subset = PixelReader(layout.PIXELS), read_subset(layout.VALIDATION)
    batches = FixedBatches(pixels, subset, settings.batch_size)
    predictions = pd.DataFrame({"name": subset.names, "label": subset.labels.astype(int)})
    loaded = {name: models.load(layout.model(name)) for name in layout.TRAININGS}
    results = {}
    for name, model in loaded.items():
        predictions[name] = predict(model, batches).round(scores.PROBABILITY_DIGITS)
        labels, probabilities = predictions["label"].to_numpy(), predictions[name].to_numpy()
        results[name] = scores.score(
            labels, probabilities, settings.confidence, settings.calibration_bins
        )
        write_curves(name, labels, probabilities, settings.calibration_bins)
        print(f"{name}: accuracy {results[name]['accuracy']:.4f} on {len(labels):,} images")
    write_csv(layout.PREDICTIONS, list(predictions), predictions.itertuples(index=False))
    write_json(layout.metrics("evaluate"), results)
    for name in CNNS:
        draw_convolutions(name, loaded[name], pixels, subset, settings.channels)
    draw_looks(settings, predictions, partial(look, loaded, pixels, subset, predictions))
    # DVC hashes whole folders: what earlier code has left there must go.
    for path in (*layout.SCORE_CURVES.iterdir(), *layout.PICTURES.iterdir()):
        if path.stat().st_mtime_ns < began:
            path.unlink()
    checkpoints.remove_recorded()


def predict(model: keras.Model, batches: FixedBatches) -> np.ndarray:
    """Return P(dog) for every image of the batches, float64, N."""
    images = dataset(batches, 0, len(batches))
    return model.predict(images, verbose=0)[:, 0].astype(np.float64)


def write_curves(name: str, labels: np.ndarray, probabilities: np.ndarray, bins: int) -> None:
    tables = {
        "roc": scores.roc(labels, probabilities),
        "precision_recall": scores.precision_recall(labels, probabilities),
        "calibration": scores.calibration(labels, probabilities, bins),
        "confusion": scores.confusion(labels, probabilities),
    }
    for kind, table in tables.items():
        path = layout.SCORE_CURVES / f"{name}_{kind}.csv"
        write_csv(path, list(table), table.itertuples(index=False))


def draw_convolutions(
    name: str, model: keras.Model, pixels: PixelReader, subset: Subset, channels: int
) -> None:
    """Draw what a CNN looks for, and what it finds in the first cat and the first dog."""
    colours = convolutions.as_colours(convolutions.first_kernels(model))
    explanations.draw_filters(name, colours, picture(f"{name}_filters"))
    both = examples.first_of_each(subset.labels, 2)
    images, labels = pixels[subset.rows[both]], subset.labels[both]
    maps = convolutions.feature_maps(model, images)
    chosen = [convolutions.varied(each, channels) for each in maps]
    path = picture(f"{name}_feature_maps")
    explanations.draw_feature_maps(name, images, labels, maps, chosen, path)


def draw_looks(
    settings: Evaluate,
    predictions: pd.DataFrame,
    look: Callable[[np.ndarray], explanations.Looks],
) -> None:
    """Draw where the models looked: each one's worst and best, and what stays the same."""
    labels = predictions["label"].to_numpy()
    for name in layout.TRAININGS:
        model, probabilities = figures.title(name), predictions[name].to_numpy()
        worst = look(examples.worst_mistakes(labels, probabilities, settings.mistakes))
        best = look(examples.best_hits(labels, probabilities, settings.hits))
        mistakes, hits = picture(f"{name}_mistakes"), picture(f"{name}_hits")
        explanations.draw_looks(f"{model}: its worst mistakes", worst, mistakes, name)
        explanations.draw_looks(f"{model}: its best hits", best, hits, name)
    same = look(examples.first_of_each(labels, settings.same_images))
    heading = "The same images in every experiment"
    explanations.draw_looks(heading, same, picture("same_images"))


def look(
    loaded: dict[str, keras.Model],
    pixels: PixelReader,
    subset: Subset,
    predictions: pd.DataFrame,
    places: np.ndarray,
) -> explanations.Looks:
    """Find what speaks for each model's answer to some of the images."""
    images = pixels[subset.rows[places]]
    return explanations.Looks(
        images,
        [subset.names[place] for place in places],
        subset.labels[places],
        {name: heat(model, images) for name, model in loaded.items()},
        {name: predictions[name].to_numpy()[places] for name in loaded},
    )


def picture(name: str) -> Path:
    return layout.PICTURES / f"{name}.png"


if __name__ == "__main__":
    stage.run(main)
