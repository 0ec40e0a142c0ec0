"""Give the best model in MLflow the alias `champion`.

The candidates are all models that were evaluated on the workspace's images, in the same pixels.
The one with the highest accuracy wins; of equals the one with the lower loss.

The winner's accuracy is a little too good, because it was chosen by it. More candidates make this
worse. So choose with `split.tuning`, and evaluate afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from catsdogs import layout
from catsdogs.stage import UserError
from catsdogs.tracking import recording, store
from catsdogs.tracking.snapshots import of_workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODEL = "catsdogs"
ALIAS = "champion"
ADDRESS = f"models:/{MODEL}@{ALIAS}"
SAME_IMAGES = ("data.md5", recording.VALIDATION_TAG)  # the pixels, and the images evaluated
RULE = ("metrics.`evaluate/accuracy` DESC", "metrics.`evaluate/loss` ASC", "start_time ASC")


def main() -> None:
    """Find the best model, register it if need be, give it the alias, and print the best five.

    Raises:
        UserError: the workspace is not evaluated, or MLflow does not answer or has no such model.
    """
    snapshot = of_workspace()
    tags = recording.data_tags(snapshot)
    images = {tag: tags[tag] for tag in SAME_IMAGES}
    with store.needed("MLflow does not answer"):
        client = store.connect()
        candidates = find(client, images)
        if not candidates:
            here = all(layout.model(stage).exists() for stage in snapshot.trainings)
            command = "catsdogs sync" if here else "dvc repro"
            raise UserError(f"MLflow has no model evaluated on these images: run `{command}`")
        version = register(client, candidates[0])
    print(f"{ADDRESS} is version {version.version}, of {len(candidates)} models:")
    for place, run in enumerate(candidates[:5], 1):
        accuracy, loss = (run.data.metrics[f"evaluate/{name}"] for name in ("accuracy", "loss"))
        print(f"{place}. {run.info.run_name}: accuracy {accuracy:.4f}, loss {loss:.4f}")


def find(client: MlflowClient, images: Mapping[str, str]) -> list[Run]:
    """Return the candidates' runs, the best first, each model once.

    A model that MLflow does not have as a whole is left out.

    Args:
        client: of the store.
        images: the MD5 of each of the tags `SAME_IMAGES`.
    """
    conditions = [f"tags.`{tag}` = '{md5}'" for tag, md5 in images.items()]
    query = " and ".join([*conditions, "metrics.`evaluate/accuracy` >= 0"])
    experiment = store.open_experiment(client)
    best: dict[str, Run] = {}  # by the model's MD5
    for run in client.search_runs([experiment], query, order_by=list(RULE)):
        best.setdefault(run.data.tags[store.MODEL_TAG], run)
    return [run for md5, run in best.items() if recording.find_models(client, experiment, md5)]


def register(client: MlflowClient, best: Run) -> ModelVersion:
    """Make a run's model a version of the registered model, once, and give it the alias."""
    if not client.search_registered_models(f"name = '{MODEL}'"):
        rule = "; ".join(RULE).replace("`", "").replace("metrics.", "")
        client.create_registered_model(
            MODEL, description=f"The models of this pipeline. The alias `{ALIAS}` goes by: {rule}."
        )
    md5 = best.data.tags[store.MODEL_TAG]
    versions = client.search_model_versions(f"name = '{MODEL}'")
    models = recording.find_models(client, best.info.experiment_id, md5)
    sources = [f"models:/{model_id}" for model_id in models]
    version = next((each for each in versions if each.source in sources), None)
    if version is None:
        model_id = models[0]
        version = client.create_model_version(
            MODEL,
            f"models:/{model_id}",
            best.info.run_id,
            tags={store.MODEL_TAG: md5},
            description=f"{best.info.run_name}. {best.data.tags[store.NOTE_TAG]}",
            model_id=model_id,
        )
    client.set_registered_model_alias(MODEL, ALIAS, version.version)
    return version
