"""Evaluation: the stage's predictions beside bare forward passes, and all else that it does."""

from __future__ import annotations

from contextlib import ExitStack

import photographs
from measure import NotMeasured, cost, in_turn, ratio
from photographs import Sources
from table import Bound, Line, milliseconds, seconds

PART = "Evaluation"
TRAININGS = ("train_basic", "train_augmented", "train_inception")
ROUNDS = 3
NOTE = """\
CPU / wall. A prediction is one validation image through all three models, as the stage has them
read and batched; a bare pass is the same on batches that stay in memory. The rest of the stage is
what its process takes for all validation images, start and pictures included, less predictions.
The models are those of the other parts' short trainings."""


def measure(sources: Sources) -> list[Line]:
    """Predict some images in turn, then evaluate all."""
    checkout = photographs.prepare(sources)
    models = [checkout.path / f"models/{name}.keras" for name in TRAININGS]
    missing = [path.name for path in models if not path.exists()]
    if missing:
        raise NotMeasured(f"no {', '.join(missing)}: run the parts steps and inception before")
    with ExitStack() as stack:
        ours = stack.enter_context(checkout.contender("ours.py", "evaluation"))
        in_turn([(ours, "predict"), (ours, "bare")], 1 + ROUNDS)  # the first is slower
        ours.end()
    predictions, bare = (ours.samples[task][1:] for task in ("predict", "bare"))
    table = checkout.path / "data/split/validation.csv"
    images = len(table.read_text(encoding="utf-8").splitlines()) - 1
    predicted = cost(predictions) * images
    used = checkout.stage("evaluate")
    texts = (milliseconds(cost(each)) for each in (predictions, bare))
    return [
        Line(
            PART,
            "a prediction / a bare pass",
            *texts,
            *ratio(predictions, bare),
            Bound("≤", 1.1),
        ),
        Line(PART, f"the stage, {images:,} images", seconds(used.cost), seconds(predicted)),
        Line(PART, "the rest of the stage", seconds(used.cost - predicted)),
    ]
