"""The MLflow run of a training while it goes on: its parameters, and its curves as they come.

`recording` adds the rest once the experiment is complete. Where the store cannot be reached, a
warning says so and the training goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from catsdogs import layout, params
from catsdogs.files import digest
from catsdogs.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINING_TAG = "training"  # the checkpoint's name; a training that resumes keeps it
COST = "cpu_seconds"  # of the whole training; a metric of MLflow's alone, since it ever differs
DIGITS = 6  # of a curve's values, as in the stage's CSV


class LiveRun:
    """The run of one training stage. It is opened when the first model is fitted."""

    def __init__(self, stage: str) -> None:
        self.stage, self.run_id = stage, ""
        self.params = params.read()  # the file may be edited while the training goes on
        self._client: MlflowClient | None = None
        self._opened = False

    def open(self, training: str, history: Sequence[Mapping[str, float]]) -> None:
        """Open the run of a training, or go on with it.

        Args:
            training: a name that no other training has.
            history: the values of the epochs that are complete already.
        """
        if not self._opened:
            self._opened = True
            store.attempt(self.stage, lambda: self._open(training))
            self._log(dict(enumerate(history, 1)))

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of an epoch, counted from 1, if the run lacks them."""
        self._log({epoch: values})

    def finish(self, cpu_seconds: float) -> None:
        """Close the run of a training whose model is written, and note what it took."""
        md5 = digest(layout.model(self.stage), "md5")
        self._try(lambda client: client.set_tag(self.run_id, store.MODEL_TAG, md5))
        self._log({0: {COST: cpu_seconds}})
        self._try(lambda client: client.set_terminated(self.run_id, "FINISHED"))

    def abandon(self, status: str) -> None:
        """Close the run of a training that ends early: FAILED or KILLED."""
        # Who interrupts a stage does not wait for a server.
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "3"
        self._try(lambda client: client.set_terminated(self.run_id, status))

    def _open(self, training: str) -> None:
        client = store.connect()
        experiment = store.open_experiment(client)
        tags = store.current_tags() | {
            store.STAGE_TAG: self.stage,
            store.SOURCE_TAG: f"src/{self.stage}.py",
            TRAINING_TAG: training,
        }
        found = client.search_runs([experiment], f"tags.`{TRAINING_TAG}` = '{training}'")
        if found:
            self.run_id = found[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
        else:
            name = store.run_name(self.stage, store.experiment_name(tags))
            self.run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        store.log(client, self.run_id, store.parameters(self.params, self.stage), tags)
        self._client = client

    def _log(self, epochs: Mapping[int, Mapping[str, float]]) -> None:
        rounded = {
            epoch: {name: round(value, DIGITS) for name, value in values.items()}
            for epoch, values in epochs.items()
        }
        self._try(lambda client: store.log_metrics(client, self.run_id, rounded))

    def _try(self, action: Callable[[MlflowClient], object]) -> None:
        client = self._client
        if client is not None and not store.attempt(self.stage, lambda: action(client)):
            self._client = None


def find_cost(md5: str) -> float | None:
    """Return the CPU seconds that the training of a model took; None if MLflow does not know.

    Raises:
        UserError: MLflow cannot be asked.
    """
    with store.needed("MLflow cannot say how long a model was trained"):
        client = store.connect()
        known = f"tags.`{store.MODEL_TAG}` = '{md5}' and metrics.{COST} > 0"
        runs = client.search_runs([store.open_experiment(client)], known, max_results=1)
    return round(runs[0].data.metrics[COST], 1) if runs else None
