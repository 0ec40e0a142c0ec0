"""The training loop: settings are read, a model is fitted, the stage's outputs are written.

A training that was killed resumes at its last checkpoint, and ends with the same bytes as one that
was not. Models, `fit` and optimizers are Keras'. `Training` adds the exact resumption, the curves
for MLflow and DVC, and the files.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Self, TypeVar

from catsdogs import layout, params, runtime
from catsdogs.data.batches import (
    Batches,
    FixedBatches,
    PixelReader,
    SizedBatches,
    TrainingBatches,
    feed,
    read_subset,
)
from catsdogs.files import write_csv, write_json
from catsdogs.models import saved
from catsdogs.reporting import figures
from catsdogs.stage import UserError
from catsdogs.tracking.live import LiveRun
from catsdogs.training import checkpoints, optimizers
from catsdogs.training.checkpoints import Checkpoint, State

import numpy as np
from pydantic import Field

if TYPE_CHECKING:
    from catsdogs.data.augmentation import Augmentation

    import keras

CURVES = ("loss", "accuracy", "val_loss", "val_accuracy")
DIGITS = 6  # of the curves' values


class Phase(params.Section):
    """How long and how fast a part of a training goes."""

    epochs: params.Count
    learning_rate: params.Positive


class Settings(Phase):
    """The parameters that every training has in its section of `params.yaml`."""

    optimizer: optimizers.Name
    schedule: optimizers.Schedule
    decay_share: Annotated[params.Real, Field(gt=0, le=1)]
    warmup_steps: Annotated[params.Whole, Field(ge=0, le=1_000_000)]
    weight_averaging: params.Share
    batch_size: params.Count
    steps_per_epoch: params.Count
    validation_steps: Annotated[params.Whole, Field(ge=0, le=1_000_000)]  # 0: all images
    seed: params.Seed

    def conflicts(self, name: str, sections: Mapping[str, Any]) -> Iterator[str]:
        """Yield a batch that cannot be shared, and phases that end before their rate has risen."""
        workers = 1
        if "runtime" in sections:
            workers = sections["runtime"].devices * sections["runtime"].processes
        if self.batch_size % workers:
            yield (
                f"{name}.batch_size is {self.batch_size} but should be a multiple of {workers}, "
                "which is runtime.devices times runtime.processes"
            )
        for key, phase in self.phases().items():
            steps = phase.epochs * self.steps_per_epoch
            if self.warmup_steps >= steps:
                yield (
                    f"{name}.warmup_steps is {self.warmup_steps} but should be less than the "
                    f"{steps} steps of {name}.{key}"
                )

    def phases(self) -> dict[str, Phase]:
        """Return the phases of the training, by the parameter that has the epochs of each."""
        return {"epochs": self}

    def files(self) -> list[Path]:
        """Return the files that the training reads besides the split."""
        return []

    def rehearsed(self, share: float) -> Self:
        """Return the settings of a rehearsal, which takes a share of the steps."""
        names = ("steps_per_epoch", "validation_steps", "warmup_steps")
        given = {name: getattr(self, name) for name in names}
        steps = {name: count and max(1, round(count * share)) for name, count in given.items()}
        shortest = min(phase.epochs for phase in self.phases().values())
        most = shortest * steps["steps_per_epoch"] - 1  # which rounding must not exceed
        steps["warmup_steps"] = min(steps["warmup_steps"], most)
        return self.model_copy(update=steps)


SettingsT = TypeVar("SettingsT", bound=Settings)


@contextmanager
def begin(stage: str, section: type[SettingsT]) -> Iterator[Training[SettingsT]]:
    """Begin the training of a stage, or resume it where a killed one stopped.

    This reads `params.yaml`, pins what the computation depends on and imports Keras. On drawn
    images (`data.source: sample`) the section `rehearsal` shortens the training.

    Args:
        stage: for example `train_basic`.
        section: what the stage's section of `params.yaml` holds.

    Raises:
        UserError: a section of `params.yaml` is wrong, or its backend is not installed.
    """
    params.check()
    given = params.load(stage, section)
    pinned = runtime.load()
    settings = given.rehearsed(pinned.steps)
    runtime.pin(pinned, settings.seed)
    print(f"{stage} computes with {pinned.describe()}")
    if pinned.steps < 1:
        print(
            f"drawn images, a rehearsal (rehearsal.steps: {pinned.steps:g}): "
            f"{settings.epochs} epochs of {settings.steps_per_epoch} steps instead of "
            f"{given.steps_per_epoch}"
        )
    workers = pinned.workers
    depends_on = settings.model_dump() | {
        "runtime": runtime.fingerprint(pinned),
        "workers": list(workers),
    }
    shards = sorted(layout.PIXELS.iterdir())
    inputs = (*shards, layout.TRAIN, layout.VALIDATION, *settings.files())
    with (
        workers.together(),
        checkpoints.hold(stage, depends_on, inputs, workers) as checkpoint,
    ):
        training = Training(stage, given, settings, pinned, checkpoint)
        try:
            yield training
        except BaseException as error:
            training.live.abandon("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        if workers.is_first:
            training.live.finish(training.cpu_seconds)
            checkpoint.finish()


class Training(Generic[SettingsT]):
    """A training under way. It has one phase or several, and each phase fits a model.

    The model of a later phase holds all the weights that the phases before it trained.

    Attributes:
        settings: the stage's parameters, with the numbers of steps that are taken.
        runtime: what the computation depends on besides.
    """

    def __init__(
        self,
        stage: str,
        given: SettingsT,
        settings: SettingsT,
        pinned: runtime.Runtime,
        checkpoint: Checkpoint,
    ) -> None:
        self.stage, self.given, self.settings, self.runtime = stage, given, settings, pinned
        self.workers, self.live = pinned.workers, LiveRun(stage)
        self._checkpoint = checkpoint
        self._phase = self._epochs = 0  # the present phase, and the epochs up to its end
        self._loaded = checkpoint.load()
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._spent = 0.0
        if self._loaded:
            self.step = self._loaded.progress["step"]
            self.history = self._loaded.progress["history"]
            self._spent = self._loaded.progress["cpu_seconds"]
        self._saved = self.step
        if self.workers.first_says(str(self.step)) != str(self.step):
            raise UserError(
                f"{checkpoint.folder} is not the same for all processes: let them work in one "
                "checkout on storage that they share"
            )

    @property
    def cpu_seconds(self) -> float:
        """The CPU seconds of the training so far, those before a resumption included."""
        return self._spent + time.process_time()

    def batches(self, augmentation: Augmentation | None = None) -> TrainingBatches:
        """Return the training images, step by step."""
        subset, settings = read_subset(layout.TRAIN), self.settings
        pixels = PixelReader(layout.PIXELS)
        return TrainingBatches(pixels, subset, settings.batch_size, settings.seed, augmentation)

    def validation(self) -> FixedBatches:
        """Return the validation images that are looked at after every epoch."""
        subset, size = read_subset(layout.VALIDATION), self.settings.batch_size
        limit = self.settings.validation_steps * size or None
        batches = FixedBatches(PixelReader(layout.PIXELS), subset, size, limit)
        full, left = divmod(len(batches.rows), size)
        if left % self.workers.total:
            advice = f"validation_steps to {full}" if full else f"batch_size to {left} or less"
            raise UserError(
                f"{self.workers.total} devices cannot share the last {left} validation images: "
                f"set {self.stage}.{advice}"
            )
        return batches

    def fit(
        self,
        model: keras.Model,
        batches: Batches,
        validation: SizedBatches,
        phase: Phase | None = None,
    ) -> None:
        """Fit a model in a phase of the training, unless the checkpoint is from a later phase.

        Args:
            model: from what a batch holds to P(second class).
            batches: what it learns from.
            validation: what it is evaluated on after each epoch.
            phase: how long and how fast; the first phase is that of the settings.

        Raises:
            UserError: the loss is no longer a number.
        """
        phase = phase or self.settings
        self._phase += 1
        self._epochs += phase.epochs
        if self._loaded and self._loaded.progress["phase"] > self._phase:
            return
        if self.workers.is_first:
            self.live.open(self._checkpoint.name, self.history)
        self.model = model
        with self.workers.sharing(model):
            self._fit(model, batches, validation, phase)

    def _fit(
        self, model: keras.Model, batches: Batches, validation: SizedBatches, phase: Phase
    ) -> None:
        self._accuracy = compile_model(model, self.settings, phase)
        runtime.release_memory()  # what building took
        self._restore()
        per_epoch = self.settings.steps_per_epoch
        if self._loaded:
            total = self._epochs * per_epoch
            print(f"{self.stage} goes on after step {self.step:,} of {total:,}")
        readers, part = self.runtime.readers, self.workers.part
        while len(self.history) < self._epochs:
            epoch = len(self.history)
            end = (epoch + 1) * per_epoch
            model.fit(
                feed(batches, self.step, end, readers, part),
                initial_epoch=epoch,
                epochs=self._epochs,
                steps_per_epoch=end - self.step,  # fewer if the epoch was interrupted
                validation_data=feed(validation, 0, len(validation), readers, part),
                validation_steps=len(validation),
                callbacks=[_callback(self)],
                shuffle=False,  # the batches come in their own order
                verbose=0 if part.number else 1 if sys.stdout.isatty() else 2,
            )
        self._loaded = None
        model.optimizer.finalize_variable_values(model.trainable_variables)  # averaged, if asked

    def write(self, model: keras.Model, facts: dict[str, Any] | None = None) -> None:
        """Write the outputs of the stage.

        Args:
            model: from RGB pixels, 0-255, to P(second class).
            facts: what `models/<stage>.json` should say besides.
        """
        if not self.workers.is_first:
            return
        import pandas as pd

        runtime.release_memory()  # a large model is copied on its way into the file
        curves = pd.DataFrame(self.history, columns=list(CURVES)).round(DIGITS)
        curves.insert(0, "epoch", range(1, len(curves) + 1))
        write_csv(layout.curves(self.stage), ["epoch", *CURVES], curves.itertuples(index=False))
        for quantity in ("accuracy", "loss"):
            figure = layout.curve_figure(self.stage, quantity)
            figures.curve(curves, quantity, self.stage, figure)
        last, used = curves[list(CURVES)].iloc[-1].to_dict(), self.runtime.describe()
        compared = {name: last[name] for name in ("val_accuracy", "val_loss")}
        write_json(layout.metrics(self.stage), compared | {"runtime": used})
        known = {
            "settings": self.given.model_dump(),
            "planned_steps": self._epochs * self.given.steps_per_epoch,
            "steps": self.step,
            "parameters": model.count_params(),
            "trainable_parameters": sum(math.prod(w.shape) for w in model.trainable_weights),
            "runtime": used,
            "last_epoch": last,
        }
        write_json(layout.facts(self.stage), known | (facts or {}))
        saved.save(model, layout.model(self.stage))

    def resume_epoch(self) -> None:
        """Restore the loaded state, if any, a last time: Keras has just reset the metrics."""
        self._restore()
        self._loaded = None

    def save(self) -> None:
        """Save a checkpoint if enough steps have passed since the last one.

        Raises:
            UserError: the loss is no longer a number.
        """
        if self.step - self._saved >= self.runtime.checkpoint_steps:
            variables = self._variables()
            self.check("loss", self._loss.result())
            progress = {"phase": self._phase, "step": self.step, "history": self.history}
            progress["cpu_seconds"] = self.cpu_seconds
            if self.workers.is_first:
                self._checkpoint.save(State(variables, progress))
            self._saved = self.step

    def check(self, name: str, value: float) -> None:
        """Raise a `UserError` if a loss is no longer a number."""
        if not math.isfinite(value):
            raise UserError(
                f"{self.stage}: the {name} is {float(value)} at step {self.step}: "
                f"lower {self.stage}.learning_rate in params.yaml"
            )

    def _restore(self) -> None:
        if self._loaded:
            for variable, value in zip(self._variables(), self._loaded.variables, strict=True):
                variable.assign(value)

    def _variables(self) -> list[keras.Variable]:
        """What a checkpoint holds of the model, the optimizer, and the metrics of this epoch."""
        model = self.model
        if self.runtime.backend == "jax":
            model.jax_state_sync()  # a step donates the variables' memory to the next one
        metrics = (self._loss, self._accuracy)
        return [
            *model.variables,
            *model.optimizer.variables,
            *(variable for metric in metrics for variable in metric.variables),
        ]

    @property
    def _loss(self) -> keras.Metric:
        (loss,) = (metric for metric in self.model.metrics if metric.name == "loss")
        return loss


def compile_model(model: keras.Model, settings: Settings, phase: Phase) -> keras.metrics.Metric:
    """Compile a model with the optimizer of the settings; return the metric of accuracy."""
    import keras

    steps, momentum = phase.epochs * settings.steps_per_epoch, settings.weight_averaging
    rate = optimizers.learning_rate(
        phase.learning_rate, steps, settings.warmup_steps, settings.schedule, settings.decay_share
    )
    optimizer = optimizers.optimizer(settings.optimizer)
    accuracy = keras.metrics.BinaryAccuracy(name="accuracy")
    model.compile(
        optimizer(rate, use_ema=momentum > 0, ema_momentum=momentum),
        loss="binary_crossentropy",
        metrics=[accuracy],
    )
    model.optimizer.build(model.trainable_variables)
    return accuracy


def _callback(training: Training) -> keras.callbacks.Callback:
    """Make the callback that counts steps, saves checkpoints and notes the curves."""
    import keras

    averaging = bool(training.settings.weight_averaging)
    per_epoch = training.settings.steps_per_epoch

    def values(model: keras.Model) -> list[np.ndarray]:
        return [variable.numpy().copy() for variable in model.trainable_variables]

    def assign(model: keras.Model, values: list[np.ndarray]) -> None:
        for variable, value in zip(model.trainable_variables, values, strict=True):
            variable.assign(value)

    class Follow(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            self.first = training.step
            training.resume_epoch()

        # Not at a step's end: there JAX would have to wait for the step, to say its loss.
        def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
            training.step = self.first + batch
            if batch:
                training.save()

        # The validation looks at the averaged weights. Keras' SwapEMAWeights swaps by addition,
        # which rounds, so the training would not go on from the weights that it had.
        def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
            if averaging:
                self.last = values(self.model)
                self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
                # JAX donates a model's memory, and this has given it that of the averages.
                assign(self.model, values(self.model))

        def on_test_end(self, logs: dict[str, float] | None = None) -> None:
            self.put_back()

        def on_train_end(self, logs: dict[str, float] | None = None) -> None:
            if len(training.history) < training._epochs:  # every `fit` ends with the average
                self.put_back()

        def put_back(self) -> None:
            if averaging:
                assign(self.model, self.last)

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            training.step = (epoch + 1) * per_epoch
            training.check("loss", logs["loss"])
            training.check("validation loss", logs["val_loss"])
            training.history.append({name: float(logs[name]) for name in CURVES})
            self.model.reset_metrics()  # they hold the validation's means, not the next epoch's
            training.save()
            training.live.log_epoch(epoch + 1, training.history[-1])
            self.model.stop_training = True  # each epoch is a `fit` of its own

    return Follow()
