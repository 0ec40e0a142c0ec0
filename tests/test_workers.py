"""Several workers train one model: two devices, or two processes on loopback, on JAX."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from functools import partial

from catsdogs import layout, params, workers
from catsdogs.stage import UserError

import h5py
import numpy as np
import pytest
from conftest import REPOSITORY
from test_interruptions import remove_outputs, trainings


def weights(checkout, stage):
    with zipfile.ZipFile(checkout.path / layout.model(stage)) as model:
        content = io.BytesIO(model.read("model.weights.h5"))
    found = {}
    with h5py.File(content) as file:
        file.visititems(lambda name, each: found.update({name: each}))
        return [each[()] for each in found.values() if isinstance(each, h5py.Dataset)]


def start_both(checkout, stage, before="", slurm=False):
    """Start the two processes of a training, as `srun` does or with Keras' variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where, number = {workers.ADDRESS: f"127.0.0.1:{port}"}, workers.PROCESS
    if slurm:
        where, number = {"SLURM_JOB_ID": str(port), "SLURM_NTASKS": "2"}, "SLURM_PROCID"
        where |= {"SLURM_STEP_NODELIST": "localhost", "SLURM_LOCALID": "0"}
    return [
        checkout.start(stage, before, fresh=True, **where, **{number: str(each)})
        for each in range(2)
    ]


@pytest.fixture
def divided(checkout):
    """A checkout in which the trainings can begin."""
    for stage in ("download", "split"):
        checkout.script(stage)
    return checkout


def alone_and_shared(divided, stage, how, start, **settings):
    """Train with one worker, then with several; return the weights of both, and what was said."""
    pytest.importorskip("jax")
    settings |= {"optimizer": "sgd", "learning_rate": 0.05}
    divided.change_params({"runtime": {"backend": "jax"}, stage: settings})
    divided.script(stage, fresh=True)
    alone = weights(divided, stage)
    remove_outputs(divided, stage)
    divided.change_params({"runtime": how})
    said = [process.wait() for process in start(divided, stage)]
    assert all(each.returncode == 0 for each in said), said
    return alone, weights(divided, stage), said


def assert_near(alone, shared):
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def start_one(checkout, stage):
    return [checkout.start(stage, fresh=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "start"), [({"devices": 2}, start_one), ({"processes": 2}, start_both)]
)
def test_a_shared_batch_is_learned_from_as_a_whole_one(divided, how, start):
    """With augmentation; only the first process speaks and tracks."""
    stage = "train_augmented"
    alone, shared, said = alone_and_shared(divided, stage, how, start, batch_size=8)
    assert_near(alone, shared)
    assert "Epoch 2/2" in said[0].stdout
    assert not any("Epoch" in each.stdout for each in said[1:])
    assert trainings(divided) == [(stage, "FINISHED")] * 2


@pytest.mark.slow
def test_slurms_processes_share_dropout_features_and_fine_tuning(divided):
    tuned = {"above": "mixed6", "epochs": 1, "learning_rate": 0.05}
    how = {"dropout": 0.5, "fine_tuning": tuned, "views": 1, "weight_averaging": 0.5}
    start = partial(start_both, slurm=True)
    stage, two = "train_inception", {"processes": 2}
    alone, shared, _ = alone_and_shared(divided, stage, two, start, **how)
    assert_near(alone, shared)


def many_epochs(divided):
    """Prepare a training of two processes that takes long."""
    pytest.importorskip("jax")
    stage, runtimes = "train_basic", {"backend": "jax", "processes": 2}
    divided.change_params({"runtime": runtimes, stage: {"epochs": 40, "optimizer": "sgd"}})
    return stage


ONE_LINE = r"error: other processes ended, or cannot be reached: start all again, and they .*\n"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_both_go_on(divided, killed):
    stage = many_epochs(divided)
    processes = start_both(divided, stage)
    processes[0].wait_for("Epoch 2/40")
    os.kill(processes[killed].pid, signal.SIGKILL)
    began = time.monotonic()
    said = processes[1 - killed].wait()
    assert time.monotonic() - began < 10
    assert said.returncode
    assert re.fullmatch(ONE_LINE, said.stderr)
    processes = start_both(divided, stage)
    said = [process.wait() for process in processes]
    assert [each.returncode for each in said] == [0, 0], said
    assert "goes on after step" in said[0].stdout


@pytest.mark.slow
def test_processes_outlast_a_minute_without_one_of_them(divided):
    stage = many_epochs(divided)
    processes = start_both(divided, stage)
    processes[0].wait_for("Epoch 2/40")
    os.kill(processes[1].pid, signal.SIGSTOP)
    time.sleep(60)
    os.kill(processes[1].pid, signal.SIGCONT)
    said = [process.wait() for process in processes]
    assert [(each.returncode, each.stderr) for each in said] == [(0, "")] * 2


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_stays_away_ends_all_of_them(divided, stopped):
    """The stopped one stands for a machine that the network no longer reaches."""
    stage = many_epochs(divided)
    soon = "from catsdogs import workers; workers.SILENT_SECONDS = 10"
    processes = start_both(divided, stage, before=soon)
    processes[0].wait_for("Epoch 2/40")
    os.kill(processes[stopped].pid, signal.SIGSTOP)
    said = [processes[1 - stopped].wait()]
    os.kill(processes[stopped].pid, signal.SIGCONT)
    said.append(processes[stopped].wait())
    assert all(each.returncode for each in said)
    assert all(re.fullmatch(ONE_LINE, each.stderr) for each in said), said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": {"backend": "jax", "processes": 3}}, r"batch_size is 4 .* multiple of 3"),
        ({"runtime": {"devices": 2}}, r"are 1 with TensorFlow: .* set runtime.backend to jax"),
    ],
)
def test_what_cannot_be_shared_is_refused(checkout, monkeypatch, changes, message):
    monkeypatch.chdir(checkout.path)
    checkout.change_params(changes)
    with pytest.raises(UserError, match=message):
        params.check()


PIN_JAX = """
from catsdogs import runtime, stage, workers
workers.MEETING_SECONDS = 3
there = workers.Workers(**{})
stage.run(lambda: runtime.pin(runtime.Runtime("jax", "float32", 2, True, "native", workers=there)))
"""


@pytest.mark.parametrize(
    ("settings", "where", "message"),
    [
        ({"devices": 2}, ["", ""], "runtime.devices is 2, but this process finds 1"),
        ({"processes": 2}, ["", ""], "runtime.processes is 2, and they do not meet: start each"),
        ({"processes": 2}, ["127.0.0.1", "0"], "runtime.processes is 2, and they do not meet: "),
        ({"processes": 2}, ["127.0.0.1:9", "2"], "runtime.processes is 2, and they do not meet: "),
        ({"processes": 2}, ["127.0.0.1:9", "1"], "other processes ended, or cannot be reached: "),
    ],
)
def test_devices_and_processes_that_are_not_there_are_one_line(settings, where, message):
    pytest.importorskip("jax")
    code = PIN_JAX.format(settings)
    if "devices" in settings:  # as on a machine with one GPU
        code = "import jax; jax.local_device_count = lambda: 1\n" + code
    places = dict(zip((workers.ADDRESS, workers.PROCESS), where, strict=True)) if where[0] else {}
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "src")} | places,
        check=False,
        capture_output=True,
        text=True,
    )
    assert said.returncode
    assert said.stderr.startswith(f"error: {message}")
    assert said.stderr.count("\n") == 1


@pytest.mark.parametrize("where", ["W1 1 preemption_sync_manager.cc:147]", "F1 1 client.h:80]"])
def test_a_page_of_jaxs_is_one_line(where):
    """As JAX prints it when it loses the others; what came before stays."""
    page = f"before\n{where} Failed to retrieve preemption notice: UNAVAILABLE:\nmore\nerror: x\n"
    said = subprocess.run(
        [sys.executable, "-c", workers.FILTER],
        input=page,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stderr == f"before\nerror: {workers.LOST}\n"
