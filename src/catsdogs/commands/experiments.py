"""A table of the experiments that fits a terminal.

`dvc exp show` does not serve. It gives an experiment that evaluated nothing the accuracies of its
commit. While an experiment is queued, `--only-changed` hides no metric.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from catsdogs import layout, params
from catsdogs.commands.programs import output
from catsdogs.git import require
from catsdogs.tracking.snapshots import changed, is_evaluated, setting


def main() -> None:
    """Print the last commit, and its experiments below it, the newest first."""
    require()
    shown = output("dvc", "exp", "show", "--json", "--hide-workspace")
    print(table(json.loads(shown), params.load_models()))


def table(commits: Sequence[Mapping[str, Any]], models: Sequence[str]) -> str:
    """Lay out what `dvc exp show --json` gives: accuracies, and parameters that were changed."""
    rows = [["experiment", "created", *map(layout.title, models), "parameters"]]
    for commit in commits:
        rows += _rows(commit, commit, "", models)
        for experiment in commit["experiments"] or []:
            state = (experiment["executor"] or {"state": ""})["state"]
            first, *further = _rows(experiment["revs"][0], commit, state, models)
            rows += [[f"  {first[0]}", *first[1:]], *further]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _rows(
    shown: Mapping[str, Any], commit: Mapping[str, Any], state: str, models: Sequence[str]
) -> list[list[str]]:
    """Return the row of a revision, and one more for each further parameter that it changed."""
    done = state in ("", "success")
    scores = _read(shown, "metrics", layout.metrics("evaluate").as_posix())
    if not done or not is_evaluated(shown["rev"]):
        scores = {}  # DVC shows those of the commit
    known = (shown, commit if commit["data"] else shown)
    now, before = (_read(each, "params", params.PARAMS.name) for each in known)
    changes = [setting(name, value) for name, value in changed(now, before).items()]
    row = [
        shown["name"] or shown["rev"][:7],
        (shown["data"] or {"timestamp": ""})["timestamp"][:10] if done else state,
        *(f"{scores[model]['accuracy']:.4f}" if model in scores else "" for model in models),
        *(changes[:1] or [""]),
    ]
    return [row, *([*[""] * (len(row) - 1), change] for change in changes[1:])]


def _read(shown: Mapping[str, Any], kind: str, file: str) -> dict[str, Any]:
    """Return what a revision has in one of its files; nothing if DVC could not read it."""
    return (shown["data"] or {kind: {}})[kind].get(file, {}).get("data") or {}
