"""The real thing: DVC runs all stages in a repository of its own, on a very small sample."""

import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

from catsdogs import layout
from catsdogs.commands import deps, verify
from catsdogs.files import read_csv
from catsdogs.stage import UserError

import pytest
import yaml
from conftest import FEW_STEPS, PHOTOGRAPHS, STAND_IN_WEIGHTS, TINY, Checkout, photo, runs
from kill import LONGER, free_locks, kill_and_go_on, locked, rebuild, table
from processes import Python

TRAININGS = ("train_basic", "train_augmented", "train_inception")
MODEL_KEYS = ("filters", "dense", "initializer")  # of train_basic, beside what all trainings have
slow = pytest.mark.slow


def read_json(path):
    return json.loads(path.read_text())


def ran(result):
    """The stages that DVC ran."""
    return re.findall(r"^Running stage '(\w+)'", result.stdout, re.MULTILINE)


def test_every_output_is_there_and_nothing_else_is_new(made):
    pipeline = yaml.safe_load((made.path / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        for key in ("outs", "metrics", "plots"):
            for out in stage.get(key, []):
                name = out if isinstance(out, str) else next(iter(out))
                path = made.path / name
                assert path.is_file() or any(path.iterdir()), name
    assert made.git("status", "--porcelain") == ""
    leftovers = list(made.path.rglob(".part-*"))
    assert leftovers == []


def test_no_output_holds_where_or_when_it_was_made(made):
    texts = [
        path
        for folder in ("metrics", "plots", "data/split")
        for path in (made.path / folder).rglob("*")
        if path.suffix in (".csv", ".json", ".md", ".html")
    ]
    assert len(texts) >= 20
    for path in texts:
        text = path.read_text()
        assert str(made.path) not in text, path
        assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", text), path


def test_training_shows_what_it_does(made):
    assert "Total params" in made.output
    assert made.output.count("val_accuracy") >= 6
    assert "the trunk is untrained" in made.output
    assert "Warning" not in made.output


def test_curves_and_metrics_agree(made):
    for stage in TRAININGS:
        curves = read_csv(made.path / layout.curves(stage))
        assert list(curves[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy"]
        assert [int(line.pop("epoch")) for line in curves] == [1, 2]
        last = {name: float(value) for name, value in curves[-1].items()}
        facts = read_json(made.path / layout.facts(stage))
        assert facts["last_epoch"] == last
        assert facts["steps"] == facts["planned_steps"] == 6
        assert facts["settings"]["seed"] == 1
    assert facts["weights"] == "random"


def test_predictions_are_of_every_validation_image(made):
    predictions = read_csv(made.path / layout.PREDICTIONS)
    validation = read_csv(made.path / layout.VALIDATION)
    assert [line["name"] for line in predictions] == [line["name"] for line in validation]
    scores = read_json(made.path / layout.SCORES)
    counts = read_csv(made.path / layout.SCORE_CURVES / "confusion.csv")
    for stage in TRAININGS:
        right = sum((float(line[stage]) >= 0.5) == (line["label"] == "1") for line in predictions)
        assert scores[stage]["accuracy"] == pytest.approx(right / len(predictions), abs=1e-6)
        assert scores[stage]["accuracy_low"] < scores[stage]["accuracy"] + 1e-9
        own = [line for line in counts if line["model"] == stage]
        assert sum(int(line["images"]) for line in own) == len(predictions)
        diagonal = [line for line in own if line["actual"] == line["predicted"]]
        assert sum(int(line["images"]) for line in diagonal) == right


@pytest.mark.parametrize("stage", ["download", "split", "train_inception", "evaluate", "compare"])
def test_a_stage_loads_no_module_that_it_does_not_depend_on(copy, stage):
    """As Python sees it, not as the source is read."""
    source = (
        f"import runpy, sys; runpy.run_path('src/{stage}.py', run_name='__main__')\n"
        "files = (getattr(module, '__file__', None) for module in sys.modules.values())\n"
        "print('loaded', *(file for file in files if file and '/src/catsdogs/' in file))"
    )
    result = Python(source, copy.path, copy.environment()).wait()
    loaded = {Path(file) for file in result.stdout.splitlines()[-1].split()[1:]}
    code = [file for file in loaded if not deps.is_description(file)]
    names = {file.relative_to(copy.path).as_posix() for file in code}
    declared = yaml.safe_load((copy.path / "dvc.yaml").read_text())["stages"][stage]["deps"]
    assert "src/catsdogs/layout.py" in names
    assert names <= set(declared)


def test_a_second_repro_does_nothing(made):
    result = made.run("dvc", "repro")
    assert "Running stage" not in result.stdout
    assert "up to date" in result.stdout


@slow
def test_an_experiment_in_a_temporary_folder(copy):
    """It retrains what its parameter belongs to, and its runs are in the main checkout's store."""
    known = set(runs(copy))
    change = "train_inception.dropout=0.5"
    result = copy.run("dvc", "exp", "run", "--temp", "--name", "dropout", "--set-param", change)
    assert ran(result) == ["train_inception", "evaluate", "compare"]
    new = [run for identity, run in runs(copy).items() if identity not in known]
    names = {"dropout", "basic · dropout", "augmented · dropout", "inception · dropout"}
    assert {run["name"] for run in new} == names
    assert {run["tags"]["dvc.experiment"] for run in new} == {"dropout"}
    assert not list((copy.path / ".dvc/tmp").rglob("mlflow.db"))

    again = copy.run("dvc", "exp", "run", "--temp", "--name", "again", "--set-param", change)
    for stage in ("train_inception", "evaluate"):
        assert f"Stage '{stage}' is cached - skipping run" in again.stdout

    params = json.loads(copy.run("dvc", "params", "diff", "HEAD", "dropout", "--json").stdout)
    assert list(params["params.yaml"]) == ["train_inception.dropout"]
    changed = params["params.yaml"]["train_inception.dropout"]
    assert (changed["old"], changed["new"]) == (0.2, 0.5)
    metrics = json.loads(copy.run("dvc", "metrics", "diff", "HEAD", "dropout", "--json").stdout)
    rows = [row for file in metrics.values() for row in file]
    compared = {f"train_inception.{name}" for name in ("accuracy", "loss", "roc_auc")}
    compared |= {"val_accuracy", "val_loss"}
    assert rows and set(rows) <= compared
    page = copy.run("dvc", "plots", "diff", "HEAD", "dropout").stdout.strip()
    html = Path(page.removeprefix("file://")).read_text()
    for title in ("Validation accuracy of all models", "Confusion", "ROC"):
        assert title in html


def test_predictions_of_files(made, tmp_path):
    good, bad, missing = (tmp_path / f"{name}.jpg" for name in "abc")
    good.write_bytes(photo(0))
    bad.write_text("text")
    result = made.catsdogs("predict", "--model", "basic", str(good), str(good))
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith((f"{good}: cat ", f"{good}: dog "))
    files = map(str, (bad, missing, good))
    result = made.catsdogs("predict", *files, "--model", "basic", check=False)
    assert result.returncode == 1
    assert result.stdout == f"{lines[0]}\n"
    assert f"{bad}: not an image that can be used: not an image in a known" in result.stderr
    assert f"{missing}: not an image that can be used: No such file" in result.stderr
    assert "Traceback" not in result.stderr
    result = made.catsdogs("predict", "--model", "nothing", str(good), check=False)
    assert "error: nothing is neither a file nor a model of this checkout" in result.stderr


def test_a_loss_that_is_no_number_stops_the_stage(copy):
    copy.change_params({"train_basic": {"learning_rate": 1e38}})
    (copy.path / layout.model("train_basic")).unlink()
    result = copy.script("train_basic", check=False)
    assert result.returncode == 1
    assert re.search(r"error: train_basic: the (validation )?loss is (nan|inf) at", result.stderr)
    assert "lower train_basic.learning_rate in params.yaml" in result.stderr
    assert not (copy.path / layout.model("train_basic")).exists()


@pytest.mark.parametrize(
    "address", [pytest.param("http://127.0.0.1:9", marks=slow), "foo://bar", "sqlite:///README.md"]
)
def test_training_does_without_mlflow(copy, address):
    model = copy.path / layout.model("train_basic")
    before = model.read_bytes()
    model.unlink()
    result = copy.script("train_basic", MLFLOW_TRACKING_URI=address)
    assert "warning: train_basic is not recorded in MLflow" in result.stderr
    assert "`catsdogs sync` records it later" in result.stderr
    assert "Traceback" not in result.stderr
    assert model.read_bytes() == before


@slow
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
    for stage in ("download", "split", *TRAININGS, "evaluate", "compare"):
        checkout.script(stage)
    assert read_json(checkout.path / "metrics/download.json")["images"] == {"cat": 150, "dog": 150}
    split = read_json(checkout.path / "metrics/split.json")
    assert (split["train"], split["validation"], split["rejected"]) == (240, 60, 0)
    facts = read_json(checkout.path / layout.facts("train_inception"))
    assert facts["weights"] == STAND_IN_WEIGHTS.name
    scores = read_json(checkout.path / "metrics/evaluate.json")
    assert scores["train_inception"]["accuracy"] > 0.7, "pretrained features tell them apart"


@slow
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


@slow
def test_what_earlier_code_left_in_a_folder_goes(copy):
    """DVC empties a stage's folders; run by hand, the stage has to. No clock decides."""
    folders = [copy.path / "plots/evaluate" / name for name in ("curves", "pictures")]
    made = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    later = time.time() + 9000
    for folder in folders:
        (folder / "old.txt").write_text("old")
        os.utime(folder / "old.txt", (later, later))
        (folder / ".hidden").mkdir()
    ahead = "import time; now = time.time_ns; time.time_ns = lambda: now() + 10**13"
    copy.script("evaluate", before=ahead)
    found = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    assert found == made


@slow
def test_verify_rebuilds_in_a_clone_and_nothing_differs(copy, tmp_path):
    """On one core, in another time zone, under another home and locale."""
    shutil.rmtree(copy.path / ".cache")
    if hasattr(os, "sched_setaffinity"):
        one_core = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    else:
        one_core = ""
    elsewhere = {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": str(tmp_path)}
    known = runs(copy)
    result = copy.catsdogs("verify", before=one_core, **elsewhere)
    assert len(ran(result)) == 7
    count = sum(len(stage["outs"]) for stage in locked(copy).values())
    assert result.stdout.count("identical  ") == count
    revision = copy.git("rev-parse", "--short", "HEAD").strip()
    assert f"all {count} outputs of {revision} are identical" in result.stdout
    assert runs(copy) == known, "the rebuild's runs are not in this store"
    kept = copy.path / ".cache/features"
    assert not kept.exists(), "the rebuild neither finds nor leaves features here"


def test_verify_names_what_differs(copy, monkeypatch, capsys):
    """The rebuild is played: one output comes out otherwise, one does not come out at all."""
    (copy.path / "params.yaml").write_text("not committed")
    monkeypatch.chdir(copy.path)

    def rebuild(clone):
        lock = yaml.safe_load((clone / "dvc.lock").read_text())
        lock["stages"]["train_basic"]["outs"][0]["md5"] = "0" * 32
        del lock["stages"]["compare"]
        (clone / "dvc.lock").write_text(yaml.safe_dump(lock))

    monkeypatch.setattr(verify, "_rebuild", rebuild)
    stages = locked(copy)
    total, lost = sum(len(stage["outs"]) for stage in stages.values()), stages["compare"]["outs"]
    changed = stages["train_basic"]["outs"][0]["path"]
    with pytest.raises(UserError, match=f"^{1 + len(lost)} of {total} outputs differ from"):
        verify.main()
    output = capsys.readouterr().out
    assert "changes that are not committed are left out" in output
    assert f"DIFFERENT  {changed}\n" in output
    assert f"DIFFERENT  {lost[0]['path']}\n" in output
    assert "identical  models/train_inception.keras\n" in output


@slow
def test_a_kill_while_dvc_wrote_its_locks_is_mended_as_the_docs_say(copy):
    assert not free_locks(copy), "DVC's own list stays"
    (copy.path / ".dvc/tmp/rwlock").write_text("")
    refused = copy.run("dvc", "repro", check=False)
    assert "Unable to read RWLock-file '.dvc/tmp/rwlock'" in refused.stdout + refused.stderr
    assert free_locks(copy)
    assert "up to date" in copy.run("dvc", "repro").stdout


@slow
def test_kills_at_random_moments(checkout):
    """The short form of `python tests/kill.py`."""
    checkout.change_params({"train_basic": LONGER["train_basic"]})
    (checkout.path / "dvc.lock").unlink(missing_ok=True)
    measured = rebuild(checkout, "train_basic")
    reference = locked(checkout)
    kills = kill_and_go_on(checkout, reference, measured, 4, 3, "train_basic")
    assert [kill.stage for kill in kills] == ["download", "split", "train_basic", "train_basic"]
    assert all(kill.equal for kill in kills), table(kills)
    assert any(kill.step for kill in kills), table(kills)


MOBILENET = '''
"""Stage `train_mobilenet`: a small MobileNetV3, trained from its first weights."""

from catsdogs import stage
from catsdogs.training import loop


class TrainMobilenet(loop.Settings):
    dropout: float


def main() -> None:
    with loop.begin("train_mobilenet", TrainMobilenet) as training:
        import keras

        batches = training.batches()
        trunk = keras.applications.MobileNetV3Small(
            input_shape=batches.shape, include_top=False, weights=None, include_preprocessing=False
        )
        images = keras.Input(batches.shape)
        signal = trunk(keras.layers.Rescaling(1 / 127.5, offset=-1)(images))
        signal = keras.layers.GlobalAveragePooling2D()(signal)
        signal = keras.layers.Dropout(training.settings.dropout)(signal)
        model = keras.Model(images, keras.layers.Dense(1, activation="sigmoid")(signal))
        model.summary()
        training.fit(model, batches, training.validation())
        training.write(model)


if __name__ == "__main__":
    stage.run(main)
'''


@slow
def test_a_fourth_model_takes_a_script_a_section_a_stage_and_its_name(copy, tmp_path):
    """And all else follows, as CONTRIBUTING.md says."""
    stage = "train_mobilenet"
    (copy.path / f"src/{stage}.py").write_text(MOBILENET.lstrip())
    params = yaml.safe_load((copy.path / "params.yaml").read_text())
    basic = {k: v for k, v in params["train_basic"].items() if k not in MODEL_KEYS}
    params[stage] = basic | {"dropout": 0.1}
    params["evaluate"]["models"].append(stage)
    (copy.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    text = (copy.path / "dvc.yaml").read_text()
    before, model = re.search(r"  train_basic:\n(.*?)(?=  train_aug)", text, re.DOTALL).span()
    described = text[before:model]
    code = re.compile(r"      - src/.*\n")
    added = code.sub("", described).replace("train_basic", stage).replace("Basic", "Mobilenet")
    (copy.path / "dvc.yaml").write_text(text[:model] + added + text[model:])
    assert copy.catsdogs("deps").stdout == f"{stage}: deps written\n"
    deps = yaml.safe_load((copy.path / "dvc.yaml").read_text())["stages"][stage]["deps"]
    assert deps[:2] == [f"src/{stage}.py", "src/catsdogs/__init__.py"]
    assert "data/split/images" in deps

    assert ran(copy.run("dvc", "repro")) == [stage, "evaluate", "compare"]
    scores = read_json(copy.path / layout.metrics("evaluate"))
    assert list(scores) == [*TRAININGS, stage]
    assert list(read_csv(copy.path / layout.PREDICTIONS)[0]) == ["name", "label", *scores]
    assert "mobilenet" in (copy.path / layout.COMPARISON).read_text()
    assert "mobilenet" in (copy.path / layout.REPORT).read_text()
    assert {line["model"] for line in read_csv(copy.path / layout.ALL_CURVES)} == set(scores)
    found = [run for run in runs(copy).values() if run["tags"].get("dvc.stage") == stage]
    (run,) = found
    assert run["status"] == "FINISHED"
    assert run["params"]["dropout"] == "0.1"
    values = {key: value for key, _, value in run["metrics"]}
    assert values["evaluate/accuracy"] == scores[stage]["accuracy"]
    (tmp_path / "a.jpg").write_bytes(photo(0))
    answer = copy.catsdogs("predict", "--model", "mobilenet", str(tmp_path / "a.jpg")).stdout
    assert re.match(r".*a\.jpg: (cat|dog) \d+\.\d%\n", answer)
