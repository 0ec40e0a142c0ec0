"""Record in MLflow what it lacks of the workspace, of experiments and of revisions.

Everything comes from what DVC keeps. What MLflow already has stays as it is, with three
exceptions. Runs of killed processes are closed. The runs below a deleted run are deleted, with
their models. Of what several machines recorded at once, one stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from catsdogs import layout
from catsdogs.git import git, require
from catsdogs.stage import UserError
from catsdogs.tracking import live, recording, store
from catsdogs.tracking.snapshots import (
    NothingTrainedError,
    Snapshot,
    of_revision,
    of_workspace,
)

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class Experiment(NamedTuple):
    """An experiment of DVC: the commit that holds it, and the commit that it was made from."""

    name: str
    commit: str
    base: str


def main(revisions: Sequence[str] = ()) -> None:
    """Record each revision, and print what was done.

    Without revisions, record the workspace and all experiments that have a model, and tidy up.

    Raises:
        UserError: something could not be recorded; the rest was.
    """
    if set(revisions) - {"workspace"}:
        require()
    experiments = find_experiments()
    # The workspace often is an experiment: that is its name then.
    chosen: Sequence[Experiment | str] = revisions or [*experiments, "workspace"]
    failures = []
    problem = "MLflow cannot be written to"
    with store.needed(problem):
        for name in live.settle():
            print(f"{name}: closed; it ended while MLflow was away")
    for asked in chosen:
        try:
            with _open(asked, experiments) as snapshot, store.needed(problem):
                written = recording.record(snapshot)
            name = asked if isinstance(asked, str) else asked.name
            print(f"{name}: {'recorded' if written else 'nothing to do'}", flush=True)
        except UserError as error:
            if revisions or not isinstance(error, NothingTrainedError):
                failures.append(str(error))
            elif asked == "workspace":
                print(error)
    if not revisions:
        with store.needed(problem):
            tidy()
    if failures:
        raise UserError("; ".join(dict.fromkeys(failures)))


def tidy() -> None:
    """Close what was killed; delete the runs below a deleted run, their models, and duplicates.

    `mlflow gc` removes for good what is deleted.
    """
    import mlflow

    client = store.connect()
    experiment = store.open_experiment(client)
    _delete_duplicates(client, experiment)
    # Before the runs: what another machine begins to record in between has no model in the list.
    models = mlflow.search_logged_models([experiment], output_format="list")
    runs: list[Run] = mlflow.search_runs([experiment], output_format="list")
    shown, used = {run.info.run_id: run for run in runs}, set()
    for run in runs:
        parent = run.data.tags.get(store.PARENT_TAG)
        if parent and parent not in shown and _is_deleted(client, parent):
            client.delete_run(run.info.run_id)
            print(f"{run.info.run_name}: deleted, as the run above it was")
            continue
        used.add(run.data.tags.get(store.MODEL_TAG))
        if run.info.status == "RUNNING" and _was_killed(client, run, shown.get(parent, run)):
            client.set_terminated(run.info.run_id, "KILLED")
            print(f"{run.info.run_name}: what wrote it was killed")
    registered = {version.source for version in client.search_model_versions()}
    for model in models:
        if model.tags.get(store.MODEL_TAG) not in used and model.model_uri not in registered:
            client.delete_logged_model(model.model_id)


def _delete_duplicates(client: MlflowClient, experiment: str) -> None:
    """Keep one of the runs, and of the models, that several machines made of one thing at once."""
    import mlflow

    whole = (recording.CONTENT_TAG, store.EXPERIMENT_TAG)
    below = (store.PARENT_TAG, store.STAGE_TAG, store.MODEL_TAG)
    training = (live.TRAINING_TAG,)  # doubled by a request whose answer was lost
    for identity in (whole, below, training):
        same: dict[tuple[str, ...], list[Run]] = {}
        runs: list[Run] = mlflow.search_runs([experiment], output_format="list")
        for run in runs:
            if identity[0] in run.data.tags:
                key = tuple(run.data.tags.get(tag, "") for tag in identity)
                same.setdefault(key, []).append(run)
        for equal in same.values():
            if len(equal) > 1:
                kept = recording.keep_one(client, equal)
                print(f"{kept.info.run_name}: {len(equal) - 1} more of it deleted")
    found = mlflow.search_logged_models([experiment], output_format="list")
    models = [model.tags.get(store.MODEL_TAG) for model in found]
    for md5 in {md5 for md5 in models if md5 and models.count(md5) > 1}:
        stored = recording.find_models(client, experiment, md5)
        stays = recording.keep_one_model(client, experiment, md5, stored)
        for lost in recording.find_lost_models(client, experiment, md5):
            if stays and lost not in stays:
                client.delete_logged_model(lost)


def _is_deleted(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "deleted"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return True


def _was_killed(client: MlflowClient, run: Run, above: Run) -> bool:
    """Tell whether no process of this checkout holds a run any more.

    Args:
        client: of the store.
        run: of a training while it goes on, or of an experiment that is recorded.
        above: the run above it, or the same.
    """
    if training := run.data.tags.get(live.TRAINING_TAG):
        begun = layout.CHECKPOINTS / training
        lock = begun.with_name(f"{training}.lock")
    elif content := above.data.tags.get(recording.CONTENT_TAG):
        lock = begun = Path(recording.lock(content).lock_file)
    else:
        return False
    if lock.exists():
        try:
            with FileLock(lock, blocking=False):
                return True
        except Timeout:
            return False
    # Another checkout may share a server, but not the store of this one.
    return begun.exists() or client.tracking_uri == f"sqlite:///{layout.TRACKING_STORE}"


def find_experiments() -> list[Experiment]:
    """Return all experiments of DVC here. Those of different commits may share a name.

    Raises:
        UserError: DVC or Git cannot be asked.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import NoSCMError, SCMError

    git("rev-parse", "--git-dir", optional=True)  # which Git may refuse; DVC is silent
    try:
        with Repo() as repository:
            found = repository.experiments.ls(all_commits=True)
    except NotDvcRepoError:
        raise UserError("DVC has no repository here: run from the repository's root") from None
    except NoSCMError:  # `core.no_scm` is set
        return []
    except SCMError as error:
        raise UserError(f"{error}: without Git, `dvc config core.no_scm true`") from None
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
        raise UserError(
            f"{asked} is neither a revision of Git nor an experiment of DVC: "
            "`dvc exp list --all-commits` lists the experiments"
        )
    return of_revision(commit)
