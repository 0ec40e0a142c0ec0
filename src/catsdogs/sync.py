"""Bring MLflow up to date: revisions go in, what MLflow lacks of them is written from DVC's files.

    python -m catsdogs.sync [revision or experiment …]

To be run from the repository's root, with `src` on Python's path. Without a name, the workspace
and all of DVC's experiments. Trainings record themselves; this is for those that DVC took from its
cache, for a clone, and for when MLflow was away. What is there already is left as it is.
"""

import argparse
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from catsdogs import recording, tracking
from catsdogs.snapshots import Snapshot, git, of_revision, of_workspace
from catsdogs.stage import UserError, run


class Experiment(NamedTuple):
    """An experiment of DVC's: the commit that holds it, and the one that it was made from."""

    commit: str
    base: str


def main() -> None:
    """Record each revision, and say of each what was done."""
    parser = argparse.ArgumentParser(
        prog="python -m catsdogs.sync",
        description="Write what MLflow lacks of an experiment, from what DVC keeps of it.",
    )
    parser.add_argument("revisions", nargs="*", metavar="revision", help="or experiment's name")
    experiments = find_experiments()
    failures = []
    for name in parser.parse_args().revisions or ["workspace", *experiments]:
        try:
            with _open(name, experiments) as snapshot:
                written = _record(snapshot)
            print(f"{name}: {'recorded' if written else 'nothing to do'}", flush=True)
        except UserError as error:
            failures.append(str(error))
    if failures:
        raise UserError("; ".join(failures))


def find_experiments() -> dict[str, Experiment]:
    """All of DVC's experiments in this repository, by their names."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo() as repository:
            found = repository.experiments.ls(all_commits=True)
    except NotDvcRepoError:
        raise UserError("DVC has no repository here: run from the repository's root") from None
    return {
        name: Experiment(commit, base)
        for base, experiments in found.items()
        for name, commit in experiments
    }


def _open(name: str, experiments: dict[str, Experiment]) -> AbstractContextManager[Snapshot]:
    if name == "workspace":
        return nullcontext(of_workspace())
    if name in experiments:
        return of_revision(experiments[name].commit, name, experiments[name].base)
    commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if not commit:
        raise UserError(f"{name} is neither a revision of Git's nor an experiment of DVC's")
    return of_revision(commit)


def _record(snapshot: Snapshot) -> bool:
    try:
        return recording.record(snapshot)
    except UserError:
        raise
    # Whatever a store, a server or a wrong address raises.
    except Exception as error:
        raise UserError(f"MLflow cannot be written to: {tracking.reason(error)}") from None


if __name__ == "__main__":
    run(main, "what is recorded stays; `make sync` goes on from here")
