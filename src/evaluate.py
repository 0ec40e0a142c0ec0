"""Stage `evaluate`: every validation image through every model.

In: the split, the three models. Out: `data/predictions.csv`; `metrics/evaluate.json`; under
`plots/evaluate/`, for each model, its ROC, precision-recall and calibration curves, its
confusions, and its worst mistakes with what it looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from catsdogs import checkpoints, figures, layout, models, params, runtime, scores, stage
from catsdogs.batches import FixedBatches, Subset, dataset, read_subset
from catsdogs.files import write_csv, write_json
from catsdogs.layout import CLASSES
from catsdogs.pixels import PixelReader

import numpy as np
import pandas as pd
from pydantic import Field

if TYPE_CHECKING:
    import keras


class Evaluate(params.Section):
    batch_size: params.Count
    confidence: Annotated[params.Real, Field(gt=0, lt=1)]
    calibration_bins: Annotated[params.Whole, Field(ge=2, le=100)]
    mistakes: Annotated[params.Whole, Field(ge=1, le=60)]


def main() -> None:
    settings = params.load("evaluate", Evaluate)
    runtime.pin(params.load("runtime", runtime.Runtime))
    pixels, subset = PixelReader(layout.PIXELS), read_subset(layout.VALIDATION)
    batches = FixedBatches(pixels, subset, settings.batch_size)
    predictions = pd.DataFrame({"name": subset.names, "label": subset.labels.astype(int)})
    results = {}
    for name in layout.TRAININGS:
        model = models.load(layout.model(name))
        predictions[name] = predict(model, batches).round(scores.PROBABILITY_DIGITS)
        labels, probabilities = predictions["label"].to_numpy(), predictions[name].to_numpy()
        results[name] = scores.score(
            labels, probabilities, settings.confidence, settings.calibration_bins
        )
        write_curves(name, labels, probabilities, settings.calibration_bins)
        draw_mistakes(name, model, pixels, subset, probabilities, settings.mistakes)
        print(f"{name}: accuracy {results[name]['accuracy']:.4f} on {len(labels):,} images")
    write_csv(layout.PREDICTIONS, list(predictions), predictions.itertuples(index=False))
    write_json(layout.metrics("evaluate"), results)
    checkpoints.remove_recorded()


def predict(model: keras.Model, batches: FixedBatches) -> np.ndarray:
    """Return P(dog) for every image of the batches, float64, N."""
    images = dataset(batches, 0, len(batches), batches.image_size)
    return model.predict(images, verbose=0)[:, 0].astype(np.float64)


def write_curves(name: str, labels: np.ndarray, probabilities: np.ndarray, bins: int) -> None:
    tables = {
        "roc": scores.roc(labels, probabilities),
        "precision_recall": scores.precision_recall(labels, probabilities),
        "calibration": scores.calibration(labels, probabilities, bins),
        "confusion": pd.DataFrame(
            {
                "actual": np.take(CLASSES, labels),
                "predicted": np.take(CLASSES, (probabilities >= 0.5).astype(int)),
            }
        ),
    }
    for kind, table in tables.items():
        path = layout.EVALUATION / f"{name}_{kind}.csv"
        write_csv(path, list(table), table.itertuples(index=False))


def draw_mistakes(
    name: str,
    model: keras.Model,
    pixels: PixelReader,
    subset: Subset,
    probabilities: np.ndarray,
    count: int,
) -> None:
    """Draw the images on which the model was surest and wrong, each beside what it looked at."""
    from catsdogs.gradcam import heat

    error = np.abs(probabilities - subset.labels)
    worst = [place for place in np.argsort(-error, kind="stable")[:count] if error[place] > 0.5]
    images = pixels[subset.rows[worst]]
    captions = [
        f"{subset.names[place].rpartition('/')[2]}\n"
        f"a {CLASSES[int(subset.labels[place])]}, P(dog) {probabilities[place]:.3f}"
        for place in worst
    ]
    maps = heat(model, images) if worst else np.empty((0, 1, 1))
    path = layout.EVALUATION / f"{name}_mistakes.png"
    figures.explained(f"{figures.title(name)}: worst mistakes", images, maps, captions, path)


if __name__ == "__main__":
    stage.run(main)
