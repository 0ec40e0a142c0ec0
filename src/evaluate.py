"""Stage `evaluate`: every validation image through every model of `evaluate.models`.

In: the split, the models.
Out: `data/predictions.csv`, P(label 1) of each image by each model; `metrics/scores.json`, all
scores; `metrics/evaluate.json`, those that people compare; `plots/evaluate/curves`, the ROC,
precision-recall, calibration and confusion of all models; `plots/evaluate/pictures`, where each
model looked in its worst mistakes, in its best hits and in the same images of every experiment,
and the filters and feature maps of small CNNs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from catsdogs import layout, params, runtime, stage
from catsdogs.data.batches import FixedBatches, PixelReader, Subset, feed, read_subset
from catsdogs.evaluation import convolutions, examples, scores
from catsdogs.evaluation.gradcam import GradCam
from catsdogs.files import write_csv, write_json
from catsdogs.models import saved
from catsdogs.reporting import explanations
from catsdogs.reporting.explanations import HeatMaps
from catsdogs.stage import UserError
from catsdogs.training import checkpoints

import numpy as np
import pandas as pd
from pydantic import Field

if TYPE_CHECKING:
    import keras

Pictures = Annotated[params.Whole, Field(ge=2, le=60, multiple_of=2)]  # half of each class


class Evaluate(params.Section):
    models: list[str]
    batch_size: params.Count
    confidence: Annotated[params.Real, Field(gt=0, lt=1)]
    calibration_bins: Annotated[params.Whole, Field(ge=2, le=100)]
    mistakes: Annotated[params.Whole, Field(ge=1, le=60)]
    hits: Pictures
    same_images: Pictures
    channels: Annotated[params.Whole, Field(ge=1, le=16)]


def main() -> None:
    params.check()
    names, classes = params.load_models(), params.load_classes()
    refuse_leftovers()
    settings = params.load("evaluate", Evaluate)
    runtime.pin_for_inference()
    pixels, subset = PixelReader(layout.PIXELS), read_subset(layout.VALIDATION)
    models = {name: saved.load(layout.model(name)) for name in names}
    cams = {name: GradCam(model) for name, model in models.items()}
    predictions = predict(models, FixedBatches(pixels, subset, settings.batch_size))
    folders = (layout.SCORE_CURVES, layout.PICTURES)
    before = {path: path.stat().st_ino for each in folders for path in each.glob("*")}
    write_scores(predictions, subset, classes, settings)
    for name, model in models.items():
        if convolutions.can_be_drawn(model):
            draw_convolutions(name, model, pixels, subset, classes, settings.channels)
    draw_heat_maps(predictions, cams, pixels, subset, classes, settings)
    # DVC hashes whole folders, so what earlier code has left there must go. What is written anew
    # has another inode; a clock would not tell it, where the file system has one of its own.
    for path, inode in before.items():
        if path.stat().st_ino == inode:
            (shutil.rmtree if path.is_dir() else Path.unlink)(path)
    checkpoints.remove_recorded()


def refuse_leftovers() -> None:
    """Refuse files that no training stage makes: DVC would record them with the folder.

    Raises:
        UserError: there is such a file.
    """
    known = (".", *(name for name in params.read() if name.startswith("train_")))
    for folder in (layout.MODELS, layout.TRAINING_PLOTS):
        for path in sorted(folder.iterdir()):
            if not path.name.startswith(known):
                raise UserError(f"{path} is of no training in params.yaml: move it elsewhere")


def predict(models: dict[str, keras.Model], batches: FixedBatches) -> dict[str, np.ndarray]:
    """Return each model's P(label 1) for every image, float64, N."""
    predictions = {}
    for name, model in models.items():
        fed = feed(batches, 0, len(batches))
        # With `steps`, Keras knows where the images end; else it warns that they ran out.
        found = model.predict(fed, steps=len(batches), verbose=0)[:, 0]
        predictions[name] = found.astype(np.float64).round(scores.PROBABILITY_DIGITS)
    return predictions


def write_scores(
    predictions: dict[str, np.ndarray],
    subset: Subset,
    classes: tuple[str, str],
    settings: Evaluate,
) -> None:
    """Write predictions, scores and, for all models in one table each, curves."""
    labels, bins = subset.labels.astype(int), settings.calibration_bins
    write_table(
        layout.PREDICTIONS, pd.DataFrame({"name": subset.names, "label": labels, **predictions})
    )
    results = {}
    for name, found in predictions.items():
        results[name] = scores.score(labels, found, classes, settings.confidence, bins)
        print(f"{name}: accuracy {results[name]['accuracy']:.4f} on {len(labels):,} images")
    write_json(layout.SCORES, results)
    compared = {
        name: {kind: values[kind] for kind in scores.COMPARED} for name, values in results.items()
    }
    write_json(layout.metrics("evaluate"), compared)
    curves: dict[str, Callable[..., pd.DataFrame]] = {
        "roc": scores.roc,
        "precision_recall": scores.precision_recall,
        "calibration": partial(scores.calibration, bins=bins),
        "confusion": partial(scores.confusion, classes=classes),
    }
    for kind, compute in curves.items():
        tables = {name: compute(labels, found) for name, found in predictions.items()}
        table = pd.concat(tables, names=["model"]).reset_index("model")
        write_table(layout.SCORE_CURVES / f"{kind}.csv", table)


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_csv(path, table.columns.tolist(), table.itertuples(index=False))


def draw_convolutions(
    name: str,
    model: keras.Model,
    pixels: PixelReader,
    subset: Subset,
    classes: tuple[str, str],
    channels: int,
) -> None:
    """Draw what a CNN looks for, and what it finds in the first image of each class."""
    kernels = convolutions.kernels_to_rgb(convolutions.first_kernels(model))
    explanations.draw_filters(name, kernels, picture(f"{name}_filters"))
    both = examples.first_of_each_class(subset.labels, 2)
    images = pixels[subset.rows[both]]
    shown = [classes[int(label)] for label in subset.labels[both]]
    maps = convolutions.feature_maps(model, images)
    chosen = [convolutions.select_distinct_channels(each, channels) for each in maps]
    path = picture(f"{name}_feature_maps")
    explanations.draw_feature_maps(name, images, shown, maps, chosen, path)


def draw_heat_maps(
    predictions: dict[str, np.ndarray],
    cams: dict[str, GradCam],
    pixels: PixelReader,
    subset: Subset,
    classes: tuple[str, str],
    settings: Evaluate,
) -> None:
    """Draw where all models looked: in each one's worst and best, and in the same images."""

    def draw(places: np.ndarray, heading: str, path: Path, subject: str = "") -> None:
        images = pixels[subset.rows[places]]
        shown = HeatMaps(
            images,
            [subset.names[place] for place in places],
            subset.labels[places],
            classes,
            {name: cam(images) for name, cam in cams.items()},
            {name: found[places] for name, found in predictions.items()},
        )
        explanations.draw_heat_maps(heading, shown, path, subject)

    labels = subset.labels
    for name, found in predictions.items():
        title = layout.title(name)
        worst = examples.worst_mistakes(labels, found, settings.mistakes)
        draw(worst, f"{title}: its worst mistakes", picture(f"{name}_mistakes"), name)
        best = examples.best_hits(labels, found, settings.hits)
        draw(best, f"{title}: its best hits", picture(f"{name}_hits"), name)
    same = examples.first_of_each_class(labels, settings.same_images)
    draw(same, "The same images in every experiment", picture("same_images"))


def picture(name: str) -> Path:
    return layout.PICTURES / f"{name}.png"


if __name__ == "__main__":
    stage.run(main)
