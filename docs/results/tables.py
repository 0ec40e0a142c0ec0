"""Write the tables of the documentation that follow from the data in this folder.

    python docs/results/tables.py

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`. All else in a page stays.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from catsdogs import layout
from catsdogs.evaluation.significance import difference_interval
from catsdogs.files import write_text
from compare import NOTEBOOK

import pandas as pd

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PAGES = ("README.md", "docs/augmentation.md", "docs/better.md", "docs/results/README.md")
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
CONFIDENCE = 0.95

MODELS = ("train_basic", "train_augmented", "train_inception")
LONG = {"train_basic": "sheared-long-1", "train_augmented": "long-3"}  # 6,000 steps
EXPERIMENTS = {
    "notebook-1": "the notebook's parameters",
    "notebook-2": "CNNs with seed 2",
    "notebook-3": "CNNs with seed 3",
    "long-3": "`notebook-3`, augmented for 6,000 steps",
    "sheared-1": "shear of 11°",
    "nearly-unsheared-1": "`sheared-1`, but 0.2005° for augmented",
    "sheared-long-1": "`sheared-1`, CNNs for 6,000 steps",
    "view-1": "`sheared-1`, Inception with `views: 1`",
    "better-1": "[better parameters](../better.md)",
    "better-2": "CNNs with seed 2",
    "better-3": "CNNs with seed 3",
    "averaged-1": "`better-1`, CNNs with averaged weights",
    "shorter-1": "`better-1`, half as long a second phase",
}
AUGMENTED = (
    "notebook-1",
    "notebook-2",
    "notebook-3",
    "nearly-unsheared-1",
    "sheared-1",
    "long-3",
    "sheared-long-1",
)
TRANSFORMATIONS = {
    "none": "basic-warm",
    "horizontal flip": "augmented-flip-warm",
    "shear": "augmented-shear",
    "zoom": "augmented-zoom",
    "width shift": "augmented-width",
    "height shift": "augmented-height",
    "the notebook's four": "augmented-notebook",
}


def main() -> None:
    """Write all tables into their pages."""
    written = tables()
    for name in PAGES:
        page = REPOSITORY / name
        write_text(page, fill(page.read_text(encoding="utf-8"), written))


def fill(text: str, written: dict[str, str]) -> str:
    """Return a page with its tables written anew."""
    return PLACE.sub(lambda place: f"{place[1]}\n{written[place[2]]}\n{place[3]}", text)


def tables() -> dict[str, str]:
    """Return all tables in Markdown, by their names."""
    results = Results()
    return {
        "accuracy": table(
            "model",
            "the notebook",
            "here",
            "here, [better parameters](docs/better.md)",
            "here, [6,000 steps](docs/augmentation.md)",
            rows=results.summary(),
        ),
        "experiments": table(
            "experiment",
            "what it is",
            "basic",
            "augmented",
            "inception",
            rows=results.experiments(),
        ),
        "better": table(
            "model",
            "seed",
            "the notebook's",
            "better",
            "difference",
            rows=results.better(),
        ),
        "augmented": table(
            "experiment",
            "steps",
            "basic",
            "augmented",
            "difference",
            rows=results.augmented(),
        ),
        "trials": table("trial", "settings", "accuracy", rows=trials()),
        "transformations": table("augmentation", "accuracy", rows=transformations()),
    }


def table(*head: str, rows: Iterable[Iterable[str]]) -> str:
    """Lay out a table in Markdown."""
    first, *rest = (f"| {' | '.join(cells)} |\n" for cells in (head, *rows))
    return "".join([first, "|---" * len(head) + "|\n", *rest])


class Results:
    """What the kept experiments reached on the 5,000 validation photographs."""

    def __init__(self) -> None:
        self.runs = read_runs(HERE)
        self.predictions = pd.read_csv(HERE / "predictions.csv")

    def accuracy(self, experiment: str, stage: str) -> str:
        """Return the accuracy of a model."""
        return f"{self.runs[experiment]['models'][stage]['evaluated']['accuracy']:.4f}"

    def difference(self, first: tuple[str, str], second: tuple[str, str]) -> str:
        """Return the first model's accuracy minus the second's, with its interval."""
        one, other = (self._right(*model) for model in (first, second))
        only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
        low, high = difference_interval(only_one, only_other, len(one), CONFIDENCE)
        return f"{(only_one - only_other) / len(one):+.4f} ({low:+.4f} to {high:+.4f})"

    def _right(self, experiment: str, stage: str) -> pd.Series:
        md5 = self.runs[experiment]["models"][stage]["md5"]
        return (self.predictions[md5] >= 0.5) == (self.predictions["label"] == 1)

    def summary(self) -> Iterator[list[str]]:
        """Give the rows of the first page's table."""
        for stage in MODELS:
            here = [self.accuracy(experiment, stage) for experiment in ("notebook-1", "better-1")]
            if stage == "train_inception":
                here = [f"{number}, weights that had seen unknown photographs" for number in here]
            longer = self.accuracy(LONG[stage], stage) if stage in LONG else ""
            yield [layout.title(stage), f"{NOTEBOOK[stage]['val_accuracy']:.4f}", *here, longer]

    def experiments(self) -> Iterator[list[str]]:
        """Give a row for every experiment."""
        if set(self.runs) != set(EXPERIMENTS):
            raise ValueError("runs.json and EXPERIMENTS do not have the same experiments")
        for name, description in EXPERIMENTS.items():
            yield [f"`{name}`", description, *(self.accuracy(name, stage) for stage in MODELS)]

    def better(self) -> Iterator[list[str]]:
        """Give a row for each model that was trained with both sets of parameters."""
        for stage in MODELS:
            for seed in (1,) if stage == "train_inception" else (1, 2, 3):
                before, after = ((f"{name}-{seed}", stage) for name in ("notebook", "better"))
                numbers = (self.accuracy(*before), self.accuracy(*after))
                yield [layout.title(stage), str(seed), *numbers, self.difference(after, before)]

    def augmented(self) -> Iterator[list[str]]:
        """Give a row for each pair of a plain and an augmented network."""
        for name in AUGMENTED:
            # The plain network of `long-3` has 1,500 steps.
            plain = "sheared-long-1" if name == "long-3" else name
            pair = (name, "train_augmented"), (plain, "train_basic")
            steps = self.runs[name]["models"]["train_augmented"]["last_epoch"]["steps"]
            numbers = (self.accuracy(*pair[1]), self.accuracy(*pair[0]))
            yield [f"`{name}`", f"{steps:,}", *numbers, self.difference(*pair)]


def trials() -> Iterator[list[str]]:
    """Give a row for each trial that compares no single transformations."""
    runs = read_runs(HERE / "tuning")
    elsewhere = set(TRANSFORMATIONS.values()) - {"basic-warm", "augmented-flip-warm"}
    for name in sorted(set(runs) - elsewhere, key=lambda name: (accuracy(runs[name]), name)):
        (stage,) = runs[name]["models"]
        settings = [
            f"`{key.removeprefix(f'{stage}.')}={value}`"
            for key, value in changes(runs[name]["command"])
            if key.startswith(f"{stage}.") and not re.search("validation_steps|augmentation", key)
        ]
        if stage == "train_augmented":
            settings.insert(0, "flip")
        yield [f"`{name}`", " ".join(settings), f"{accuracy(runs[name]):.4f}"]


def transformations() -> Iterator[list[str]]:
    """Give a row for each trial of a transformation."""
    runs = read_runs(HERE / "tuning")
    for transformation, name in TRANSFORMATIONS.items():
        yield [transformation, f"{accuracy(runs[name]):.4f}"]


def read_runs(folder: Path) -> dict[str, Any]:
    """Read the runs that a folder keeps, by their names."""
    return dict(json.loads((folder / "runs.json").read_text(encoding="utf-8")))


def accuracy(run: dict[str, Any]) -> float:
    """Return the last validation accuracy of the only model of a run."""
    (model,) = run["models"].values()
    return float(model["last_epoch"]["val_accuracy"])


def changes(command: str) -> list[tuple[str, str]]:
    """Return the parameters that a command sets, and their values."""
    settings = [after for option, after in pairwise(shlex.split(command)) if option == "-S"]
    return [(key, value) for key, _, value in (text.partition("=") for text in settings)]


if __name__ == "__main__":
    main()
