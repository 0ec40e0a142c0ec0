"""The MLflow store: the connection, what runs are called, and how they are written."""

from __future__ import annotations

import getpass
import logging
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from catsdogs import layout, params
from catsdogs.git import git
from catsdogs.stage import UserError, one_line

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "catsdogs"
MODEL_TAG = "model.md5"  # the link between MLflow and DVC: `dvc.lock` has the same hash
STAGE_TAG = "dvc.stage"
EXPERIMENT_TAG = "dvc.experiment"
REVISION_TAG = "git.revision"
PARENT_TAG = "mlflow.parentRunId"
SOURCE_TAG = "mlflow.source.name"
NOTE_TAG = "mlflow.note.content"
USER_TAG = "mlflow.user"
DEFAULT = "MLFLOW_TRACKING_URI=sqlite:///mlflow.db"  # what the command `mlflow` has to be told
DATABASE = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://")
ARTIFACT_PATHS = {  # columns of a database
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
# Sections of params.yaml that concern every training.
SHARED = ("data", "split", "runtime", "rehearsal")


def attempt(what: str, action: Callable[[], object], quiet: bool = False) -> bool:
    """Do something with MLflow. If that fails, print a warning, unless `quiet`; return False."""
    try:
        action()
    # A store, a server or a wrong address may raise anything; it must not cost the stage's result.
    except Exception as error:
        if not quiet:
            print(
                f"warning: {what} is not recorded in MLflow ({_reason(error)}), which costs none "
                "of its outputs: `catsdogs sync` records it later",
                file=sys.stderr,
            )
        return False
    return True


@contextmanager
def impatient() -> Iterator[None]:
    """Let a server answer within three seconds in the block, or not at all."""
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    before = {name: os.environ[name] for name in quick if name in os.environ}
    os.environ.update(quick)
    try:
        yield
    finally:
        for name in quick:
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def needed(problem: str) -> Iterator[None]:
    """Turn whatever MLflow raises in the block into a `UserError` that begins with `problem`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # as in `attempt`
        raise UserError(f"{problem}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return what an error says, in one line, without a password or a token."""
    text = one_line(error) or type(error).__name__
    if "error responses" in text:  # all that MLflow's client keeps of a status of 500 and above
        text += ": the server's log says why"
    return re.sub(r"\?\S*", "", re.sub(r"//\S*@", "//", text))


def address() -> str:
    """Return the store that `MLFLOW_TRACKING_URI` names, or `mlflow.db`.

    A relative path is the main checkout's: DVC deletes the folder that an experiment is run in.

    Raises:
        UserError: it is a database in memory.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{layout.TRACKING_STORE}"
    if re.fullmatch(r"sqlite[^:]*:/{2,3}(:memory:)?", given):
        raise UserError(
            f"MLFLOW_TRACKING_URI is {given}, which ends with this process: name a file, such as "
            "sqlite:///mlflow.db"
        )
    if sqlite := re.fullmatch(r"(sqlite[^:]*:///)(?!:)(.+)", given):
        return f"{sqlite[1]}{layout.resolve(sqlite[2])}"
    path = given.removeprefix("file:")
    if given.startswith("databricks") or path.startswith("//") or (path == given and ":" in path):
        return given
    return layout.resolve(path).as_uri()


def artifacts(store: str) -> Path | None:
    """Return where a database's artifacts belong; None where the store itself knows.

    MLflow would take a folder of the working directory, and that of an experiment is deleted.
    """
    if not DATABASE.match(store):
        return None
    file = store.partition("sqlite:///")[2]
    return (Path(file).parent if file else layout.ROOT) / "mlartifacts"


def connect() -> MlflowClient:
    """Return a client of the store at `address`."""
    # By default MLflow tries every call for minutes, and a training would wait.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # errors become one line here
    logging.getLogger("alembic").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(address())
    with lock():  # two that make one SQLite file's tables both fail
        client = mlflow.MlflowClient()
        _find_artifacts(client)
    return client


def _find_artifacts(client: MlflowClient) -> None:
    """Correct the paths in a SQLite file that was moved or copied with its artifacts.

    They are absolute, and MLflow has no call that changes them.
    """
    file = client.tracking_uri.partition("sqlite:///")[2]
    experiment = client.get_experiment_by_name(EXPERIMENT) if file else None
    if experiment is None:
        return
    before, now = experiment.artifact_location, Path(file).with_name("mlartifacts")
    old = Path(unquote(urlsplit(before).path))
    if old.name != now.name or old == now:  # elsewhere on purpose, or in its place
        return
    if old.exists() and (not now.exists() or old.samefile(now)):
        return
    with closing(sqlite3.connect(file)) as database, database:
        for table, column in ARTIFACT_PATHS.items():
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"  # noqa: S608
            database.execute(change, (before, now.as_uri()))


def lock(name: str = "mlflow") -> FileLock:
    """Return the lock for what only one process of this checkout may do at a time."""
    path = layout.ROOT / ".cache" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def open_experiment(client: MlflowClient) -> str:
    """Return the id of the project's experiment in MLflow; create it and make it current.

    Raises:
        UserError: somebody has deleted it in MLflow, whose pages cannot restore it.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    with lock():
        if client.get_experiment_by_name(EXPERIMENT) is None:
            folder = artifacts(client.tracking_uri)
            where = folder.as_uri() if folder else None
            # The interface asks its first visitor for the kind; this answers.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            try:
                client.create_experiment(EXPERIMENT, artifact_location=where, tags=tags)
            except MlflowException:
                if client.get_experiment_by_name(EXPERIMENT) is None:
                    raise  # else another machine was quicker
    found = client.get_experiment_by_name(EXPERIMENT)
    if found and found.lifecycle_stage == "deleted":
        where = "" if os.environ.get("MLFLOW_TRACKING_URI") else f"{DEFAULT} "
        raise UserError(
            f"MLflow's experiment {EXPERIMENT} is deleted: `{where}mlflow experiments restore "
            f"--experiment-id {found.experiment_id}` brings it back"
        )
    return mlflow.set_experiment(EXPERIMENT).experiment_id


def user() -> str:
    """Return who records: the name on MLflow's server, or else on this machine, if any."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return ""


def current_tags() -> dict[str, str]:
    """Return the tags that tell who this process is, and which experiment it is part of."""
    tags = {
        USER_TAG: user(),
        EXPERIMENT_TAG: os.environ.get("DVC_EXP_NAME", ""),
        REVISION_TAG: os.environ.get("DVC_EXP_BASELINE_REV")
        or git("rev-parse", "--verify", "--quiet", "HEAD", optional=True),
    }
    return {name: value for name, value in tags.items() if value}


def experiment_name(tags: Mapping[str, str]) -> str:
    """Return DVC's name of an experiment, or the revision that it was made from."""
    return tags.get(EXPERIMENT_TAG) or tags.get(REVISION_TAG, "")[:7] or "workspace"


def run_name(stage: str, experiment: str) -> str:
    """Return the name of a training's run, which tells it from others in a long list."""
    return f"{layout.title(stage)} · {experiment}"


def parameters(values: Mapping[str, Any], stage: str = "") -> dict[str, str]:
    """Return what a run shows of `params.yaml`: the sections that concern every training.

    The run of a training shows its own section, too, whose parameters lose the section's name.
    """
    shown = {section: values[section] for section in (*SHARED, stage) if section in values}
    flat = params.flatten(shown)
    return {name.removeprefix(f"{stage}."): _text(value) for name, value in flat}


def _text(value: Any) -> str:
    """Write a parameter, the same for 1e-4 and 0.0001, or 1 and 1.0."""
    value = params.number(value)
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def log(
    client: MlflowClient, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]
) -> None:
    """Write tags into a run, and the parameters that it lacks: MLflow refuses to change one."""
    from mlflow.entities import Param, RunTag

    existing = client.get_run(run_id).data.params
    client.log_batch(
        run_id,
        params=[Param(name, value) for name, value in params.items() if name not in existing],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def log_metrics(
    client: MlflowClient,
    run_id: str,
    steps: Mapping[int, Mapping[str, float]],
    timestamp: int = 0,
    **about: str,
) -> None:
    """Add the metrics of each step that a run lacks.

    Args:
        client: of the store.
        run_id: the run.
        steps: the metrics of each step.
        timestamp: in milliseconds. By default it is the run's start: MLflow keeps one of what two
            machines write at once, if all of it is equal.
        about: further fields of `Metric`.
    """
    from mlflow.entities import Metric

    names = {name for metrics in steps.values() for name in metrics}
    logged = {
        (name, old.step) for name in names for old in client.get_metric_history(run_id, name)
    }
    timestamp = timestamp or client.get_run(run_id).info.start_time
    new = [
        Metric(name, value, timestamp, step, **about)
        for step, metrics in steps.items()
        for name, value in metrics.items()
        if (name, step) not in logged
    ]
    client.log_batch(run_id, metrics=new)
