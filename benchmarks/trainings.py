"""Trainings and evaluation: the stages' own scripts beside the notebook and other libraries."""

from __future__ import annotations

import shutil
from typing import Any

from measure import Cost, Usage, each
from table import Line, compare, peak, rate
from workplace import Bench, Clone, photographs

BATCH = 32
STEPS, VALIDATIONS, VALIDATION_STEPS = 1500, 15, 50  # of the notebook's trainings
PASS = 625  # batches in the 20,000 training images
KINDS = {"train_basic": "plain", "train_augmented": "augmented"}
INCEPTION = "train_inception"
# Batches of a round: the pipeline's, the notebook's, Keras', PyTorch's.
FEED = {"plain": (600, 50, 100, 150), "augmented": (200, 15, 30, 80)}


def whole(training: Usage, steps: Cost | None = None, cached: bool = False) -> Cost:
    """Scale a short training up to the notebook's numbers of steps.

    What the process used besides steps and validations counts once.

    Args:
        training: a process of one epoch, probed.
        steps: what all training steps take, if not the measured ones scaled up.
        cached: the first validation takes no more than later ones.
    """
    warm, cold = training.samples["fit, first"], training.samples["validate, first"]
    step, validation = training.each("fit"), training.each("validate")
    # The probe does not see the first step and the validation at the end.
    unseen = step + validation * cold[0, 0]
    once = training.unprobed - unseen + warm[0, 1:] - step * warm[0, 0]
    first = (validation if cached else each(cold)) * VALIDATION_STEPS
    others = validation * (VALIDATIONS - 1) * VALIDATION_STEPS
    return once + first + others + (step * STEPS if steps is None else steps)


def plan(bench: Bench, rounds: int, **more: int) -> dict[str, int]:
    """Return how much of each task a round of a training has."""
    counts = {"fit": 10, "validate": 10, **more}
    return {"rounds": rounds} | {task: bench.few(count) for task, count in counts.items()}


def epoch(plan: dict[str, int]) -> dict[str, int]:
    """Return the parameters of a training that is as long as a plan."""
    steps = 1 + plan["fit"] * (1 + plan["rounds"])
    return {"epochs": 1, "steps_per_epoch": steps, "validation_steps": plan["validate"]}


def small_cnns(bench: Bench) -> list[Line]:
    """Train the small CNN, and feed it, on plain and on augmented images."""
    clone, _ = photographs(bench)
    lines = []
    for stage, kind in KINDS.items():
        own, notebooks, *libraries = (
            plan(bench, bench.few(5), bare=10, feed=count) for count in FEED[kind]
        )
        clone.change_params({stage: epoch(own)})
        ours = clone.stage(stage, own)
        notebook = clone.rival("notebook.py", kind, plan=notebooks)
        others = {"the notebook": notebook}
        for name, counts in zip(("Keras", "PyTorch")[: 1 + bench.torch], libraries, strict=False):
            others[name] = clone.rival("libraries.py", name.lower(), kind, plan=counts)
        bare, trainings = ours.each("bare"), (whole(ours), whole(notebook))
        lines += [
            compare(f"`{stage}`: whole training / the notebook's", *trainings, "≤ 0.6"),
            compare(f"`{stage}`: fed step / bare step", ours.each("fit"), bare, "≤ 1.03"),
            peak(stage, ours),
        ]
        for name, other in others.items():
            if "bare" in other.samples:
                what = f"`{stage}`: bare step / {name}'s"
                lines.append(compare(what, bare, other.each("bare")))
            what, asked = f"images per second, {kind}: {name}", 20 if other is notebook else 3
            feeds = ours.each("feed"), other.each("feed")
            lines.append(compare(what, *feeds, f"≥ {asked}", rate))
    return lines


def inception(bench: Bench) -> list[Line]:
    """Train Inception's head on fresh views, on bounded views, and with all in the cache."""
    clone, _ = photographs(bench)
    short = plan(bench, 2 + bench.few(3))
    settings = epoch(short) | {"weights": bench.weights}
    clone.change_params({INCEPTION: settings | {"views": 0}})
    fresh = clone.stage(INCEPTION, short)
    notebook = clone.rival("notebook.py", "inception", bench.weights, plan=short)
    bounded = _bounded(clone, settings, short)
    step, cached = each(bounded.samples["fit"][:1]), each(bounded.samples["fit"][2:])

    def views(number: int) -> Cost:
        return step * min(STEPS, number * PASS) + cached * max(0, STEPS - number * PASS)

    trainings = {
        "fresh views": (whole(fresh), "≤ 0.5"),
        "one view of each image": (whole(bounded, views(1)), "≤ 0.333"),
        "two views of each image": (whole(bounded, views(2)), "≤ 0.5"),
        "features all cached": (whole(bounded, cached * STEPS, cached=True), "≤ 0.2"),
    }
    steps = {"fresh views": fresh.each("fit"), "features cached": cached}
    theirs, their_step = whole(notebook), notebook.each("fit")
    name = f"`{INCEPTION}`"
    return [
        *(
            compare(f"{name}, {what}: whole training / the notebook's", ours, theirs, asked)
            for what, (ours, asked) in trainings.items()
        ),
        *(
            compare(f"{name}, {what}: step / the notebook's", ours, their_step)
            for what, ours in steps.items()
        ),
        peak(INCEPTION, fresh),
    ]


def _bounded(clone: Clone, settings: dict[str, Any], short: dict[str, int]) -> Usage:
    """Train on one view each of a few images, with an empty cache.

    The first pass over the images ends in the second round; later rounds find all features.
    """
    clone.change_params({INCEPTION: settings | {"views": 1}})
    shutil.rmtree(clone.path / ".cache/features", ignore_errors=True)
    table = clone.path / "data/split/train.csv"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    images = BATCH * (1 + short["fit"] * 5 // 2)
    try:
        table.write_text("".join(lines[: 1 + images]), encoding="utf-8")
        return clone.stage(INCEPTION, short)
    finally:
        table.write_text("".join(lines), encoding="utf-8")


def evaluation(bench: Bench) -> list[Line]:
    """Evaluate; let each model predict some images beside bare passes over them."""
    (clone, _), stages = photographs(bench), (*KINDS, INCEPTION)
    for stage in stages:
        if not (clone.path / f"models/{stage}.keras").exists():
            clone.change_params({stage: epoch({"fit": 1, "rounds": 0, "validate": 1})})
            clone.stage(stage)
    batches = bench.few(20)
    rounds = {"rounds": bench.few(3), "predict": batches, "passes": batches}
    used = clone.stage("evaluate", rounds)
    predicted, bare = (used.each(task) * len(stages) for task in ("predict", "passes"))
    table = (clone.path / "data/split/validation.csv").read_text(encoding="utf-8")
    images = len(table.splitlines()) - 1
    what = f"`evaluate`, all {images:,} images / bare passes"
    return [
        compare("`evaluate`: an image / a bare pass", predicted, bare, "≤ 1.1"),
        compare(what, used.unprobed, bare * images),
        peak("evaluate", used),
    ]
