"""Growth: each stage's peak memory, and CPU time per image, from 5,000 images to 100,000."""

from __future__ import annotations

import shutil
from statistics import median

import photographs
from checkout import WORK, Checkout
from measure import Usage
from photographs import Sources
from table import Bound, Line, figure

PART = "Memory and growth"
SIZES = {"whole": 25_000, "small": 5_000, "large": 100_000}  # in this order
DATA = ("download", "split")
TRAININGS = ("train_basic", "train_augmented", "train_inception")
LATER = ("evaluate", "compare")  # which look at the validation images alone
STAGES = {  # of each size; the smallest set's models are those of the whole
    "whole": (*DATA, *TRAININGS, *LATER),
    "small": (*DATA, *LATER),
    "large": (*DATA, *TRAININGS),
}
AGAIN = 2  # runs more of `download`, which is short
STEPS = {"epochs": 1, "steps_per_epoch": 10, "validation_steps": 5}
NOTE = f"""\
Photographs, encoded anew: every fifth, all, and each four times with a changed pixel. Peak memory
is that of the largest process of a stage. Trainings take {STEPS["steps_per_epoch"]} steps,
`evaluate` all validation images, a fifth of all; 20,000 of them through three models would take
too long, so it grows from 5,000 images to 25,000. CPU times of
`download` are medians of {1 + AGAIN} runs."""
Used = dict[tuple[str, str], list[Usage]]  # of a size and a stage


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
        if size == "small":
            for made in ("models", "metrics", "plots"):
                whole = WORK / "growth-whole" / made
                shutil.copytree(whole, copy.path / made, dirs_exist_ok=True)
        used |= {(size, stage): [copy.stage(stage)] for stage in STAGES[size]}
        used[size, "download"] += [copy.stage("download") for _ in range(AGAIN)]
        shutil.rmtree(copy.path / "data")
    return [
        *(_peak(stage, used["whole", stage][0]) for stage in STAGES["whole"]),
        *(_growth(stage, "large", "whole", used) for stage in (*DATA, *TRAININGS)),
        *(_growth(stage, "whole", "small", used) for stage in LATER),
        *(_per_image(stage, used) for stage in DATA),
    ]


def _peak(stage: str, used: Usage) -> Line:
    bound = Bound("≤", 2, " GB")
    what = f"peak memory of `{stage}`"
    return Line(PART, what, _memory(used), ratio=used.peak / 1e9, bound=bound)


def _growth(stage: str, more: str, fewer: str, used: Used) -> Line:
    what = f"peak memory of `{stage}`: {SIZES[more]:,} / {SIZES[fewer]:,} images"
    peaks = used[more, stage][0], used[fewer, stage][0]
    ratio = peaks[0].peak / peaks[1].peak
    return Line(PART, what, *(_memory(each) for each in peaks), ratio, bound=Bound("≤", 1.2))


def _memory(used: Usage) -> str:
    return f"{figure(used.peak / 1e9)} GB"


def _per_image(stage: str, used: Used) -> Line:
    """Compare what an image adds at the lower end with what it adds at the upper."""

    def milliseconds(more: str, fewer: str) -> float:
        spent = [median(each.cost.cpu for each in used[size, stage]) for size in (more, fewer)]
        return 1e3 * (spent[0] - spent[1]) / (SIZES[more] - SIZES[fewer])

    upper, lower = milliseconds("large", "whole"), milliseconds("whole", "small")
    what = f"CPU per further image of `{stage}`: to 100,000 from 25,000 / to 25,000 from 5,000"
    texts = (f"{figure(each)} ms" for each in (upper, lower))
    return Line(PART, what, *texts, upper / lower, bound=Bound("≤", 1.1))
