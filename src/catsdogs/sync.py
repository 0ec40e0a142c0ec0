"""Bring MLflow up to date: revisions go in, what MLflow lacks of them is written from DVC's files.

    python -m catsdogs.sync [revision or experiment …]

To be run from the repository's root, with `src` on Python's path. Without a name, the workspace
and all of DVC's experiments. Trainings record themselves; this is for those that DVC took from its
cache, for a clone, and for when MLflow was away. What is there already is left as it is.
"""

import argparse
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from catsdogs import recording, tracking
from catsdogs.snapshots import Snapshot, git, of_revision, of_workspace
from catsdogs.stage import UserError, run


class Experiment(NamedTuple):
    """An experiment of DVC's: the commit that holds it, and the one that it was made from."""

    name: str
    commit: str
    base: str


def main() -> None:
    """Record each revision, and say of each what was done."""
    parser = argparse.ArgumentParser(
        prog="python -m catsdogs.sync",
        description="Write what MLflow lacks of an experiment, from what DVC keeps of it.",
    )
    parser.add_argument("revisions", nargs="*", metavar="revision", help="or experiment's name")
    names, experiments = parser.parse_args().revisions, find_experiments()
    failures = []
    for asked in names or ["workspace", *experiments]:
        try:
            with _open(asked, experiments) as snapshot:
                written = _record(snapshot)
            name = asked.name if isinstance(asked, Experiment) else asked
            print(f"{name}: {'recorded' if written else 'nothing to do'}", flush=True)
        except UserError as error:
            failures.append(str(error))
    if failures:
        raise UserError("; ".join(failures))


def find_experiments() -> list[Experiment]:
    """All of DVC's experiments in this repository; a name is unique to the commit below it."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo() as repository:
            found = repository.experiments.ls(all_commits=True)
    except NotDvcRepoError:
        raise UserError("DVC has no repository here: run from the repository's root") from None
    return [
        Experiment(name, commit, base)
        for base, experiments in found.items()
        for name, commit in experiments
    ]


def choose(name: str, experiments: Iterable[Experiment]) -> Experiment | None:
    """The experiment of a name; of several that of HEAD, as DVC has it.

    Raises:
        UserError: there are several, and none is of HEAD.
    """
    found = [each for each in experiments if each.name == name]
    if len(found) > 1:
        bases, head = ", ".join(each.base[:7] for each in found), git("rev-parse", "HEAD")
        found = [each for each in found if each.base == head]
        if not found:
            raise UserError(f"{name} is of several commits, {bases}: `git checkout` one of them")
    return found[0] if found else None


def _open(
    asked: Experiment | str, experiments: list[Experiment]
) -> AbstractContextManager[Snapshot]:
    if asked == "workspace":
        return nullcontext(of_workspace())
    experiment = choose(asked, experiments) if isinstance(asked, str) else asked
    if experiment:
        return of_revision(experiment.commit, experiment.name, experiment.base)
    commit = git("rev-parse", "--verify", "--quiet", f"{asked}^{{commit}}")
    if not commit:
        raise UserError(f"{asked} is neither a revision of Git's nor an experiment of DVC's")
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
