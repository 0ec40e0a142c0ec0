"""What MLflow's record is kept by: which store, which experiment, what is mended and tidied up."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from catsdogs import layout
from catsdogs.commands import experiments, results, sync, verify
from catsdogs.commands.sync import Experiment
from catsdogs.git import git
from catsdogs.stage import UserError
from catsdogs.tracking import live, recording, store

import pytest
from conftest import TINY, photo, runs
from filelock import FileLock
from processes import Python

slow = pytest.mark.slow
EVERY_STAGE = [name for name in TINY if name.startswith("train_")]


def one_line(result, *said):
    """The one line of a command that fails for a reason that the user can put right."""
    assert result.returncode == 1, result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for text in said:
        assert text in line


def test_of_several_experiments_of_a_name_that_of_head_is_meant(monkeypatch):
    experiments = [
        Experiment("twice", "a1", "older"),
        Experiment("twice", "b1", "head"),
        Experiment("once", "a2", "older"),
        Experiment("lost", "a3", "older"),
        Experiment("lost", "c3", "oldest"),
    ]
    monkeypatch.setattr(sync, "git", lambda *_: "head")
    assert sync.choose("twice", experiments) == experiments[1]
    assert sync.choose("once", experiments) == experiments[2]
    assert sync.choose("nobody", experiments) is None
    with pytest.raises(UserError, match="lost is of several commits, older, oldest: `git check"):
        sync.choose("lost", experiments)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///my.db", "sqlite:///{root}/my.db"),
        ("sqlite:///./my.db?timeout=9", "sqlite:///{root}/my.db?timeout=9"),
        ("sqlite+pysqlite:///../my.db", "sqlite+pysqlite:///{root}/../my.db"),
        ("sqlite:////home/me/my.db", "sqlite:////home/me/my.db"),
        ("mlruns", "file://{root}/mlruns"),
        ("./my//runs", "file://{root}/my/runs"),
        ("/home/me/runs", "file:///home/me/runs"),
        ("file:./x", "file://{root}/x"),
        ("file:x", "file://{root}/x"),
        ("file:///home/me/x", "file:///home/me/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://me@host/runs", "postgresql://me@host/runs"),
        ("databricks", "databricks"),
        ("databricks://me", "databricks://me"),
    ],
)
def test_a_relative_store_is_the_checkouts(monkeypatch, tmp_path, given, meant):
    """An experiment runs in another folder, which DVC deletes."""
    root = tmp_path / "checkout"
    monkeypatch.setattr(layout, "ROOT", root)
    monkeypatch.setattr(layout, "TRACKING_STORE", root / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert store.address() == meant.format(root=root)


def test_a_databases_artifacts_are_beside_it_or_in_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    assert str(store.artifacts("sqlite:////home/me/my.db")) == "/home/me/mlartifacts"
    assert store.artifacts("postgresql+psycopg2://me@host/runs") == tmp_path / "mlartifacts"
    for other in ("http://127.0.0.1:5000", "file:///home/me/runs", "databricks"):
        assert store.artifacts(other) is None


def test_a_connection_leaves_nothing_where_all_users_write(client, monkeypatch, tmp_path):
    """A lock there belongs to one user, and a link in its place may lead anywhere."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    store.open_experiment(store.connect())
    assert list((tmp_path / "shared").iterdir()) == []
    assert store.lock().lock_file == str(layout.ROOT / ".cache/mlflow.lock")


def locations(client):
    """Where the project's experiment, its runs and its models have their artifacts."""
    experiment = client.get_experiment_by_name(store.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    models = client.search_logged_models([experiment.experiment_id])
    below = [run.info.artifact_uri for run in runs] + [each.artifact_location for each in models]
    return experiment.artifact_location, below


@pytest.mark.parametrize("way", ["moved", "copied", "without artifacts", "to another folder"])
def test_artifacts_are_where_the_store_is(client, monkeypatch, tmp_path, way):
    name = "mlartifacts" if way != "to another folder" else "chosen"
    before, after = tmp_path / name, tmp_path / "a new place" / name
    chosen = client.create_experiment(store.EXPERIMENT, artifact_location=before.as_uri())
    run = client.create_run(chosen).info.run_id
    client.log_text(run, "text", "file")
    client.create_logged_model(chosen, "model", run)
    after.parent.mkdir()
    if name == "chosen":
        (after.parent / "mlartifacts").mkdir()
    if way != "without artifacts":
        (shutil.move if way == "moved" else shutil.copytree)(before, after)
    shutil.copy(tmp_path / "mlflow.db", after.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{after.parent / 'mlflow.db'}")
    where, below = locations(store.connect())
    moved = way in ("moved", "copied")
    assert where == (after if moved else before).as_uri()
    assert len(below) == 2
    assert all(each.startswith(f"{where}/") for each in below)


@pytest.fixture
def checkpoints(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "CHECKPOINTS", tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("own", [True, False])
def test_a_killed_training_is_closed_if_nobody_holds_it(
    client, monkeypatch, tmp_path, checkpoints, own
):
    """What another checkout trains cannot be known; the checkout's own store has none of that."""
    if own:
        monkeypatch.setattr(layout, "TRACKING_STORE", tmp_path / "mlflow.db")
    experiment = store.open_experiment(client)
    found = {}
    for training in ("held", "dead", "unlocked", "gone", ""):
        tags = {live.TRAINING_TAG: training} if training else {}
        found[training] = client.create_run(experiment, tags=tags).info.run_id
    for name in ("held", "dead", "unlocked"):
        (checkpoints / name).mkdir()
    (checkpoints / "dead.lock").touch()
    before = set(checkpoints.iterdir()) | {checkpoints / "held.lock"}
    with FileLock(checkpoints / "held.lock"):
        sync.tidy()
    statuses = {name: client.get_run(run).info.status for name, run in found.items()}
    killed = {"dead", "unlocked"} | ({"gone"} if own else set())
    assert {name for name, status in statuses.items() if status == "KILLED"} == killed
    assert {name for name, status in statuses.items() if status == "RUNNING"} == set(
        found
    ) - killed
    assert set(checkpoints.iterdir()) <= before


@pytest.mark.parametrize("own", [True, False])
def test_a_killed_record_is_closed_if_nobody_holds_it(client, monkeypatch, tmp_path, own):
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    if own:
        monkeypatch.setattr(layout, "TRACKING_STORE", tmp_path / "mlflow.db")
    experiment = store.open_experiment(client)

    def create(name, **tags):
        return client.create_run(experiment, run_name=name, tags=tags).info.run_id

    found = set()
    for content in ("held", "dead", "gone"):
        whole = create(content, **{recording.CONTENT_TAG: content})
        below = create(f"of {content}", **{store.PARENT_TAG: whole})
        found |= {whole, below}
    with recording.lock("dead"):
        pass
    with recording.lock("held"):
        sync.tidy()
    closed = {
        run.info.run_name for run in map(client.get_run, found) if run.info.status == "KILLED"
    }
    gone = {"gone", "of gone"} if own else set()
    assert closed == {"dead", "of dead"} | gone


WAITING = """
import sys, time
from catsdogs.commands import cli
from catsdogs.tracking import recording

def wait(*_):
    print("begun")
    time.sleep(600)

recording._Recorder._log_model = wait
sys.argv = ["catsdogs", "sync", "HEAD"]
cli.main()
"""


@slow
def test_a_record_that_is_killed_is_closed_and_completed_later(copy):
    copy.forget_runs()
    recorder = Python(WAITING, copy.path, copy.environment())
    recorder.wait_for("begun")
    (copy.path / "dvc.lock").rename(copy.path / "lock")
    untrained = "the workspace is not evaluated yet: run `dvc repro`\n"
    assert copy.catsdogs("sync").stdout == untrained
    assert [run["status"] for run in runs(copy).values()] == ["RUNNING"] * 2
    os.kill(recorder.pid, signal.SIGKILL)
    recorder.wait()
    head = copy.git("rev-parse", "HEAD")[:7]
    closed = f"{head}: what wrote it was killed\n"
    assert copy.catsdogs("sync").stdout == untrained + 2 * closed
    begun = runs(copy)
    assert [run["status"] for run in begun.values()] == ["KILLED"] * 2
    (copy.path / "lock").rename(copy.path / "dvc.lock")
    assert copy.catsdogs("sync").stdout == "workspace: recorded\n"
    assert set(begun) < set(runs(copy))
    assert [run["status"] for run in runs(copy).values()] == ["FINISHED"] * 4
    assert not list((copy.path / ".cache").glob("recording-*"))


@pytest.mark.parametrize("given", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_store_that_would_be_lost_is_refused(monkeypatch, given):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    with pytest.raises(UserError, match="which ends with this process: name a file"):
        store.address()


@slow
@pytest.mark.parametrize("given", [True, False])
def test_a_deleted_experiment_is_restored_as_the_message_says(client, monkeypatch, given):
    experiment = store.open_experiment(client)
    client.delete_experiment(experiment)
    monkeypatch.setattr(layout, "TRACKING_STORE", Path("mlflow.db").absolute())
    if not given:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="experiment catsdogs is deleted: `") as error:
        sync.tidy()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    subprocess.run(str(error.value).split("`")[1], shell=True, check=True, env=environment)
    assert store.open_experiment(store.connect()) == experiment


def test_a_deleted_run_takes_what_is_below_it(client):
    """With their models, unless another run has one or it is registered."""
    experiment = store.open_experiment(client)

    def create(name, parent=None, model=None):
        tags = {"mlflow.parentRunId": parent, store.MODEL_TAG: model}
        tags = {tag: value for tag, value in tags.items() if value}
        return client.create_run(experiment, run_name=name, tags=tags).info.run_id

    models = {}
    for name in ("only", "both", "registered"):
        tags = {store.MODEL_TAG: name}
        models[name] = client.create_logged_model(experiment, name, tags=tags).model_id
    kept, deleted = create("kept"), create("deleted")
    create("of kept", kept, "both")
    for name in models:
        create(f"of deleted, {name}", deleted, name)
    create("of a run that is gone for good", "0" * 32)
    create("alone")
    client.create_registered_model("name")
    client.create_model_version("name", f"models:/{models['registered']}")
    sync.tidy()
    assert len(client.search_runs([experiment])) == 7, "one was of no run"
    client.delete_run(deleted)
    sync.tidy()
    left = {run.info.run_name for run in client.search_runs([experiment])}
    assert left == {"kept", "of kept", "alone"}
    left = {model.name for model in client.search_logged_models([experiment])}
    assert left == {"both", "registered"}


def test_git_that_cannot_be_asked_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert git("rev-parse", "HEAD") == "", "there is no repository"
    git("init", "--quiet")
    with monkeypatch.context() as patch:
        patch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        for asked in (git, lambda *words: git(*words, optional=True)):
            with pytest.raises(UserError) as refused:
                asked("rev-parse", "HEAD")
            assert f"`git config --global --add safe.directory {tmp_path}`" in str(refused.value)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="Git is not installed"):
        git("rev-parse", "HEAD")
    assert git("rev-parse", "HEAD", optional=True) == ""
    translated = '#!/bin/sh\n[ "$LC_ALL" = C ] && echo fatal: detected dubious ownership >&2\n'
    (tmp_path / "git").write_text(translated)
    (tmp_path / "git").chmod(0o755)
    with pytest.raises(UserError, match="belongs to another user"):
        git("rev-parse", "HEAD")


def artifacts(checkout):
    """The names and sizes of MLflow's files; the names of its models' folders are random."""
    kept = (".png", ".csv", ".html", ".keras")
    files = [path for path in (checkout.path / "mlartifacts").rglob("*") if path.suffix in kept]
    return sorted((path.name, path.stat().st_size) for path in files)


@slow
def test_a_moved_checkout_goes_on(copy, tmp_path):
    """What MLflow has of it, the champion among that, and what comes later."""
    copy.catsdogs("champion")
    old, copy.path = copy.path, copy.path.rename(tmp_path / "a new name")
    (tmp_path / "a.jpg").write_bytes(photo(0))
    asked = ("predict", "--model", "models:/catsdogs@champion", str(tmp_path / "a.jpg"))
    assert ": cat" in (said := copy.catsdogs(*asked).stdout) or ": dog" in said
    assert copy.catsdogs("sync").stdout == "workspace: recorded\n", "it has been committed"
    assert copy.catsdogs("sync").stdout == "workspace: nothing to do\n"
    copy.script("train_basic")
    with sqlite3.connect(copy.path / "mlflow.db") as database:
        places = database.execute("select artifact_uri from runs").fetchall()
    assert len(places) == 5
    assert all(place.startswith(f"{copy.path.as_uri()}/mlartifacts/") for (place,) in places)
    assert not old.exists()


@slow
def test_lost_artifacts_are_found_and_mended(copy, tmp_path):
    copy.catsdogs("sync")
    (trained,) = (key for key, run in runs(copy).items() if run["name"].startswith("basic"))
    said = copy.catsdogs("champion").stdout
    before, known = artifacts(copy), runs(copy)
    (tmp_path / "a.jpg").write_bytes(photo(0))
    asked = ("predict", "--model", "models:/catsdogs@champion", str(tmp_path / "a.jpg"))
    answer = copy.catsdogs(*asked).stdout
    folder = copy.path / "mlartifacts"
    (best,) = re.findall(r"1\. (\w+) ·", said)
    a_model = next(folder.glob(f"models/*/artifacts/data/*/train_{best}.keras"))
    a_run = next(path.parent.parent for path in folder.glob("*/artifacts/report.html"))
    a_file = next(folder.glob("*/artifacts/figures/mistakes.png"))
    for lost in (a_model, folder, folder / "models", a_run, a_file):
        (shutil.rmtree if lost.is_dir() else type(lost).unlink)(lost)
        if lost in (folder, folder / "models"):
            failed = copy.catsdogs("champion", check=False)
            one_line(failed, "MLflow has no model", "run `catsdogs sync`")
            for address in (asked[2], f"runs:/{trained}/train_basic"):
                failed = copy.catsdogs("predict", "--model", address, asked[3], check=False)
                advice = "run `catsdogs sync`, then `catsdogs champion`"
                one_line(failed, f"MLflow has lost files of {address}: {advice}")
        assert copy.catsdogs("sync").stdout == "workspace: recorded\n"
        assert artifacts(copy) == before
        assert runs(copy) == known, "no run is new, none has another name"
        assert copy.catsdogs("sync").stdout == "workspace: nothing to do\n"
        assert copy.catsdogs("champion").stdout == said, "the same version"
        assert copy.catsdogs(*asked).stdout == answer
    assert copy.catsdogs("predict", "--model", f"runs:/{trained}/train_basic", asked[3]).stdout


@slow
def test_what_mlflow_has_needs_no_files_of_dvcs(copy):
    copy.catsdogs("sync")
    shutil.rmtree(copy.path / ".dvc/cache")
    shutil.rmtree(copy.path / "models")
    assert copy.catsdogs("sync", "HEAD").stdout == "HEAD: nothing to do\n"
    assert copy.catsdogs("sync").stdout == "workspace: nothing to do\n"


@slow
def test_a_relative_store_outlives_a_temporary_folder(copy):
    change = ("--set-param", "train_basic.learning_rate=0.01")
    copy.run(
        *("dvc", "exp", "run", "--temp", "--name", "part", *change, "train_basic"),
        MLFLOW_TRACKING_URI="sqlite:///my.db",
    )
    with sqlite3.connect(copy.path / "my.db") as database:
        found = database.execute("select name, status, artifact_uri from runs").fetchall()
    ((name, status, place),) = found
    assert (name, status) == ("basic · part", "FINISHED")
    assert place.startswith(f"{copy.path.as_uri()}/mlartifacts/")


@slow
def test_a_workspace_has_the_name_of_its_experiment_and_then_of_its_commit(copy):
    def names():
        found = (run["name"] for run in runs(copy).values())
        return sorted(name for name in found if "·" not in name)

    copy.forget_runs()
    base = copy.git("rev-parse", "HEAD")[:7]
    copy.change_params({"evaluate": {"mistakes": 5}})
    copy.run("dvc", "repro")
    assert names() == [f"{base} + changes"]
    copy.run("dvc", "exp", "run", "--name", "five")
    copy.catsdogs("sync")
    assert names() == [f"{base} + changes", "five"]
    copy.commit()
    copy.catsdogs("sync")
    assert names() == sorted([copy.git("rev-parse", "HEAD")[:7], "five"])

    copy.run("dvc", "exp", "run", "--name", "six", "--set-param", "evaluate.mistakes=6")
    copy.forget_runs()
    copy.catsdogs("sync")
    assert "six" in names()
    assert not any("changes" in name for name in names())


@slow
def test_an_experiment_without_a_model_is_passed_over(copy):
    copy.catsdogs("sync")
    change = ("--set-param", "data.sample_seed=3")
    copy.run("dvc", "exp", "run", "--temp", "--name", "begun", *change, "download")
    result = copy.catsdogs("sync")
    assert (result.stdout, result.stderr) == ("workspace: nothing to do\n", "")
    one_line(copy.catsdogs("sync", "begun", check=False), "begun has no model in its dvc.lock")
    copy.run("dvc", "exp", "apply", "begun")
    said = copy.catsdogs("sync").stdout
    assert said == "the workspace is not evaluated yet: run `dvc repro`\n"


@slow
def test_the_project_may_be_in_a_folder_of_the_repository(copy, monkeypatch, tmp_path):
    """All that reads a revision finds it: its names, experiments, results, a rebuild."""
    top = tmp_path / "top"
    top.mkdir()
    copy.path = copy.path.rename(top / "project")
    (copy.path / ".git").rename(top / ".git")
    copy.commit()
    copy.forget_runs()
    head = copy.git("rev-parse", "HEAD")[:7]
    assert copy.catsdogs("sync", "HEAD").stdout == "HEAD: recorded\n"
    models = {f"{stage.removeprefix('train_')} · {head}" for stage in EVERY_STAGE}
    assert {run["name"] for run in runs(copy).values()} == {head, *models}
    assert copy.catsdogs("sync").stdout == "workspace: nothing to do\n"
    change = ("--set-param", "train_basic.seed=2")
    copy.run("dvc", "exp", "run", "--temp", "--name", "part", *change, "train_basic")
    assert copy.catsdogs("sync", "part").stdout == "part: recorded\n"
    assert "  part " in copy.catsdogs("experiments").stdout
    copy.catsdogs("results", "part", "--folder", "kept")
    assert (copy.path / "kept/runs.json").exists()
    copy.git("checkout", "--quiet", ".")
    try:
        said = copy.catsdogs("search", "train_basic", "train_basic.seed=3", "--trials", "1").stdout
    finally:
        copy.run("dvc", "queue", "stop")
    assert re.search(r"search-\w+-1: train_basic.seed=3: val_accuracy \d\.\d", said)
    rebuilt = []
    monkeypatch.chdir(copy.path)
    monkeypatch.setattr(verify, "_rebuild", rebuilt.append)
    verify.main()
    assert rebuilt[0].name == "project"


@pytest.mark.parametrize(
    "command",
    [
        experiments.main,
        partial(results.main, ["x"], Path("kept")),
        partial(sync.main, ["HEAD"]),
        partial(sync.main, ["workspace", "x"]),
        verify.main,
    ],
)
def test_what_needs_git_says_so(monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    advice = "in no Git repository, .*: `dvc config core.no_scm false`, `git init`, and commit"
    with pytest.raises(UserError, match=advice):
        command()
    git("init")
    with pytest.raises(UserError, match="has no commit yet: `git add --all`, `git commit`"):
        command()


def test_without_git_the_pipeline_runs_and_is_recorded(copy):
    copy.forget_runs()
    shutil.rmtree(copy.path / ".git")
    copy.run("dvc", "config", "core.no_scm", "true")
    result = copy.run("dvc", "repro", "--force", "--single-item", "compare")
    assert "warning" not in result.stderr
    models = {f"{stage.removeprefix('train_')} · workspace" for stage in EVERY_STAGE}
    assert {run["name"] for run in runs(copy).values()} == {"workspace", *models}


@slow
def test_without_git_the_commands_work(copy):
    copy.forget_runs()
    shutil.rmtree(copy.path / ".git")
    one_line(copy.catsdogs("sync", check=False), "`dvc config core.no_scm true`")
    copy.run("dvc", "config", "core.no_scm", "true")
    assert copy.catsdogs("sync").stdout == "workspace: recorded\n"
    assert copy.catsdogs("sync").stdout == "workspace: nothing to do\n"
    assert copy.catsdogs("champion").stdout
    copy.run("dvc", "config", "core.no_scm", "false")
    copy.git("init", "--quiet")
    copy.commit()
    one_line(copy.catsdogs("results", "x", check=False), "x is no experiment")
    assert "basic" in copy.catsdogs("experiments").stdout
    assert copy.catsdogs("sync", "HEAD").stdout == "HEAD: recorded\n"


@slow
def test_without_the_program_git_the_workspace_is_recorded(copy, tmp_path):
    copy.forget_runs()
    nothing = {"PATH": str(tmp_path)}
    result = copy.script("compare", DVC_STAGE="compare", **nothing)
    assert "warning" not in result.stderr
    assert "workspace" in {run["name"] for run in runs(copy).values()}
    assert copy.catsdogs("sync", **nothing).stdout == "workspace: nothing to do\n"
    one_line(copy.catsdogs("sync", "HEAD", check=False, **nothing), "Git is not installed")
    assert copy.catsdogs("sync").stdout == "workspace: recorded\n", "of a commit, as it is now"
    assert "workspace" not in {run["name"] for run in runs(copy).values()}


@slow
def test_git_that_refuses_is_not_hidden(copy):
    refused = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    for command in (("sync",), ("sync", "HEAD"), ("results", "x"), ("champion",)):
        failed = copy.catsdogs(*command, check=False, **refused)
        one_line(failed, f"`git config --global --add safe.directory {copy.path}`")
    result = copy.script("compare", DVC_STAGE="compare", **refused)
    assert "warning: this experiment is not recorded in MLflow" in result.stderr
    assert "safe.directory" in result.stderr


@slow
def test_what_a_fresh_clone_advises_helps(copy, tmp_path):
    (tmp_path / "a.jpg").write_bytes(photo(0))
    copy.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    copy.path = tmp_path / "clone"
    for command in (("champion",), ("sync",), ("predict", str(tmp_path / "a.jpg"))):
        one_line(copy.catsdogs(*command, check=False), "run `dvc repro`")
    one_line(copy.catsdogs("sync", "HEAD", check=False), ": `dvc repro` makes it")
    copy.run("dvc", "repro")
    assert copy.catsdogs("sync", "HEAD").stdout == "HEAD: nothing to do\n"
    assert copy.catsdogs("champion").stdout
