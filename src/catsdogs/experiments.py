"""The experiments and what came of them, in a table that a terminal has room for.

    python -m catsdogs.experiments

To be run from the repository's root, with `src` on Python's path. `dvc exp show` has a column for
every number, parameter and file; this has the accuracies of an experiment's own models, and the
parameters in which it is not like the commit it began from, as `dvc exp run -S` takes them.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catsdogs import figures, layout, params
from catsdogs.snapshots import is_evaluated
from catsdogs.stage import UserError, run

import pandas as pd

COLUMNS = ("experiment", "created", *map(figures.title, layout.TRAININGS), "parameters")


def main() -> None:
    """Print the last commit, and below it its experiments, the newest first."""
    result = subprocess.run(
        ["dvc", "exp", "show", "--json", "--hide-workspace"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        raise UserError("`dvc exp show` fails: see above")
    print(table(json.loads(result.stdout)))


def table(commits: list[dict[str, Any]]) -> str:
    """Lay out what `dvc exp show --json` gives: a line for each, and for each more parameter."""
    rows = [COLUMNS]
    for commit in commits:
        rows += _rows(commit, commit)
        for experiment in commit["experiments"] or []:
            state = experiment["executor"] or {"state": ""}
            rows += _rows(experiment["revs"][0], commit, state["state"], indent="  ")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _rows(
    shown: dict[str, Any], commit: dict[str, Any], state: str = "", indent: str = ""
) -> Iterator[tuple[str, ...]]:
    data = shown["data"] or {"timestamp": "", "metrics": {}, "params": {}}
    done = state in ("", "success")
    # DVC shows what an experiment has not made as its commit has it.
    own = data["metrics"] if done and is_evaluated(shown["rev"]) else {}
    scores = _read(own, layout.metrics("evaluate"))
    accuracies = [scores.get(f"{name}.accuracy") for name in layout.TRAININGS]
    before, now = (_read(each["params"], params.PARAMS) for each in (commit["data"] or data, data))
    changed = [
        f"{name}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for name, value in now.items()
        if value != before.get(name)
    ]
    yield (
        indent + (shown["name"] or shown["rev"][:7]),
        data["timestamp"][:10] if done else state,
        *("" if value is None else f"{value:.4f}" for value in accuracies),
        changed[0] if changed else "",
    )
    for change in changed[1:]:
        yield (*[""] * (len(COLUMNS) - 1), change)


def _read(files: dict[str, Any], path: Path) -> dict[str, Any]:
    """A file's values as DVC gives them, by their full names."""
    values = files.get(path.as_posix(), {}).get("data") or {}
    return pd.json_normalize(values).to_dict("records")[0] if values else {}


if __name__ == "__main__":
    run(main, "nothing was changed")
