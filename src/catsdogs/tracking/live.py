"""The MLflow run of a training while it goes on: its parameters, and its curves as they come.

`recording` adds the rest once the experiment is complete. Where the store cannot be reached, a
warning says so and the training goes on. What was missed is sent with the next epoch, or at the
end. If the store is away then, a note in `.cache/checkpoints` says how the training ended, and
`catsdogs sync` closes its run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout, params
from catsdogs.files import digest, write_json
from catsdogs.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINING_TAG = "training"  # the checkpoint's name; a training that resumes keeps it
COST = "cpu_seconds"  # of the whole training; a metric of MLflow's alone, since it ever differs
DIGITS = 6  # of a curve's values, as in the stage's CSV


class LiveRun:
    """The run of one training stage. It is opened when the first model is fitted."""

    def __init__(self, stage: str) -> None:
        self.stage, self.run_id, self.training = stage, "", ""
        self.params = params.read()  # the file may be edited while the training goes on
        self._client: MlflowClient | None = None
        self._unsent: dict[int, dict[str, float]] = {}  # the epochs that the run may lack
        self._away = False

    def open(self, training: str, history: Sequence[Mapping[str, float]]) -> None:
        """Open the run of a training, or go on with it.

        Args:
            training: a name that no other training has.
            history: the values of the epochs that are complete already.
        """
        if not self.training:
            self.training = training
            _note(training).unlink(missing_ok=True)
            self._add(dict(enumerate(history, 1)))

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of an epoch, counted from 1, if the run lacks them."""
        self._add({epoch: values})

    def finish(self, cpu_seconds: float) -> None:
        """Close the run of a training whose model is written, and note what it took."""
        md5 = digest(layout.model(self.stage), "md5")
        self._end({"status": "FINISHED", store.MODEL_TAG: md5, COST: round(cpu_seconds, DIGITS)})

    def abandon(self, status: str) -> None:
        """Close the run of a training that ends early: FAILED or KILLED."""
        with store.impatient():  # who interrupts a stage does not wait for a server
            self._end({"status": status})

    def _open(self) -> MlflowClient:
        client = store.connect()
        experiment = store.open_experiment(client)
        tags = store.current_tags() | {
            store.STAGE_TAG: self.stage,
            store.SOURCE_TAG: f"src/{self.stage}.py",
            TRAINING_TAG: self.training,
        }
        found = client.search_runs([experiment], _query(self.training))
        if found:
            self.run_id = found[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
        else:
            name = store.run_name(self.stage, store.experiment_name(tags))
            self.run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        store.log(client, self.run_id, store.parameters(self.params, self.stage), tags)
        return client

    def _add(self, epochs: Mapping[int, Mapping[str, float]]) -> None:
        if self.training:  # only one of several processes opens a run
            for epoch, values in epochs.items():
                rounded = {name: round(value, DIGITS) for name, value in values.items()}
                self._unsent[epoch] = rounded
            self._send()

    def _end(self, end: Mapping[str, Any]) -> None:
        if self.training:
            note = _note(self.training)
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, {"run": self.run_id, **end})
            if self._send(end):
                note.unlink()

    def _send(self, end: Mapping[str, Any] | None = None) -> bool:
        """Send all that the run lacks; tell whether the server took it."""

        def send() -> None:
            self._client = self._client or self._open()
            now = int(time.time() * 1000)
            store.log_metrics(self._client, self.run_id, self._unsent, now)
            self._unsent = {}
            if end:
                _close(self._client, self.run_id, end)

        # A training does not wait at every epoch for a server that is away, and says so once.
        with store.impatient() if self._away else nullcontext():
            self._away = not store.attempt(self.stage, send, quiet=self._away)
        return not self._away


def settle() -> Iterator[str]:
    """Close the runs of trainings that ended while the server was away; give their names."""
    from mlflow.entities import ViewType

    notes = list(layout.CHECKPOINTS.glob("*.json"))
    if not notes:
        return
    client = store.connect()
    experiment = store.open_experiment(client)
    for note in notes:
        end = json.loads(note.read_text(encoding="utf-8"))
        found = client.search_runs([experiment], _query(note.stem), ViewType.ALL)
        for run in found:
            if run.info.lifecycle_stage == "active":
                _close(client, run.info.run_id, end)
                yield run.info.run_name
        if found or not end["run"]:  # else the run is in another store
            note.unlink(missing_ok=True)


def _note(training: str) -> Path:
    """Return where it says how a training ended that the server may not know of."""
    return layout.CHECKPOINTS / f"{training}.json"


def _query(training: str) -> str:
    return f"tags.`{TRAINING_TAG}` = '{training}'"


def _close(client: MlflowClient, run_id: str, end: Mapping[str, Any]) -> None:
    """Note in the run of a training how it ended."""
    if COST in end:
        store.log_metrics(client, run_id, {0: {COST: end[COST]}})
        client.set_tag(run_id, store.MODEL_TAG, end[store.MODEL_TAG])
    client.set_terminated(run_id, end["status"])


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
