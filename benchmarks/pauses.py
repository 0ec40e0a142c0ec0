"""Training in turns: `fit` of a contender stops every few steps until the benchmark says go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from contender import END, Referee, settled

if TYPE_CHECKING:
    import keras

WARM = 5  # steps before the first pause: TensorFlow traces, memory is allocated
CHUNK = 10  # steps from one pause to the next: the task `fit`


def pauses(referee: Referee, tasks: Mapping[str, Callable[[], int]]) -> keras.callbacks.Callback:
    """Make a callback that does the other tasks where `fit` stops."""
    import keras

    class Pauses(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.over = -WARM, False

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.steps += 1
            if self.steps < 0 or self.steps % CHUNK or self.over:
                return
            if self.steps:
                referee.tell(CHUNK)
            else:
                settled()
            while (task := referee.ask()) not in ("fit", END):
                referee.tell(tasks[task]())
            self.over = task == END

    return Pauses()


def bare_steps(model: keras.Model, batch: object) -> Callable[[], int]:
    """Make a task of it: training steps as `fit` computes them, on one batch that is in memory.

    Args:
        model: compiled.
        batch: a dataset of which the first element is taken.
    """
    iterator = iter(batch.take(1).cache().repeat())

    def step() -> int:
        for _ in range(CHUNK):
            model.train_function(iterator)
        return CHUNK

    return step
