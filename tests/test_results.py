"""What `catsdogs results` keeps of experiments, and what docs/results has."""

import gzip
import json
import runpy
import shlex
import sys
from itertools import pairwise
from math import sqrt
from pathlib import Path
from types import SimpleNamespace

from catsdogs import layout, params
from catsdogs.commands import results
from catsdogs.stage import UserError
from catsdogs.tracking import live
from catsdogs.tracking.recording import data_tags

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
FOLDERS = ("results", "results/tuning")
RUNS = {name: json.loads((DOCS / name / "runs.json").read_text()) for name in FOLDERS}
Z = 1.959963984540054  # the 97.5th percentile of the normal distribution
SPLIT = {layout.PIXELS: "pixels", layout.VALIDATION: "validation"}


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    """The params.yaml of the commit that the experiments below are made from."""
    text = yaml.safe_dump({"data": {"source": "sample"}, "train_one": {"rate": "1e-3", "seed": 1}})
    monkeypatch.setattr(results, "git", lambda *_: text)
    monkeypatch.setattr(live, "find_cost", {"one-train_one": 12.3}.get)


def experiment(folder, name, stages, **changes):
    """A snapshot of an experiment whose models are named after it and their stage."""
    table = pd.DataFrame({"row": [0, 1], "name": ["cat/a.jpg", "dog/b.jpg"], "label": [0, 1]})
    for place, stage in enumerate(stages):
        table[stage] = [0.49999, 0.9 - place / 10]
    written = {
        layout.PREDICTIONS: table.to_csv(index=False),
    }
    for stage in stages:
        written[layout.curves(stage)] = "epoch,loss\n1,0.50\n2,0.250\n"
        facts = {"runtime": "float32, 2 threads", "steps": 6, "settings": {"batch_size": 8}}
        written[layout.facts(stage)] = json.dumps(facts)
    for path, text in written.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(text)
    models = {stage: {layout.model(stage): f"{name}-{stage}"} for stage in stages}
    parameters = {"data": {"source": "sample"}, "train_one": {"rate": 0.001, "seed": 1}}
    snapshot = {
        "experiment": name,
        "revision": "0123456",
        "trainings": stages,
        "evaluated": stages,
        "unused": {},
        "params_file": parameters,
        "outputs": ({"split": SPLIT} | models).__getitem__,
        "fetch": (folder / name).__truediv__,
        "scores": {stage: {"accuracy": 1.0} for stage in stages},
        "last_epoch": lambda _: {"loss": 0.25, "val_loss": 0.5},
        "read_json": lambda path: json.loads((folder / name / path).read_text()),
    }
    return SimpleNamespace(**snapshot | changes)


def keep(folder, *snapshots):
    kept = results.read(folder)
    for snapshot in snapshots:
        kept = results.add(kept, snapshot)
    results.write(kept, folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_experiments_with_other_models_are_kept_side_by_side(tmp_path):
    one = experiment(tmp_path, "one", ["train_one", "train_two"])
    two = experiment(tmp_path, "two", ["train_four"])
    kept = keep(tmp_path / "kept", two)
    assert keep(tmp_path / "kept", one) != kept
    assert keep(tmp_path / "kept", one, two) == keep(tmp_path / "other", one, two)
    runs = json.loads((tmp_path / "kept/runs.json").read_text())
    assert list(runs) == ["one", "two"]
    assert runs["one"]["models"]["train_two"] == {
        "md5": "one-train_two",
        "runtime": "float32, 2 threads",
        "cpu_seconds": None,
        "last_epoch": {"steps": 6, "images": 48, "loss": 0.25, "val_loss": 0.5},
        "evaluated": {"accuracy": 1.0},
    }
    assert runs["one"]["models"]["train_one"]["cpu_seconds"] == 12.3
    assert runs["one"]["images"] == {"images": "pixels", "validation.csv": "validation"}
    assert (tmp_path / "kept/curves.csv").read_text().splitlines()[:3] == [
        "experiment,model,epoch,loss",
        "one,train_one,1,0.50",
        "one,train_one,2,0.250",
    ]
    assert gzip.decompress(
        (tmp_path / "kept/predictions.csv.gz").read_bytes()
    ).decode().splitlines() == [
        "name,label,one-train_one,one-train_two,two-train_four",
        "cat/a.jpg,0,0.4999,0.4999,0.4999",
        "dog/b.jpg,1,0.9000,0.8000,0.9000",
    ]


def test_an_experiment_that_is_taken_out_of_the_runs_is_forgotten(tmp_path):
    one = experiment(tmp_path, "one", ["train_one"])
    only = keep(tmp_path / "kept", one)
    keep(tmp_path / "kept", experiment(tmp_path, "two", ["train_two"]))
    (tmp_path / "kept/runs.json").write_bytes(only["runs.json"])
    assert keep(tmp_path / "kept") == only


def test_what_was_evaluated_on_other_images_is_refused(tmp_path):
    keep(tmp_path / "kept", experiment(tmp_path, "one", ["train_one"]))
    split = SPLIT | {layout.VALIDATION: "others"}
    model = {layout.model("train_one"): "md5"}
    outputs = {"split": split, "train_one": model}.__getitem__
    other = experiment(tmp_path, "other", ["train_one"], outputs=outputs)
    with pytest.raises(UserError, match="other was judged by other images than one: name anoth"):
        keep(tmp_path / "kept", other)
    part = experiment(tmp_path, "part", ["train_one"], outputs=outputs, evaluated=[])
    assert keep(tmp_path / "kept", part), "which has no prediction"
    assert "evaluated" not in str(json.loads((tmp_path / "kept/runs.json").read_text())["part"])


def test_what_was_evaluated_before_there_were_shards_is_compared_by_its_table(tmp_path):
    whole = {layout.PIXELS.with_suffix(".npy"): "file", layout.VALIDATION: "validation"}
    model = {layout.model("train_one"): "md5"}
    outputs = {"split": whole, "train_one": model}.__getitem__
    old = experiment(tmp_path, "old", ["train_one"], outputs=outputs)
    keep(tmp_path / "kept", old)
    runs = json.loads((tmp_path / "kept/runs.json").read_text())
    assert runs["old"]["images"] == {"images.npy": "file", "validation.csv": "validation"}
    assert runs["old"]["images"].keys() == next(iter(RUNS["results"].values()))["images"].keys()
    keep(tmp_path / "kept", experiment(tmp_path, "one", ["train_one"]))
    split = {layout.PIXELS: "others", layout.VALIDATION: "validation"}
    outputs = {"split": split, "train_one": model}.__getitem__
    with pytest.raises(UserError, match="other was judged by other images than one: name anoth"):
        keep(tmp_path / "kept", experiment(tmp_path, "other", ["train_one"], outputs=outputs))


def test_the_tag_of_the_pixels_is_that_of_their_file_before_there_were_shards():
    for pixels in (layout.PIXELS, layout.PIXELS.with_suffix(".npy")):
        made = {pixels: "pixels", layout.TRAIN: "train", layout.VALIDATION: "validation"}
        tags = data_tags(SimpleNamespace(outputs={"split": made}.__getitem__))
        assert list(tags.values()) == ["pixels", "train", "validation"]


def test_parameters_that_were_not_used_are_refused(tmp_path):
    part = experiment(tmp_path, "part", ["train_one"], unused={"split.seed": 2})
    with pytest.raises(UserError, match=r"part did not run with the split\.seed of its params"):
        results.describe(part)


def test_the_command_has_what_is_not_as_in_the_commit(tmp_path):
    same = experiment(tmp_path, "one", ["train_one"])
    assert results.describe(same)["command"] == "dvc exp run --name one"
    parameters = {
        "data": {"source": "/home/me/photos.zip"},
        "train_one": {"rate": 0.01, "seed": 1, "dense": [8, 16]},
    }
    changed = experiment(tmp_path, "two", ["train_one"], params_file=parameters, evaluated=[])
    assert results.describe(changed)["command"] == (
        "dvc exp run --name two -S data.source=photos.zip -S train_one.rate=0.01 "
        "-S 'train_one.dense=[8,16]' train_one"
    )


def test_what_a_command_says_of_files_and_addresses_is_nobodys_secret():
    assert results._public("../shared/photos.zip") == "photos.zip"
    assert results._public("imagenet") == "imagenet"
    address = "https://me:secret@host.org/a/photos.zip?token=secret"
    assert results._public(address) == "https://host.org/a/photos.zip"
    assert results._public("http://127.0.0.1:80/a.zip") == "http://127.0.0.1:80/a.zip"


def wilson(p, n):
    """A share of n, with Wilson's 95 % interval."""
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return p, middle - half, middle + half


def test_the_kept_scores_follow_from_the_predictions():
    predictions = pd.read_csv(DOCS / "results/predictions.csv.gz")
    for run in RUNS["results"].values():
        for model in run["models"].values():
            if not (scores := model.get("evaluated")):  # Inception's, with other seeds of the CNNs
                continue
            right = (predictions[model["md5"]] >= 0.5) == (predictions["label"] == 1)
            kept = [scores[name] for name in ("accuracy", "accuracy_low", "accuracy_high")]
            assert kept == pytest.approx(wilson(right.mean(), len(right)), abs=1e-6)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_kept_curves_end_where_the_runs_do(folder):
    curves, runs = pd.read_csv(DOCS / folder / "curves.csv"), RUNS[folder]
    ends = curves.groupby(["experiment", "model"]).last()
    assert set(ends.index) == {(name, stage) for name in runs for stage in runs[name]["models"]}
    for (name, stage), last in ends.iterrows():
        for quantity in ("accuracy", "loss", "val_accuracy", "val_loss"):
            assert last[quantity] == runs[name]["models"][stage]["last_epoch"][quantity]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_kept_commands_change_parameters_that_there_are(folder):
    known = dict(params.flatten(yaml.safe_load((REPOSITORY / "params.yaml").read_text())))
    for run in RUNS[folder].values():
        words = shlex.split(run["command"])
        changes = [after for word, after in pairwise(words) if word == "-S"]
        assert {change.partition("=")[0] for change in changes} <= set(known)


def test_the_pictures_are_drawn_from_the_curves(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["draw.py", "--folder", str(tmp_path)])
    runpy.run_path(str(DOCS / "results/draw.py"), run_name="__main__")
    pictures = list(Path(tmp_path).iterdir())
    assert len(pictures) >= 2
    for picture in pictures:
        assert picture.read_bytes() == (DOCS / picture.name).read_bytes()
