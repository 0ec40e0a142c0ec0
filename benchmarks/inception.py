"""Inception: the whole training, its augmentation fresh or bounded, and one that finds a cache."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import photographs
import trainings
from checkout import Checkout
from measure import Contender, Cost, cost, in_turn
from pauses import CHUNK, WARM
from photographs import Sources
from table import Bound, Line, milliseconds, seconds
from trainings import STEPS, VALIDATION, VALIDATION_STEPS, VALIDATIONS

PART = "Inception"
STAGE = "train_inception"
ROUNDS = 3
PARTS = 625  # batches of 32 images in the 20,000 training images
FEW = 320  # training images whose bounded views are soon all there
NOTE = f"""\
CPU / wall, of {STEPS:,} steps, {VALIDATIONS} validations of {VALIDATION_STEPS} and all else that a
training's process does, scaled up from {ROUNDS * CHUNK} steps of each, in turn, and validations of
{VALIDATION}. What this pipeline's trunk takes of a batch is a step's cost with an empty cache less
that with a full one. Bounded: V views of each image are V × {PARTS} batches through the trunk, at
most {STEPS:,}, and {STEPS:,} steps that find their features. Validation images pass through the
trunk once. The second experiment changes the head's dropout."""


def measure(sources: Sources) -> list[Line]:
    """Train with an empty cache, then with a full one, beside the notebook."""
    checkout = photographs.prepare(sources)
    shutil.rmtree(checkout.path / ".cache/features", ignore_errors=True)
    steps = WARM + ROUNDS * CHUNK
    epoch = {"epochs": 1, "validation_steps": VALIDATION, "steps_per_epoch": steps}
    checkout.change_params({STAGE: epoch | {"views": 0}})
    few = _few(checkout, epoch | {"views": 1, "weights": sources.weights})
    ours = ("ours.py", "training", STAGE)
    folders = str(photographs.folders(checkout))
    theirs = ("notebook.py", "inception", folders, sources.weights, str(steps + ROUNDS * CHUNK))
    with ExitStack() as stack:
        fresh = trainings.begin(stack, checkout, *ours)
        notebook = trainings.begin(stack, checkout, *theirs)
        tasks = ("fit", "validate")
        in_turn([(who, task) for task in tasks for who in (fresh, notebook)], ROUNDS)
        fresh.end()
        checkout.change_params({STAGE: {"dropout": 0.3}})
        found = trainings.begin(stack, checkout, *ours)
        bounded = trainings.begin(stack, few, *ours)
        in_turn(
            [(found, "validate"), *((who, "fit") for who in (found, bounded, notebook))], ROUNDS
        )
        bounded.do("validate")
        for contender in (found, bounded, notebook):
            contender.end()
    return _lines(fresh, found, bounded, notebook)


def _few(checkout: Checkout, settings: dict[str, object]) -> Checkout:
    """Make a checkout with the first few training images."""
    few = Checkout("few", {"data": {"source": "few"}, STAGE: settings})
    shutil.rmtree(few.path / ".cache/features", ignore_errors=True)
    shutil.rmtree(few.path / "data", ignore_errors=True)
    (few.path / "data/split").mkdir(parents=True)
    for name in ("images.npy", "validation.csv"):
        (few.path / "data/split" / name).symlink_to(checkout.path / "data/split" / name)
    with (checkout.path / "data/split/train.csv").open(encoding="utf-8") as table:
        lines = [next(table) for _ in range(1 + FEW)]
    (few.path / "data/split/train.csv").write_text("".join(lines), encoding="utf-8")
    return few


def _lines(
    fresh: Contender, found: Contender, bounded: Contender, notebook: Contender
) -> list[Line]:
    step, head, row_by_row = (cost(each.samples["fit"]) for each in (fresh, found, bounded))
    trunk = step - head
    whole = trainings.whole(notebook)

    def bounded_views(views: int) -> Cost:
        batches = min(STEPS, views * PARTS)
        return trainings.whole(fresh, trunk * batches + row_by_row * STEPS)

    def line(what: str, ours: Cost, most: float | None = None) -> Line:
        bound = Bound("≤", most) if most else None
        return Line(PART, what, seconds(ours), seconds(whole), *(ours / whole), bound)

    theirs = cost(notebook.samples["fit"])
    return [
        line("fresh views / the notebook's training", trainings.whole(fresh), 1 / 2),
        line("one view of each image / the notebook's", bounded_views(1), 1 / 3),
        line("two views of each image / the notebook's", bounded_views(2)),
        line("second experiment / the notebook's", trainings.whole(found), 1 / 5),
        *(
            Line(PART, what, milliseconds(ours), milliseconds(theirs), *(ours / theirs))
            for what, ours in (
                ("a step with fresh views / the notebook's step", step),
                ("a step that finds its features / the notebook's step", head),
                ("a step that finds bounded views / the notebook's step", row_by_row),
            )
        ),
    ]
