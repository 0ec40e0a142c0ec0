"""Write the tables of the documentation that follow from the data in this folder.

    python docs/results/tables.py
    python docs/results/tables.py --folder mine     # print the tables of presets of other results

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`. All else in a page stays.

An experiment is called after its preset and its seed: `better-3`. A row has all seeds of a preset.
An experiment with another name has no row.
"""

import argparse
import json
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

from catsdogs import layout
from catsdogs.commands import preset
from catsdogs.files import write_text
from compare import NOTEBOOK

import numpy as np
import pandas as pd
import yaml
from scipy import stats

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PAGES = ("README.md", "docs/augmentation.md", "docs/better.md")
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
CONFIDENCE = 0.95

MODELS = ("train_basic", "train_augmented", "train_inception")
STAND_IN = "weights that had seen unknown photographs"
# What each row of a table is, by the experiments' name without a seed. Others come last.
PRESETS = (
    "notebook",
    "float32",
    "one-view",
    "notebook-long",
    "initial",
    "falling",
    "muon",
    "better",
    "longer",
)
DIFFERENCES = ("notebook", "notebook-long", "better")
# What experiments without a file in `presets` are.
OTHERS = {
    "float32": "The notebook's numbers, computed in float32 instead of bfloat16.",
    "notebook": "The notebook's numbers.",
}
TRIALS = {  # on tuning images
    "muon-slower": "the preset `muon` at a rate of 0.001",
    "muon": "the preset `muon`",
    "flip": "the preset `muon` with a flip only",
    "half": "a flip, and the notebook's transformations at half strength",
    "half-faster": "`half` at a rate of 0.004",
    "half-falling": "`half` with a rate that falls from the first step on",
    "quarter": "a flip, and the notebook's transformations at a quarter of their strength",
    "quarter-mirrored": "`quarter` with mirrored edges",
    "quarter-slower": "`quarter` at a rate of 0.0014",
    "small-shifts": "a flip, and shifts of 0.05 with mirrored edges",
    "shifts": "a flip, and shifts of 0.1 with mirrored edges",
    "better": "the preset `better`: `shifts` at a rate of 0.0014",
    "inception-slower": "a second phase of 20 epochs above `mixed3`, at a rate of 0.0001",
    "inception": "`inception-slower` at a rate of 0.0003",
    "inception-longer": "`inception` with 30 epochs",
    "inception-deeper": "the preset `better`: `inception-longer` above `mixed0`",
}


def main() -> None:
    """Write all tables into their pages, or print those of presets of another folder."""
    parser = argparse.ArgumentParser(description="Write the tables of the documentation.")
    parser.add_argument(
        "--folder", type=Path, help="print the tables of presets of the results in this folder"
    )
    if folder := parser.parse_args().folder:
        for name, text in preset_tables(Results(folder)).items():
            print(name, text, sep="\n\n")
        return
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
            "here, [better](docs/better.md)",
            "here, [longer](docs/better.md)",
            rows=results.summary(),
        ),
        **preset_tables(results),
        "differences": table(
            "parameters",
            "steps",
            "seeds",
            "basic, on training images",
            "basic",
            "augmented",
            "difference",
            rows=results.differences(),
        ),
        "trials": table("model", "trial", "what it is", "seeds", "accuracy", rows=trials()),
    }


def preset_tables(results: "Results") -> dict[str, str]:
    """Return the table of the presets for each of the models, by its title."""
    head = ("preset", "what it adds", "seeds", "accuracy", "gain", "images seen", "CPU seconds")
    return {layout.title(stage): table(*head, rows=results.presets(stage)) for stage in MODELS}


def table(*head: str, rows: Iterable[Iterable[str]]) -> str:
    """Lay out a table in Markdown."""
    first, *rest = (f"| {' | '.join(cells)} |\n" for cells in (head, *rows))
    return "".join([first, "|---" * len(head) + "|\n", *rest])


class Results:
    """What the kept experiments reached on the validation images."""

    def __init__(self, folder: Path = HERE) -> None:
        self.runs = by_preset(read_runs(folder))
        self.predictions = pd.read_csv(folder / "predictions.csv.gz")

    def models(self, name: str, stage: str) -> dict[int, dict[str, Any]]:
        """Return the evaluated models of a preset, by their seeds; none if it has none of its own.

        Those of other presets are among them if this network was trained with the same parameters.
        Inception is trained once, whatever the seed of the others.
        """
        wanted, found = self.settings(name, stage), {}
        alike = [each for each in self.runs if self.settings(each, stage) == wanted]
        for group in (name, *alike):
            for seed, run in self.runs[group].items():
                model = run["models"].get(stage, {})
                known = [each["md5"] for each in found.values()]
                if "evaluated" in model and model["md5"] not in known:
                    found.setdefault(seed, model)
            if not found:
                break
        return dict(sorted(found.items()))

    def settings(self, name: str, stage: str) -> frozenset[str]:
        """Return the parameters that a preset trains a network with, other than `params.yaml`."""
        found = {changes(run["command"], stage) for run in self.runs[name].values()}
        if len(found) > 1:
            raise SystemExit(
                f"error: the experiments {name}-… differ in more than their seeds: "
                "run those with other parameters again, with another name before the seed"
            )
        return found.pop()

    def right(self, name: str, stage: str) -> np.ndarray:
        """Return which images the models get right: seeds × images, 0 or 1."""
        labels = self.predictions["label"].to_numpy() == 1
        models = self.models(name, stage).values()
        predicted = [self.predictions[model["md5"]] >= 0.5 for model in models]
        return np.array([each.to_numpy() == labels for each in predicted], float)

    def accuracy(self, name: str, stage: str) -> str:
        """Return the mean accuracy of the models, with its interval."""
        right = self.right(name, stage)
        low, high = mean_interval(right)
        return f"{right.mean():.3f} ({low:.3f} to {high:.3f})"

    def summary(self) -> Iterator[list[str]]:
        """Give the rows of the first page's table."""
        for stage in MODELS:
            cells = [self.accuracy(name, stage) for name in ("notebook", "better")]
            if stage == "train_inception":
                cells = [f"{cell}, {STAND_IN}" for cell in cells]
            own = self.settings("longer", stage) != self.settings("better", stage)
            cells.append(self.accuracy("longer", stage) if own else "")
            yield [layout.title(stage), f"{NOTEBOOK[stage]['val_accuracy']:.3f}", *cells]

    def presets(self, stage: str) -> Iterator[list[str]]:
        """Give a row for each preset that trains a network in its own way."""
        described = OTHERS | preset.descriptions(REPOSITORY / preset.FOLDER)
        told: set[frozenset[str]] = set()
        for name in [*filter(self.runs.get, PRESETS), *sorted(set(self.runs) - set(PRESETS))]:
            models, settings = self.models(name, stage), self.settings(name, stage)
            if models and settings not in told:
                told.add(settings)
                before = self.previous(name, stage)
                right = self.right(name, stage).mean()
                yield [
                    f"`{name}`",
                    described.get(name, ""),
                    str(len(models)),
                    self.accuracy(name, stage),
                    f"{right - self.right(before, stage).mean():+.3f}" if before else "",
                    f"{next(iter(models.values()))['last_epoch']['images']:,}",
                    cost(models.values()),
                ]

    def previous(self, name: str, stage: str) -> str:
        """Return the nearest preset below another one that has models of its own."""
        while name != "notebook":
            path = REPOSITORY / preset.FOLDER / f"{name}.yaml"
            text = path.read_text(encoding="utf-8") if path.exists() else "{}"
            name = yaml.safe_load(text).get("after", "notebook")
            if name in self.runs and self.models(name, stage):
                return str(name)
        return ""

    def differences(self) -> Iterator[list[str]]:
        """Give a row for each pair of a plain and an augmented network."""
        plain, augmented = MODELS[:2]
        for name in filter(self.runs.get, DIFFERENCES):
            models = self.models(name, augmented)
            plains = self.models(name, plain).values()
            difference = self.right(name, augmented) - self.right(name, plain)
            low, high = mean_interval(difference)
            yield [
                f"`{name}`",
                f"{next(iter(models.values()))['last_epoch']['steps']:,}",
                str(len(models)),
                f"{mean(model['last_epoch']['accuracy'] for model in plains):.3f}",
                *(f"{self.right(name, stage).mean():.3f}" for stage in (plain, augmented)),
                f"{difference.mean():+.3f} ({low:+.3f} to {high:+.3f})",
            ]


def changes(command: str, stage: str) -> frozenset[str]:
    """Return what a command of `dvc exp run` changes of a training, but for its seed."""
    words = pairwise(shlex.split(command))
    changed = (after for word, after in words if word == "-S")
    sections = (*(each for each in MODELS if each != stage), "evaluate", "compare", "local")
    other = (*(f"{section}." for section in sections), f"{stage}.seed=")
    return frozenset(change for change in changed if not change.startswith(other))


def cost(models: Iterable[dict[str, Any]]) -> str:
    """Return the mean of the CPU seconds of those models of which they are known."""
    known = [model["cpu_seconds"] for model in models if model["cpu_seconds"]]
    return f"{mean(known):,.0f}" if known else "unknown"


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Compute the interval of a mean over seeds and images, both of which are samples.

    Two-way random effects: the variance of the mean is (MS_seeds + MS_images - MS_rest) / (n · m)
    (Searle, Casella and McCulloch 1992), with Satterthwaite's degrees of freedom (1946). With one
    seed, nothing is known of seeds: it is the images' alone.

    Args:
        values: of each seed and image, n × m.
    """
    n, m = values.shape
    by_seed, by_image = values.mean(axis=1), values.mean(axis=0)
    squares = [n * by_image.var(ddof=1)]
    freedoms = [m - 1]
    if n > 1:
        rest = values - by_seed[:, None] - by_image + values.mean()
        squares += [m * by_seed.var(ddof=1), -(rest**2).sum() / ((n - 1) * (m - 1))]
        freedoms += [n - 1, (n - 1) * (m - 1)]
    whole = max(sum(squares), squares[0])
    if not whole:  # all models get all images right, or all wrong
        return values.mean(), values.mean()
    parts = zip(squares, freedoms, strict=True)
    freedom = whole**2 / sum(square**2 / freedom for square, freedom in parts)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(whole / (n * m))
    return values.mean() - half, values.mean() + half


def trials() -> Iterator[list[str]]:
    """Give a row for each trial on the tuning images, the best one of each model last."""
    runs = by_preset(read_runs(HERE / "tuning"))
    order = {}
    for name, seeds in runs.items():
        (stage,) = {stage for run in seeds.values() for stage in run["models"]}
        order[name] = (MODELS.index(stage), mean(map(accuracy, seeds.values())))
    for name, (model, reached) in sorted(order.items(), key=lambda item: (item[1], item[0])):
        title = layout.title(MODELS[model])
        yield [title, f"`{name}`", TRIALS[name], str(len(runs[name])), f"{reached:.4f}"]


def by_preset(runs: dict[str, Any]) -> dict[str, dict[int, Any]]:
    """Group runs by their name without the seed, and then by the seed; leave out other names."""
    groups: dict[str, dict[int, Any]] = defaultdict(dict)
    for name, run in runs.items():
        if match := re.fullmatch(r"(.+)-(\d+)", name):
            groups[match[1]][int(match[2])] = run
    return {stem: dict(sorted(group.items())) for stem, group in groups.items()}


def read_runs(folder: Path) -> dict[str, Any]:
    """Read the runs that a folder keeps, by their names."""
    return dict(json.loads((folder / "runs.json").read_text(encoding="utf-8")))


def accuracy(run: dict[str, Any]) -> float:
    """Return the last validation accuracy of the only model of a run."""
    (model,) = run["models"].values()
    return float(model["last_epoch"]["val_accuracy"])


if __name__ == "__main__":
    main()
