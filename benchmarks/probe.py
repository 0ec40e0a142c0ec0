"""Measure, from inside a process, what its steps cost.

    probe.py src/train_basic.py

runs a stage's script as DVC does, but measures Keras' `fit` and `predict` on the way. All it asks
of the project is that a stage calls `catsdogs.runtime.pin` before it imports Keras.

The variable PROBE holds, in JSON, the file for the result, the number of rounds, and how much of
each task a round has. PyTorch's environment runs this, so Keras is imported where it is used.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

PAUSE = 0.1  # seconds
RESTING = 0.1  # of a core
Tasks = Mapping[str, Callable[[int], int]]  # take how much to do, return how much was done
Clocks = tuple[float, float]  # seconds of CPU and of wall time


class Probe:
    """Does the tasks of the plan and notes what each took."""

    def __init__(self) -> None:
        self.plan = json.loads(os.environ["PROBE"])
        self.samples: dict[str, list[tuple[int, float, float]]] = defaultdict(list)

    def rounds(self, tasks: Tasks) -> None:
        """Do the tasks in turn, round after round. A first round only warms up."""
        for number in range(1 + self.plan["rounds"]):
            self.round(tasks, first=not number)

    def round(self, tasks: Tasks, first: bool) -> None:
        """Do each task of the plan once."""
        for name in [each for each in tasks if each in self.plan]:
            began = clocks()
            self.note(name, tasks[name](self.plan[name]), began, first)

    def note(self, name: str, units: int, began: Clocks, first: bool) -> None:
        """Note what a task took, once threads that prepare the next batches have come to rest."""
        now = settled()
        sample = (units, now[0] - began[0], now[1] - began[1])
        self.samples[f"{name}, first" if first else name].append(sample)
        self.samples["pauses"].append((1, 0.0, time.perf_counter() - now[1]))
        Path(self.plan["result"]).write_text(json.dumps(self.samples), encoding="utf-8")


def settled() -> Clocks:
    """Wait until this process rests; return the clocks as they stood when it began to."""
    now = clocks()
    while True:
        time.sleep(PAUSE)
        before, now = now, clocks()
        if now[0] - before[0] < RESTING * PAUSE:
            return before


def clocks() -> Clocks:
    """Return CPU seconds, of this process and of children it has waited for, and wall time."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used), time.perf_counter()


def measure_keras(probe: Probe) -> None:
    """Let every `fit` and `predict` of Keras be measured, with TensorFlow and with JAX.

    The tasks of `fit` are `fit`, its own next steps; `bare`, the same on one batch in memory;
    `feed`, batches that nobody trains on; `validate`, validation batches. Those of `predict` are
    `predict`, its first batches, and `passes`, the same ones from memory.
    """
    import keras

    fit, predict = keras.Model.fit, keras.Model.predict

    class Rounds(keras.callbacks.Callback):
        """Measure from the second step on: the first traces the training function."""

        def __init__(self, tasks: Tasks) -> None:
            super().__init__()
            self.tasks, self.step, self.began = tasks, -1, (0.0, 0.0)

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.step += 1
            number, rest = divmod(self.step, probe.plan["fit"])
            if not rest and 1 <= number <= 1 + probe.plan["rounds"]:
                probe.note("fit", probe.plan["fit"], self.began, first=number == 1)
            if not rest and number <= probe.plan["rounds"]:
                if keras.backend.backend() == "jax":  # where `fit` holds the variables itself
                    self.model.jax_state_sync()
                probe.round(self.tasks, first=not number)
                self.began = clocks()

    def measured_fit(model: keras.Model, x: Any, *rest: Any, **how: Any) -> Any:
        def validate(count: int) -> int:
            model.evaluate(how["validation_data"], steps=count, verbose=0)
            return count

        tasks = {
            "bare": lambda count: bare_steps(model, x)(count),
            "feed": lambda count: feeder(x)(count),
            "validate": validate,
        }
        how["callbacks"] = [*how.get("callbacks", ()), Rounds(tasks)]
        return fit(model, x, *rest, **how)

    def measured_predict(model: keras.Model, x: Any, *rest: Any, **how: Any) -> Any:
        if hasattr(x, "__iter__") and not hasattr(x, "shape") and "predict" in probe.plan:
            in_memory = [images for images, _ in islice(batches(x), probe.plan["predict"])]
            few, bare = how | {"steps": len(in_memory)}, model.predict_on_batch
            passes = lambda _: sum(len(bare(images)) for images in in_memory)  # noqa: E731
            probe.rounds({"predict": lambda _: len(predict(model, x, **few)), "passes": passes})
        return predict(model, x, *rest, **how)

    keras.Model.fit, keras.Model.predict = measured_fit, measured_predict


@cache
def bare_steps(model: keras.Model, x: Any) -> Callable[[int], int]:
    """Train on one batch that stays in memory, by the function that `fit` has compiled."""
    taken = batches(x, single=True)
    takes_iterator = type(taken).__module__.startswith("tensorflow")

    def train(count: int) -> int:
        for _ in range(count):
            model.train_function(taken) if takes_iterator else model.train_on_batch(*next(taken))
        return count

    return train


@cache
def feeder(x: Any) -> Callable[[int], int]:
    """Take batches as `fit` gets them, and count the images."""
    taken = batches(x)
    return lambda count: sum(len(labels) for _, labels in islice(taken, count))


def batches(x: Any, single: bool = False) -> Iterator[Any]:
    """Return what `fit` makes of a dataset or of a generator, pass after pass.

    Args:
        x: JAX takes it as it is, so there it must begin anew whenever it is iterated over.
        single: again and again the first batch.
    """
    import keras
    from keras.src.trainers.data_adapters import get_data_adapter

    adapter = get_data_adapter(x)
    if keras.backend.backend() == "tensorflow":
        data = adapter.get_tf_dataset()
        return iter((data.take(1).cache() if single else data).repeat())
    if single:
        return repeat(next(adapter.get_jax_iterator()))
    return chain.from_iterable(each.get_jax_iterator() for each in repeat(adapter))


if __name__ == "__main__":
    from catsdogs import runtime

    pin = runtime.pin

    def pin_and_measure(*arguments: Any, **named: Any) -> None:
        """Pin as the stage means to; Keras can be imported from then on."""
        pin(*arguments, **named)
        measure_keras(Probe())

    runtime.pin = pin_and_measure
    runpy.run_path(sys.argv[1], run_name="__main__")
