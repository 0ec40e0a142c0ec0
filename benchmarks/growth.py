"""Growth: each stage's peak memory, and CPU time per image, from 5,000 images to 100,000."""

from __future__ import annotations

import shutil

import overheads
import photographs
from checkout import Checkout
from measure import Usage
from photographs import Sources
from table import Bound, Line, figure

PART = "Memory and growth"
SIZES = {"small": 5_000, "whole": 25_000, "large": 100_000}
DATA = ("download", "split")
TRAININGS = ("train_basic", "train_augmented", "train_inception")
LATER = ("evaluate", "compare")  # which look at the validation images alone
STAGES = (*DATA, *TRAININGS, *LATER)
STEPS = {"epochs": 1, "steps_per_epoch": 10, "validation_steps": 5}
NOTE = f"""\
Photographs, encoded anew: every fifth, all, and each four times with a changed pixel. Peak memory
is that of the largest process of a stage. Trainings take {STEPS["steps_per_epoch"]} steps,
`evaluate` all validation images, a fifth of all; 20,000 of them through three models would take
too long, so it grows from 5,000 images to 25,000. CPU time per image leaves out the start."""


def measure(sources: Sources) -> list[Line]:
    """Run the stages on fewer and on more images."""
    checkout = photographs.prepare(sources)
    folder = photographs.enlarged(checkout)
    used = {}
    for size, images in SIZES.items():
        part = {"train": images * 4 // 5, "validation": images // 5}
        changes = {"data": {"source": str(folder / f"{size}.zip")}, "split": part}
        changes |= {stage: dict(STEPS) for stage in TRAININGS}
        changes["train_inception"]["weights"] = sources.weights
        copy = Checkout(f"growth-{size}", changes)
        stages = STAGES[: -len(LATER)] if size == "large" else STAGES
        used |= {(size, stage): copy.stage(stage) for stage in stages}
        shutil.rmtree(copy.path / "data")
    starts = {stage: overheads.start(checkout, stage) for stage in DATA}
    return [
        *(_peak(stage, used["whole", stage]) for stage in STAGES),
        *(_growth(stage, "large", "whole", used) for stage in (*DATA, *TRAININGS)),
        *(_growth(stage, "whole", "small", used) for stage in LATER),
        *(_per_image(stage, used, starts[stage]) for stage in DATA),
    ]


def _peak(stage: str, used: Usage) -> Line:
    bound = Bound("≤", 2, " GiB")
    what = f"peak memory of `{stage}`"
    return Line(PART, what, _memory(used), ratio=used.peak / 2**30, bound=bound)


def _growth(stage: str, more: str, fewer: str, used: dict[tuple[str, str], Usage]) -> Line:
    what = f"peak memory of `{stage}`: {SIZES[more]:,} / {SIZES[fewer]:,} images"
    peaks = used[more, stage], used[fewer, stage]
    ratio = peaks[0].peak / peaks[1].peak
    return Line(PART, what, *(_memory(each) for each in peaks), ratio, bound=Bound("≤", 1.2))


def _memory(used: Usage) -> str:
    return f"{figure(used.peak / 2**30)} GiB"


def _per_image(stage: str, used: dict[tuple[str, str], Usage], start: Usage) -> Line:
    def milliseconds(size: str) -> float:
        return 1e3 * (used[size, stage].cost - start.cost).cpu / SIZES[size]

    large, small = milliseconds("large"), milliseconds("small")
    what = f"CPU per image of `{stage}`: {SIZES['large']:,} / {SIZES['small']:,} images"
    texts = (f"{figure(each)} ms" for each in (large, small))
    return Line(PART, what, *texts, large / small, bound=Bound("≤", 1.1))
