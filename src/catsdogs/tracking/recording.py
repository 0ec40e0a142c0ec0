"""MLflow's record of a complete experiment, written from what DVC keeps of it.

An experiment becomes one run, with one run for each model below it. It makes no difference whether
a training wrote a part of them while it ran, DVC took it from its cache, or the server was away.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout
from catsdogs.files import read_csv
from catsdogs.tracking import store
from catsdogs.tracking.snapshots import Snapshot, of_workspace

if TYPE_CHECKING:
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, FileInfo, LoggedModel, Run

HOUR = 3600  # seconds
CONTENT_TAG = "dvc.content"
CHANGES_TAG = "git.changes"
FILES_TAG = "files"  # how many artifacts a run has
VALIDATION_TAG = "data.validation.md5"
DATA_TAGS = {
    "data.md5": layout.PIXELS,
    "data.train.md5": layout.TRAIN,
    VALIDATION_TAG: layout.VALIDATION,
}
# Of a model, shown as parameters. Models of earlier commits do not have all of them.
FACTS = ("parameters", "trainable_parameters", "steps", "runtime")
SUMMARY = ("accuracy", "loss", "roc_auc")  # of each model, in the run of the experiment
FILES = {
    "report.html": layout.REPORT,
    "comparison.md": layout.COMPARISON,
    "predictions.csv": layout.PREDICTIONS,
    "figures/learning_curves.png": layout.ALL_CURVES_FIGURE,
    "figures/scores.png": layout.ALL_SCORES_FIGURE,
    "figures/same_images.png": layout.PICTURES / "same_images.png",
    "curves": layout.SCORE_CURVES,
}
MODEL_PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "pillow", "tqdm", "pyyaml")


def record_workspace() -> None:
    """Record the experiment that the stage `compare` completes, if DVC runs the stage."""
    if "DVC_STAGE" in os.environ:
        store.attempt("this experiment", lambda: record(of_workspace(), completed=True))


def data_tags(snapshot: Snapshot) -> dict[str, str]:
    """Return the MD5 of what `split` made. Earlier commits have the pixels in `images.npy`."""
    made = {path.with_suffix(""): md5 for path, md5 in snapshot.outputs("split").items()}
    return {tag: made[path.with_suffix("")] for tag, path in DATA_TAGS.items()}


def record(snapshot: Snapshot, completed: bool = False) -> bool:
    """Write what MLflow lacks of an experiment; return whether it lacked anything.

    Args:
        snapshot: the experiment.
        completed: whether its stage `compare` has just written its outputs.

    Raises:
        UserError: DVC does not have what is to be recorded.
    """
    from mlflow.exceptions import MlflowException

    client, held = store.connect(), lock(snapshot.content)
    with held:
        try:
            written = _Recorder(client, snapshot).record(completed)
        except MlflowException:  # another machine may have kept its own of two equal runs
            written = _Recorder(client, snapshot).record(completed)
        with suppress(PermissionError):  # Windows does not delete what is open
            Path(held.lock_file).unlink(missing_ok=True)
    return written


def lock(content: str) -> FileLock:
    """Return the lock of who records an experiment; its file is left only by what failed."""
    return store.lock(f"recording-{content}")


def keep_one(client: MlflowClient, runs: Sequence[Run]) -> Run:
    """Return the one that stays of runs that should be one; delete the others, and what is below.

    A lock holds on one machine only, so that several may make the same run at once. Each looks
    again after it has made one, and all choose alike: a finished run, or else the oldest.
    """
    first, *others = sorted(
        runs,
        key=lambda run: (run.info.status != "FINISHED", run.info.start_time, run.info.run_id),
    )
    for run in others:
        below = f"tags.`{store.PARENT_TAG}` = '{run.info.run_id}'"
        for each in [*client.search_runs([run.info.experiment_id], below), run]:
            client.delete_run(each.info.run_id)
    return first


def keep_one_model(
    client: MlflowClient, experiment: str, md5: str, whole: Sequence[str]
) -> list[str]:
    """Return the one that stays of the `whole` models with this MD5; delete the others.

    It is a registered one, or else the first that was complete: another machine may use it
    already. All runs that have one of the others get it.
    """
    from mlflow.entities import LoggedModelOutput

    if len(whole) > 1:
        registered = {version.source for version in client.search_model_versions()}
        models = [client.get_logged_model(model) for model in whole]
        models.sort(
            key=lambda each: (
                each.model_uri not in registered,
                each.last_updated_timestamp,
                each.model_id,
            )
        )
        whole = [model.model_id for model in models]
        for run in client.search_runs([experiment], f"tags.`{store.MODEL_TAG}` = '{md5}'"):
            linked = _linked(run)
            if whole[0] not in linked and not linked.isdisjoint(whole):
                client.log_outputs(run.info.run_id, [LoggedModelOutput(whole[0], step=0)])
        for model in models[1:]:
            if model.model_uri not in registered:
                client.delete_logged_model(model.model_id)
    return list(whole[:1])


def _linked(run: Run) -> set[str]:
    """Return the ids of the models that a run has."""
    return {each.model_id for each in run.outputs.model_outputs} if run.outputs else set()


def find_models(client: MlflowClient, experiment: str, md5: str) -> list[str]:
    """Return the ids of the models with this MD5 that an experiment of MLflow has as a whole."""

    def is_stored(model: str) -> bool:
        files = _files(partial(client.list_logged_model_artifacts, model), "data")
        return any(file.endswith(".keras") for file in files)

    begun = _begun_models(client, experiment, md5)
    return [each.model_id for each in begun if each.status == "READY" and is_stored(each.model_id)]


def _begun_models(client: MlflowClient, experiment: str, md5: str) -> list[LoggedModel]:
    """Return the models with this MD5, the complete and the others."""
    return client.search_logged_models([experiment], f"tags.`{store.MODEL_TAG}` = '{md5}'")


def find_lost_models(client: MlflowClient, experiment: str, md5: str) -> list[str]:
    """Return the ids of the models with this MD5 that nobody completes.

    Another machine may be about to complete one that was begun within the last hour.
    """
    recent = (time.time() - HOUR) * 1000
    return [
        each.model_id
        for each in _begun_models(client, experiment, md5)
        if each.status != "PENDING" or each.last_updated_timestamp < recent
    ]


def _files(listed: Callable[[str | None], list[FileInfo]], folder: str | None = None) -> list[str]:
    """Return the paths of all files in a folder of MLflow's, whose entries `listed` returns."""
    files: list[str] = []
    for entry in listed(folder):
        files += _files(listed, entry.path) if entry.is_dir else [entry.path]
    return files


class _Recorder:
    """Writes the runs of one snapshot."""

    def __init__(self, client: MlflowClient, snapshot: Snapshot) -> None:
        self.client, self.snapshot = client, snapshot
        self.mlflow_experiment = store.open_experiment(client)
        tags = {
            store.USER_TAG: store.user(),
            store.EXPERIMENT_TAG: snapshot.experiment,
            store.REVISION_TAG: snapshot.revision,
            CHANGES_TAG: "" if snapshot.committed or snapshot.experiment else "uncommitted",
            **data_tags(snapshot),
        }
        self.tags = {name: value for name, value in tags.items() if value}
        self.name = store.experiment_name(self.tags)
        if CHANGES_TAG in self.tags and snapshot.revision:
            self.name += " + changes"
        self.scores: dict[str, Any] = {}

    def record(self, completed: bool) -> bool:
        """Record the experiment, unless all of it is recorded already."""
        snapshot, content = self.snapshot, {CONTENT_TAG: self.snapshot.content}
        same = self._find(content)
        if snapshot.experiment:
            same = [run for run in same if self._is_of_this_experiment(run)]
        complete = [run for run in same if run.info.status == "FINISHED"]
        if snapshot.committed:  # a commit names the run of what was not committed, if there is one
            complete.sort(key=lambda run: CHANGES_TAG not in run.data.tags)
        if complete and (CHANGES_TAG not in complete[0].data.tags or not snapshot.committed):
            if completed:
                self._delete_repeated()
            if self._is_whole(complete[0]):
                return False
            tags = complete[0].data.tags  # another experiment or commit may have made the same
            recorded = replace(
                snapshot,
                experiment=tags.get(store.EXPERIMENT_TAG, ""),
                revision=tags.get(store.REVISION_TAG, ""),
                committed=CHANGES_TAG not in tags,
            )
            _Recorder(self.client, recorded)._write(complete[0], completed)
        else:
            self._write(next(iter(complete or same), None), completed)
        return True

    def _delete_repeated(self) -> None:
        """Delete the runs of trainings that were repeated, with the same models."""
        for stage in self.snapshot.trainings:
            for run in self._live_runs(stage):
                self.client.delete_run(run.info.run_id)

    def _is_whole(self, parent: Run) -> bool:
        """Tell whether MLflow still has the files of a complete run and those below it."""
        runs = [parent]
        for stage in self.snapshot.trainings:
            tags = self._model_tags(stage)
            below = self._find({store.PARENT_TAG: parent.info.run_id} | tags)
            md5 = tags[store.MODEL_TAG]
            if not below or not find_models(self.client, self.mlflow_experiment, md5):
                return False
            runs.append(below[0])
        return all(
            len(_files(partial(self.client.list_artifacts, run.info.run_id)))
            >= int(run.data.tags.get(FILES_TAG, 1))
            for run in runs
        )

    def _write(self, parent: Run | None, completed: bool) -> None:
        """Write all runs of the experiment."""
        snapshot = self.snapshot
        # Everything is fetched first, so that nothing is begun that lacks a file at the end. But a
        # model is large, so it is fetched from DVC's cache only if MLflow lacks it.
        for stage in (*snapshot.trainings, "evaluate"):
            for path in snapshot.outputs(stage):
                if not (snapshot.files and path == layout.model(stage)):
                    snapshot.fetch(path)
        if snapshot.evaluated:
            self.scores = snapshot.scores
        run_id = (parent or self._create({CONTENT_TAG: snapshot.content})).info.run_id
        for stage in snapshot.trainings:
            self._record_training(run_id, stage)
        self._record_whole(run_id, completed or "compare" in snapshot.stages)
        if completed:
            self._delete_repeated()

    def _find(self, tags: Mapping[str, str]) -> list[Run]:
        """Return the runs with these tags, the latest first."""
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs([self.mlflow_experiment], query))

    def _is_of_this_experiment(self, run: Run) -> bool:
        return run.data.tags.get(store.EXPERIMENT_TAG, "") == self.snapshot.experiment

    def _create(self, identity: Mapping[str, str]) -> Run:
        """Create a run, unless another machine has just done so."""
        tags = {**self.tags, **identity}  # by which it is found should it not be completed
        new = self.client.create_run(self.mlflow_experiment, run_name=self.name, tags=tags)
        same = [run for run in self._find(identity) if self._is_of_this_experiment(run)]
        return keep_one(self.client, same or [new])

    def _model_tags(self, stage: str) -> dict[str, str]:
        md5 = self.snapshot.outputs(stage)[layout.model(stage)]
        return {store.STAGE_TAG: stage, store.MODEL_TAG: md5}

    def _live_runs(self, stage: str) -> list[Run]:
        """Return the runs that trainings of this experiment's model wrote while they ran.

        The oldest comes first, so that every machine takes the same.
        """
        return [
            run
            for run in reversed(self._find(self._model_tags(stage)))
            if store.PARENT_TAG not in run.data.tags and self._is_of_this_experiment(run)
        ]

    def _record_training(self, parent: str, stage: str) -> None:
        """Complete the run of one model, or make it."""
        snapshot = self.snapshot
        identity = {store.PARENT_TAG: parent} | self._model_tags(stage)
        existing = self._find(identity)
        if not existing and (live := self._live_runs(stage)):
            self.client.set_tag(live[0].info.run_id, store.PARENT_TAG, parent)
            existing = self._find(identity)
        run = keep_one(self.client, existing) if existing else self._create(identity)
        run_id = run.info.run_id
        model_id = self._log_model(run_id, stage)
        curves = snapshot.fetch(layout.curves(stage))
        epochs = {
            int(row["epoch"]): {name: float(row[name]) for name in row if name != "epoch"}
            for row in read_csv(curves)
        }
        store.log_metrics(self.client, run_id, epochs)
        drawn = (path for path in snapshot.outputs(stage) if path.suffix == ".png")
        figures = [snapshot.fetch(path) for path in drawn]
        if stage in snapshot.evaluated:
            self._log_scores(run_id, stage, model_id)
            figures += snapshot.fetch(layout.PICTURES).glob(f"{stage}_*.png")
        files = {f"figures/{path.name.removeprefix(f'{stage}_')}": path for path in figures}
        files["curves/learning.csv"] = curves
        facts = snapshot.read_json(layout.facts(stage))
        params = store.parameters(snapshot.params, stage)
        params |= {name: str(facts[name]) for name in FACTS if name in facts}
        where = snapshot.experiment or (snapshot.revision if snapshot.committed else "")
        get = f"`dvc get . {layout.model(stage)} --rev {where}` fetches this model."
        note = get if where else _note(snapshot)
        tags = {store.SOURCE_TAG: f"src/{stage}.py", store.NOTE_TAG: note}
        self._finish(run_id, store.run_name(stage, self.name), params, identity | tags, files)

    def _log_scores(self, run_id: str, stage: str, model_id: str) -> None:
        new = {f"evaluate/{name}": value for name, value in self.scores[stage].items()}
        judges = self.snapshot.outputs("split")[layout.VALIDATION]
        about: dict[str, Any] = {"dataset_name": "validation", "dataset_digest": judges}
        if not self.client.get_logged_model(model_id).metrics:  # it may have several runs
            about["model_id"] = model_id
        store.log_metrics(self.client, run_id, {0: new}, **about)

    def _log_model(self, run_id: str, stage: str) -> str:
        """Give a run its model, which is stored once for all its runs; return the model's id."""
        from mlflow.entities import LoggedModelOutput

        md5 = self._model_tags(stage)[store.MODEL_TAG]
        with store.lock():  # two that find it missing would both store it
            stored = find_models(self.client, self.mlflow_experiment, md5)
            if not stored:
                params, path = self.snapshot.params, self.snapshot.fetch(layout.model(stage))
                notes = {
                    "interpolation": params["split"]["interpolation"],
                    "classes": "\n".join(params["data"].get("classes", layout.CATS_AND_DOGS)),
                }
                lost = find_lost_models(self.client, self.mlflow_experiment, md5)
                _store_model(run_id, md5, notes, path, lost)
                stored = find_models(self.client, self.mlflow_experiment, md5)
            stored = keep_one_model(self.client, self.mlflow_experiment, md5, stored)
        linked = _linked(self.client.get_run(run_id))
        if linked.isdisjoint(stored):
            self.client.log_outputs(run_id, [LoggedModelOutput(stored[0], step=0)])
        return stored[0]

    def _record_whole(self, run_id: str, compared: bool) -> None:
        """Complete the experiment's own run; its status says that all runs are complete."""
        snapshot = self.snapshot
        summary = {
            f"summary/{layout.title(stage)}_{name}": self.scores[stage][name]
            for stage in snapshot.evaluated
            for name in SUMMARY
        }
        store.log_metrics(self.client, run_id, {0: summary})
        shown = FILES if compared else {}
        files = {name: snapshot.fetch(path) for name, path in shown.items()}
        tags = {
            CONTENT_TAG: snapshot.content,
            store.SOURCE_TAG: "dvc.yaml",
            store.NOTE_TAG: _note(snapshot),
        }
        self._finish(run_id, self.name, store.parameters(snapshot.params), tags, files)

    def _finish(
        self,
        run_id: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        files: Mapping[str, Path],
    ) -> None:
        """Give a run its name, parameters, tags, data and named files, and close it."""
        client, tags = self.client, {**self.tags, **tags}
        client.log_inputs(run_id, self._datasets())
        with tempfile.TemporaryDirectory() as folder:
            for artifact, path in files.items():
                target = Path(folder, artifact)
                target.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
            client.log_artifacts(run_id, folder)
            count = sum(path.is_file() for path in Path(folder).rglob("*"))
        tags[FILES_TAG] = str(count)
        run = client.get_run(run_id)
        if CHANGES_TAG in run.data.tags and CHANGES_TAG not in tags:
            client.delete_tag(run_id, CHANGES_TAG)
        store.log(client, run_id, params, tags)
        client.update_run(run_id, name=name)
        if run.info.status != "FINISHED":
            client.set_terminated(run_id, "FINISHED")

    def _datasets(self) -> list[DatasetInput]:
        """Return the images of the training and the validation, as MLflow describes data."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        hashes, source = self.snapshot.outputs("split"), self.snapshot.params["data"]["source"]
        return [
            DatasetInput(
                Dataset(
                    name=path.stem,
                    digest=hashes[path],
                    source_type="dvc",
                    source=json.dumps({"path": str(path), "data.source": source}),
                ),
                [InputTag("mlflow.data.context", side)],
            )
            for side, path in (("training", layout.TRAIN), ("validation", layout.VALIDATION))
        ]


def _store_model(
    run_id: str, md5: str, notes: Mapping[str, str], path: Path, lost: Sequence[str]
) -> str:
    """Store a model file so that `mlflow models serve` answers for photographs: see `serving`.

    Args:
        run_id: the run that made it.
        md5: its hash.
        notes: what `serving` has to know besides, for each name of a file its text.
        path: the file.
        lost: such models whose files MLflow never got or has lost; the first one gets them.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    positive = notes["classes"].splitlines()[1]
    outputs = Schema([ColSpec(DataType.string, "class"), ColSpec(DataType.double, positive)])
    packages = []  # given here; MLflow would load the model in another process to find them out
    for name in MODEL_PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            packages.append(f"{name}=={importlib.metadata.version(name)}")
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for an example, and would load the model for it
        folder = Path(scratch, "model")  # the name is kept: two that mend one model write the same
        folder.mkdir()
        shutil.copyfile(path, Path(folder, path.name))
        for name, text in notes.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        stored = Model.log(
            artifact_path=None,
            name=path.stem,
            flavor=mlflow.pyfunc,
            run_id=None if lost else run_id,  # which has that model already
            model_id=lost[0] if lost else None,
            tags={store.MODEL_TAG: md5, store.SOURCE_TAG: f"src/{path.stem}.py"},
            loader_module="catsdogs.tracking.serving",
            data_path=str(folder),
            code_paths=[str(Path(__file__).parents[1])],
            # Of inputs it would have MLflow repeat a wrong request, with its image.
            signature=ModelSignature(outputs=outputs),
            pip_requirements=packages,
        )
    return stored.model_id


def _note(snapshot: Snapshot) -> str:
    """Say how to get from the run back to the experiment."""
    name, revision = snapshot.experiment, snapshot.revision
    if name:
        return (
            f"DVC's experiment `{name}`, made from commit `{revision}`. "
            f"`dvc exp apply {name}` brings back its parameters and all that it made."
        )
    if snapshot.committed:
        return f"`git checkout {revision} && dvc checkout` brings back all of it."
    if not revision:
        return "Made where there was no Git, so that no commit brings it back."
    return (
        f"Made from commit `{revision}` and changes that are not committed. Once they are, "
        "`catsdogs sync` names the commit here."
    )
