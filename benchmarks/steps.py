"""Training steps of the small CNNs: alone, fed by the pipeline, and whole trainings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import photographs
import torch_environment
import trainings
from measure import Contender, NotMeasured, Sample, cost, grouped, in_turn, ratio
from pauses import CHUNK, WARM
from photographs import Sources
from table import Bound, Line, milliseconds, seconds
from trainings import STEPS, VALIDATION, VALIDATION_STEPS, VALIDATIONS

PART = "Training steps"
KINDS = {"train_basic": "plain", "train_augmented": "augmented"}  # the notebook's generator
ROUNDS = 3
OTHERS = 2  # rounds in which the others have a turn, too
TURNS = 5  # of a round, CHUNK steps each: so many that there is one checkpoint in a round
NOTE = f"""\
CPU / wall. A fed step is one of the stage's own `fit` with all that it does besides: batches,
progress, a checkpoint now and then. A bare step is the same compiled function on a batch that
stays in memory. They take turns of {CHUNK} in one process; a round has {TURNS * CHUNK} of each.
A whole training is {STEPS:,} fed steps, {VALIDATIONS} validations of {VALIDATION_STEPS} and all
else that its process does from start to end, scaled up from {ROUNDS * TURNS * CHUNK} steps of this
pipeline, {OTHERS * CHUNK} of the notebook, and validations of {VALIDATION}."""


def measure(sources: Sources) -> list[Line]:
    """Let everyone train in turn."""
    with ExitStack() as stack:
        crew = _begin(sources, stack)
        bare = {"the notebook's": crew["plain"]}
        lines = []
        try:
            bare["PyTorch's"] = stack.enter_context(torch_environment.contender("training"))
            bare["PyTorch's"].do("bare")  # the first steps are slower
        except NotMeasured as error:
            lines.append(Line(PART, "bare step: PyTorch's", why_not=str(error)))
        pairs = [(crew[stage], task) for stage in KINDS for task in ("fit", "bare")]
        others = [(crew[kind], "fit") for kind in KINDS.values()]
        others += [(contender, "validate") for contender in crew.values()]
        others += [(contender, "bare") for contender in bare.values()]
        for number in range(ROUNDS):
            in_turn(pairs, TURNS)
            if number < OTHERS:
                in_turn(others)
        for contender in crew.values():
            contender.end()
    return [*_fed(crew), *_bare(crew["train_basic"], bare), *lines, *_whole(crew)]


def _begin(sources: Sources, stack: ExitStack) -> dict[str, Contender]:
    checkout = photographs.prepare(sources)
    folders = str(photographs.folders(checkout))
    epoch = {"epochs": 1, "validation_steps": VALIDATION}
    epoch["steps_per_epoch"] = WARM + ROUNDS * TURNS * CHUNK
    checkout.change_params(dict.fromkeys(KINDS, epoch))
    commands = {stage: ("ours.py", "training", stage) for stage in KINDS}
    steps = str(WARM + OTHERS * CHUNK)
    for kind in KINDS.values():
        commands[kind] = ("notebook.py", "training", folders, kind, steps)
    return {name: trainings.begin(stack, checkout, *command) for name, command in commands.items()}


def _fed(crew: dict[str, Contender]) -> list[Line]:
    lines = []
    for stage in KINDS:
        fed, bare = (grouped(crew[stage].samples[task], TURNS) for task in ("fit", "bare"))
        bound = Bound("≤", 1.03, also_wall=True)
        lines.append(_line(f"{stage}: fed / bare step", fed, bare, bound))
    return lines


def _bare(ours: Contender, others: dict[str, Contender]) -> list[Line]:
    own = grouped(ours.samples["bare"], TURNS)[:OTHERS]
    return [
        _line(f"bare step / {whose}", own, contender.samples["bare"][-OTHERS:])
        for whose, contender in others.items()
    ]


def _line(
    what: str, ours: Sequence[Sample], other: Sequence[Sample], bound: Bound | None = None
) -> Line:
    texts = (milliseconds(cost(each)) for each in (ours, other))
    return Line(PART, what, *texts, *ratio(ours, other), bound)


def _whole(crew: dict[str, Contender]) -> list[Line]:
    lines = []
    for stage, kind in KINDS.items():
        ours, other = trainings.whole(crew[stage]), trainings.whole(crew[kind])
        what = f"{stage}: whole training / the notebook's"
        texts = seconds(ours), seconds(other)
        lines.append(Line(PART, what, *texts, *(ours / other), Bound("≤", 0.6)))
    return lines
