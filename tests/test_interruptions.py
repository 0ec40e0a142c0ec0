"""A training that is killed, wherever, goes on, and ends with the bytes of one that was not."""

import hashlib
import json
import os
import signal
import sqlite3
import time
from itertools import product
from pathlib import Path

from catsdogs import layout
from catsdogs.tracking import live
from catsdogs.training import checkpoints
from catsdogs.training.checkpoints import State, hold

import numpy as np
import pytest
import yaml
from kill import Repro

# Ends a process, as a power cut does, when it has written a file but not yet renamed it.
KILLER = """
import os, pathlib, signal
left = {count}

def replace(part, path, replace=pathlib.Path.replace):
    global left
    left -= path.name == {name!r}
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(part, path)

pathlib.Path.replace = replace
"""


def outputs(checkout, stage):
    paths = [layout.model(stage), layout.facts(stage), layout.curves(stage)]
    paths += [layout.curve_figure(stage, quantity) for quantity in ("accuracy", "loss")]
    return {path: (checkout.path / path).read_bytes() for path in paths}


def remove_outputs(checkout, stage):
    """What DVC does before it runs a stage."""
    for path in outputs(checkout, stage):
        (checkout.path / path).unlink()


@pytest.fixture
def copy(copy):
    """A checkout in which only the trainings are to be done, and what they make undisturbed."""
    stages = ("train_basic", "train_inception")
    copy.unbroken = {stage: outputs(copy, stage) for stage in stages}
    for stage in stages:
        remove_outputs(copy, stage)
    (copy.path / "models/train_augmented.keras").unlink()
    copy.forget_runs()
    return copy


def killed(checkout, stage, name, count=1):
    """Kill a stage at the so-manyeth file of a name that it writes; return what it printed."""
    result = checkout.script(stage, before=KILLER.format(name=name, count=count), check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    return result.stdout


def saved(checkout):
    return sorted((checkout.path / ".cache/checkpoints").glob("*/state.npz"))


def query(checkout, statement):
    with sqlite3.connect(checkout.path / "mlflow.db") as store:
        return store.execute(statement).fetchall()


def trainings(checkout):
    """The stage and the status of every training's run that MLflow shows."""
    return query(
        checkout,
        "select tags.value, status from runs join tags using (run_uuid) "
        "where tags.key = 'dvc.stage' and lifecycle_stage = 'active' order by start_time",
    )


@pytest.mark.slow
def test_death_at_a_checkpoint_and_at_every_kind_of_output(copy):
    """Of a training with dropout, two phases, a rate that changes and weights that are averaged.

    In both phases and between them, then over what it writes at its end.
    """
    stage = "train_inception"
    tuned = {"above": "mixed6", "epochs": 1, "learning_rate": 1e-3}
    how = {"schedule": "cosine", "warmup_steps": 2, "weight_averaging": 0.5}
    copy.change_params({stage: how | {"fine_tuning": tuned}})
    copy.script(stage)
    unbroken = outputs(copy, stage)
    assert json.loads(unbroken[layout.facts(stage)])["steps"] == 9
    remove_outputs(copy, stage)
    # The step after which it goes on, of 6 and 3 more, and what it then writes when it is killed.
    for step, name, count in (
        (0, "state.npz", 3),
        (2, "state.npz", 5),
        (6, "state.npz", 3),
        (8, f"{stage}.csv", 1),
        (9, f"{stage}_loss.png", 1),
        (9, f"{stage}.json", 1),
        (9, f"{stage}.json", 2),
        (9, f"{stage}.keras", 1),
    ):
        said = killed(copy, stage, name, count)
        assert (f"goes on after step {step} of" in said) is (step > 0)
        assert not (copy.path / layout.model(stage)).exists()
    copy.script(stage)
    assert outputs(copy, stage) == unbroken
    assert saved(copy) == []
    assert not list(copy.path.rglob(".part-*"))


def test_one_run_in_mlflow_and_no_step_twice(copy, monkeypatch):
    """It belongs to no experiment: that is complete only once all models are evaluated."""
    stage = "train_basic"
    for _ in range(3):
        killed(copy, stage, "state.npz", 2)
    copy.script(stage)
    assert outputs(copy, stage) == copy.unbroken[stage]
    assert trainings(copy) == [(stage, "FINISHED")]
    assert query(copy, "select count(*) from runs") == [(1,)]
    assert query(copy, "select value from tags where key = 'mlflow.parentRunId'") == []
    model = hashlib.md5(copy.unbroken[stage][layout.model(stage)]).hexdigest()
    assert query(copy, "select value from tags where key = 'model.md5'") == [(model,)]
    steps = query(copy, "select key, step from metrics where key not like 'system%'")
    wanted = ("loss", "accuracy", "val_loss", "val_accuracy")
    assert sorted(steps) == sorted([("cpu_seconds", 0), *product(wanted, (1, 2))])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy.path / 'mlflow.db'}")
    assert live.find_cost(model) > 1
    assert live.find_cost("another") is None


def test_a_checkpoint_of_other_code_is_not_taken_up(copy):
    killed(copy, "train_basic", "state.npz", 4)
    with (copy.path / "src/catsdogs/models/cnn.py").open("a") as file:
        file.write("# changed\n")
    assert "goes on" not in copy.script("train_basic").stdout
    assert outputs(copy, "train_basic") == copy.unbroken["train_basic"]
    assert len(saved(copy)) == 1, "the other's, for whoever goes back to it"


@pytest.mark.slow
def test_how_often_checkpoints_are_written_does_not_part_them(copy):
    killed(copy, "train_basic", "state.npz", 4)
    copy.change_params({"local": {"checkpoint_steps": 2}})
    assert "goes on after step 3 of 6" in copy.script("train_basic").stdout
    assert outputs(copy, "train_basic") == copy.unbroken["train_basic"]


@pytest.mark.slow
def test_a_half_written_checkpoint(copy):
    killed(copy, "train_basic", "state.npz", 4)
    (path,) = saved(copy)
    path.write_bytes(path.read_bytes()[:9000])
    result = copy.script("train_basic")
    assert "is damaged: the training starts again from its first step" in result.stdout
    assert outputs(copy, "train_basic") == copy.unbroken["train_basic"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_quick_and_one_line(copy, number):
    copy.change_params({"train_basic": {"epochs": 500}})
    process = copy.start("train_basic")
    process.wait_for("Epoch 3/")
    os.kill(process.pid, number)
    start = time.monotonic()
    result = process.wait()
    assert time.monotonic() - start < 10
    assert result.returncode == 128 + number
    assert result.stderr.splitlines()[-1] == "interrupted: `dvc repro` goes on from here"
    assert "Traceback" not in result.stderr
    assert trainings(copy) == [("train_basic", "KILLED")]
    assert query(copy, "select count(*) from runs") == [(1,)]
    assert not list((copy.path / "models").glob("train_basic*"))
    assert len(saved(copy)) == 1


def test_a_training_without_a_checkpoint_has_one_run_too(copy):
    """Twice to its end, as if DVC had been killed before it recorded the first."""
    (copy.path / "dvc.lock").unlink()
    copy.change_params({"local": {"checkpoint_steps": 1000}})
    for _ in range(2):
        copy.script("train_basic", DVC_STAGE="train_basic")
    assert trainings(copy) == [("train_basic", "FINISHED")]
    assert query(copy, "select count(*) from metrics") == [(9,)]


@pytest.mark.slow
def test_a_training_of_edited_code_has_a_run_of_its_own(copy):
    """Whether the edit changes the model or not; no other run is deleted."""
    source = copy.path / "src/catsdogs/models/cnn.py"
    text = source.read_text()
    for edited in (text + "# changed\n", text.replace('"relu"', '"elu"')):
        source.write_text(edited)
        assert "Running stage 'train_basic'" in copy.run("dvc", "repro", "train_basic").stdout
    assert trainings(copy) == [("train_basic", "FINISHED")] * 2
    assert len(query(copy, "select distinct value from tags where key = 'model.md5'")) == 2
    assert query(copy, "select value from tags where key = 'mlflow.parentRunId'") == []


@pytest.mark.slow
@pytest.mark.parametrize(("after", "shell"), [(0.1, "/bin/bash"), (0.5, "/bin/sh")])
def test_a_stage_ends_with_dvc_while_it_starts(copy, after, shell):
    running = Repro(copy, "--force", "--single-item", "train_basic", shell=shell)
    assert running.wait_for("train_basic")
    time.sleep(after)
    start = time.monotonic()
    running.kill(signal.SIGKILL, everything=False)
    assert time.monotonic() - start < 5
    assert not list((copy.path / "models").glob("train_basic*"))


@pytest.mark.slow
def test_what_dvc_has_not_recorded_is_not_trained_again(copy):
    """Killed after its end, but before DVC has hashed the outputs and written dvc.lock."""
    (copy.path / "dvc.lock").unlink()
    under_dvc = {"DVC_STAGE": "train_basic", "DVC_ROOT": str(copy.path)}
    copy.script("train_basic", **under_dvc)
    remove_outputs(copy, "train_basic")
    assert "goes on after step 6 of 6" in copy.script("train_basic", **under_dvc).stdout
    assert outputs(copy, "train_basic") == copy.unbroken["train_basic"]
    assert trainings(copy) == [("train_basic", "FINISHED")]

    copy.run("dvc", "commit", "--force", "train_basic")
    remove_outputs(copy, "train_basic")
    again = copy.script("train_basic", **under_dvc).stdout
    assert "goes on" not in again, "a forced rebuild rebuilds"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "CHECKPOINTS", tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def test_a_damaged_checkpoint_is_said_to_be(place, capsys):
    """Cut off anywhere, or with a flipped bit in any byte: unless the state is the same yet."""
    with hold("train_basic", {}, []) as checkpoint:
        variables = [np.arange(5), np.ones((3, 3))]
        checkpoint.save(State(variables, {"step": 1}))
        (path,) = place.glob("*/state.npz")
        content = path.read_bytes()
        damaged = [content[:end] for end in range(0, len(content), 7)]
        for spot in range(len(content)):
            flipped = content[spot] ^ 1 << spot % 8
            damaged.append(content[:spot] + bytes([flipped]) + content[spot + 1 :])
        said = 0
        for each in damaged:
            path.write_bytes(each)
            state = checkpoint.load()
            if state is None:
                said += "is damaged: the training starts again" in capsys.readouterr().out
            else:
                assert state.progress == {"step": 1}
                for one, other in zip(state.variables, variables, strict=True):
                    np.testing.assert_array_equal(one, other)
        assert said > len(damaged) // 2


def test_what_another_experiment_has_finished_is_not_taken_up(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train_basic")
    Path("models").mkdir()
    Path("models/train_basic.keras").write_bytes(b"model")
    names = []
    for experiment in ("one", "one", "two"):
        monkeypatch.setenv("DVC_EXP_NAME", experiment)
        with hold("train_basic", {}, []) as checkpoint:
            names.append(checkpoint.name)
            found = checkpoint.load()
            checkpoint.save(State([np.zeros(1)], {"of": experiment}))
            checkpoint.finish()
    assert names[0] == names[1] != names[2]
    assert found is None


def test_a_training_is_one_of_a_kind_in_every_checkout(place, tmp_path, monkeypatch):
    """They may share a tracking server, in which a run is found by this name."""
    with hold("train_basic", {}, []) as one:
        monkeypatch.setattr(layout, "CHECKPOINTS", tmp_path / "other")
        with hold("train_basic", {}, []) as other:
            assert one.name != other.name


def test_the_second_of_two_equal_trainings_goes_on_too(place):
    with hold("train_basic", {}, []) as one, hold("train_basic", {}, []) as two:
        two.save(State([np.zeros(1)], {}))
        name = two.name
        one.clear()
    with hold("train_basic", {}, []) as again:
        assert again.name == name


def test_a_checkpoint_belongs_to_its_parameters_and_its_data(place, tmp_path):
    data = tmp_path / "train.csv"

    def name(parameters, content):
        data.write_text(content)
        with hold("train_basic", parameters, [data]) as checkpoint:
            return checkpoint.name

    assert name({"seed": 1}, "a") == name({"seed": 1}, "a")
    assert name({"seed": 1}, "a") != name({"seed": 2}, "a")
    assert name({"seed": 1}, "a") != name({"seed": 1}, "b")


def test_two_equal_trainings_at_once_keep_apart(place):
    with hold("train_basic", {"seed": 1}, []) as one, hold("train_basic", {"seed": 1}, []) as two:
        assert one.name != two.name
        one.save(State([np.arange(3)], {"step": 1}))
        assert two.load() is None
        two.clear()
    with hold("train_basic", {"seed": 1}, []) as again:
        state = again.load()
        assert (again.name, state.progress) == (one.name, {"step": 1})
        np.testing.assert_array_equal(state.variables[0], np.arange(3))
        again.clear()
    assert list(place.iterdir()) == []


def test_abandoned_checkpoints_do_not_pile_up(place):
    for seed in range(8):
        with hold("train_basic", {"seed": seed}, []) as checkpoint:
            checkpoint.save(State([np.zeros(1)], {}))
            os.utime(checkpoint.folder, (seed, seed))
    with hold("train_basic", {"seed": 99}, []), hold("train_inception", {"seed": 0}, []):
        pass
    kept = [path for path in place.iterdir() if path.is_dir()]
    assert sorted(int(path.stat().st_mtime) for path in kept) == [5, 6, 7]
    assert {path.name for path in place.glob("*.lock")} == {f"{path.name}.lock" for path in kept}


def test_a_recorded_checkpoint_goes(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train_basic")
    Path("models").mkdir()
    Path("models/train_basic.keras").write_bytes(b"model")
    with hold("train_basic", {}, []) as checkpoint:
        checkpoint.save(State([np.zeros(1)], {}))
        checkpoint.finish()
    checkpoints.remove_recorded()
    assert len(list(place.glob("*/"))) == 1
    outs = [{"path": "models/train_basic.keras", "md5": "0" * 32}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train_basic": {"outs": outs}}}))
    checkpoints.remove_recorded()
    assert len(list(place.glob("*/"))) == 1, "another model of that stage"
    outs[0]["md5"] = hashlib.md5(b"model").hexdigest()
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train_basic": {"outs": outs}}}))
    checkpoints.remove_recorded()
    assert list(place.iterdir()) == []
