"""A training that is killed, wherever, goes on, and ends with the bytes of one that was not."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from catsdogs import checkpoints, layout
from catsdogs.checkpoints import State, hold

import numpy as np
import pytest
import yaml
from kill import Repro

pytestmark = pytest.mark.slow

# Runs a stage that dies, as if by a power cut, when it has written a file but not yet renamed it.
KILLER = """
import os, runpy, signal, sys
stage, last = sys.argv[1], int(sys.argv[2])
written = 0

def fsync(file, sync=os.fsync):
    global written
    written += 1
    if written == last:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(file)

os.fsync = fsync
sys.path[0] = "src"
runpy.run_path(f"src/{stage}.py", run_name="__main__")
"""


def outputs(checkout, stage):
    names = [f"models/{stage}.keras", f"plots/{stage}.csv", f"metrics/{stage}.json"]
    names += [f"plots/{stage}_accuracy.png", f"plots/{stage}_loss.png"]
    return {name: (checkout.path / name).read_bytes() for name in names}


def remove_outputs(checkout, stage):
    """What DVC does before it runs a stage."""
    for name in outputs(checkout, stage):
        (checkout.path / name).unlink()


@pytest.fixture
def copy(made, tmp_path):
    """A checkout in which only the trainings are to be done, and what they make undisturbed."""
    copied = made.copy(tmp_path / "copy")
    stages = ("train_basic", "train_inception")
    copied.unbroken = {stage: outputs(copied, stage) for stage in stages}
    for stage in stages:
        remove_outputs(copied, stage)
    (copied.path / "models/train_augmented.keras").unlink()
    (copied.path / "mlflow.db").unlink()
    return copied


def killed(checkout, stage, write):
    """Run a stage that dies at its so-manyeth write; return what it said, or None if it ended."""
    result = checkout.run(sys.executable, "-c", KILLER, stage, str(write), check=False)
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result.stdout if result.returncode else None


def saved(checkout):
    return sorted((checkout.path / ".cache" / "checkpoints").glob("*/state.npz"))


def query(checkout, statement):
    with sqlite3.connect(checkout.path / "mlflow.db") as store:
        return store.execute(statement).fetchall()


def trainings(checkout):
    """The stage and the status of every training's run that MLflow shows."""
    return query(
        checkout,
        "select tags.value, status from runs join tags using (run_uuid) "
        "where tags.key = 'dvc.stage' and lifecycle_stage = 'active'",
    )


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
    assert json.loads(unbroken[f"metrics/{stage}.json"])["steps"] == 9
    remove_outputs(copy, stage)
    reached = [0, 2, 6, 8, 9, 9, 9]  # of 6 steps and 3 more
    for step, write in zip(reached, (4, 5, 3, 3, 2, 4, 6), strict=True):
        said = killed(copy, stage, write)
        assert said is not None
        assert (f"goes on after step {step} of" in said) is (step > 0)
        assert not (copy.path / f"models/{stage}.keras").exists()
    copy.script(stage)
    assert outputs(copy, stage) == unbroken
    assert saved(copy) == []
    assert not list(copy.path.rglob(".part-*"))


def test_one_run_in_mlflow_and_no_step_twice(copy):
    stage = "train_basic"
    for _ in range(3):
        killed(copy, stage, 2)
    copy.script(stage)
    assert outputs(copy, stage) == copy.unbroken[stage]
    assert trainings(copy) == [(stage, "FINISHED")]
    assert query(copy, "select count(*) from runs") == [(2,)], "and one of its experiment"
    assert query(copy, "select count(*) from logged_models") == [(1,)]
    steps = query(copy, "select key, step from metrics where key not like 'system%'")
    wanted = ("loss", "accuracy", "val_loss", "val_accuracy")
    assert sorted(steps) == sorted((key, step) for key in wanted for step in (1, 2))


def test_a_checkpoint_of_other_code_is_not_taken_up(copy):
    assert killed(copy, "train_basic", 5)
    with (copy.path / "src/catsdogs/networks.py").open("a") as file:
        file.write("# changed\n")
    assert "goes on" not in copy.script("train_basic").stdout
    assert outputs(copy, "train_basic") == copy.unbroken["train_basic"]
    assert len(saved(copy)) == 1, "the other's, for whoever goes back to it"


def test_how_often_checkpoints_are_written_does_not_part_them(copy):
    assert killed(copy, "train_basic", 5)
    copy.change_params({"runtime": {"checkpoint_steps": 2}})
    assert "goes on after step 3 of 6" in copy.script("train_basic").stdout
    assert outputs(copy, "train_basic") == copy.unbroken["train_basic"]


def test_a_half_written_checkpoint(copy):
    assert killed(copy, "train_basic", 5)
    (path,) = saved(copy)
    path.write_bytes(path.read_bytes()[:9000])
    result = copy.script("train_basic")
    assert "is damaged: the training starts anew" in result.stdout
    assert outputs(copy, "train_basic") == copy.unbroken["train_basic"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_quick_and_one_line(copy, number):
    longer = {"train_basic": {"epochs": 500}}
    copy.change_params(longer)
    process = subprocess.Popen(
        [sys.executable, "-u", "src/train_basic.py"],
        cwd=copy.path,
        env=copy.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("Epoch 3/"):
            break
    process.send_signal(number)
    start = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 10
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == "interrupted: `dvc repro` goes on from here"
    assert "Traceback" not in errors
    assert trainings(copy) == [("train_basic", "KILLED")]
    assert query(copy, "select distinct status from runs") == [("KILLED",)], "the parent's too"
    assert not list((copy.path / "models").iterdir())
    assert len(saved(copy)) == 1


def test_a_training_without_a_checkpoint_has_one_run_too(copy):
    """Twice to its end, as if DVC had been killed before it recorded the first."""
    (copy.path / "dvc.lock").unlink()
    copy.change_params({"runtime": {"checkpoint_steps": 1000}})
    command = ["env", "DVC_STAGE=train_basic", sys.executable, "src/train_basic.py"]
    copy.run(*command)
    copy.run(*command)
    assert trainings(copy) == [("train_basic", "FINISHED")]
    assert query(copy, "select count(*) from metrics") == [(8,)]


@pytest.mark.parametrize(("after", "shell"), [(0.1, "/bin/bash"), (0.5, "/bin/sh")])
def test_a_stage_ends_with_dvc_while_it_starts(copy, after, shell):
    running = Repro(copy, "--force", "--single-item", "evaluate", shell=shell)
    assert running.wait_for("evaluate")
    time.sleep(after)
    start = time.monotonic()
    running.kill(signal.SIGKILL, everything=False)
    assert time.monotonic() - start < 5
    assert not (copy.path / "data/predictions.csv").exists()


def test_what_dvc_has_not_recorded_is_not_trained_again(copy):
    """Killed after its end, but before DVC has hashed the outputs and written dvc.lock."""
    (copy.path / "dvc.lock").unlink(missing_ok=True)
    under_dvc = ["env", "DVC_STAGE=train_basic", f"DVC_ROOT={copy.path}"]
    command = [*under_dvc, sys.executable, "src/train_basic.py"]
    copy.run(*command)
    remove_outputs(copy, "train_basic")
    assert "goes on after step 6 of 6" in copy.run(*command).stdout
    assert outputs(copy, "train_basic") == copy.unbroken["train_basic"]
    assert trainings(copy) == [("train_basic", "FINISHED")]
    assert query(copy, "select count(*) from logged_models") == [(1,)]

    copy.run("dvc", "commit", "--force", "train_basic")
    remove_outputs(copy, "train_basic")
    assert "goes on" not in copy.run(*command).stdout, "a forced rebuild rebuilds"


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
                said += "is damaged: the training starts anew" in capsys.readouterr().out
            else:
                assert state.facts == {"step": 1}
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
        assert (again.name, state.facts) == (one.name, {"step": 1})
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
    assert sorted(int(path.stat().st_mtime) for path in place.iterdir()) == [5, 6, 7]


def test_a_recorded_checkpoint_goes(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train_basic")
    Path("models").mkdir()
    Path("models/train_basic.keras").write_bytes(b"model")
    with hold("train_basic", {}, []) as checkpoint:
        checkpoint.save(State([np.zeros(1)], {}))
        checkpoint.finish()
    checkpoints.remove_recorded()
    assert len(list(place.iterdir())) == 1
    outs = [{"path": "models/train_basic.keras", "md5": "0" * 32}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train_basic": {"outs": outs}}}))
    checkpoints.remove_recorded()
    assert len(list(place.iterdir())) == 1, "another model of that stage"
    outs[0]["md5"] = hashlib.md5(b"model").hexdigest()
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train_basic": {"outs": outs}}}))
    checkpoints.remove_recorded()
    assert list(place.iterdir()) == []
