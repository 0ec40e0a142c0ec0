"""Choosing parameters: Optuna asks, DVC's queue runs, tuning images judge."""

import json
import re
import shutil
import signal
import subprocess
import time
from contextlib import nullcontext
from types import SimpleNamespace

from catsdogs import layout
from catsdogs.commands import search
from catsdogs.commands.sync import Experiment
from catsdogs.data.batches import Subset
from catsdogs.stage import UserError
from catsdogs.training import loop
from catsdogs.workers import ALONE

import dvc.api
import numpy as np
import pytest
import servers
from conftest import CATSDOGS, REPOSITORY
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

RATE = "train_basic.learning_rate"
# Of the two trials of this very command one has a learning rate that fails.
COMMAND = [*CATSDOGS, "search", "train_basic", f"{RATE}=0.001,1e+38"]
COMMAND += ["--trials", "2", "--jobs", "2", "--tuning", "7000"]


@pytest.mark.slow
def test_a_search_that_is_stopped_goes_on_and_runs_each_trial_once(copy):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(COMMAND, cwd=copy.path, env=copy.environment(), **pipes)
    begun = copy.path / ".dvc/tmp/exps/run"
    while first.poll() is None and not (begun.exists() and list(begun.iterdir())):
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate()
    assert first.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("interrupted: DVC's queue finishes")

    printed = copy.run(*COMMAND).stdout
    trials = dict(re.findall(r"^(search-\w+-\d): (.*)$", printed, re.MULTILINE))
    assert len(trials) == 2
    (failed,) = (name for name, line in trials.items() if f"{RATE}=1e+38: failed" in line)
    (good,) = trials.keys() - {failed}
    assert sorted(copy.run(*COMMAND).stdout.splitlines()) == sorted(printed.splitlines())

    queue = copy.run("dvc", "queue", "status").stdout
    assert re.findall(rf" {failed} .* (\w+)\n", queue) == ["Failed"]
    assert re.findall(rf" {good} .* (\w+)\n", queue) == ["Success"]
    copy.run("dvc", "queue", "stop")
    (reference,) = copy.git(
        "for-each-ref", "--format=%(refname)", "refs/exps/*/*/search-*"
    ).split()
    assert reference.endswith(f"/{good}"), "and no other experiment is left"
    facts = dvc.api.read("models/train_basic.json", repo=str(copy.path), rev=reference)
    metrics = json.loads(facts)["last_epoch"]
    assert trials[good] == f"{RATE}=0.001: val_accuracy {metrics['val_accuracy']}"
    assert f"the best is {good}, val_accuracy {metrics['val_accuracy']} on tuning" in printed
    assert f"dvc exp apply {good}\n" in printed
    assert f"dvc exp run -S split.tuning=0 -S {RATE}=0.001\n" in printed
    split = json.loads(dvc.api.read("metrics/split.json", repo=str(copy.path), rev=reference))
    assert (split["judged_by"], split["tuning"], split["train"]) == ("tuning", 16, 32)
    assert copy.git("status", "--porcelain") == ""


@pytest.mark.slow
def test_two_machines_share_a_search_through_a_restart_of_the_database(made, tmp_path):
    first, origin = made.copy(tmp_path / "first"), tmp_path / "origin.git"
    first.git("init", "--quiet", "--bare", str(origin))
    first.git("remote", "add", "origin", str(origin))
    first.run("dvc", "remote", "add", "--default", "team", str(tmp_path / "team"))
    first.commit()
    first.git("push", "--quiet", "origin", "HEAD")
    first.run("dvc", "push")
    second = first.copy(tmp_path / "second")
    shutil.rmtree(second.path / ".dvc/cache")
    second.run("dvc", "pull")
    database = servers.Postgres()
    python = str(servers.programs() / "python")  # has psycopg2
    command = [python, *CATSDOGS[1:], "search", "train_basic", "--trials", "4", "--tuning", "7000"]
    command += [f"{RATE}=tag(log,interval(1e-4,1e-2))", "--storage", database.url]

    def start(machine):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=machine.path, env=machine.environment(), **pipes)

    with servers.started(database):
        running = {first: start(first), second: start(second)}
        running[first].stdout.readline()  # a trial is done
        database.stop(signal.SIGQUIT)
        time.sleep(5)
        database.start()
        for machine, process in running.items():
            _, errors = process.communicate()
            while process.returncode:  # a machine that had asked in vain
                assert re.fullmatch(r"error: 127.0.0.1 does not keep the trials: .*\n", errors)
                process = start(machine)
                _, errors = process.communicate()
        lines = first.run(*command).stdout.splitlines()
    shutil.rmtree(database.folder)
    pushed = first.git("ls-remote", "origin", "refs/exps/*/*/search-*").split()[1::2]
    names = {name.rpartition("/")[2] for name in pushed}
    assert len(names) in (4, 5), "the last one may be taken twice"
    (pull,) = (line.split() for line in lines if line.startswith("  dvc exp pull origin "))
    assert pull[-1] in names
    for machine in (first, second):
        machine.run(*pull)
        machine.run("dvc", "exp", "apply", pull[-1])
        machine.run("dvc", "queue", "stop")
    model = layout.model("train_basic")
    assert (first.path / model).read_bytes() == (second.path / model).read_bytes()


def asking(*space, jobs=1, tuning=4000, metric="val_accuracy"):
    return search.Search("train_basic", space, jobs, tuning, metric)


@pytest.fixture
def play(monkeypatch, capsys):
    """Search with a played training; return what was asked, in order, and what was printed."""

    def run(train, *space, trials, jobs=1, metric="val_accuracy", storage="", known=()):
        asked = []

        def run_experiments(batch, _):
            for name, settings in batch.items():
                asked.append(settings)
                yield name, train(*settings)

        with monkeypatch.context() as played:
            played.chdir(REPOSITORY)
            played.setattr(search, "begin", lambda _: None)
            played.setattr(search.Search, "digest", "abc")
            played.setattr(search, "_states", lambda: dict.fromkeys(known, "Success"))
            played.setattr(search, "run_experiments", run_experiments)
            played.setattr(search, "_push", lambda *each: print("pushed", *each))
            asked_for = asking(*space, jobs=jobs, metric=metric)
            search.main(asked_for, trials, storage, "origin")
        return asked, capsys.readouterr().out

    return run


def test_equal_results_lead_to_equal_trials_wherever_a_search_stopped(play):
    space = [f"{RATE}=tag(log,interval(1e-5,1))", "train_basic.dense=[4],[8]"]

    def good_near_the_end(rate, _):
        return float(rate.split("=")[1])

    few, _ = play(good_near_the_end, *space, jobs=3, trials=8)
    many, printed = play(good_near_the_end, *space, jobs=3, trials=30)
    assert many[:8] == few
    assert len({tuple(each) for each in many}) == 30
    best = max(range(30), key=lambda number: good_near_the_end(*many[number]))
    assert f"the best is search-abc-{best + 1}, val_accuracy" in printed
    assert f"dvc exp run -S split.tuning=0 -S {many[best][0]} -S " in printed
    least, _ = play(good_near_the_end, *space, jobs=3, trials=30, metric="val_loss")
    assert least[:10] == many[:10], "the first ten are random"

    def mean(trials):
        rates = [good_near_the_end(*each) for each in trials[15:]]
        return sum(rates) / len(rates)

    assert mean(least) < 0.01 < mean(many), "the others go where it was good"


def test_machines_take_trials_from_one_database(play, tmp_path):
    space, storage = f"{RATE}=interval(0.1,1)", f"sqlite:///{tmp_path}/trials.db"
    others = []

    def while_another_machine_searches(rate):
        if not others:
            others.append(play(lambda _: 0.5, space, trials=3, storage=storage))
        return 0.9

    asked, printed = play(while_another_machine_searches, space, trials=4, storage=storage)
    (other, other_printed) = others[0]
    assert (len(asked), len(other)) == (2, 2), "four in all"
    assert len({*map(tuple, asked + other)}) == 4
    assert "the best is search-abc-2, val_accuracy 0.5" in other_printed
    assert "the best is search-abc-1, val_accuracy 0.9" in printed
    assert "  dvc exp pull origin search-abc-1\n  dvc exp apply search-abc-1\n" in printed
    assert re.findall(r"pushed (.*)", printed) == ["search-abc-1 origin", "search-abc-4 origin"]
    again, _ = play(lambda _: 0.1, space, trials=4, storage=storage)
    assert again == []


def test_a_machine_that_was_stopped_tells_what_it_found(play, tmp_path):
    space, storage = f"{RATE}=interval(0.1,1)", f"sqlite:///{tmp_path}/trials.db"

    def stopped(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(stopped, space, trials=2, storage=storage)
    other, _ = play(lambda _: 0.5, space, trials=2, storage=storage)
    assert len(other) == 1, "the trial of the machine that was stopped stays its own"
    asked, printed = play(lambda _: 0.9, space, trials=2, storage=storage, known=["search-abc-1"])
    assert len(asked) == 1
    assert "the best is search-abc-1, val_accuracy 0.9" in printed


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        ("sqlite:////nowhere/trials.db", "unable to open database file"),
        ("postgresql+psycopg2://me:secret@127.0.0.1:9/trials", "^127.0.0.1 .*refused"),
        ("no URL", "Could not parse"),
        ("oracle://here", "No module named"),
    ],
)
def test_a_database_that_is_away_is_one_line(play, storage, problem):
    if "psycopg2" in storage:
        pytest.importorskip("psycopg2")
    with pytest.raises(UserError, match=problem) as error:
        play(lambda _: 0.5, f"{RATE}=1,2", trials=2, storage=storage)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert "the same command goes on" in str(error.value)


def test_without_any_result_there_is_no_best(play):
    with pytest.raises(UserError, match="no trial has a result"):
        play(lambda _: None, f"{RATE}=1,2", trials=2)


def test_spaces_are_of_hydras_grammar(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    space = {
        f"{RATE}=tag(log,interval(1e-4,1e-2))": FloatDistribution(1e-4, 1e-2, log=True),
        "train_inception.dropout=interval(0,0.5)": FloatDistribution(0, 0.5),
        "train_basic.batch_size=int(interval(8,64))": IntDistribution(8, 64),
        "train_basic.dense=[64,256],[128]": CategoricalDistribution(["[64,256]", "[128]"]),
        "train_basic.optimizer=choice(adam,sgd)": CategoricalDistribution(["adam", "sgd"]),
        "train_basic.epochs=range(2,7,2)": CategoricalDistribution(["2", "4", "6"]),
        "train_basic.seed=3": CategoricalDistribution(["3"]),
        "train_augmented.augmentation.zoom=0.1,0.2": CategoricalDistribution(["0.1", "0.2"]),
    }
    for text, distribution in space.items():
        name = text.partition("=")[0]
        assert search.read_space(name.split(".")[0], [text]) == {name: distribution}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train_basic.learnin_rate=1,2", "train_basic has no such parameter in params.yaml"),
        ("train_augmented.dense=[1],[2]", "train_basic has no such parameter"),
        ("split.tuning=0,2", "train_basic has no such parameter"),
        ("train_basic={seed:1},{seed:2}", "train_basic has no such parameter"),
        (RATE, "missing EQUAL"),
        (f"{RATE}=log(1,2)", "Unknown function 'log'"),
        (f"{RATE}=tag(log,interval(0,1))", "low"),
        (f"{RATE}=interval(2,1)", "low"),
    ],
)
def test_spaces_that_are_none_are_one_line(monkeypatch, text, problem):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match=re.escape(problem)) as error:
        search.read_space("train_basic", [text])
    assert "\n" not in str(error.value)


def test_several_parameters_are_not_one(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match="augmentation has several parameters, name those"):
        search.read_space("train_augmented", ["train_augmented.augmentation={zoom:0},{zoom:1}"])


def test_only_trainings_have_a_search(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(UserError, match="split is not a training stage: train_basic, "):
        search.read_space("split", ["split.seed=1,2"])


def test_a_search_goes_on_under_its_name():
    """Trials are found again by their names, so the names must not change between versions."""
    assert asking(f"{RATE}=1,2").digest == "dc8e68"
    assert len({asking(f"{RATE}=1,2", jobs=jobs).digest for jobs in (1, 2)}) == 2


def test_what_a_search_needs_to_begin(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="without tuning images, the validation"):
        search.begin(asking(f"{RATE}=1,2", tuning=0))
    with pytest.raises(UserError, match="in no Git repository, and this command needs"):
        search.begin(asking(f"{RATE}=1,2"))
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "--quiet"], ["add", "file"], [*identity, "commit", "-qm", "test"]):
        subprocess.run(["git", *command], check=True)
    (tmp_path / "file").write_text("two")
    with pytest.raises(UserError, match="commit your changes first, or stash them"):
        search.begin(asking(f"{RATE}=1,2"))


def test_a_split_that_cannot_be_ends_the_search(monkeypatch, copy):
    """What the stage says is what the user reads, before any trial is queued."""
    monkeypatch.chdir(copy.path)
    for name, value in copy.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=r"dvc exp run: params.yaml: split\.tuning should be less than"
    ):
        search.begin(asking(f"{RATE}=1,2", tuning=20000))


def test_trials_whose_worker_is_gone_are_named(monkeypatch):
    """Played: DVC calls them running after a power cut, and no worker is there."""
    monkeypatch.setattr(search, "_states", lambda: {"a": "Running", "b": "Failed"})
    monkeypatch.setattr(search, "output", lambda *_: "\nWorker status: 0 active, 1 idle")
    with pytest.raises(UserError, match="nobody runs a now: `dvc queue kill a`, `dvc queue rem"):
        list(search.run_experiments({"a": [], "b": []}, asking()))


def test_a_trial_that_was_run_with_other_settings_is_not_taken(monkeypatch):
    """Played: a trial before it had failed, and another follows now that it has not."""
    trial = SimpleNamespace(
        experiment="a",
        params_file={"train_basic": {"learning_rate": "1e-05", "dense": [64, 256]}},
        last_epoch={"train_basic": {"val_accuracy": 0.5}}.get,
    )
    experiments = [Experiment("a", "commit", "base")]
    monkeypatch.setattr(search, "_states", lambda: {"a": None})
    monkeypatch.setattr(search, "find_experiments", lambda: experiments)
    monkeypatch.setattr(search, "of_revision", lambda *_: nullcontext(trial))
    same = [f"{RATE}=1e-05", "train_basic.dense=[64,256]"]
    assert list(search.run_experiments({"a": same}, asking())) == [("a", 0.5)]
    for other in ([f"{RATE}=1e-04", same[1]], [same[0], "train_basic.dense=[64]"]):
        with pytest.raises(UserError, match="a was run with train_basic"):
            list(search.run_experiments({"a": other}, asking()))
    experiments.clear()
    assert list(search.run_experiments({"a": same}, asking())) == [("a", None)], "it is removed"


def test_every_image_that_is_set_aside_judges(monkeypatch):
    commands = []
    monkeypatch.setattr(search, "output", lambda *command: commands.append(command) or "")
    monkeypatch.setattr(search, "_states", lambda: {} if not commands else {"a": "Failed"})
    list(search.run_experiments({"a": [f"{RATE}=1"]}, asking(tuning=4000)))
    assert "--set-param=train_basic.validation_steps=0" in commands[0]
    assert "--set-param=split.tuning=4000" in commands[0]
    settings = SimpleNamespace(batch_size=32, validation_steps=0)
    rows = np.arange(4001)
    monkeypatch.setattr(loop, "read_subset", lambda _: Subset(rows, [], rows))
    monkeypatch.setattr(loop, "PixelReader", lambda _: np.zeros((1, 2, 2, 3)))
    training = SimpleNamespace(settings=settings, workers=ALONE)
    batches = loop.Training.validation(training)
    assert len(batches.rows) == 4001
    settings.validation_steps = 50
    assert len(loop.Training.validation(training).rows) == 1600


def test_the_comparison_says_that_tuning_images_judged(copy):
    told = "The images here are tuning images: no validation image has been looked at."
    assert told not in (copy.path / "metrics/compare.md").read_text()
    path = copy.path / "metrics/split.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"judged_by": "tuning"}))
    copy.script("compare")
    assert (copy.path / "metrics/compare.md").read_text().splitlines()[-1] == told
