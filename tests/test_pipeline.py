"""The real thing: DVC runs all stages in a repository of its own, on a very small sample."""

import csv
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

from catsdogs import verify
from catsdogs.stage import UserError

import pytest
import yaml
from conftest import FEW_STEPS, PHOTOGRAPHS, STAND_IN_WEIGHTS, TINY, Checkout, photo, runs
from kill import free_locks, kill_and_go_on, locked, table

TRAININGS = ("train_basic", "train_augmented", "train_inception")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rebuilt(made, tmp_path_factory):
    """A repository after its first `dvc repro`, for the tests here to go on with."""
    return made.copy(tmp_path_factory.mktemp("pipeline") / "repository")


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def read_json(path):
    return json.loads(path.read_text())


def test_every_output_is_there_and_nothing_else_is_new(rebuilt):
    pipeline = yaml.safe_load((rebuilt.path / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        for key in ("outs", "metrics", "plots"):
            for out in stage.get(key, []):
                name = out if isinstance(out, str) else next(iter(out))
                path = rebuilt.path / name
                assert path.is_file() or any(path.iterdir()), name
    assert rebuilt.git("status", "--porcelain") == ""
    leftovers = list(rebuilt.path.rglob(".part-*"))
    assert leftovers == []


def test_no_output_holds_where_or_when_it_was_made(rebuilt):
    texts = [
        path
        for folder in ("metrics", "plots", "data/split")
        for path in (rebuilt.path / folder).rglob("*")
        if path.suffix in (".csv", ".json", ".md", ".html")
    ]
    assert len(texts) > 25
    for path in texts:
        text = path.read_text()
        assert str(rebuilt.path) not in text, path
        assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text), path


def test_training_shows_what_it_does(rebuilt):
    assert "Total params" in rebuilt.output
    assert rebuilt.output.count("val_accuracy") >= 6
    assert "the trunk is untrained" in rebuilt.output


def test_curves_and_metrics_agree(rebuilt):
    for stage in TRAININGS:
        curves = read_csv(rebuilt.path / f"plots/{stage}.csv")
        assert list(curves[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
        assert [int(line["epoch"]) for line in curves] == [1, 2]
        metrics = read_json(rebuilt.path / f"metrics/{stage}.json")
        assert metrics["val_accuracy"] == float(curves[-1]["val_accuracy"])
        assert metrics["steps"] == 6
    assert read_json(rebuilt.path / "metrics/train_inception.json")["weights"] == "random"


def test_predictions_are_of_every_validation_image(rebuilt):
    predictions = read_csv(rebuilt.path / "data/predictions.csv")
    validation = read_csv(rebuilt.path / "data/split/validation.csv")
    assert [line["name"] for line in predictions] == [line["name"] for line in validation]
    scores = read_json(rebuilt.path / "metrics/evaluate.json")
    for stage in TRAININGS:
        right = sum((float(line[stage]) >= 0.5) == (line["label"] == "1") for line in predictions)
        assert scores[stage]["accuracy"] == pytest.approx(right / len(predictions), abs=1e-6)
        assert scores[stage]["accuracy_low"] < scores[stage]["accuracy"] + 1e-9
        confusion = read_csv(rebuilt.path / f"plots/evaluate/curves/{stage}_confusion.csv")
        assert len(confusion) == len(predictions)


def test_a_second_repro_does_nothing(rebuilt):
    result = rebuilt.run("dvc", "repro")
    assert "Running stage" not in result.stdout
    assert "up to date" in result.stdout


def test_an_experiment_in_a_temporary_folder(rebuilt):
    """It retrains what its parameter belongs to, and its runs are in the main checkout's store."""
    known = set(runs(rebuilt))
    change = "train_inception.dropout=0.5"
    result = rebuilt.run("dvc", "exp", "run", "--temp", "--name", "dropout", "--set-param", change)
    ran = [line for line in result.stdout.splitlines() if line.startswith("Running stage")]
    assert ran == [
        f"Running stage '{name}':" for name in ("train_inception", "evaluate", "compare")
    ]
    new = [run for identity, run in runs(rebuilt).items() if identity not in known]
    names = {"dropout", "basic · dropout", "augmented · dropout", "inception · dropout"}
    assert {run["name"] for run in new} == names
    assert {run["tags"]["dvc.experiment"] for run in new} == {"dropout"}
    assert not list((rebuilt.path / ".dvc" / "tmp").rglob("mlflow.db"))

    again = rebuilt.run("dvc", "exp", "run", "--temp", "--name", "again", "--set-param", change)
    for stage in ("train_inception", "evaluate"):
        assert f"Stage '{stage}' is cached - skipping run" in again.stdout

    params = json.loads(rebuilt.run("dvc", "params", "diff", "HEAD", "dropout", "--json").stdout)
    (name,), (change,) = params["params.yaml"].keys(), params["params.yaml"].values()
    assert (name, change["old"], change["new"]) == ("train_inception.dropout", 0.2, 0.5)
    metrics = json.loads(rebuilt.run("dvc", "metrics", "diff", "HEAD", "dropout", "--json").stdout)
    assert "metrics/train_inception.json" in metrics
    assert "metrics/train_basic.json" not in metrics
    page = rebuilt.run("dvc", "plots", "diff", "HEAD", "dropout").stdout.strip()
    html = Path(page.removeprefix("file://")).read_text()
    for title in ("Validation accuracy of all models", "Inception, confusion", "ROC"):
        assert title in html
    shutil.rmtree(rebuilt.path / "dvc_plots")


def test_predictions_of_files(rebuilt, tmp_path):
    good, bad = tmp_path / "a.jpg", tmp_path / "b.jpg"
    good.write_bytes(photo(0))
    bad.write_text("text")
    command = ["python", "-m", "catsdogs.predict", "--model"]
    result = rebuilt.run(*command, "basic", str(good), str(good))
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith((f"{good}: cat ", f"{good}: dog "))
    result = rebuilt.run(
        *command, "basic", str(bad), str(tmp_path / "c.jpg"), str(good), check=False
    )
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1
    assert f"{bad}: not an image that can be used: not an image in a known" in result.stderr
    assert f"{tmp_path / 'c.jpg'}: not an image that can be used: No such file" in result.stderr
    assert "Traceback" not in result.stderr
    result = rebuilt.run(*command, "nothing", str(good), check=False)
    assert "error: nothing is not here: run `dvc repro`" in result.stderr


def test_a_loss_that_is_no_number_stops_the_stage(rebuilt, tmp_path):
    broken = rebuilt.copy(tmp_path / "copy")
    shutil.rmtree(broken.path / "models")
    broken.change_params({"train_basic": {"learning_rate": 1e38}})
    result = broken.script("train_basic", check=False)
    assert result.returncode == 1
    assert "error: train_basic: the loss is nan at step" in result.stderr
    assert "lower train_basic.learning_rate in params.yaml" in result.stderr
    assert not (broken.path / "models").exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "foo://bar", "sqlite:///README.md"])
def test_training_does_without_mlflow(rebuilt, tmp_path, address):
    away = rebuilt.copy(tmp_path / "copy")
    before = (away.path / "models/train_basic.keras").read_bytes()
    (away.path / "models/train_basic.keras").unlink()
    result = away.run("env", f"MLFLOW_TRACKING_URI={address}", "python", "src/train_basic.py")
    assert "warning: train_basic is not recorded in MLflow" in result.stderr
    assert "`make sync` records it later" in result.stderr
    assert "Traceback" not in result.stderr
    assert (away.path / "models/train_basic.keras").read_bytes() == before


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="the real photographs are not here")
def test_real_photographs(tmp_path):
    """All stages on a few hundred photographs and pretrained weights, in a folder of their own."""
    checkout = Checkout(tmp_path / "repository")
    with zipfile.ZipFile(PHOTOGRAPHS) as every, zipfile.ZipFile(tmp_path / "few.zip", "w") as few:
        for number in range(150):
            for kind in ("cat", "dog"):
                name = f"train/{kind}.{number}.jpg"
                few.writestr(name, every.read(name))
    checkout.change_params({"data": {"source": "../few.zip"}})
    for stage in TRAININGS:
        checkout.change_params({stage: {**FEW_STEPS, "batch_size": 16}})
    for stage in ("train_basic", "train_augmented"):
        checkout.change_params({stage: {"filters": [4, 4], "dense": [8]}})
    checkout.change_params({"evaluate": TINY["evaluate"]})
    weights = {"weights": str(STAND_IN_WEIGHTS), "dense": [16], "steps_per_epoch": 12}
    checkout.change_params({"train_inception": weights})
    checkout.run("dvc", "repro")
    assert read_json(checkout.path / "metrics/download.json")["images"] == {"cat": 150, "dog": 150}
    split = read_json(checkout.path / "metrics/split.json")
    assert (split["train"], split["validation"], split["rejected"]) == (240, 60, 0)
    scores = read_json(checkout.path / "metrics/evaluate.json")
    assert scores["train_inception"]["accuracy"] > 0.7, "pretrained features tell them apart"


def test_kept_features_save_work_and_change_nothing(copy):
    def computed(**changes):
        copy.change_params({"train_inception": changes})
        said = copy.script("train_inception").stdout
        return int(re.search(r"([\d,]+) times computed", said)[1])

    model = copy.path / "models/train_inception.keras"
    before = model.read_bytes()
    assert computed() == 0
    assert model.read_bytes() == before
    shutil.rmtree(copy.path / ".cache/features")
    assert 2 < computed(views=1) <= 12 + 2, "48 training images in fours, two validation batches"
    assert model.read_bytes() != before
    assert computed(views=1, dropout=0.5, dense=[16]) == 0, "another head on the same features"
    assert computed(views=0, dropout=0.2, dense=[8]) == 6, "a fresh view at each of six steps"
    assert model.read_bytes() == before


def test_what_earlier_code_left_in_a_folder_goes(copy):
    """DVC empties a stage's folders; run by hand, the stage has to."""
    folders = [copy.path / "plots/evaluate" / name for name in ("curves", "pictures")]
    made = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    for folder in folders:
        (folder / "old.txt").write_text("old")
        os.utime(folder / "old.txt", (1, 1))
    copy.script("evaluate")
    found = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    assert found == made


def test_verify_rebuilds_in_a_clone_and_nothing_differs(made, tmp_path):
    """On one core, in another time zone, under another home and locale."""
    verifying = made.copy(tmp_path / "copy")
    shutil.rmtree(verifying.path / ".cache")
    elsewhere = ["env", "TZ=Asia/Kathmandu", "LC_ALL=C", f"HOME={tmp_path}"]
    one_core = ["taskset", "--cpu-list", "0"] if shutil.which("taskset") else []
    result = verifying.run(*elsewhere, *one_core, "python", "-m", "catsdogs.verify")
    assert result.stdout.count("Running stage") == 7
    count = sum(len(stage["outs"]) for stage in locked(made).values())
    assert result.stdout.count("identical  ") == count
    revision = made.git("rev-parse", "--short", "HEAD").strip()
    assert f"all {count} outputs of {revision} are identical" in result.stdout
    assert len(runs(verifying)) == 4, "the rebuild's runs are not in this store"
    kept = verifying.path / ".cache/features"
    assert not kept.exists(), "the rebuild neither finds nor leaves features here"


def test_verify_names_what_differs(made, tmp_path, monkeypatch, capsys):
    """The rebuild is played: one output comes out otherwise, one does not come out at all."""
    verifying = made.copy(tmp_path / "copy")
    (verifying.path / "params.yaml").write_text("not committed")
    monkeypatch.chdir(verifying.path)

    def rebuild(clone):
        lock = yaml.safe_load((clone / "dvc.lock").read_text())
        lock["stages"]["train_basic"]["outs"][0]["md5"] = "0" * 32
        del lock["stages"]["compare"]
        (clone / "dvc.lock").write_text(yaml.safe_dump(lock))

    monkeypatch.setattr(verify, "_rebuild", rebuild)
    with pytest.raises(UserError, match=r"7 of 32 outputs differ from .* metrics/train_basic"):
        verify.main()
    output = capsys.readouterr().out
    assert "changes that are not committed are not looked at" in output
    assert "DIFFERENT  metrics/train_basic.json\n" in output
    assert "DIFFERENT  metrics/compare.json\n" in output
    assert "identical  models/train_inception.keras\n" in output


def test_a_kill_while_dvc_wrote_its_locks_is_mended_as_the_docs_say(made, tmp_path):
    checkout = made.copy(tmp_path / "copy")
    assert not free_locks(checkout), "DVC's own list stays"
    (checkout.path / ".dvc/tmp/rwlock").write_text("")
    refused = checkout.run("dvc", "repro", check=False)
    assert "Unable to read RWLock-file '.dvc/tmp/rwlock'" in refused.stdout + refused.stderr
    assert free_locks(checkout)
    assert "up to date" in checkout.run("dvc", "repro").stdout


def test_kills_at_random_moments(made, tmp_path):
    """The short form of `python tests/kill.py`."""
    checkout = made.copy(tmp_path / "copy")
    durations = {"split": 1, "train_augmented": 7, "train_inception": 9, "evaluate": 8}
    kills = kill_and_go_on(checkout, locked(made), durations, kills=4, seed=2)
    assert len(kills) == 4
    assert all(kill.equal for kill in kills), table(kills)
