"""The pipeline as a contender, in a checkout whose split is there.

ours.py feeding
ours.py training train_basic
ours.py evaluation
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from contender import Referee
from pauses import bare_steps, pauses

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

PLAIN = 625  # batches of a round: 20,000 images
AUGMENTED = 200
ENDLESS = 1_000_000  # steps
EVALUATED = 640  # images


def feeding(referee: Referee) -> None:
    """Give batches to nobody."""
    from catsdogs import runtime, training
    from catsdogs.batches import dataset

    stage = importlib.import_module("train_augmented")
    settings, _ = runtime.begin_training("train_augmented", stage.TrainAugmented)
    from consume import consumer  # which imports TensorFlow, now that it is pinned

    plain, _ = training.open_batches(settings)
    augmented, _ = training.open_batches(settings, settings.augmentation)
    tasks = {"plain": (plain, PLAIN), "augmented": (augmented, AUGMENTED)}
    referee.serve(
        {
            name: consumer(dataset(batches, 0, ENDLESS), count)
            for name, (batches, count) in tasks.items()
        }
    )


def training(referee: Referee, stage: str) -> None:
    """Run a stage's script whose `fit` stops now and then."""
    from catsdogs import training

    fit = training.Run.fit

    def fit_in_turns(run: training.Run, model: keras.Model, *rest: Any) -> None:
        model.fit = partial(_fit_in_turns, referee, model, model.fit)
        fit(run, model, *rest)

    training.Run.fit = fit_in_turns
    importlib.import_module(stage).main()


def _fit_in_turns(
    referee: Referee,
    model: keras.Model,
    fit: Callable[..., Any],
    batches: tf.data.Dataset,
    **how: Any,
) -> Any:
    validation = how["validation_data"]

    def validate() -> int:
        model.evaluate(validation, verbose=0)
        return len(validation)

    tasks = {"bare": bare_steps(model, batches), "validate": validate}
    how["callbacks"] = [*how["callbacks"], pauses(referee, tasks)]
    return fit(batches, **how)


def evaluation(referee: Referee) -> None:
    """Predict validation images as the stage does, and without anything around it."""
    from catsdogs import layout, models, params, runtime
    from catsdogs.batches import FixedBatches, read_subset
    from catsdogs.pixels import PixelReader

    stage = importlib.import_module("evaluate")
    runtime.pin(params.load("runtime", runtime.Runtime))
    size = params.load("evaluate", stage.Evaluate).batch_size
    subset = read_subset(layout.VALIDATION)
    batches = FixedBatches(PixelReader(layout.PIXELS), subset, size, limit=EVALUATED)
    in_memory = [batches(step)[0] for step in range(len(batches))]
    loaded = [models.load(layout.model(name)) for name in layout.TRAININGS]

    def predict() -> int:
        for model in loaded:
            stage.predict(model, batches)
        return EVALUATED

    def bare() -> int:
        for model in loaded:
            for images in in_memory:
                model.predict_on_batch(images)
        return EVALUATED

    referee.serve({"predict": predict, "bare": bare})


if __name__ == "__main__":
    commands = {"feeding": feeding, "training": training, "evaluation": evaluation}
    commands[sys.argv[1]](Referee(), *sys.argv[2:])
