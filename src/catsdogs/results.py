"""Keep experiments in Git: their names go in, three small files of what came of them come out.

    python -m catsdogs.results notebook-1 better-1

To be run from the repository's root, with `src` on Python's path. DVC's cache holds an experiment
as long as somebody keeps it; `docs/results` holds what a reader needs to check its figures:

- `runs.json`: for each experiment the command that makes it again, the commit it began from, and
  what its models reached: in their last epoch and, if they were evaluated, on all the images;
- `curves.csv`: accuracy and loss after every epoch;
- `predictions.csv`: P(dog) of every validation image by each model, which its MD5 names.

Experiments that are there already stay, unless they are named.
"""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from catsdogs import layout, params
from catsdogs.files import write_csv, write_json
from catsdogs.snapshots import Snapshot, git, of_revision
from catsdogs.stage import UserError, run
from catsdogs.sync import find_experiments

import numpy as np
import pandas as pd
import yaml

RUNS = Path("docs/results/runs.json")
CURVES = Path("docs/results/curves.csv")
PREDICTIONS = Path("docs/results/predictions.csv")
FILES = ("data.source", "train_inception.weights")  # which another machine has elsewhere
MEASURED = ("steps", "accuracy", "loss", "val_accuracy", "val_loss")


class Results(NamedTuple):
    """What is kept of all experiments.

    Attributes:
        runs: by the experiment's name.
        curves: a row for each `experiment`, `model` and `epoch`.
        predictions: a row for each validation image, with its `name` and `label`.
    """

    runs: dict[str, Any]
    curves: pd.DataFrame
    predictions: pd.DataFrame


def main() -> None:
    """Add the experiments to what is kept."""
    parser = argparse.ArgumentParser(
        prog="python -m catsdogs.results", description="Keep experiments in docs/results."
    )
    parser.add_argument("experiments", nargs="+", metavar="experiment")
    known, results = find_experiments(), read()
    for name in parser.parse_args().experiments:
        if name not in known:
            raise UserError(f"{name} is no experiment: `make experiments` lists them")
        with of_revision(known[name].commit, name, known[name].base) as snapshot:
            results = add(results, snapshot)
        print(f"{name}: {results.runs[name]['command']}")
    write(results)


def read() -> Results:
    """Read what is kept; nothing is, at first."""
    if not RUNS.exists():
        return Results({}, pd.DataFrame(columns=["experiment"]), pd.DataFrame())
    runs = json.loads(RUNS.read_text(encoding="utf-8"))
    # As text, so that what stays is written as it was.
    return Results(runs, *(pd.read_csv(path, dtype=str) for path in (CURVES, PREDICTIONS)))


def write(results: Results) -> None:
    """Write all three files, without the predictions of models that no experiment has."""
    kept = {model["md5"] for each in results.runs.values() for model in each["models"].values()}
    predictions = results.predictions.filter(["name", "label", *sorted(kept)])
    curves = results.curves.sort_values("experiment", kind="stable")
    write_csv(CURVES, list(curves), curves.itertuples(index=False))
    write_csv(PREDICTIONS, list(predictions), predictions.itertuples(index=False))
    write_json(RUNS, dict(sorted(results.runs.items())))


def add(results: Results, snapshot: Snapshot) -> Results:
    """Add an experiment, in the place of what was kept of it before.

    Raises:
        UserError: DVC's cache lacks a file of it, or other images have judged it.
    """
    name = snapshot.experiment
    curves = [results.curves[results.curves["experiment"] != name]]
    for stage in snapshot.trainings:
        table = pd.read_csv(snapshot.fetch(layout.curves(stage)), dtype=str)
        table.insert(0, "experiment", name)
        table.insert(1, "model", stage)
        curves.append(table)
    predictions = results.predictions
    if snapshot.evaluated:
        answers = _answers(snapshot)
        new = answers.drop(columns=predictions.columns.intersection(answers.columns[2:]))
        if predictions.empty:
            predictions = new
        elif not predictions[["name", "label"]].equals(new[["name", "label"]]):
            raise UserError(f"{name} was judged by other images than what {PREDICTIONS} has")
        else:
            predictions = pd.concat([predictions, new.drop(columns=["name", "label"])], axis=1)
    return Results(results.runs | {name: describe(snapshot)}, pd.concat(curves), predictions)


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Say how an experiment is made again, and what its models reached."""
    models: dict[str, Any] = {}
    scores = _json(snapshot, "evaluate") if snapshot.evaluated else {}
    for stage in snapshot.trainings:
        measured = _json(snapshot, stage)
        models[stage] = {"md5": snapshot.outputs(stage)[layout.model(stage)]}
        models[stage] |= {"last_epoch": {key: measured[key] for key in MEASURED}}
        if snapshot.evaluated:
            models[stage] |= {"evaluated": scores[stage]}
    return {"command": _command(snapshot), "commit": snapshot.revision, "models": models}


def _command(snapshot: Snapshot) -> str:
    """The command that makes an experiment again, with the names of files alone."""
    before = dict(params.flatten(yaml.safe_load(git("show", f"{snapshot.revision}:params.yaml"))))
    words = ["dvc", "exp", "run", "--name", snapshot.experiment]
    for key, value in params.flatten(snapshot.parameters):
        if value != before.get(key):
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            words += ["-S", f"{key}={Path(text).name if key in FILES else text}"]
    return shlex.join(words + ([] if snapshot.evaluated else snapshot.trainings))


def _answers(snapshot: Snapshot) -> pd.DataFrame:
    """P(dog) in four digits, rounded down so that it stays on its side of 0.5."""
    table = pd.read_csv(snapshot.fetch(layout.PREDICTIONS))
    answers = table[["name", "label"]].astype(str)
    for stage in snapshot.trainings:
        md5 = snapshot.outputs(stage)[layout.model(stage)]
        answers[md5] = [f"{value:.4f}" for value in np.floor(table[stage] * 10_000) / 10_000]
    return answers


def _json(snapshot: Snapshot, stage: str) -> Any:
    return json.loads(snapshot.fetch(layout.metrics(stage)).read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main, "what is kept is as it was")
