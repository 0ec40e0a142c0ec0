"""One training: a built model and its parameters go in, all that its stage writes comes out."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from catsdogs import figures, layout, models
from catsdogs.batches import FixedBatches, TrainingBatches, dataset, read_subset
from catsdogs.files import write_csv, write_json
from catsdogs.pixels import PixelReader
from catsdogs.stage import UserError
from catsdogs.tracking import TrainingRun

if TYPE_CHECKING:
    import keras

    from catsdogs.augmentation import Augmentation
    from catsdogs.params import Training

CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")


def open_batches(training: Training, augmentation: Augmentation | None = None) -> TrainingBatches:
    """The training images' batches, as the split and the parameters have them."""
    return TrainingBatches(
        PixelReader(layout.PIXELS),
        read_subset(layout.TRAIN),
        training.batch_size,
        training.seed,
        augmentation,
    )


def train(
    stage: str,
    model: keras.Model,
    training: Training,
    batches: TrainingBatches,
    facts: dict[str, Any] | None = None,
) -> None:
    """Fit a model and write what its stage gives away.

    Args:
        stage: `train_basic` for example.
        model: from RGB pixels, 0-255, to P(dog); not compiled.
        training: how long and how.
        batches: the training images.
        facts: what the metrics should say besides.

    Raises:
        UserError: the loss is no longer a number.
    """
    import keras

    validation = FixedBatches(
        batches.pixels,
        read_subset(layout.VALIDATION),
        training.batch_size,
        limit=training.validation_steps * training.batch_size,
    )
    optimizers = {
        "adam": keras.optimizers.Adam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }
    model.compile(
        optimizer=optimizers[training.optimizer](training.learning_rate),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    model.summary()
    run = TrainingRun(stage, training.model_dump())
    steps = training.epochs * training.steps_per_epoch
    try:
        history = model.fit(
            dataset(batches, 0, steps, batches.image_size),
            epochs=training.epochs,
            steps_per_epoch=training.steps_per_epoch,
            validation_data=dataset(validation, 0, len(validation), batches.image_size),
            callbacks=_callbacks(run),
            verbose=1 if sys.stdout.isatty() else 2,
        ).history
        _write(stage, model, history, {"steps": steps, **(facts or {})})
    except BaseException:
        run.fail()
        raise
    run.finish(model)


def _callbacks(run: TrainingRun) -> list[keras.callbacks.Callback]:
    import keras

    class StopAtNaN(keras.callbacks.Callback):
        step = 0

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.step += 1
            self.check("loss", logs["loss"])

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.check("validation loss", logs["val_loss"])

        def check(self, name: str, value: float) -> None:
            if not math.isfinite(value):
                raise UserError(
                    f"{run.stage}: the {name} is {value} at step {self.step}: "
                    f"lower {run.stage}.learning_rate in params.yaml"
                )

    class LogEpoch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            run.log_epoch(epoch + 1, {name: logs[name] for name in CURVES})

    return [StopAtNaN(), LogEpoch()]


def _write(
    stage: str, model: keras.Model, history: dict[str, list[float]], facts: dict[str, Any]
) -> None:
    import pandas as pd

    curves = pd.DataFrame({name: history[name] for name in CURVES}).round(6)
    curves.insert(0, "epoch", range(1, len(curves) + 1))
    write_csv(layout.curves(stage), list(curves), curves.itertuples(index=False))
    for quantity in ("accuracy", "loss"):
        figures.curve(curves, quantity, stage, layout.figure(f"{stage}_{quantity}"))
    last = {name: float(curves[name].iloc[-1]) for name in CURVES}
    parameters = {
        "parameters": model.count_params(),
        "trainable_parameters": sum(math.prod(w.shape) for w in model.trainable_weights),
    }
    write_json(layout.metrics(stage), {**last, **parameters, **facts})
    models.save(model, layout.model(stage))
