"""The MLflow store: the connection, what runs are called, and how they are written."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout, params
from catsdogs.git import git
from catsdogs.stage import UserError

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
SHARED = ("data", "split", "runtime")  # sections of params.yaml that concern every training


def attempt(what: str, action: Callable[[], object]) -> bool:
    """Do something with MLflow. If that fails, print a warning and return False."""
    try:
        action()
    # A store, a server or a wrong address may raise anything; it must not cost the stage's result.
    except Exception as error:
        print(
            f"warning: {what} is not recorded in MLflow ({_reason(error)}), which costs none of "
            "its outputs: `catsdogs sync` records it later",
            file=sys.stderr,
        )
        return False
    return True


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
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"\?\S*", "", re.sub(r"//\S*@", "//", text))[:300]


def connect() -> MlflowClient:
    """Return a client of the store that `MLFLOW_TRACKING_URI` names, or of `mlflow.db`."""
    # By default MLflow tries every call for minutes, and a training would wait.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # errors become one line here
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{layout.TRACKING_STORE}")
    with lock():  # two that make one SQLite file's tables both fail
        return mlflow.MlflowClient()


def lock() -> FileLock:
    """Return the lock for what only one process of this checkout may do at a time."""
    path = layout.ROOT / ".cache" / "mlflow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def open_experiment(client: MlflowClient) -> str:
    """Return the id of the project's experiment in MLflow; create it and make it current."""
    import mlflow
    from mlflow.exceptions import MlflowException

    with lock():
        if client.get_experiment_by_name(EXPERIMENT) is None:
            # A server knows where its artifacts go. For a local store MLflow would take a folder
            # of the working directory, and that of a temporary experiment is deleted.
            store = client.tracking_uri.partition("sqlite:///")[2]
            where = Path(store).absolute().with_name("mlartifacts").as_uri() if store else None
            # The interface asks its first visitor for the kind; this answers.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            try:
                client.create_experiment(EXPERIMENT, artifact_location=where, tags=tags)
            except MlflowException:
                if client.get_experiment_by_name(EXPERIMENT) is None:
                    raise  # else another machine was quicker
    return mlflow.set_experiment(EXPERIMENT).experiment_id


def current_tags() -> dict[str, str]:
    """Return the tags that tell which experiment this process is part of."""
    tags = {
        EXPERIMENT_TAG: os.environ.get("DVC_EXP_NAME", ""),
        REVISION_TAG: os.environ.get("DVC_EXP_BASELINE_REV") or git("rev-parse", "HEAD"),
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
    client: MlflowClient, run_id: str, steps: Mapping[int, Mapping[str, float]], **about: str
) -> None:
    """Add the metrics of each step that a run lacks; `about` are further fields of `Metric`."""
    from mlflow.entities import Metric

    names = {name for metrics in steps.values() for name in metrics}
    logged = {
        (name, old.step) for name in names for old in client.get_metric_history(run_id, name)
    }
    now = int(time.time() * 1000)
    new = [
        Metric(name, value, now, step, **about)
        for step, metrics in steps.items()
        for name, value in metrics.items()
        if (name, step) not in logged
    ]
    client.log_batch(run_id, metrics=new)
