"""Keep experiments in Git: their names go in, three small files of what came of them come out.

    python -m catsdogs.results notebook-1 notebook-2

To be run from the repository's root, with `src` on Python's path. DVC's cache holds an experiment
as long as somebody keeps it; `docs/results` holds what a reader needs to check its figures:

- `runs.json`: for each experiment the command that makes it again, the commit it began from, the
  MD5 of its images, and what its models reached: in their last epoch and, if they were evaluated,
  on all validation images;
- `curves.csv`: accuracy and loss after every epoch;
- `predictions.csv`: P(dog) of every validation image by each model, which its MD5 names.

Experiments that are there already stay, unless they are named. To forget one, take it out of
`runs.json`; the next time, its curves and predictions go, too.
"""

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from catsdogs import layout, params
from catsdogs.files import write_csv, write_json
from catsdogs.snapshots import Snapshot, git, of_revision
from catsdogs.stage import UserError, run
from catsdogs.sync import choose, find_experiments

import numpy as np
import pandas as pd
import yaml

FILES = ("data.source", "train_inception.weights")  # which another machine has elsewhere
MEASURED = ("steps", "accuracy", "loss", "val_accuracy", "val_loss")
IMAGES = (layout.PIXELS, layout.VALIDATION)
KEYS = ["name", "label"]  # of an image


class Results(NamedTuple):
    """What is kept of all experiments.

    Attributes:
        runs: by the experiment's name.
        curves: a row for each `experiment`, `model` and `epoch`.
        predictions: a row for each validation image, with its `name` and `label`.
    """

    runs: Mapping[str, Any]
    curves: pd.DataFrame
    predictions: pd.DataFrame


def main() -> None:
    """Add the experiments to what is kept."""
    parser = argparse.ArgumentParser(
        prog="python -m catsdogs.results", description="Keep experiments in Git."
    )
    parser.add_argument("experiments", nargs="+", metavar="experiment")
    parser.add_argument("--folder", type=Path, default=Path("docs/results"), help="where")
    arguments = parser.parse_args()
    known, results = find_experiments(), read(arguments.folder)
    chosen = {name: choose(name, known) for name in arguments.experiments}
    if missing := [name for name, experiment in chosen.items() if not experiment]:
        raise UserError(f"{missing[0]} is no experiment: `dvc exp list --all-commits` has them")
    for name, commit, base in chosen.values():
        if changed := git("diff", "--name-only", base, commit, "--", "src", "dvc.yaml"):
            raise UserError(
                f"{name} was run with another {changed.split()[0]} than {base[:7]} has: "
                "commit what you changed, and run it again"
            )
        with of_revision(commit, name, base) as snapshot:
            results = add(results, snapshot)
    write(results, arguments.folder)
    for name in arguments.experiments:
        print(f"{name}: {results.runs[name]['command']}")


def read(folder: Path) -> Results:
    """Read what a folder keeps; nothing, at first."""
    runs = folder / "runs.json"
    if not runs.exists():
        return Results({}, pd.DataFrame(columns=["experiment"]), pd.DataFrame(columns=KEYS))
    # Tables as text, so that what stays is written as it was.
    tables = (pd.read_csv(folder / f"{name}.csv", dtype=str) for name in Results._fields[1:])
    return Results(json.loads(runs.read_text(encoding="utf-8")), *tables)


def write(results: Results, folder: Path) -> None:
    """Write all three files, without what no experiment of `runs` has."""
    curves = results.curves[results.curves["experiment"].isin(results.runs)]
    curves = curves.sort_values("experiment", kind="stable")
    predictions = results.predictions.filter([*KEYS, *_evaluated(results.runs)])
    write_csv(folder / "curves.csv", list(curves), curves.itertuples(index=False))
    write_csv(folder / "predictions.csv", list(predictions), predictions.itertuples(index=False))
    write_json(folder / "runs.json", dict(sorted(results.runs.items())))


def add(results: Results, snapshot: Snapshot) -> Results:
    """Add an experiment, in the place of what was kept of it before.

    Raises:
        UserError: DVC's cache lacks a file of it, not all of its parameters were used, or other
            images judged it than those before.
    """
    name, new = snapshot.experiment, describe(snapshot)
    others = {other: each for other, each in results.runs.items() if other != name}
    curves = [results.curves[results.curves["experiment"] != name]]
    for stage in snapshot.trainings:
        table = pd.read_csv(snapshot.fetch(layout.curves(stage)), dtype=str)
        table.insert(0, "experiment", name)
        table.insert(1, "model", stage)
        curves.append(table)
    predictions = results.predictions
    if snapshot.evaluated:
        for other, each in others.items():
            if _evaluated({other: each}) and each["images"] != new["images"]:
                raise UserError(
                    f"{name} was judged by other images than {other}: name another --folder"
                )
        answers = _answers(snapshot)
        kept = [md5 for md5 in _evaluated(others) if md5 not in answers]
        predictions = pd.concat([answers, predictions[kept]], axis=1) if kept else answers
    return Results(others | {name: new}, pd.concat(curves), predictions)


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Say how an experiment is made again, and what its models reached.

    Raises:
        UserError: some of its parameters were not used.
    """
    for key in snapshot.unused:
        raise UserError(
            f"{snapshot.experiment} did not run with the {key} of its params.yaml: "
            "run it without naming a stage"
        )
    images = {path.name: snapshot.outputs("split")[path] for path in IMAGES}
    models: dict[str, Any] = {}
    scores = _json(snapshot, "evaluate") if snapshot.evaluated else {}
    for stage in snapshot.trainings:
        measured = _json(snapshot, stage)
        models[stage] = {"md5": snapshot.outputs(stage)[layout.model(stage)]}
        models[stage]["last_epoch"] = {key: measured[key] for key in MEASURED}
        if snapshot.evaluated:
            models[stage]["evaluated"] = scores[stage]
    return {
        "command": _command(snapshot),
        "commit": snapshot.revision,
        "images": images,
        "models": models,
    }


def _command(snapshot: Snapshot) -> str:
    """The command that makes an experiment again, with files' names alone and URLs' addresses."""
    base = git("show", f"{snapshot.revision}:{params.PARAMS}")
    if not base:
        raise UserError(f"Git lacks {snapshot.revision}, which {snapshot.experiment} began from")
    before = dict(params.flatten(yaml.safe_load(base)))
    words = ["dvc", "exp", "run", "--name", snapshot.experiment]
    for key, value in params.flatten(snapshot.parameters):
        if params.number(value) != params.number(before.get(key)):
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            words += ["-S", f"{key}={_public(text) if key in FILES else text}"]
    return shlex.join(words + ([] if snapshot.evaluated else snapshot.trainings))


def _public(place: str) -> str:
    """Where a file is, without what is this machine's own or may be a secret."""
    address = urlsplit(place)
    if not address.netloc:
        return Path(place).name
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"


def _evaluated(runs: Mapping[str, Any]) -> list[str]:
    """The MD5 of all models that were evaluated."""
    models = [model for each in runs.values() for model in each["models"].values()]
    return sorted({model["md5"] for model in models if "evaluated" in model})


def _answers(snapshot: Snapshot) -> pd.DataFrame:
    """P(dog) in four digits, rounded down so that it stays on its side of 0.5."""
    table = pd.read_csv(snapshot.fetch(layout.PREDICTIONS))
    answers = table[KEYS].astype(str)
    for stage in snapshot.trainings:
        md5 = snapshot.outputs(stage)[layout.model(stage)]
        answers[md5] = [f"{value:.4f}" for value in np.floor(table[stage] * 10_000) / 10_000]
    return answers


def _json(snapshot: Snapshot, stage: str) -> Any:
    return json.loads(snapshot.fetch(layout.metrics(stage)).read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main, "what is kept is as it was")
