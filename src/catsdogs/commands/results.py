"""Keep the results of experiments in Git.

DVC's cache has an experiment only as long as somebody keeps it. Three files have what a reader
needs to check its figures:

- `runs.json`: for each experiment the command that runs it again, the commit it was made from and
  the MD5 of its images; for each of its models the MD5, what computed it, the CPU seconds if
  MLflow knows them, the last epoch, and the scores on all validation images if it was evaluated;
- `curves.csv`: accuracy and loss after every epoch;
- `predictions.csv.gz`: P(second class) of every validation image; a column for each model, named
  by its MD5.

The files keep an experiment until it is taken out of `runs.json`.
"""

import gzip
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from catsdogs import layout, params
from catsdogs.commands.sync import choose, find_experiments
from catsdogs.files import replacing, write_csv, write_json
from catsdogs.git import git, require
from catsdogs.stage import UserError
from catsdogs.tracking import live
from catsdogs.tracking.snapshots import Snapshot, changed, of_revision, setting

import numpy as np
import pandas as pd

PATHS = ("data.source", "train_inception.weights")  # parameters that may be paths of this machine
CODE = ("src", "dvc.yaml")
PREDICTIONS = Path("predictions.csv.gz")  # compressed, for every model has a column
KEYS = ["name", "label"]  # of an image


class Results(NamedTuple):
    """What is kept of all experiments."""

    runs: Mapping[str, Any]  # by the experiment's name
    curves: pd.DataFrame  # a row for each `experiment`, `model` and `epoch`
    predictions: pd.DataFrame  # a row for each validation image, with its `name` and `label`


def main(names: Sequence[str], folder: Path) -> None:
    """Add experiments to a folder's files, or replace what the files have of them.

    Raises:
        UserError: there is no such experiment, or its results cannot be kept. Nothing is written.
    """
    require()
    known, results = find_experiments(), read(folder)
    for name in names:
        experiment = choose(name, known)
        if not experiment:
            raise UserError(f"{name} is no experiment: `dvc exp list --all-commits` lists them")
        _, commit, base = experiment
        if edited := git("diff", "--relative", "--name-only", base, commit, "--", *CODE):
            raise UserError(
                f"{name} was run with another {edited.split()[0]} than {base[:7]} has: "
                "commit what you changed, and run it again"
            )
        with of_revision(commit, name, base) as snapshot:
            results = add(results, snapshot)
    write(results, folder)
    for name in names:
        print(f"{name}: {results.runs[name]['command']}")


def read(folder: Path) -> Results:
    """Read a folder's files; without them, nothing is kept yet."""
    runs = folder / "runs.json"
    if not runs.exists():
        return Results(
            {}, pd.DataFrame(columns=["experiment", "model"]), pd.DataFrame(columns=KEYS)
        )
    # As text, so that every number is written again as it is.
    curves, predictions = (
        pd.read_csv(folder / name, dtype=str) for name in ("curves.csv", PREDICTIONS)
    )
    return Results(json.loads(runs.read_text(encoding="utf-8")), curves, predictions)


def write(results: Results, folder: Path) -> None:
    """Write all three files, without curves and predictions of what `runs` does not have."""
    curves = results.curves[results.curves["experiment"].isin(results.runs)]
    curves = curves.sort_values("experiment", kind="stable")
    predictions = results.predictions.filter([*KEYS, *_evaluated(results.runs)])
    write_csv(folder / "curves.csv", curves.columns.to_list(), curves.itertuples(index=False))
    text = predictions.to_csv(index=False, lineterminator="\n")
    with replacing(folder / PREDICTIONS) as part:
        part.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))  # the same bytes again
    write_json(folder / "runs.json", dict(sorted(results.runs.items())))


def add(results: Results, snapshot: Snapshot) -> Results:
    """Add an experiment, or replace what is kept of it.

    Raises:
        UserError: DVC's cache lacks one of its files, not all of its parameters were used, or it
            was evaluated on other images than the experiments that are kept.
    """
    name, new = snapshot.experiment, describe(snapshot)
    others = {other: run for other, run in results.runs.items() if other != name}
    curves = [results.curves[results.curves["experiment"] != name]]
    for stage in snapshot.trainings:
        table = pd.read_csv(snapshot.fetch(layout.curves(stage)), dtype=str)
        curves.append(table.assign(experiment=name, model=stage))
    predictions = results.predictions
    if snapshot.evaluated:
        for other, run in others.items():
            # Not the pixels if only one of the two has them in shards: `images.npy` was one file.
            differ = any(new["images"].get(key, md5) != md5 for key, md5 in run["images"].items())
            if _evaluated({other: run}) and differ:
                raise UserError(
                    f"{name} was judged by other images than {other}: name another --folder"
                )
        own = _predictions(snapshot)
        kept = [md5 for md5 in _evaluated(others) if md5 not in own]
        predictions = pd.concat([own, predictions[kept]], axis=1) if kept else own
    return Results(others | {name: new}, pd.concat(curves), predictions)


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """Return the entry of an experiment in `runs.json`.

    Raises:
        UserError: some of its parameters were not used.
    """
    for key in snapshot.unused:
        raise UserError(
            f"{snapshot.experiment} did not run with the {key} of its params.yaml: "
            "run it without naming a stage"
        )
    split, models = snapshot.outputs("split"), {}
    for stage in snapshot.trainings:
        facts = snapshot.read_json(layout.facts(stage))
        images = facts["steps"] * facts["settings"]["batch_size"]
        md5 = snapshot.outputs(stage)[layout.model(stage)]
        models[stage] = {
            "md5": md5,
            "runtime": facts.get("runtime"),
            "cpu_seconds": live.find_cost(md5),
            "last_epoch": {
                "steps": facts["steps"],
                "images": images,
                **snapshot.last_epoch(stage),
            },
        }
        if stage in snapshot.evaluated:
            models[stage]["evaluated"] = snapshot.scores[stage]
    return {
        "command": _command(snapshot),
        "commit": snapshot.revision,
        "images": {
            path.name: md5
            for path, md5 in split.items()  # of earlier commits with `images.npy`
            if path.stem in (layout.PIXELS.name, layout.VALIDATION.stem)
        },
        "models": models,
    }


def _command(snapshot: Snapshot) -> str:
    """Return the command that runs an experiment again, without what is private in it."""
    base = git("show", f"{snapshot.revision}:./{params.PARAMS}")
    if not base:
        raise UserError(f"Git lacks {snapshot.revision}, which {snapshot.experiment} began from")
    words = ["dvc", "exp", "run", "--name", snapshot.experiment]
    for key, value in changed(snapshot.params_file, params.parse(base)).items():
        words += ["-S", setting(key, _public(value) if key in PATHS else value)]
    return shlex.join(words + ([] if snapshot.evaluated else snapshot.trainings))


def _public(source: str) -> str:
    """A path's name without folders; a URL without user, password and query."""
    url = urlsplit(source)
    if not url.netloc:
        return Path(source).name
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _evaluated(runs: Mapping[str, Any]) -> list[str]:
    """The MD5 of all models that were evaluated."""
    models = [model for run in runs.values() for model in run["models"].values()]
    return sorted({model["md5"] for model in models if "evaluated" in model})


def _predictions(snapshot: Snapshot) -> pd.DataFrame:
    """P(second class) in four digits, rounded down so that it stays on its side of 0.5."""
    table = pd.read_csv(snapshot.fetch(layout.PREDICTIONS))
    predictions = table[KEYS].astype(str)
    for stage in snapshot.evaluated:
        md5 = snapshot.outputs(stage)[layout.model(stage)]
        predictions[md5] = [f"{value:.4f}" for value in np.floor(table[stage] * 10_000) / 10_000]
    return predictions
