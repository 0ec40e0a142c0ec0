"""A training: models and their parameters go in, all that its stage writes comes out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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


class Phase(Protocol):
    """How long a model is fitted, and how fast."""

    epochs: int
    learning_rate: float


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


@contextmanager
def begin(
    stage: str, training: Training, pinned: Runtime, files: Sequence[Path] = ()
) -> Iterator[Run]:
    """Begin a training, or go on where a killed one stopped.

    Args:
        stage: `train_basic` for example.
        training: how long and how.
        pinned: what the last bits depend on, and how often a checkpoint is written.
        files: what its models were made from besides the split.
    """
    depends_on = training.model_dump() | {"runtime": runtime.last_bits(pinned)}
    inputs = (layout.PIXELS, layout.TRAIN, layout.VALIDATION, *files)
    with checkpoints.hold(stage, depends_on, inputs) as checkpoint:
        run = Run(stage, training, checkpoint, pinned.checkpoint_steps)
        try:
            yield run
        except BaseException as error:
            run.tracked.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        run.tracked.finish()
        checkpoint.finish()


class Run:
    """A training under way, in one phase or several, each of which fits a model.

    The model of a later phase has all the weights that those before it trained.
    """

    def __init__(self, stage: str, training: Training, checkpoint: Checkpoint, every: int) -> None:
        self.stage, self.training = stage, training
        self.checkpoint, self.every = checkpoint, every
        self.phase = self.epochs = 0  # the phase under way, and the epochs up to its end
        self.loaded = checkpoint.load()
        self.step, self.history = 0, []
        if self.loaded:
            self.step, self.history = self.loaded.facts["step"], self.loaded.facts["history"]
        self.saved = self.step
        self.tracked = TrainingRun(stage, checkpoint.name)
        for epoch, values in enumerate(self.history, 1):
            self.tracked.log_epoch(epoch, values)

    def fit(
        self,
        model: keras.Model,
        batches: Batches,
        validation: SizedBatches,
        phase: Phase | None = None,
    ) -> None:
        """Fit a model; where the checkpoint is of a later phase, its model is restored there.

        Args:
            model: from what a batch holds to P(dog).
            batches: what it learns from.
            validation: what it is looked at with after each epoch.
            phase: how long and how fast, if it is not the training's first.

        Raises:
            UserError: the loss is no longer a number.
        """
        phase = phase or self.training
        self.phase += 1
        self.epochs += phase.epochs
        if self.loaded and self.loaded.facts["phase"] > self.phase:
            return
        self.model = model
        self.accuracy = _compile(model, self.training, phase)
        runtime.release_memory()  # what building took
        self._restore()
        epoch_steps = self.training.steps_per_epoch
        steps = self.epochs * epoch_steps
        if self.loaded:
            print(f"{self.stage} goes on after step {self.step:,} of {steps:,}")
        # Once, or twice if an interrupted epoch is to be completed first.
        while len(self.history) < self.epochs:
            epoch = len(self.history)
            model.fit(
                dataset(batches, self.step, steps),
                initial_epoch=epoch,
                epochs=self.epochs,
                steps_per_epoch=(epoch + 1) * epoch_steps - self.step,
                validation_data=dataset(validation, 0, len(validation)),
                callbacks=[_follower(self, epoch_steps)],
                verbose=1 if sys.stdout.isatty() else 2,
            )
        self.loaded = None
        if self.training.weight_averaging:
            model.optimizer.finalize_variable_values(model.trainable_variables)

    def write(self, model: keras.Model, facts: dict[str, Any] | None = None) -> None:
        """Write what the stage gives away.

        Args:
            model: from RGB pixels, 0-255, to P(dog).
            facts: what the metrics should say besides.
        """
        runtime.release_memory()  # for a large model's copies on their way into its file
        _write(self.stage, model, self.history, {"steps": self.step, **(facts or {})})

    def resume_epoch(self) -> None:
        """Put the loaded variables, if any, into the model a last time."""
        self._restore()  # again, because Keras has just set the epoch's means to zero
        self.loaded = None

    def save(self) -> None:
        """Write a checkpoint if enough steps have gone by since the last."""
        if self.step - self.saved >= self.every:
            facts = {"phase": self.phase, "step": self.step, "history": self.history}
            self.checkpoint.save(State(self._variables(), facts))
            self.saved = self.step

    def _restore(self) -> None:
        if self.loaded:
            for variable, value in zip(self._variables(), self.loaded.variables, strict=True):
                variable.assign(value)

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


def _compile(model: keras.Model, training: Training, phase: Phase) -> keras.metrics.Metric:
    """Compile a model, its optimizer's variables made; return the metric of accuracy."""
    import keras

    optimizers = {
        "adam": keras.optimizers.Adam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }
    average = {"use_ema": True, "ema_momentum": training.weight_averaging}
    accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
    model.compile(
        optimizer=_in_one_pass(optimizers[training.optimizer])(
            _rate(training, phase), **(average if training.weight_averaging else {})
        ),
        loss="binary_crossentropy",
        metrics=[accuracy],
    )
    model.optimizer.build(model.trainable_variables)
    return accuracy


def _rate(
    training: Training, phase: Phase
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate: a number, or a function of the phase's steps."""
    import keras

    if training.schedule == "constant" and not training.warmup_steps:
        return phase.learning_rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if training.warmup_steps else phase.learning_rate,
        decay_steps=max(1, phase.epochs * training.steps_per_epoch - training.warmup_steps),
        alpha=0.0 if training.schedule == "cosine" else 1.0,
        warmup_target=phase.learning_rate if training.warmup_steps else None,
        warmup_steps=training.warmup_steps,
    )


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


def _follower(run: Run, epoch_steps: int) -> keras.callbacks.Callback:
    import keras

    class Follower(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.whole = run.step % epoch_steps == 0
            run.resume_epoch()

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            run.step += 1
            self.check("loss", logs["loss"])
            if run.step % epoch_steps:  # the validation after the last belongs to the epoch
                run.save()

        def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
            if run.training.weight_averaging:  # it is the average that is looked at
                self.last = [variable.numpy() for variable in self.model.trainable_variables]
                self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

        def on_test_end(self, logs: dict[str, float] | None = None) -> None:
            self.put_back()

        def on_train_end(self, logs: dict[str, float] | None = None) -> None:
            if len(run.history) < run.epochs:  # Keras leaves the average at every end of `fit`
                self.put_back()

        def put_back(self) -> None:
            if run.training.weight_averaging:
                weights = self.model.trainable_variables
                for variable, value in zip(weights, self.last, strict=True):
                    variable.assign(value)

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.check("validation loss", logs["val_loss"])
            run.history.append({name: float(logs[name]) for name in CURVES})
            self.model.reset_metrics()  # which hold the validation's means, not the next epoch's
            run.save()
            run.tracked.log_epoch(epoch + 1, run.history[-1])
            self.model.stop_training = not self.whole

        def check(self, name: str, value: float) -> None:
            if not math.isfinite(value):
                raise UserError(
                    f"{run.stage}: the {name} is {value} at step {run.step}: "
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
