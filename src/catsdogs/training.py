"""One training: a built model and its parameters go in, all that its stage writes comes out."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import checkpoints, figures, layout, models, runtime
from catsdogs.batches import (
    Batches,
    FixedBatches,
    SizedBatches,
    TrainingBatches,
    dataset,
    read_subset,
)
from catsdogs.checkpoints import Checkpoint, State
from catsdogs.files import write_csv, write_json
from catsdogs.pixels import PixelReader
from catsdogs.stage import UserError
from catsdogs.tracking import TrainingRun

if TYPE_CHECKING:
    from catsdogs.augmentation import Augmentation
    from catsdogs.params import Training
    from catsdogs.runtime import Runtime

    import keras

LARGE = 1_000_000  # weights, from which on compiling their update is worth its time
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")


def open_batches(
    training: Training, augmentation: Augmentation | None = None
) -> tuple[TrainingBatches, FixedBatches]:
    """The training and the validation images, as the split and the parameters have them."""
    pixels, size = PixelReader(layout.PIXELS), training.batch_size
    train, validation = read_subset(layout.TRAIN), read_subset(layout.VALIDATION)
    return (
        TrainingBatches(pixels, train, size, training.seed, augmentation),
        FixedBatches(pixels, validation, size, limit=training.validation_steps * size),
    )


def train(
    stage: str,
    model: keras.Model,
    training: Training,
    pinned: Runtime,
    batches: Batches,
    validation: SizedBatches,
    facts: dict[str, Any] | None = None,
    files: Sequence[Path] = (),
    whole: keras.Model | None = None,
) -> None:
    """Fit a model and write what its stage gives away, going on where a killed training stopped.

    Args:
        stage: `train_basic` for example.
        model: from what a batch holds to P(dog); not compiled.
        training: how long and how.
        pinned: what the last bits depend on, and how often a checkpoint is written.
        batches: what it learns from.
        validation: what it is looked at with after each epoch.
        facts: what the metrics should say besides.
        files: what the model was made from besides the split.
        whole: from RGB pixels, 0-255, to P(dog), where `model` is only the end of it.

    Raises:
        UserError: the loss is no longer a number.
    """
    whole = whole or model
    accuracy = _compile(model, training)
    whole.summary()
    runtime.release_memory()  # what building took
    depends_on = training.model_dump() | {"runtime": runtime.last_bits(pinned)}
    inputs = (layout.PIXELS, layout.TRAIN, layout.VALIDATION, *files)
    with checkpoints.hold(stage, depends_on, inputs) as checkpoint:
        progress = Progress(model, accuracy, checkpoint, pinned.checkpoint_steps)
        run = TrainingRun(stage, checkpoint.name)
        try:
            _fit(model, training, batches, validation, progress, run)
            facts = {"steps": progress.step, **(facts or {})}
            runtime.release_memory()  # for a large model's copies on their way into its file
            _write(stage, whole, progress.history, facts)
        except BaseException as error:
            run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        run.finish()
        checkpoint.finish()


def _compile(model: keras.Model, training: Training) -> keras.metrics.Metric:
    """Compile a model, its optimizer's variables made; return the metric of accuracy."""
    import keras

    optimizers = {
        "adam": keras.optimizers.Adam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }
    accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
    model.compile(
        optimizer=_in_one_pass(optimizers[training.optimizer])(training.learning_rate),
        loss="binary_crossentropy",
        metrics=[accuracy],
    )
    model.optimizer.build(model.trainable_variables)
    return accuracy


def _in_one_pass(optimizer: type[keras.Optimizer]) -> type[keras.Optimizer]:
    """Make an optimizer that goes over large weights, gradients and its own state once.

    Keras' own goes over them once for every operation of its formula. XLA compiles the same
    formula into one loop: a step of Inception's head takes little more than half the time.
    """
    import tensorflow as tf

    class InOnePass(optimizer):
        def update_step(
            self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: keras.Variable
        ) -> None:
            update = super().update_step
            if math.prod(variable.shape) >= LARGE:
                compiled = tf.function(
                    lambda gradient: update(gradient, variable, learning_rate),
                    jit_compile=True,
                    autograph=False,
                )
                compiled(gradient)
            else:
                update(gradient, variable, learning_rate)

    return InOnePass


class Progress:
    """How far a training has come: its steps, its epochs' values, and its variables."""

    def __init__(
        self,
        model: keras.Model,
        accuracy: keras.metrics.Metric,
        checkpoint: Checkpoint,
        every: int,
    ) -> None:
        self.model, self.accuracy = model, accuracy
        self.checkpoint, self.every = checkpoint, every
        self.step, self.history = 0, []
        self.loaded = checkpoint.load()
        if self.loaded:
            self.step, self.history = self.loaded.facts["step"], self.loaded.facts["history"]
        self.saved = self.step
        self.restore()

    def restore(self) -> None:
        """Put the loaded variables, if any, into the model."""
        if self.loaded:
            for variable, value in zip(self._variables(), self.loaded.variables, strict=True):
                variable.assign(value)

    def save(self) -> None:
        """Write a checkpoint if enough steps have gone by since the last."""
        if self.step - self.saved >= self.every:
            facts = {"step": self.step, "history": self.history}
            self.checkpoint.save(State(self._variables(), facts))
            self.saved = self.step

    def _variables(self) -> list[keras.Variable]:
        """Weights and the random state of dropout, the optimizer's, and the epoch's means."""
        model, optimizer = self.model, self.model.optimizer
        (loss,) = (metric for metric in model.metrics if metric.name == "loss")
        return [
            *model.variables,
            *optimizer.variables,
            *loss.variables,
            *self.accuracy.variables,
        ]


def _fit(
    model: keras.Model,
    training: Training,
    batches: Batches,
    validation: SizedBatches,
    progress: Progress,
    run: TrainingRun,
) -> None:
    epoch_steps = training.steps_per_epoch
    steps = training.epochs * epoch_steps
    if progress.step:
        print(f"{run.stage} goes on after step {progress.step:,} of {steps:,}")
    for epoch, values in enumerate(progress.history, 1):
        run.log_epoch(epoch, values)
    # Once, or twice if an interrupted epoch is to be completed first.
    while len(progress.history) < training.epochs:
        epoch = len(progress.history)
        model.fit(
            dataset(batches, progress.step, steps),
            initial_epoch=epoch,
            epochs=training.epochs,
            steps_per_epoch=(epoch + 1) * epoch_steps - progress.step,
            validation_data=dataset(validation, 0, len(validation)),
            callbacks=[_follower(progress, run, epoch_steps)],
            verbose=1 if sys.stdout.isatty() else 2,
        )


def _follower(progress: Progress, run: TrainingRun, epoch_steps: int) -> keras.callbacks.Callback:
    import keras

    class Follower(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.whole = progress.step % epoch_steps == 0
            progress.restore()  # again, because Keras has just set the epoch's means to zero
            progress.loaded = None

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            progress.step += 1
            self.check("loss", logs["loss"])
            if progress.step % epoch_steps:  # the validation after the last belongs to the epoch
                progress.save()

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.check("validation loss", logs["val_loss"])
            progress.history.append({name: float(logs[name]) for name in CURVES})
            self.model.reset_metrics()  # which hold the validation's means, not the next epoch's
            progress.save()
            run.log_epoch(epoch + 1, progress.history[-1])
            self.model.stop_training = not self.whole

        def check(self, name: str, value: float) -> None:
            if not math.isfinite(value):
                raise UserError(
                    f"{run.stage}: the {name} is {value} at step {progress.step}: "
                    f"lower {run.stage}.learning_rate in params.yaml"
                )

    return Follower()


def _write(
    stage: str, model: keras.Model, history: list[dict[str, float]], facts: dict[str, Any]
) -> None:
    import pandas as pd

    curves = pd.DataFrame(history, columns=CURVES).round(6)
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
