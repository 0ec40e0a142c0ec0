"""MLflow and DVC tell one story: of every experiment, once, and again after the store is lost."""

import base64
import contextlib
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from io import BytesIO
from urllib.parse import quote

from catsdogs.commands import results

import numpy as np
import pandas as pd
import pytest
import requests
import yaml
from conftest import photo, runs
from kill import Repro
from PIL import Image
from processes import Python

pytestmark = pytest.mark.slow
MODELS = ("basic", "augmented", "inception")
STATUS = ("dvc", "queue", "status")
STAGES = tuple(f"train_{model}" for model in MODELS)
RESULTS = ("runs.json", "curves.csv", "predictions.csv.gz")


@contextlib.contextmanager
def serving(checkout, *command):
    """A server of MLflow's on a free port of this machine; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = checkout.environment() | {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    log = checkout.path.parent / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port],
            cwd=checkout.path,
            env=environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{address}/health", timeout=5).ok:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def by_name(checkout):
    """All runs by their names, with their files, without what another store has otherwise."""
    found = runs(checkout)
    for identity, run in found.items():
        parent = run["tags"].pop("mlflow.parentRunId", None)
        run["parent"] = parent and found[parent]["name"]
        for tag in ("training", "mlflow.user"):
            run["tags"].pop(tag, None)
        folder = checkout.path / "mlartifacts" / identity / "artifacts"
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        run["files"] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    named = {run["name"]: run for run in found.values()}
    assert len(named) == len(found), "two runs of one name"
    return named


def query(checkout, statement):
    with sqlite3.connect(checkout.path / "mlflow.db") as store:
        return store.execute(statement).fetchall()


def experiments(checkout):
    """DVC's experiments, by name, with the reference of Git's that holds each."""
    references = checkout.git("for-each-ref", "refs/exps", "--format=%(refname)").split()
    return {name.rpartition("/")[2]: name for name in references if name.count("/") == 4}


@pytest.fixture(scope="module")
def queued(made, tmp_path_factory):
    """Three experiments from the queue, with two workers; only the basic model differs.

    Tests may add experiments of their own; `names` has these three.
    """
    checkout = made.copy(tmp_path_factory.mktemp("queued") / "repository")
    checkout.forget_runs()
    rates = "train_basic.learning_rate=1e-4,3e-4,2e-3"
    checkout.run("dvc", "exp", "run", "--queue", "--set-param", rates)
    checkout.run("dvc", "queue", "start", "--jobs", "2")
    states = ["Queued"]
    for _ in range(300):
        if not {"Queued", "Running"} & set(states):
            break
        time.sleep(2)
        states = re.findall(r"Queued|Running|Success|Failed", checkout.run(*STATUS).stdout)
    assert states == ["Success"] * 3
    checkout.names = sorted(experiments(checkout))
    return checkout


def test_queued_experiments_have_nine_runs_under_three(queued):
    found = by_name(queued)
    names = experiments(queued)
    assert len(names) == 3
    assert set(found) == {*names, *(f"{model} · {name}" for model in MODELS for name in names)}
    head = queued.git("rev-parse", "HEAD").strip()
    for name, run in found.items():
        experiment = name.rpartition(" · ")[2]
        assert run["status"] == "FINISHED"
        assert run["tags"]["dvc.experiment"] == experiment
        assert run["tags"]["git.revision"] == head
        assert run["parent"] == (None if name == experiment else experiment)
        steps = [(key, step) for key, step, _ in run["metrics"]]
        assert len(steps) == len(set(steps)), "nothing is logged twice"
    rates = {found[f"basic · {name}"]["params"]["learning_rate"] for name in names}
    assert rates == {"0.0001", "0.0003", "0.002"}


def test_every_run_has_what_its_stage_made(queued):
    found = by_name(queued)
    for name, reference in experiments(queued).items():
        stages = yaml.safe_load(queued.git("show", f"{reference}:dvc.lock"))["stages"]
        made = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
        for folder in ("plots/evaluate/curves", "plots/evaluate/pictures"):
            listed = queued.path / ".dvc/cache/files/md5" / made[folder][:2] / made[folder][2:]
            for each in json.loads(listed.read_text()):
                made[f"{folder}/{each['relpath']}"] = each["md5"]
        scores = json.loads(queued.git("show", f"{reference}:metrics/evaluate.json"))
        for model in MODELS:
            stage, run = f"train_{model}", found[f"{model} · {name}"]
            tags, values = run["tags"], {key: value for key, _, value in run["metrics"]}
            assert tags["model.md5"] == made[f"models/{stage}.keras"]
            assert tags["data.md5"] == made["data/split/images"]
            assert tags["data.validation.md5"] == made["data/split/validation.csv"]
            assert values["evaluate/accuracy"] == scores[stage]["accuracy"]
            assert {step for key, step, _ in run["metrics"] if key == "val_loss"} == {1, 2}
            for file, path in {
                "figures/accuracy.png": f"plots/training/{stage}_accuracy.png",
                "figures/mistakes.png": f"plots/evaluate/pictures/{stage}_mistakes.png",
                "curves/learning.csv": f"plots/training/{stage}.csv",
            }.items():
                assert md5(run["files"][file]) == made[path]
        for file, path in {
            "report.html": "plots/report.html",
            "comparison.md": "metrics/compare.md",
            "predictions.csv": "data/predictions.csv",
            "curves/roc.csv": "plots/evaluate/curves/roc.csv",
        }.items():
            assert md5(found[name]["files"][file]) == made[path]


def test_a_model_is_stored_once_and_every_run_of_it_leads_there(queued):
    stored = query(queued, "select model_id, name, status from logged_models")
    assert sorted(name for _, name, _ in stored) == [
        "train_augmented",
        *["train_basic"] * 3,
        "train_inception",
    ]
    assert {status for _, _, status in stored} == {2}  # ready
    linked = query(queued, "select source_id from inputs where destination_type = 'MODEL_OUTPUT'")
    trainings = {identity for identity, run in runs(queued).items() if "model.md5" in run["tags"]}
    assert {identity for (identity,) in linked} == trainings
    folders = (queued.path / "mlartifacts" / "models").glob("*/artifacts/data/*/*.keras")
    hashes = {md5(path.read_bytes()) for path in folders}
    assert hashes == {
        run["tags"]["model.md5"] for run in runs(queued).values() if "model.md5" in run["tags"]
    }


def test_a_lost_store_is_written_again_and_the_second_time_nothing(queued):
    before = by_name(queued)
    (queued.path / "mlflow.db").unlink()
    shutil.rmtree(queued.path / "mlartifacts")
    names = list(experiments(queued))
    said = queued.catsdogs("sync", *names).stdout
    assert said.splitlines() == [f"{name}: recorded" for name in names]
    assert by_name(queued) == before
    store = query(queued, "select * from metrics order by run_uuid, key, step")
    said = queued.catsdogs("sync", *names).stdout
    assert said.splitlines() == [f"{name}: nothing to do" for name in names]
    assert by_name(queued) == before
    assert query(queued, "select * from metrics order by run_uuid, key, step") == store


def test_what_dvc_took_from_its_cache_is_recorded_on_demand(queued):
    """An experiment that changes nothing, so that no stage runs; and the workspace."""
    known = set(by_name(queued))
    result = queued.run(
        *("dvc", "exp", "run", "--temp", "--name", "same"),
        *("--set-param", "train_basic.learning_rate=0.001"),
    )
    assert "Running stage" not in result.stdout
    # Otherwise the workspace, which has the same content, would have the experiment's name.
    assert queued.catsdogs("sync", "workspace").stdout == "workspace: recorded\n"
    said = queued.catsdogs("sync").stdout.splitlines()
    assert {"same: recorded", "workspace: nothing to do"} < set(said)
    new = set(by_name(queued)) - known
    head = queued.git("rev-parse", "HEAD")[:7]
    assert new == {
        *("same", "basic · same", "augmented · same", "inception · same"),
        *(head, f"basic · {head}", f"augmented · {head}", f"inception · {head}"),
    }


def test_the_best_model_is_named_and_answers(queued, tmp_path):
    champion = ("champion",)
    said = queued.catsdogs(*champion).stdout.splitlines()
    trained = [run for run in runs(queued).values() if "model.md5" in run["tags"]]
    count = len({run["tags"]["model.md5"] for run in trained})
    assert said[0] == f"models:/catsdogs@champion is version 1, of {count} models:"
    scores = {
        run["tags"]["model.md5"]: {key: value for key, _, value in run["metrics"]}
        for run in trained
    }
    accuracy = max(values["evaluate/accuracy"] for values in scores.values())
    assert f"accuracy {accuracy:.4f}" in said[1]
    assert queued.catsdogs(*champion).stdout.splitlines() == said, "no second version"
    ((best,),) = query(
        queued, "select value from model_version_tags where key = 'model.md5' and version = 1"
    )
    assert scores[best]["evaluate/accuracy"] == accuracy

    image = tmp_path / "cat.jpg"
    image.write_bytes(photo(0, (100, 90)))
    predict = ("predict", "--model")
    unknown = {"split": {"interpolation": "nearest"}, "data": {"classes": ["wolf", "fox"]}}
    queued.change_params(unknown)  # the model has its own
    answer = queued.catsdogs(*predict, "models:/catsdogs@champion", str(image)).stdout
    queued.git("checkout", "params.yaml")
    assert re.match(rf"{image}: (cat|dog) \d+\.\d%\n", answer)
    refused = queued.catsdogs(*predict, "models:/catsdogs@nobody", str(image), check=False).stderr
    assert refused.startswith("error: MLflow has no models:/catsdogs@nobody: ")

    serve = ("mlflow", "models", "serve", "--env-manager", "local", "--model-uri")
    with serving(queued, *serve, "models:/catsdogs@champion") as address:
        pixels = np.asarray(Image.open(BytesIO(image.read_bytes()))).tolist()
        encoded = base64.b64encode(image.read_bytes()).decode()
        asked = {"dataframe_records": [{"image": pixels}, {"image": encoded}]}
        reply = requests.post(f"{address}/invocations", json=asked, timeout=60)
        assert reply.status_code == 200, reply.text
        first, second = reply.json()["predictions"]
        assert first == second
        shown = f"{max(first['dog'], 1 - first['dog']):.1%}"
        assert answer == f"{image}: {first['class']} {shown}\n"
        for wrong in ("no image", [[1, 2], [3, 4]], [[[1, 2, 300]]]):
            asked = {"dataframe_records": [{"image": wrong}]}
            reply = requests.post(f"{address}/invocations", json=asked, timeout=60)
            assert reply.status_code == 400
            assert "image 0 is neither an image file in base64 nor RGB pixels" in reply.text


@pytest.fixture(scope="module")
def interface(queued):
    """MLflow's pages, as `make ui` serves them."""
    with serving(queued, "mlflow", "ui", "--workers", "1") as address:
        yield f"{address}/#/experiments/1/runs?workflowType=machine_learning"


@pytest.fixture
def page(browser, interface, queued):
    """The runs of one experiment, as a person unfolds them, and the rows to pick from."""
    name = queued.names[0]
    page = browser.new_page(viewport={"width": 1600, "height": 1400})
    page.set_default_timeout(60_000)
    page.goto(f"{interface}&searchFilter={quote(f'tags.`dvc.experiment` = {name!r}')}")
    page.get_by_text("4 matching runs").wait_for()
    page.name, page.rows = name, page.locator(".ag-row:has(.ag-selection-checkbox)")
    page.rows.filter(has_text=name).locator("[col-id*='Run Name'] button").first.click()
    page.rows.filter(has_text="basic ·").wait_for()
    yield page
    page.close()


def test_the_interface_compares_three_models(page):
    for model in MODELS:
        page.rows.filter(has_text=f"{model} ·").locator(".ag-selection-checkbox").first.click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Comparing 3 Runs from 1 Experiment").wait_for()
    page.get_by_text("Show diff only").first.wait_for()
    text = page.locator("body").inner_text()
    for shown in (*(f"{model} · {page.name}" for model in MODELS), "augmentation.zoom"):
        assert shown in text


def test_the_interface_overlays_their_curves(page, queued):
    named = {run["name"]: run["metrics"] for run in runs(queued).values()}
    lines = "each => each.data.map(({name, x, y}) => [name, [...x], [...y]])"
    page.locator("label:has(input[value=CHART])").click()
    page.get_by_placeholder("Search metric charts").fill("^(val_)?(accuracy|loss)$")
    for quantity in ("accuracy", "loss", "val_accuracy", "val_loss"):
        title = page.get_by_role("heading", name=quantity, exact=True)
        title.wait_for()
        card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has=title)
        card.locator("path.js-line").nth(2).wait_for(state="attached")
        drawn = {name: (x, y) for name, x, y in card.locator(".js-plotly-plot").evaluate(lines)}
        assert set(drawn) == {f"{model} · {page.name}" for model in MODELS}
        for name, (steps, values) in drawn.items():
            kept = {step: value for key, step, value in named[name] if key == quantity}
            assert dict(zip(steps, values, strict=True)) == pytest.approx(kept)
        for model in MODELS:
            card.get_by_text(f"{model} · {page.name} ({quantity})").wait_for(state="attached")


def test_a_repeated_experiment_is_recorded_once(copy):
    """And no training of another code or model is deleted."""
    assert copy.catsdogs("sync").stdout == "workspace: recorded\n", "it has been committed since"
    before = by_name(copy)
    copy.run("dvc", "repro", "--force", "--single-item", "train_basic")
    assert len(runs(copy)) == len(before) + 1
    copy.run("dvc", "repro", "--force", "--single-item", "compare")
    assert by_name(copy) == before
    source = copy.path / "src/catsdogs/models/cnn.py"
    for function in ("elu", "gelu"):
        source.write_text(re.sub('"relu"|"elu"', f'"{function}"', source.read_text()))
        copy.run("dvc", "repro", "train_basic")
    known = set(runs(copy))
    assert len(known) == len(before) + 2
    copy.run("dvc", "repro")
    found = runs(copy)
    assert known < set(found)
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    trained = [run for run in found.values() if run["tags"].get("dvc.stage") == "train_basic"]
    assert sorted("mlflow.parentRunId" in run["tags"] for run in trained) == [False, True, True]


def test_a_commit_gets_its_name_when_it_is_made(copy):
    copy.forget_runs()
    copy.git("rm", "--quiet", "--cached", "dvc.lock")
    copy.commit_index()
    base = copy.git("rev-parse", "HEAD")[:7]
    assert copy.catsdogs("sync").stdout == "workspace: recorded\n"
    assert f"{base} + changes" in by_name(copy)
    assert copy.catsdogs("sync").stdout == "workspace: nothing to do\n"
    copy.commit()
    head = copy.git("rev-parse", "HEAD")
    assert copy.catsdogs("sync", "HEAD").stdout == "HEAD: recorded\n"
    assert set(by_name(copy)) == {head[:7], *(f"{model} · {head[:7]}" for model in MODELS)}
    assert {run["tags"]["git.revision"] for run in runs(copy).values()} == {head.strip()}
    assert copy.catsdogs("sync").stdout == "workspace: nothing to do\n"


def test_what_cannot_be_recorded_is_said_in_a_line(copy):
    copy.forget_runs()
    result = copy.catsdogs("sync", "nonsense", check=False)
    assert (
        result.stderr == "error: nonsense is neither a revision of Git nor an experiment of DVC: "
        "`dvc exp list --all-commits` lists the experiments\n"
    )
    away = {"MLFLOW_TRACKING_URI": "http://user:secret@127.0.0.1:9"}
    result = copy.catsdogs("sync", check=False, **away)
    assert result.stderr.splitlines()[-1].startswith("error: MLflow cannot be written to: ")
    assert "secret" not in result.stderr
    shutil.rmtree(copy.path / ".dvc" / "cache")
    result = copy.catsdogs("sync", "HEAD", check=False)
    assert re.search(
        r"error: DVC's cache lacks \S+ of [0-9a-f]{7}: `dvc repro` makes it", result.stderr
    )
    (copy.path / "models" / "train_basic.keras").write_bytes(b"another")
    result = copy.catsdogs("sync", "workspace", check=False)
    assert "models/train_basic.keras is not what dvc.lock has: run `dvc repro`" in result.stderr
    assert "Traceback" not in result.stderr


WRITER = """
from catsdogs.tracking import store
client = store.connect()
experiment = store.open_experiment(client)
run = client.create_run(experiment).info.run_id
for step in range(40):
    store.log_metrics(client, run, {step: {"loss": step, "accuracy": step}})
"""


def test_parallel_writers_of_a_new_store_do_not_fail(checkout):
    started = [Python(WRITER, checkout.path, checkout.environment()) for _ in range(4)]
    assert [each.wait().returncode for each in started] == [0] * 4
    assert query(checkout, "select count(*) from metrics") == [(4 * 40 * 2,)]
    assert query(checkout, "select count(*) from experiments where name = 'catsdogs'") == [(1,)]


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_an_experiment_up_to_one_training_is_recorded_as_far_as_it_goes(copy):
    """Its two other models are the commit's; the commit's evaluation is of another model."""
    copy.forget_runs()
    change = ("--set-param", "train_basic.learning_rate=0.01")
    copy.run("dvc", "exp", "run", "--temp", "--name", "part", *change, "train_basic")
    begun = runs(copy)
    assert {run["name"] for run in begun.values()} == {"basic · part"}
    assert {run["status"] for run in begun.values()} == {"FINISHED"}
    assert copy.catsdogs("sync", "part").stdout == "part: recorded\n"
    found = by_name(copy)
    assert set(found) == {"part", *(f"{model} · part" for model in MODELS)}
    assert set(begun) < set(runs(copy)), "completed, not written anew"
    assert not any("/" in key for run in found.values() for key, _, _ in run["metrics"])
    assert copy.catsdogs("sync", "part").stdout == "part: nothing to do\n"
    copy.forget_runs()
    assert copy.catsdogs("sync", "part").stdout == "part: recorded\n"
    again = by_name(copy)
    assert {name: run["metrics"] for name, run in again.items()} == {
        name: run["metrics"] for name, run in found.items()
    }


def test_sync_leaves_a_training_that_runs_alone(copy):
    copy.forget_runs()
    copy.change_params({"train_basic": {"epochs": 500}})
    running = Repro(copy, "train_basic")
    while not any(run["tags"].get("dvc.stage") for run in runs(copy).values()):
        time.sleep(1)
    before = set(runs(copy))
    said = copy.catsdogs("sync", "workspace", check=False).stderr
    assert "is not what dvc.lock has" in said, "DVC has removed the outputs"
    assert set(runs(copy)) == before, "and nothing was begun"
    assert copy.catsdogs("sync", "HEAD").stdout == "HEAD: recorded\n"
    running.kill(signal.SIGTERM, everything=True)
    assert before < set(runs(copy))
    assert len(runs(copy)) == len(before) + 4, "the commit's are runs of their own"


@pytest.fixture
def unkept(queued, tmp_path):
    """A copy of it without the results that the repository keeps."""
    copy = queued.copy(tmp_path / "copy")
    shutil.rmtree(copy.path / "docs/results", ignore_errors=True)
    copy.names = queued.names
    return copy


def test_results_of_experiments_can_be_kept_in_git_and_made_again(unkept):
    checkout, names = unkept, unkept.names
    checkout.catsdogs("results", names[2])
    checkout.catsdogs("results", *names[:2])  # the third one stays
    folder = checkout.path / "docs/results"
    kept = {name: (folder / name).read_bytes() for name in RESULTS}
    checkout.catsdogs("results", *names)
    assert kept == {name: (folder / name).read_bytes() for name in RESULTS}

    described = json.loads(kept["runs.json"])
    predictions = pd.read_csv(folder / "predictions.csv.gz")
    curves = pd.read_csv(folder / "curves.csv")
    assert list(described) == names
    assert predictions.shape[1] == 2 + 5  # of nine models, two are in all experiments
    for name in names:
        checkout.run("dvc", "exp", "apply", name)
        made = pd.read_csv(checkout.path / "data/predictions.csv")
        scores = json.loads((checkout.path / "metrics/scores.json").read_text())
        for stage in STAGES:
            model = described[name]["models"][stage]
            answers = predictions[model["md5"]]
            assert ((answers >= 0.5) == (made[stage] >= 0.5)).all()
            assert (made[stage] - answers).between(0, 1e-4).all()
            assert model["evaluated"] == scores[stage]
            assert ", 2 threads, " in model["runtime"]
            own = curves[(curves["experiment"] == name) & (curves["model"] == stage)]
            written = pd.read_csv(checkout.path / f"plots/training/{stage}.csv")
            assert own[list(written)].reset_index(drop=True).equals(written)
    checkout.git("checkout", "--quiet", "--force", "HEAD")
    checkout.run(*shlex.split(described[names[0]]["command"].replace(names[0], "again")))
    again = checkout.git("show", f"{experiments(checkout)['again']}:dvc.lock")
    assert again == checkout.git("show", f"{experiments(checkout)[names[0]]}:dvc.lock")


def test_an_experiment_whose_results_cannot_be_kept_leaves_them_as_they_are(unkept):
    checkout, (name, *_) = unkept, unkept.names
    checkout.catsdogs("results", name)
    folder = checkout.path / "docs/results"
    kept = {file: (folder / file).read_bytes() for file in RESULTS}
    failed = checkout.catsdogs("results", name, "nobody", check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: nobody is no experiment")
    assert kept == {file: (folder / file).read_bytes() for file in RESULTS}
    checkout.run("dvc", "exp", "run", "--name", "partial", "-S", "train_basic.seed=5", "split")
    failed = checkout.catsdogs("results", "partial", check=False)
    assert "partial did not run with the train_basic.seed of its params.yaml" in failed.stderr
    table = checkout.catsdogs("experiments").stdout
    assert re.search(r"\n  partial  +[\d-]+ +train_basic.seed=5\n", table), "no score is its own"
    assert re.search(rf"\n  {name}  +[\d-]+(  0\.\d{{4}} *){{3}}", table)
    assert kept == {file: (folder / file).read_bytes() for file in RESULTS}

    described = json.loads(kept["runs.json"])
    described[name]["images"]["validation.csv"] = "0" * 32
    (folder / "runs.json").write_text(json.dumps({"other": described[name]}))
    failed = checkout.catsdogs("results", name, check=False)
    assert f"{name} was judged by other images than other: name another --folder" in failed.stderr
    checkout.catsdogs("results", "--folder", "elsewhere", name)
    assert kept == {file: (checkout.path / "elsewhere" / file).read_bytes() for file in RESULTS}
    # Of an experiment that is forgotten, with more images than this one has.
    (checkout.path / "elsewhere/runs.json").write_text("{}")
    with (checkout.path / "elsewhere/predictions.csv.gz").open("ab") as table:
        more = gzip.decompress(kept["predictions.csv.gz"]).partition(b"\n")[2]
        table.write(gzip.compress(more))
    checkout.catsdogs("results", "--folder", "elsewhere", name)
    assert kept == {file: (checkout.path / "elsewhere" / file).read_bytes() for file in RESULTS}

    script = checkout.path / "src/train_basic.py"
    script.write_text(script.read_text() + "\n")
    checkout.run("dvc", "exp", "run", "--temp", "--name", "edited")
    failed = checkout.catsdogs("results", "edited", check=False)
    assert "edited was run with another src/train_basic.py than" in failed.stderr


def test_what_a_command_says_of_files_and_addresses_is_nobodys_secret():
    assert results._public("../shared/photos.zip") == "photos.zip"
    assert results._public("imagenet") == "imagenet"
    address = "https://me:secret@host.org/a/photos.zip?token=secret"
    assert results._public(address) == "https://host.org/a/photos.zip"
    assert results._public("http://127.0.0.1:80/a.zip") == "http://127.0.0.1:80/a.zip"
