"""Trainings and evaluation: the stages' own scripts beside the notebook and other libraries."""

from __future__ import annotations

from typing import Any

from machine import is_narrow, precisions
from measure import Cost, Usage, each
from table import Line, compare, peak, rate
from workplace import Bench, Clone, photographs

BATCH = 32
STEPS, VALIDATIONS, VALIDATION_STEPS = 1500, 15, 50  # of the notebook's trainings
PASS = 625  # batches in the 20,000 training images
KINDS = {"train_basic": "plain", "train_augmented": "augmented"}
INCEPTION = "train_inception"
# Batches of a round: the pipeline's, the notebook's, Keras', PyTorch's.
FEED = {"plain": (300, 15, 50, 150), "augmented": (100, 6, 15, 80)}


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
    asked = {"float32": "≤ 0.6" if is_narrow(bench.cpu_isa) else "≤ 1.0", "bfloat16": "≤ 0.5"}
    lines = []
    for stage, kind in KINDS.items():
        rounds = bench.few(5)
        own, notebooks, *libraries = (plan(bench, rounds, feed=count) for count in FEED[kind])
        notebook = clone.rival("notebook.py", kind, plan=notebooks)
        for precision in precisions(bench.cpu_isa)[: bench.few(2)]:
            clone.change_params({"runtime": {"precision": precision}, stage: epoch(own)})
            ours, name = clone.stage(stage, own | {"bare": own["fit"]}), f"`{stage}`, {precision}"
            wholes, steps = (whole(ours), whole(notebook)), (ours.each("fit"), ours.each("bare"))
            lines += [
                compare(f"{name}: whole training / the notebook's", *wholes, asked[precision]),
                compare(f"{name}: fed step / bare step", *steps, "≤ 1.03"),
                peak(name, ours),
            ]
        others = {"the notebook": notebook}
        for name, counts in zip(("Keras", "PyTorch")[: 1 + bench.torch], libraries, strict=False):
            others[name] = clone.rival("libraries.py", name.lower(), kind, plan=counts)
        for name, other in others.items():
            what, times = f"images per second, {kind}: {name}", 20 if other is notebook else 3
            lines.append(compare(what, ours.each("feed"), other.each("feed"), f"≥ {times}", rate))
    return lines


def inception(bench: Bench) -> list[Line]:
    """Train Inception's head on fresh views, on bounded views, and with all in the cache.

    The bounds hold for the fastest precision.
    """
    clone, _ = photographs(bench)
    short = plan(bench, 2 + bench.few(3))
    settings = epoch(short) | {"weights": bench.weights}
    theirs = whole(clone.rival("notebook.py", "inception", bench.weights, plan=short))
    lines, available = [], precisions(bench.cpu_isa)[: bench.few(2)]
    for precision in available:
        fresh_views = settings | {"views": 0}
        clone.change_params({"runtime": {"precision": precision}, INCEPTION: fresh_views})
        fresh, bounded = clone.stage(INCEPTION, short), _bounded(clone, settings, short)
        cached = each(bounded.samples["fit"][1:])  # by then all features are in the cache
        features = fresh.each("fit") - cached  # of a batch, computed
        one, two = (cached * STEPS + features * PASS * n for n in (1, 2))
        trainings = {
            "fresh views": (whole(fresh), "≤ 0.3"),
            "one view of each image": (whole(fresh, one), "≤ 0.15"),
            "two views of each image": (whole(fresh, two), ""),
            "features all cached": (whole(fresh, cached * STEPS, cached=True), ""),
        }
        for what, (ours, asked) in trainings.items():
            name = f"`{INCEPTION}`, {precision}, {what}: whole training / the notebook's"
            lines.append(compare(name, ours, theirs, asked if precision == available[0] else ""))
        lines.append(peak(f"`{INCEPTION}`, {precision}", fresh))
    return lines


def _bounded(clone: Clone, settings: dict[str, Any], short: dict[str, int]) -> Usage:
    """Train on one view each of a few images; after the first round, all features are found."""
    clone.change_params({INCEPTION: settings | {"views": 1}})
    table = clone.path / "data/split/train.csv"
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    images = BATCH * short["fit"]
    try:
        table.write_text("".join(lines[: 1 + images]), encoding="utf-8")
        return clone.stage(INCEPTION, short)
    finally:
        table.write_text("".join(lines), encoding="utf-8")


def evaluation(bench: Bench) -> list[Line]:
    """Evaluate; let each model predict some images beside bare passes over them."""
    (clone, _), stages = photographs(bench), (*KINDS, INCEPTION)
    clone.change_params({"runtime": {"precision": "float32"}})
    for stage in stages:
        if not (clone.path / f"models/{stage}.keras").exists():
            clone.change_params({stage: epoch({"fit": 1, "rounds": 0, "validate": 1})})
            clone.stage(stage)
    batches = bench.few(10)
    used = clone.stage("evaluate", {"rounds": bench.few(3), "predict": batches, "passes": batches})
    predicted, bare = used.each("predict"), used.each("passes")
    line = compare("`evaluate`: an image / a bare pass", predicted, bare, "≤ 1.1")
    return [line, peak("`evaluate`", used)]
