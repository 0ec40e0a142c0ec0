"""Name the best model: MLflow's runs go in, the alias `champion` of one model comes out.

    python -m catsdogs.champion

To be run from the repository's root, with `src` on Python's path. The rule: of all models that
were judged by the same images as the workspace's, in the same pixels, the one with the highest
accuracy; of equals the one with the lower loss. What was chosen by its accuracy looks a little
better than it is, the more so the more there were to choose from: choose with `split.tuning`, and
judge afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from catsdogs import recording, tracking
from catsdogs.snapshots import of_workspace
from catsdogs.stage import UserError, run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODEL = "catsdogs"
ALIAS = "champion"
SAME_IMAGES = ("data.md5", recording.VALIDATION_TAG)  # the pixels, and which of them judge
RULE = ("metrics.`evaluate/accuracy` DESC", "metrics.`evaluate/loss` ASC", "start_time ASC")


def main() -> None:
    """Find the best model, register it if need be, and give it the alias."""
    made = of_workspace().outputs("split")
    images = {tag: made[recording.DATA_TAGS[tag]] for tag in SAME_IMAGES}
    try:
        client = tracking.connect()
        candidates = find(client, images)
        version = register(client, candidates[0]) if candidates else None
    # Whatever a store, a server or a wrong address raises.
    except Exception as error:
        raise UserError(f"MLflow does not answer: {tracking.reason(error)}") from None
    if version is None:
        raise UserError("MLflow has no model that these images have judged: run `make sync`")
    print(f"models:/{MODEL}@{ALIAS} is version {version.version}, of {len(candidates)} models:")
    for place, candidate in enumerate(candidates[:5], 1):
        numbers = {
            name: candidate.data.metrics[f"evaluate/{name}"] for name in ("accuracy", "loss")
        }
        scores = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        print(f"{place}. {candidate.info.run_name}: {scores}")


def find(client: MlflowClient, images: Mapping[str, str]) -> list[Run]:
    """The runs whose models were judged by these images, the best first, each model once.

    A model that MLflow has not, or not as a whole, is left out.

    Args:
        client: of the store.
        images: of each of the tags `SAME_IMAGES` the MD5.
    """
    conditions = [f"tags.`{tag}` = '{md5}'" for tag, md5 in images.items()]
    found = client.search_runs(
        [tracking.open_experiment(client)],
        " and ".join([*conditions, "metrics.`evaluate/accuracy` >= 0"]),
        order_by=list(RULE),
    )
    models = {run.data.tags[tracking.MODEL_TAG]: run for run in reversed(found)}
    return [run for run in reversed(models.values()) if _stored(client, run)]


def register(client: MlflowClient, best: Run) -> ModelVersion:
    """Make a run's model a version of the registered model, once, and give it the alias."""
    if not client.search_registered_models(f"name = '{MODEL}'"):
        rule = "; ".join(RULE).replace("`", "").replace("metrics.", "")
        client.create_registered_model(
            MODEL, description=f"Cats or dogs. The alias `{ALIAS}` goes by: {rule}."
        )
    fingerprint = best.data.tags[tracking.MODEL_TAG]
    versions = client.search_model_versions(f"name = '{MODEL}'")
    same = [each for each in versions if each.tags.get(tracking.MODEL_TAG) == fingerprint]
    model_id = _stored(client, best)[0]
    version = (
        same[0]
        if same
        else client.create_model_version(
            MODEL,
            f"models:/{model_id}",
            best.info.run_id,
            tags={tracking.MODEL_TAG: fingerprint},
            description=f"{best.info.run_name}. {best.data.tags[recording.NOTE_TAG]}",
            model_id=model_id,
        )
    )
    client.set_registered_model_alias(MODEL, ALIAS, version.version)
    return version


def _stored(client: MlflowClient, run: Run) -> list[str]:
    fingerprint = run.data.tags[tracking.MODEL_TAG]
    return tracking.find_models(client, run.info.experiment_id, fingerprint)


if __name__ == "__main__":
    run(main, "the champion is who it was")
