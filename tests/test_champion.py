"""Which models compete to be the champion, and which file of one is given the name."""

import shutil

from catsdogs.commands import champion, predict
from catsdogs.stage import UserError
from catsdogs.tracking import store

import pytest

IMAGES = {"data.md5": "pixels", "data.validation.md5": "table"}


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A store without runs: MLflow takes seconds to make its tables."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        store.connect()
    return path


@pytest.fixture
def client(monkeypatch, tmp_path, empty):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty, tmp_path)}")
    return store.connect()


def evaluated(client, name, accuracy, **changed):
    """A run of a model that was judged, with nothing stored."""
    experiment = store.open_experiment(client)
    tags = IMAGES | {store.MODEL_TAG: name, "mlflow.note.content": "a note"} | changed
    run = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    client.log_metric(run, "evaluate/accuracy", accuracy)
    client.log_metric(run, "evaluate/loss", 0.5)
    return client.get_run(run)


def stored(client, run, status):
    name = run.data.tags[store.MODEL_TAG]
    model = client.create_logged_model(
        run.info.experiment_id, "model", run.info.run_id, {store.MODEL_TAG: name}
    )
    client.finalize_logged_model(model.model_id, status)
    return model.model_id


def test_only_the_same_images_in_the_same_pixels_compare(client):
    other = {"data.md5": "another sample's"}, {"data.validation.md5": "another seed's"}
    for run in (
        evaluated(client, "good", 0.7),
        evaluated(client, "better", 0.8),
        evaluated(client, "other pixels", 0.9, **other[0]),
        evaluated(client, "other images", 0.9, **other[1]),
    ):
        stored(client, run, "READY")
    assert set(champion.SAME_IMAGES) == set(IMAGES)
    found = champion.find(client, IMAGES)
    assert [run.info.run_name for run in found] == ["better", "good"]


def test_a_model_of_somebody_elses_is_not_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "connect", lambda: None)
    (tmp_path / "model.keras").write_text("somebody's")
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", lambda _: str(tmp_path))
    with pytest.raises(UserError, match="models:/theirs/1 is not a model of this pipeline"):
        predict.download("models:/theirs/1")
    (tmp_path / "interpolation").write_text("nearest")
    found = predict.download("models:/ours/1")
    assert found == (tmp_path / "model.keras", "nearest")


def test_a_model_that_is_not_stored_whole_is_not_registered(client):
    best = evaluated(client, "best", 0.9)
    evaluated(client, "lost", 1.0)
    stored(client, best, "FAILED")
    assert champion.find(client, IMAGES) == []
    whole = stored(client, best, "READY")
    (found,) = champion.find(client, IMAGES)
    assert champion.register(client, found).source == f"models:/{whole}"
    assert champion.register(client, found).version == 1, "once"
