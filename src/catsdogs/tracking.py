"""MLflow: a training's parameters, curves, figures and model become a run.

The link between DVC and MLflow is the model's MD5: in `dvc.lock`, and as a tag of the run.
Tracking never costs a result: where the store cannot be reached, a warning says so and the stage
goes on.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout
from catsdogs.files import digest

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient

EXPERIMENT = "catsdogs"
MODEL_TAG = "model.md5"
TRAINING_TAG = "training"


class TrainingRun:
    """The MLflow run of one training stage.

    Args:
        stage: `train_basic` for example.
        parameters: what the run is to show.
        training: tells this training from all others; if it has a run, that run goes on.
    """

    def __init__(self, stage: str, parameters: Mapping[str, Any], training: str) -> None:
        self.stage, self.run_id = stage, ""
        self.logged: set[tuple[str, int]] = set()
        self.client: MlflowClient | None = None
        _attempt(stage, lambda: self._start(parameters, training))

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of one epoch, counted from 1, if the run lacks them."""
        new = {name: value for name, value in values.items() if (name, epoch) not in self.logged}
        self._try(lambda client: _log_metrics(client, self.run_id, new, epoch))

    def finish(self, model: keras.Model) -> None:
        """Add the stage's outputs, which are written by now, and close the run."""
        self._try(lambda client: self._finish(client, model))

    def end(self, status: str) -> None:
        """Close the run of a training that broke off: FAILED or KILLED."""
        # Whoever interrupts a stage does not wait for a server.
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
        self._try(lambda client: client.set_terminated(self.run_id, status))

    def _start(self, parameters: Mapping[str, Any], training: str) -> None:
        client = _connect()
        experiment = _experiment(client)
        tags = _tags(self.stage) | {TRAINING_TAG: training}
        found = client.search_runs([experiment], f"tags.`{TRAINING_TAG}` = '{training}'")
        if found:
            self._take_up(client, found[0].info.run_id, tags)
        else:
            run = client.create_run(experiment, run_name=self.stage, tags=tags)
            self.run_id = run.info.run_id
        _log_parameters(client, self.run_id, parameters)
        self.client = client

    def _take_up(self, client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.run_id = run_id
        client.update_run(run_id, status="RUNNING")
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        for name in client.get_run(run_id).data.metrics:
            history = client.get_metric_history(run_id, name)
            self.logged |= {(name, metric.step) for metric in history}

    def _finish(self, client: MlflowClient, model: keras.Model) -> None:
        for quantity in ("accuracy", "loss"):
            picture = layout.figure(f"{self.stage}_{quantity}")
            client.log_artifact(self.run_id, str(picture), "figures")
        for path in (layout.curves(self.stage), layout.metrics(self.stage)):
            client.log_artifact(self.run_id, str(path))
        if not self._has_model(client):
            _log_model(self.run_id, model)
        client.set_tag(self.run_id, MODEL_TAG, digest(layout.model(self.stage), "md5"))
        client.set_terminated(self.run_id, "FINISHED")

    def _has_model(self, client: MlflowClient) -> bool:
        """Whether the run has a whole model; one that was only begun is removed."""
        experiment = client.get_run(self.run_id).info.experiment_id
        found = client.search_logged_models([experiment], f"source_run_id = '{self.run_id}'")
        whole = [model for model in found if model.status == "READY"]
        for model in found:
            if model not in whole:
                client.delete_logged_model(model.model_id)
        return bool(whole)

    def _try(self, action: Callable[[MlflowClient], None]) -> None:
        client = self.client
        if client is not None and not _attempt(self.stage, lambda: action(client)):
            self.client = None


def log_evaluation(values: Mapping[str, Mapping[str, float]]) -> None:
    """Add each stage's evaluation to the run that made its model.

    Args:
        values: for each training stage, the numbers by name.
    """
    _attempt("evaluate", lambda: _log_evaluation(_connect(), values))


def _log_evaluation(client: MlflowClient, values: Mapping[str, Mapping[str, float]]) -> None:
    experiment = _experiment(client)
    for stage, numbers in values.items():
        fingerprint = digest(layout.model(stage), "md5")
        runs = client.search_runs(
            [experiment], f"tags.`{MODEL_TAG}` = '{fingerprint}'", max_results=1
        )
        if runs:
            prefixed = {f"evaluate/{name}": value for name, value in numbers.items()}
            _log_metrics(client, runs[0].info.run_id, prefixed)
        else:
            print(f"MLflow has no run of {layout.model(stage)}: it was not trained here")


def _attempt(stage: str, action: Callable[[], None]) -> bool:
    """Do something with MLflow; where that fails, warn and return False."""
    try:
        action()
    # Whatever a store, a server or a wrong address raises, it must not cost the stage's result.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        # An address may hold a password or a token.
        reason = re.sub(r"\?\S*", "", re.sub(r"//\S*@", "//", reason))[:300]
        print(
            f"warning: {stage} is not recorded in MLflow ({reason}), its outputs are. To record "
            f"it later: dvc repro --force --single-item {stage}",
            file=sys.stderr,
        )
        return False
    return True


def _connect() -> MlflowClient:
    # MLflow's own patience, minutes for every call, would hold up a training.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails is told in one line here
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{layout.TRACKING_STORE}")
    return mlflow.MlflowClient()


def _experiment(client: MlflowClient) -> str:
    """The id of the project's experiment, created if need be, and the current one from now on."""
    import mlflow

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        # A server knows where its artifacts go. MLflow's own choice for a local store is below
        # the working directory, which for an experiment in a temporary folder is gone afterwards.
        store = client.tracking_uri.partition("sqlite:///")[2]
        where = Path(store).absolute().with_name("mlartifacts").as_uri() if store else None
        identity = client.create_experiment(EXPERIMENT, artifact_location=where)
    else:
        identity = experiment.experiment_id
    mlflow.set_experiment(experiment_id=identity)
    return identity


def _tags(stage: str) -> dict[str, str]:
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=layout.ROOT, capture_output=True, text=True, check=False
    )
    tags = {
        "dvc.stage": stage,
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "git.revision": revision.stdout.strip(),
    }
    return {name: value for name, value in tags.items() if value}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def _log_parameters(client: MlflowClient, run_id: str, parameters: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    flat = [Param(name, str(value)) for name, value in _flatten(parameters)]
    client.log_batch(run_id, params=flat)


def _log_metrics(
    client: MlflowClient, run_id: str, values: Mapping[str, float], step: int = 0
) -> None:
    import time

    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, [Metric(name, value, now, step) for name, value in values.items()])


def _log_model(run_id: str, model: keras.Model) -> None:
    """Store a model so that `mlflow models serve` answers for RGB pixels, 0-255."""
    import keras
    import mlflow.keras
    import numpy
    import tensorflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    shapes = [(-1, *tensor.shape[1:]) for tensor in (model.inputs[0], model.outputs[0])]
    inputs, outputs = (Schema([TensorSpec(numpy.dtype("float32"), shape)]) for shape in shapes)
    Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.keras,
        model=model,
        run_id=run_id,
        signature=ModelSignature(inputs, outputs),
        # Named here, because MLflow would load the model in another process to find them out.
        pip_requirements=[
            f"{package.__name__}=={package.__version__}" for package in (tensorflow, keras, numpy)
        ],
    )
