"""MLflow, while a training runs: its curves as they come, its figures and model at its end.

An experiment is a run in MLflow, and each of its three trainings a run below that. Here are the
parts of these that a training knows; `recording` completes them from what DVC keeps.

The link between DVC and MLflow is the model's MD5: in `dvc.lock`, and as a tag of the run.
Tracking never costs a result: where the store cannot be reached, a warning says so and the stage
goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import figures, layout, params
from catsdogs.files import digest

import numpy as np

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "catsdogs"
STAGE_TAG = "dvc.stage"
EXPERIMENT_TAG = "dvc.experiment"
REVISION_TAG = "git.revision"
MODEL_TAG = "model.md5"
PARENT_TAG = "mlflow.parentRunId"
SOURCE_TAG = "mlflow.source.name"
TRAINING_TAG = "training"
UNDER_WAY_TAG = "under_way"  # of an experiment until all of it is recorded
SHARED = ("data", "split", "runtime")  # sections that concern every training
DIGITS = 6  # of a curve's values, as in the stage's CSV
MODEL_PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "pillow", "tqdm")


class TrainingRun:
    """The MLflow run of one training stage.

    Args:
        stage: `train_basic` for example.
        training: tells this training from all others; if it has a run, that run goes on.
    """

    def __init__(self, stage: str, training: str) -> None:
        self.stage, self.run_id, self.parent_id = stage, "", ""
        self.params = params.read()  # which may be another's by the time this training ends
        self.logged: set[tuple[str, int]] = set()
        self.client: MlflowClient | None = None
        attempt(stage, lambda: self._start(training))

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of one epoch, counted from 1, if the run lacks them."""
        new = {
            name: float(np.round(value, DIGITS))
            for name, value in values.items()
            if (name, epoch) not in self.logged
        }
        self._try(lambda client: log_metrics(client, self.run_id, new, epoch))

    def finish(self) -> None:
        """Add the stage's outputs, which are written by now, and close the run."""
        self._try(self._finish)

    def end(self, status: str) -> None:
        """Close the run of a training that broke off, and its experiment's: FAILED or KILLED."""
        # Whoever interrupts a stage does not wait for a server.
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
        for run_id in (self.run_id, self.parent_id):
            self._try(lambda client, run_id=run_id: client.set_terminated(run_id, status))

    def _start(self, training: str) -> None:
        client = connect()
        experiment = open_experiment(client)
        self.parent_id = self._open_parent(client, experiment)
        tags = current_tags() | {
            STAGE_TAG: self.stage,
            SOURCE_TAG: f"src/{self.stage}.py",
            TRAINING_TAG: training,
            PARENT_TAG: self.parent_id,
        }
        found = client.search_runs([experiment], f"tags.`{TRAINING_TAG}` = '{training}'")
        if found:
            self.run_id = found[0].info.run_id
            _reopen(client, self.run_id, tags)
            for name in found[0].data.metrics:
                history = client.get_metric_history(self.run_id, name)
                self.logged |= {(name, metric.step) for metric in history}
        else:
            name = run_name(self.stage, experiment_name(current_tags()))
            self.run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        log_parameters(client, self.run_id, parameters(self.stage, self.params))
        self.client = client

    def _open_parent(self, client: MlflowClient, experiment: str) -> str:
        """The run of the experiment that this training is part of, made by its first stage."""
        tags = current_tags()
        mark = under_way(tags.get(EXPERIMENT_TAG, ""), self.params)
        tags |= {UNDER_WAY_TAG: mark, SOURCE_TAG: "dvc.yaml"}
        found = client.search_runs([experiment], f"tags.`{UNDER_WAY_TAG}` = '{mark}'")
        if found:
            _reopen(client, found[0].info.run_id, tags)
            return found[0].info.run_id
        return client.create_run(experiment, run_name=experiment_name(tags), tags=tags).info.run_id

    def _finish(self, client: MlflowClient) -> None:
        pictures = {
            f"figures/{quantity}.png": layout.figure(f"{self.stage}_{quantity}")
            for quantity in ("accuracy", "loss")
        }
        log_files(client, self.run_id, pictures)
        fingerprint = digest(layout.model(self.stage), "md5")
        interpolation = self.params["split"]["interpolation"]
        log_model(
            client, self.run_id, fingerprint, interpolation, lambda: layout.model(self.stage)
        )
        client.set_tag(self.run_id, MODEL_TAG, fingerprint)
        # The experiment's too, for this may be the last stage that is asked for.
        for run_id in (self.run_id, self.parent_id):
            client.set_terminated(run_id, "FINISHED")

    def _try(self, action: Callable[[MlflowClient], None]) -> None:
        client = self.client
        if client is not None and not attempt(self.stage, lambda: action(client)):
            self.client = None


def attempt(stage: str, action: Callable[[], None]) -> bool:
    """Do something with MLflow; where that fails, warn and return False."""
    try:
        action()
    # Whatever a store, a server or a wrong address raises, it must not cost the stage's result.
    except Exception as error:
        print(
            f"warning: {stage} is not recorded in MLflow ({reason(error)}), which costs none of "
            "its outputs: `make sync` records it later",
            file=sys.stderr,
        )
        return False
    return True


def reason(error: Exception) -> str:
    """What a failure says, in one line without a password or a token."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"\?\S*", "", re.sub(r"//\S*@", "//", text))[:300]


def connect() -> MlflowClient:
    """A client of the store that `MLFLOW_TRACKING_URI` names, or of `mlflow.db`."""
    # MLflow's own patience, minutes for every call, would hold up a training.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails is told in one line here
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{layout.TRACKING_STORE}")
    with _alone(mlflow.get_tracking_uri()):
        return mlflow.MlflowClient()


@contextlib.contextmanager
def _alone(with_what: str) -> Iterator[None]:
    """Keep this machine's other processes away from the same thing.

    Two that make the tables of one new SQLite file both fail; two that find a model missing both
    store it.
    """
    name = hashlib.sha256(with_what.encode()).hexdigest()[:16]
    with Path(tempfile.gettempdir(), f"catsdogs-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_experiment(client: MlflowClient) -> str:
    """The id of the project's experiment in MLflow, created if need be, and the current one."""
    import mlflow
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        # A server knows where its artifacts go. MLflow's own choice for a local store is below
        # the working directory, which for an experiment in a temporary folder is gone afterwards.
        store = client.tracking_uri.partition("sqlite:///")[2]
        where = Path(store).absolute().with_name("mlartifacts").as_uri() if store else None
        # What the interface would ask its first visitor: training models, not prompting them.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            client.create_experiment(EXPERIMENT, artifact_location=where, tags=tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another process was quicker.
        experiment = client.get_experiment_by_name(EXPERIMENT)
    mlflow.set_experiment(experiment_id=experiment.experiment_id)
    return experiment.experiment_id


def current_tags() -> dict[str, str]:
    """What a run says of the experiment that this process is part of."""
    tags = {
        EXPERIMENT_TAG: os.environ.get("DVC_EXP_NAME", ""),
        REVISION_TAG: os.environ.get("DVC_EXP_BASELINE_REV") or _head(),
    }
    return {name: value for name, value in tags.items() if value}


def _head() -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()


def under_way(experiment: str, values: Mapping[str, Any]) -> str:
    """Tells an experiment that is not yet complete from others, also those of other machines.

    Args:
        experiment: DVC's name for it, or "".
        values: all of `params.yaml`.
    """
    parts = [platform.node(), str(layout.ROOT), experiment, values]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def experiment_name(tags: Mapping[str, str]) -> str:
    """What an experiment is called: DVC's name for it, or the revision it was made from."""
    return tags.get(EXPERIMENT_TAG) or tags.get(REVISION_TAG, "")[:7] or "workspace"


def run_name(stage: str, experiment: str) -> str:
    """What a training's run is called, so that one knows it in a list of many."""
    return f"{figures.title(stage)} · {experiment}"


def parameters(stage: str, values: Mapping[str, Any]) -> dict[str, str]:
    """What a training's run shows: its section's keys, and all others with their section's name.

    Args:
        stage: `train_basic` for example; another name leaves all names whole.
        values: of `params.yaml`; of its sections, those of `SHARED` and the stage's are shown.
    """
    shown = {section: values[section] for section in (*SHARED, stage) if section in values}
    return {name.removeprefix(f"{stage}."): _show(value) for name, value in params.flatten(shown)}


def _show(value: Any) -> str:
    """A parameter's text, the same for 1e-4 and 0.0001, or 1 and 1.0."""
    value = params.number(value)
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _reopen(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.update_run(run_id, status="RUNNING")
    set_tags(client, run_id, tags)


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def log_parameters(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Add parameters that a run lacks."""
    from mlflow.entities import Param

    has = client.get_run(run_id).data.params
    new = [Param(name, value) for name, value in values.items() if name not in has]
    client.log_batch(run_id, params=new)


def log_metrics(
    client: MlflowClient, run_id: str, values: Mapping[str, float], step: int = 0, **about: str
) -> None:
    """Add metrics to a run; `about` says of which model and of which data they are."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, step, **about) for name, value in values.items()]
    client.log_batch(run_id, metrics)


def log_files(client: MlflowClient, run_id: str, files: Mapping[str, Path]) -> None:
    """Add files to a run's artifacts, each under the name given, if they are not there."""
    folders = {str(Path(name).parent) for name in files}
    there = {
        artifact.path
        for folder in folders
        for artifact in client.list_artifacts(run_id, None if folder == "." else folder)
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, path in files.items():
            if name not in there:
                renamed = Path(temporary, name)
                renamed.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, renamed)
        client.log_artifacts(run_id, temporary)


def find_models(client: MlflowClient, experiment: str, fingerprint: str) -> list[str]:
    """The ids, in an experiment of MLflow's, of those models of an MD5 that are stored whole."""
    found = client.search_logged_models([experiment], f"tags.`{MODEL_TAG}` = '{fingerprint}'")
    return [model.model_id for model in found if model.status == "READY"]


def log_model(
    client: MlflowClient,
    run_id: str,
    fingerprint: str,
    interpolation: str,
    fetch: Callable[[], Path],
) -> str:
    """Give a run its model, stored once however many runs made it; return its id in MLflow.

    Args:
        client: of the store.
        run_id: the training's run.
        fingerprint: the model file's MD5.
        interpolation: how its images were squashed, `split.interpolation`.
        fetch: gives the path of the model file, if it has to be stored.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    with _alone(f"{client.tracking_uri} {fingerprint}"):
        whole = find_models(client, run.info.experiment_id, fingerprint)
        if not whole:
            return _store_model(run_id, fingerprint, interpolation, fetch())
    linked = {output.model_id for output in run.outputs.model_outputs}
    if not linked & set(whole):
        client.log_outputs(run_id, [LoggedModelOutput(whole[0], step=0)])
        return whole[0]
    return next(iter(linked & set(whole)))


def _store_model(run_id: str, fingerprint: str, interpolation: str, path: Path) -> str:
    """Store a model file so that `mlflow models serve` answers for photographs: see `serving`."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    inputs = Schema([ColSpec(AnyType(), "image")])
    outputs = Schema([ColSpec(DataType.string, "class"), ColSpec(DataType.double, "dog")])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would like an example, which would load the model
        shutil.copyfile(path, Path(folder, path.name))
        Path(folder, "interpolation").write_text(interpolation, encoding="utf-8")
        stored = Model.log(
            artifact_path=None,
            name=path.stem,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            tags={MODEL_TAG: fingerprint, SOURCE_TAG: f"src/{path.stem}.py"},
            loader_module="catsdogs.serving",
            data_path=folder,
            code_paths=[str(Path(__file__).parent)],
            signature=ModelSignature(inputs, outputs),
            # Named here, for MLflow would load the model in another process to find them out.
            pip_requirements=list(_installed(MODEL_PACKAGES)),
        )
    return stored.model_id


def _installed(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name}=={importlib.metadata.version(name)}"
