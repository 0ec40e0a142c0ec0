"""MLflow, when an experiment is complete: all of its runs, from what DVC keeps of it.

In: a snapshot. Out: a run of the experiment, with a run for each model below it, none of them and
nothing in them twice, whether a training wrote a part of them, DVC took it from its cache, or the
server was away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import figures, layout, tracking
from catsdogs.files import read_csv
from catsdogs.snapshots import Snapshot, of_workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

CONTENT_TAG = "dvc.content"
CHANGES_TAG = "git.changes"
NOTE_TAG = "mlflow.note.content"
VALIDATION_TAG = "data.validation.md5"
DATA_TAGS = {
    "data.md5": layout.PIXELS,
    "data.train.md5": layout.TRAIN,
    VALIDATION_TAG: layout.VALIDATION,
}
SUMMARY = ("accuracy", "loss", "roc_auc")  # of each model, in the run of the experiment
WHOLE = {
    "report.html": layout.REPORT,
    "comparison.md": layout.COMPARISON,
    "predictions.csv": layout.PREDICTIONS,
    "figures/learning_curves.png": layout.figure("compare"),
    "figures/scores.png": layout.figure("compare_scores"),
    "figures/same_images.png": layout.PICTURES / "same_images.png",
}


def record_workspace() -> None:
    """Record the experiment that `compare` completes, if it is DVC that runs it."""
    if "DVC_STAGE" in os.environ:
        tags = tracking.current_tags()
        experiment = tags.get(tracking.EXPERIMENT_TAG, "")
        revision = tags.get(tracking.REVISION_TAG, "")
        tracking.attempt("this experiment", lambda: _record_completed(experiment, revision))


def _record_completed(experiment: str, revision: str) -> None:
    snapshot = of_workspace(experiment, revision)
    # What `dvc.lock` has of `compare` is of the last time, until this one ends.
    stages = {name: stage for name, stage in snapshot.stages.items() if name != "compare"}
    record(replace(snapshot, stages=stages), completed=True)


def record(snapshot: Snapshot, completed: bool = False) -> bool:
    """Write into MLflow what it lacks of an experiment; return whether it lacked anything.

    Args:
        snapshot: the experiment.
        completed: whether all of its stages have just ended.

    Raises:
        UserError: DVC does not have what is to be recorded.
    """
    _require(snapshot)
    store = _Store(tracking.connect(), snapshot)
    mark = tracking.under_way(snapshot.experiment, snapshot.parameters)
    begun = [
        run for run in store.find(tracking.UNDER_WAY_TAG, mark) if completed or store.agrees(run)
    ]
    same = store.find(CONTENT_TAG, snapshot.content)
    if snapshot.experiment:
        same = [run for run in same if store.experiment_of(run) == snapshot.experiment]
    if complete := [run for run in same if run.info.status == "FINISHED"]:
        if completed:
            for repeated in begun:  # the same experiment once more, with the same result
                store.delete(repeated)
        parent = complete[0]
        if CHANGES_TAG not in parent.data.tags or not snapshot.committed:
            return False  # else it was recorded before it was committed
    else:
        parent = (begun or same or [store.create({CONTENT_TAG: snapshot.content})])[0]
    for stage in snapshot.trainings:
        _record_training(store, parent.info.run_id, stage)
    _record_whole(store, parent.info.run_id, completed)
    return True


def _require(snapshot: Snapshot) -> None:
    """See to it that nothing is begun which cannot be ended for want of a file."""
    for stage in (*snapshot.trainings, "evaluate"):
        for path in snapshot.outputs(stage):
            # A model in DVC's cache is fetched only if MLflow lacks it, being large.
            if not (snapshot.files and path == layout.model(stage)):
                snapshot.fetch(path)


class _Store:
    """MLflow's store, for one snapshot."""

    def __init__(self, client: MlflowClient, snapshot: Snapshot) -> None:
        self.client, self.snapshot = client, snapshot
        self.mlflow_experiment = tracking.open_experiment(client)
        self.name = tracking.experiment_name(self.tags())
        if CHANGES_TAG in self.tags():
            self.name += " + changes"

    def tags(self) -> dict[str, str]:
        """What every run of the experiment says."""
        snapshot = self.snapshot
        tags = {
            tracking.EXPERIMENT_TAG: snapshot.experiment,
            tracking.REVISION_TAG: snapshot.revision,
            CHANGES_TAG: "" if snapshot.committed or snapshot.experiment else "uncommitted",
        }
        made = snapshot.outputs("split")
        tags |= {tag: made[path] for tag, path in DATA_TAGS.items()}
        return {name: value for name, value in tags.items() if value}

    def find(self, tag: str, value: str) -> list[Run]:
        """The runs of a tag's value, the latest first."""
        where = [self.mlflow_experiment]
        return list(self.client.search_runs(where, f"tags.`{tag}` = '{value}'")) if value else []

    def agrees(self, parent: Run) -> bool:
        """Whether all that is below a run has ended, with the models of the snapshot."""
        models = {
            self.snapshot.outputs(stage)[layout.model(stage)] for stage in self.snapshot.trainings
        }
        below = self.find(tracking.PARENT_TAG, parent.info.run_id)
        made = {run.data.tags.get(tracking.MODEL_TAG) for run in below}
        return bool(made) and made <= models

    @staticmethod
    def experiment_of(run: Run) -> str:
        return run.data.tags.get(tracking.EXPERIMENT_TAG, "")

    def create(self, tags: dict[str, str]) -> Run:
        """A new run, which is found by its tags should it not be completed."""
        tags = self.tags() | tags
        return self.client.create_run(self.mlflow_experiment, run_name=self.name, tags=tags)

    def delete(self, parent: Run) -> None:
        """Delete the run of an experiment, with those below it."""
        for run in [*self.find(tracking.PARENT_TAG, parent.info.run_id), parent]:
            self.client.delete_run(run.info.run_id)

    def finish(self, run_id: str, name: str, tags: dict[str, str]) -> None:
        """Name and tag a run whose content is all there."""
        tags = self.tags() | tags
        complete = {tracking.UNDER_WAY_TAG} if self.snapshot.evaluated else set()
        for outdated in ({CHANGES_TAG} | complete) - set(tags):
            if outdated in self.client.get_run(run_id).data.tags:
                self.client.delete_tag(run_id, outdated)
        tracking.set_tags(self.client, run_id, tags)
        self.client.update_run(run_id, name=name)
        if self.client.get_run(run_id).info.status != "FINISHED":
            self.client.set_terminated(run_id, "FINISHED")


def _record_training(store: _Store, parent: str, stage: str) -> None:
    """Complete the run of one model, or make it."""
    client, snapshot = store.client, store.snapshot
    fingerprint = snapshot.outputs(stage)[layout.model(stage)]
    siblings = store.find(tracking.PARENT_TAG, parent)
    runs = [run for run in siblings if run.data.tags.get(tracking.STAGE_TAG) == stage]
    same = [run for run in runs if run.data.tags.get(tracking.MODEL_TAG) == fingerprint]
    for other in runs:  # of a training that was begun, and then begun otherwise
        if other not in same[:1]:
            client.delete_run(other.info.run_id)
    if same:
        run_id = same[0].info.run_id
    else:
        names = {tracking.PARENT_TAG: parent, tracking.STAGE_TAG: stage}
        run_id = store.create(names | {tracking.MODEL_TAG: fingerprint}).info.run_id
    facts = _read_json(snapshot, layout.metrics(stage))
    made = {name: str(facts[name]) for name in ("parameters", "trainable_parameters", "steps")}
    values = tracking.parameters(stage, snapshot.params) | made
    tracking.log_parameters(client, run_id, values)
    client.log_inputs(run_id, [_dataset(snapshot, side) for side in ("training", "validation")])
    interpolation = snapshot.params["split"]["interpolation"]
    model_id = tracking.log_model(
        client, run_id, fingerprint, interpolation, lambda: snapshot.fetch(layout.model(stage))
    )
    _log_curves(client, run_id, snapshot, stage)
    if snapshot.evaluated:
        _log_scores(client, run_id, snapshot, stage, model_id)
    files = {name: snapshot.fetch(path) for name, path in _files(snapshot, stage)}
    tracking.log_files(client, run_id, files)
    where = snapshot.experiment or snapshot.revision
    note = f"`dvc get . {layout.model(stage)} --rev {where}` fetches this model."
    tags = {
        tracking.MODEL_TAG: fingerprint,
        tracking.SOURCE_TAG: f"src/{stage}.py",
        NOTE_TAG: note,
    }
    store.finish(run_id, tracking.run_name(stage, store.name), tags)


def _log_scores(
    client: MlflowClient, run_id: str, snapshot: Snapshot, stage: str, model_id: str
) -> None:
    scores = _read_json(snapshot, layout.metrics("evaluate"))[stage]
    new = {f"evaluate/{name}": value for name, value in scores.items()}
    if not set(new) <= set(client.get_run(run_id).data.metrics):
        judges = snapshot.outputs("split")[layout.VALIDATION]
        about = {"dataset_name": "validation", "dataset_digest": judges}
        if not client.get_logged_model(model_id).metrics:  # a model may have several runs
            about["model_id"] = model_id
        tracking.log_metrics(client, run_id, new, **about)


def _record_whole(store: _Store, run_id: str, completed: bool) -> None:
    """Complete the experiment's own run, which says that the others are complete."""
    client, snapshot = store.client, store.snapshot
    tracking.log_parameters(client, run_id, tracking.parameters("", snapshot.params))
    client.log_inputs(run_id, [_dataset(snapshot, side) for side in ("training", "validation")])
    if snapshot.evaluated:
        scores = _read_json(snapshot, layout.metrics("evaluate"))
        summary = {
            f"summary/{figures.title(stage)}_{name}": scores[stage][name]
            for stage in layout.TRAININGS
            for name in SUMMARY
        }
        if not set(summary) <= set(client.get_run(run_id).data.metrics):
            tracking.log_metrics(client, run_id, summary)
    if completed or "compare" in snapshot.stages:
        files = {name: snapshot.fetch(path) for name, path in WHOLE.items() if snapshot.has(path)}
        tracking.log_files(client, run_id, files)
    tags = {
        CONTENT_TAG: snapshot.content,
        tracking.SOURCE_TAG: "dvc.yaml",
        NOTE_TAG: _note(snapshot),
    }
    store.finish(run_id, store.name, tags)


def _note(snapshot: Snapshot) -> str:
    """How to get from the run back to the experiment."""
    revision = snapshot.revision
    if snapshot.experiment:
        name = snapshot.experiment
        return (
            f"DVC's experiment `{name}`, made from commit `{revision}`. "
            f"`dvc exp apply {name}` brings back its parameters and all that it made."
        )
    if snapshot.committed:
        return f"`git checkout {revision} && dvc checkout` brings back all of it."
    return (
        f"Made from commit `{revision}` and changes that are not committed. Once they are, "
        "`make sync` names the commit here."
    )


def _log_curves(client: MlflowClient, run_id: str, snapshot: Snapshot, stage: str) -> None:
    logged: dict[str, set[int]] = {}
    for row in read_csv(snapshot.fetch(layout.curves(stage))):
        epoch = int(row.pop("epoch"))
        for name in row:
            if name not in logged:
                history = client.get_metric_history(run_id, name)
                logged[name] = {metric.step for metric in history}
        new = {name: float(value) for name, value in row.items() if epoch not in logged[name]}
        if new:
            tracking.log_metrics(client, run_id, new, epoch)


def _dataset(snapshot: Snapshot, side: str) -> DatasetInput:
    """The images that a model was trained on, or judged by, as MLflow describes data."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = {"training": layout.TRAIN, "validation": layout.VALIDATION}[side]
    source = snapshot.params["data"]["source"]
    dataset = Dataset(
        name=path.stem,
        digest=snapshot.outputs("split")[path],
        source_type="dvc",
        source=json.dumps({"path": str(path), "data.source": source}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", side)])


def _files(snapshot: Snapshot, stage: str) -> Iterator[tuple[str, Path]]:
    """What a model's run shows as artifacts, under names that are the same for all models."""
    made = (*snapshot.outputs(stage), *snapshot.outputs("evaluate"))
    for path in (file for out in made for file in snapshot.within(out)):
        name = path.name.removeprefix(f"{stage}_")
        if path == layout.curves(stage):
            yield "curves/learning.csv", path
        elif name != path.name:
            yield f"{'figures' if path.suffix == '.png' else 'curves'}/{name}", path


def _read_json(snapshot: Snapshot, path: Path) -> Any:
    return json.loads(snapshot.fetch(path).read_text(encoding="utf-8"))
