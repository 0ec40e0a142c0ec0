"""Which models compete to be the champion, and which file of one is given the name."""

from catsdogs.commands import champion, predict
from catsdogs.stage import UserError
from catsdogs.tracking import store

import pytest

IMAGES = {"data.md5": "pixels", "data.validation.md5": "table"}


def evaluated(client, name, accuracy, **changed):
    """A run of a model that was judged, with nothing stored."""
    experiment = store.open_experiment(client)
    tags = IMAGES | {store.MODEL_TAG: name, "mlflow.note.content": "a note"} | changed
    run = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    client.log_metric(run, "evaluate/accuracy", accuracy)
    client.log_metric(run, "evaluate/loss", 0.5)
    return client.get_run(run)


@pytest.fixture
def folder(tmp_path):
    """Where a model's file is, before MLflow gets it."""
    (tmp_path / "model/data").mkdir(parents=True)
    return tmp_path / "model/data"


def stored(client, run, status, folder, files=True):
    name = run.data.tags[store.MODEL_TAG]
    model = client.create_logged_model(
        run.info.experiment_id, "model", run.info.run_id, {store.MODEL_TAG: name}
    )
    client.finalize_logged_model(model.model_id, status)
    if files:
        (folder / "train.keras").write_text(name)
        client.log_model_artifacts(model.model_id, str(folder.parent))
    return model.model_id


def test_only_the_same_images_in_the_same_pixels_compare(client, folder):
    other = {"data.md5": "another sample's"}, {"data.validation.md5": "another seed's"}
    for run in (
        evaluated(client, "good", 0.7),
        evaluated(client, "better", 0.8),
        evaluated(client, "other pixels", 0.9, **other[0]),
        evaluated(client, "other images", 0.9, **other[1]),
    ):
        stored(client, run, "READY", folder)
    assert set(champion.SAME_IMAGES) == set(IMAGES)
    found = champion.find(client, IMAGES)
    assert [run.info.run_name for run in found] == ["better", "good"]


def test_a_model_whose_files_are_lost_comes_back_by_what_is_advised(monkeypatch, tmp_path):
    """`test_sync.py` follows the advice."""
    monkeypatch.setattr(store, "connect", lambda: None)
    files = []
    monkeypatch.setattr("mlflow.artifacts.list_artifacts", lambda _: files)
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", lambda _: str(tmp_path))
    (tmp_path / "interpolation").write_text("nearest")
    for left in ([], ["interpolation"]):
        files[:] = left
        with pytest.raises(UserError, match="lost files of runs:/1: run `catsdogs sync`, then"):
            predict.download("runs:/1")
    with pytest.raises(UserError, match="champion, which `catsdogs champion` names: "):
        monkeypatch.setattr("mlflow.artifacts.list_artifacts", lambda _: 1 / 0)
        predict.download(champion.ADDRESS)


def test_a_model_of_somebody_elses_is_not_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "connect", lambda: None)
    (tmp_path / "model.keras").write_text("somebody's")
    monkeypatch.setattr("mlflow.artifacts.list_artifacts", lambda _: ["data"])
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", lambda _: str(tmp_path))
    with pytest.raises(UserError, match="models:/theirs/1 is not a model of this pipeline"):
        predict.download("models:/theirs/1")
    (tmp_path / "interpolation").write_text("nearest")
    found = predict.download("models:/ours/1")
    assert found == (tmp_path / "model.keras", "nearest", ("cat", "dog")), "of an earlier commit"
    (tmp_path / "classes").write_text("grey wolf\nfox")
    assert predict.download("models:/ours/2")[2] == ["grey wolf", "fox"]
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost/interpolation").write_text("bilinear")
    assert predict.download("models:/ours/2")[1] == "nearest", "not that of what sync mended"


def test_a_model_that_is_not_stored_whole_is_not_registered(client, folder):
    best = evaluated(client, "best", 0.9)
    evaluated(client, "lost", 1.0)
    stored(client, best, "FAILED", folder)
    stored(client, best, "READY", folder, files=False)  # or they were deleted
    assert champion.find(client, IMAGES) == []
    whole = stored(client, best, "READY", folder)
    (found,) = champion.find(client, IMAGES)
    assert champion.register(client, found).source == f"models:/{whole}"
    assert champion.register(client, found).version == 1, "once"
