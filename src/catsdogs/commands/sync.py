"""Record in MLflow what it lacks of the workspace, of experiments and of revisions.

Everything comes from what DVC keeps. What MLflow already has stays as it is.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from catsdogs.git import git
from catsdogs.stage import UserError
from catsdogs.tracking import recording, store
from catsdogs.tracking.snapshots import Snapshot, of_revision, of_workspace


class Experiment(NamedTuple):
    """An experiment of DVC: the commit that holds it, and the commit that it was made from."""

    name: str
    commit: str
    base: str


def main(revisions: Sequence[str] = ()) -> None:
    """Record each revision, and print what was done; by default, the workspace and experiments.

    Raises:
        UserError: something could not be recorded; the rest was.
    """
    experiments = find_experiments()
    chosen: Sequence[Experiment | str] = revisions or ["workspace", *experiments]
    failures = []
    for asked in chosen:
        try:
            with (
                _open(asked, experiments) as snapshot,
                store.needed("MLflow cannot be written to"),
            ):
                written = recording.record(snapshot)
            name = asked if isinstance(asked, str) else asked.name
            print(f"{name}: {'recorded' if written else 'nothing to do'}", flush=True)
        except UserError as error:
            failures.append(str(error))
    if failures:
        raise UserError("; ".join(failures))


def find_experiments() -> list[Experiment]:
    """Return all experiments of DVC here. Those of different commits may share a name."""
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
    """Return the experiment of a name; where several have it, the one made from HEAD, as in DVC.

    Raises:
        UserError: several have it, and none was made from HEAD.
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
    if experiment := choose(asked, experiments) if isinstance(asked, str) else asked:
        return of_revision(experiment.commit, experiment.name, experiment.base)
    commit = git("rev-parse", "--verify", "--quiet", f"{asked}^{{commit}}")
    if not commit:
        raise UserError(f"{asked} is neither a revision of Git's nor an experiment of DVC's")
    return of_revision(commit)
