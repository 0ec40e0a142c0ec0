"""A store that several machines write at once, and that is away for a while."""

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

from catsdogs import layout, params
from catsdogs.commands import sync
from catsdogs.tracking import live, recording, store

import mlflow
import pytest
import servers
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException

EPOCH = {"loss": 0.5, "accuracy": 0.75}
HASHES = {path: path.stem for path in recording.DATA_TAGS.values()}


def recorder(client, experiment=""):
    """What a machine records an experiment with."""
    snapshot = SimpleNamespace(
        experiment=experiment,
        revision="f" * 40,
        committed=True,
        content="content",
        trainings=["train_basic"],
        outputs=lambda stage: HASHES if stage == "split" else {layout.model(stage): "md5"},
        params={"data": {}, "split": {"interpolation": "area"}},
        fetch=lambda path: path,
    )
    return recording._Recorder(client, snapshot)


def shown(client):
    return client.search_runs([store.open_experiment(client)])


def just_before(monkeypatch, name, action):
    """Let another machine act once, just before a client's method is called."""
    method = getattr(mlflow.MlflowClient, name)

    def act(self, *arguments, **named):
        monkeypatch.setattr(mlflow.MlflowClient, name, method)
        action()
        return method(self, *arguments, **named)

    monkeypatch.setattr(mlflow.MlflowClient, name, act)


@pytest.mark.parametrize("clock", [-1000, 0, 1000])
def test_two_machines_that_create_a_run_at_once_keep_one(client, monkeypatch, clock):
    """Whichever clock is ahead: the one that looks last decides, by what both see."""
    here, there = recorder(client), recorder(mlflow.MlflowClient())
    identity, others = {recording.CONTENT_TAG: "content"}, []

    def create():
        run = there._create(identity)
        others.append(run.info.run_id)
        child = {store.PARENT_TAG: run.info.run_id} | there._model_tags("train_basic")
        there._create(child)

    just_before(monkeypatch, "create_run", create)
    now = mlflow.MlflowClient.create_run

    def create_run(self, *arguments, **named):
        start = 1_000_000 + (clock if others else 0)
        return now(self, *arguments, start_time=start, **named)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", create_run)
    kept = here._create(identity).info.run_id
    left = [run for run in shown(client) if recording.CONTENT_TAG in run.data.tags]
    assert [run.info.run_id for run in left] == [kept]
    below = [run for run in shown(client) if store.PARENT_TAG in run.data.tags]
    assert {run.data.tags[store.PARENT_TAG] for run in below} <= {kept}


def test_experiments_of_other_names_may_have_the_same_content(client):
    identity = {recording.CONTENT_TAG: "content"}
    ids = {recorder(client, name)._create(identity).info.run_id for name in ("", "one", "two")}
    assert len(ids) == 3 == len(shown(client))
    sync.tidy()
    assert {run.info.run_id for run in shown(client)} == ids


def test_a_finished_run_stays_before_an_older_one(client):
    experiment = store.open_experiment(client)
    old = client.create_run(experiment, start_time=1)
    new = client.create_run(experiment, start_time=2)
    client.set_terminated(new.info.run_id)
    runs = shown(client)
    assert recording.keep_one(client, runs).info.run_id == new.info.run_id
    assert client.get_run(old.info.run_id).info.lifecycle_stage == "deleted"


def ready_models(*which):
    """What `find_models` returns of models without files."""
    return [each.model_id for each in recording._begun_models(*which) if each.status == "READY"]


def stored(client, run, name="train_basic"):
    """A model of a run, as `_store_model` leaves it."""
    tags = {store.MODEL_TAG: "md5"}
    experiment = store.open_experiment(client)
    model = client.create_logged_model(experiment, name, run, tags=tags).model_id
    client.finalize_logged_model(model, "READY")
    return model


def test_two_machines_that_store_a_model_at_once_keep_one(client, monkeypatch):
    here, there = (
        client.create_run(store.open_experiment(client), tags={store.MODEL_TAG: "md5"}).info.run_id
        for _ in range(2)
    )
    models = []

    def store_model(run, *_):
        if not models:
            models.append("begun")
            models[0] = log(there)
        models.append(stored(client, run))

    def log(run):
        return recorder(client)._log_model(run, "train_basic")

    monkeypatch.setattr(store, "lock", lambda *_: nullcontext())  # each machine has its own
    monkeypatch.setattr(recording, "find_models", ready_models)
    monkeypatch.setattr(recording, "_store_model", store_model)
    kept = log(here)
    left = client.search_logged_models([store.open_experiment(client)])
    assert [model.model_id for model in left] == [kept]
    for run in (here, there):
        assert kept in recording._linked(client.get_run(run))


def duplicated(client):
    """What versions left that did not look again: everything doubled."""
    experiment = store.open_experiment(client)
    for parent in ("1", "2"):
        whole = client.create_run(
            experiment, tags={recording.CONTENT_TAG: "content"}, run_name=parent
        ).info.run_id
        for child in ("a", "b"):
            tags = {
                store.PARENT_TAG: whole,
                store.STAGE_TAG: "train_basic",
                store.MODEL_TAG: "md5",
            }
            run = client.create_run(experiment, tags=tags, run_name=child).info.run_id
            stored(client, run)
            client.set_terminated(run)
        client.set_terminated(whole)


def test_sync_mends_duplicates(client, monkeypatch, capsys):
    monkeypatch.setattr(recording, "find_models", ready_models)
    duplicated(client)
    sync.tidy()
    assert sorted(run.info.run_name for run in shown(client)) == ["1", "a"]
    experiment = store.open_experiment(client)
    assert len(client.search_logged_models([experiment])) == 1
    assert "1 more of it deleted" in capsys.readouterr().out
    sync.tidy()
    assert capsys.readouterr().out == ""


def test_a_training_that_was_created_twice_is_there_once(client):
    experiment = store.open_experiment(client)
    for training in ("one", "one", "two"):
        client.create_run(experiment, tags={live.TRAINING_TAG: training})
    sync.tidy()
    assert sorted(run.data.tags[live.TRAINING_TAG] for run in shown(client)) == ["one", "two"]


def test_a_registered_model_stays(client, monkeypatch):
    monkeypatch.setattr(recording, "find_models", ready_models)
    run = client.create_run(
        store.open_experiment(client), tags={store.MODEL_TAG: "md5"}
    ).info.run_id
    models = [stored(client, run) for _ in range(3)]
    client.log_outputs(run, [LoggedModelOutput(models[0], step=0)])
    client.create_registered_model("name")
    client.create_model_version("name", f"models:/{models[1]}")
    sync.tidy()
    left = client.search_logged_models([store.open_experiment(client)])
    assert [model.model_id for model in left] == [models[1]]
    assert models[1] in recording._linked(client.get_run(run)), "it has the one that stays"


def test_a_model_that_could_not_be_stored_is_stored_later(client, monkeypatch):
    experiment = store.open_experiment(client)
    run = client.create_run(experiment, tags={store.MODEL_TAG: "md5"}).info.run_id
    begun = stored(client, run)
    client.finalize_logged_model(begun, "FAILED")

    def store_model(run, md5, notes, path, begun):
        client.finalize_logged_model(*begun, "READY")

    monkeypatch.setattr(recording, "find_models", ready_models)
    monkeypatch.setattr(recording, "_store_model", store_model)
    assert recorder(client)._log_model(run, "train_basic") == begun
    assert len(client.search_logged_models([experiment])) == 1


def test_a_model_that_another_machine_may_be_storing_is_left_to_it(client, monkeypatch):
    experiment, tags = store.open_experiment(client), {store.MODEL_TAG: "md5"}
    begun, failed = (
        client.create_logged_model(experiment, name, tags=tags).model_id for name in "ab"
    )
    client.finalize_logged_model(failed, "FAILED")
    assert recording.find_lost_models(client, experiment, "md5") == [failed]
    monkeypatch.setattr(recording, "HOUR", -60)
    assert set(recording.find_lost_models(client, experiment, "md5")) == {begun, failed}


def test_tidying_spares_what_another_machine_begins_to_record(client, monkeypatch):
    experiment, search_runs, models = store.open_experiment(client), mlflow.search_runs, []

    def search_and_record(*given, **named):
        found, tags = search_runs(*given, **named), {store.MODEL_TAG: f"md5 {len(models)}"}
        client.create_run(experiment, tags=tags)
        models.append(client.create_logged_model(experiment, "new", tags=tags).model_id)
        return found

    monkeypatch.setattr(mlflow, "search_runs", search_and_record)
    sync.tidy()
    kept = mlflow.search_logged_models([experiment], output_format="list")
    assert {model.model_id for model in kept} == set(models)


def test_metrics_that_two_write_at_once_are_there_once(client, monkeypatch):
    run = client.create_run(store.open_experiment(client)).info.run_id
    other = mlflow.MlflowClient()
    just_before(monkeypatch, "log_batch", lambda: store.log_metrics(other, run, {1: EPOCH}))
    store.log_metrics(client, run, {1: EPOCH})
    assert len(client.get_metric_history(run, "loss")) == 1


def test_a_run_deleted_by_another_machine_is_written_again(client, monkeypatch):
    tries = []

    def write(self, completed):
        tries.append(completed)
        if len(tries) == 1:
            raise MlflowException("The run must be in 'active' state")
        return True

    monkeypatch.setattr(recording._Recorder, "record", write)
    snapshot = recorder(client).snapshot
    assert recording.record(snapshot, completed=True)
    assert tries == [True, True]


@pytest.fixture
def training(client, monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(params, "read", lambda: {})
    monkeypatch.setattr(live, "digest", lambda *_: "md5")
    # As `connect` sets them, for all that follows.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    return live.LiveRun("train_basic")


@contextmanager
def away(run, server, monkeypatch):
    """Let a server answer whatever is asked for a while, with status 500."""
    server.fails, known, address = True, run._client, store.address()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    run._client = known and mlflow.MlflowClient(server.url)
    yield
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    run._client = known


def epochs(client):
    """The epochs that the one run of a training has, and its status."""
    (run,) = shown(client)
    history = client.get_metric_history(run.info.run_id, "loss")
    return sorted(each.step for each in history), run.info.status


def notes():
    return list(layout.CHECKPOINTS.glob("*.json"))


def test_missed_epochs_are_sent_with_the_next_one(training, client, server, monkeypatch, capsys):
    training.open("name", [])
    training.log_epoch(1, EPOCH)
    with away(training, server, monkeypatch):
        for epoch in (2, 3):
            training.log_epoch(epoch, EPOCH)
    assert epochs(client) == ([1], "RUNNING")
    training.log_epoch(4, EPOCH)
    assert epochs(client) == ([1, 2, 3, 4], "RUNNING")
    with away(training, server, monkeypatch):
        training.log_epoch(5, EPOCH)
    training.finish(7.0)
    assert epochs(client) == ([1, 2, 3, 4, 5], "FINISHED")
    said = capsys.readouterr().err
    assert said.count("warning:") == 2, "once each time that it is away"
    assert said.count("error responses')): the server's log says why") == 2
    assert live.find_cost("md5") == 7.0
    assert not notes()


def test_a_run_is_opened_once_the_server_is_there(training, client, server, monkeypatch):
    with away(training, server, monkeypatch):
        training.open("name", [EPOCH])
        training.log_epoch(2, EPOCH)
    training.log_epoch(3, EPOCH)
    assert epochs(client) == ([1, 2, 3], "RUNNING")
    training.abandon("KILLED")
    assert epochs(client) == ([1, 2, 3], "KILLED")
    assert not notes()


@pytest.mark.parametrize("ends", ["FINISHED", "FAILED"])
def test_sync_closes_what_ended_while_the_server_was_away(
    training, client, server, monkeypatch, capsys, ends
):
    training.open("name", [EPOCH])
    with away(training, server, monkeypatch):
        training.finish(7.0) if ends == "FINISHED" else training.abandon(ends)
    assert epochs(client) == ([1], "RUNNING")
    assert len(notes()) == 1
    names = list(live.settle())
    assert len(names) == 1
    assert epochs(client) == ([1], ends)
    (run,) = shown(client)
    assert run.data.tags.get(store.MODEL_TAG) == ("md5" if ends == "FINISHED" else None)
    assert not notes()
    if ends == "FINISHED":  # then whoever records the experiment takes it
        (found,) = recorder(client)._live_runs("train_basic")
        assert found.info.run_id == run.info.run_id


def test_a_training_that_goes_on_is_not_closed(training, client, server, monkeypatch):
    training.open("name", [EPOCH])
    with away(training, server, monkeypatch):
        training.abandon("KILLED")
    resumed = live.LiveRun("train_basic")
    resumed.open("name", [EPOCH, EPOCH])
    assert not notes()
    assert list(live.settle()) == []
    assert epochs(client) == ([1, 2], "RUNNING")


def test_a_note_of_another_store_is_kept(training, client, server, monkeypatch, tmp_path):
    training.open("name", [EPOCH])
    with away(training, server, monkeypatch):
        training.finish(7.0)
    before = store.address()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'another.db'}")
    assert list(live.settle()) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
    assert len(list(live.settle())) == 1
    assert not notes()


def test_a_server_that_is_away_is_asked_impatiently(training, server, monkeypatch):
    asked = []
    real = store.log_metrics

    def log_metrics(*arguments):
        asked.append(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
        real(*arguments)

    monkeypatch.setattr(store, "log_metrics", log_metrics)
    training.open("name", [EPOCH])
    with away(training, server, monkeypatch):
        training.log_epoch(2, EPOCH)
        training.log_epoch(3, EPOCH)
    training.log_epoch(4, EPOCH)
    training.log_epoch(5, EPOCH)
    assert asked == ["5", "5", "3", "3", "5"]


def run_sync(machine, variables):
    own = machine.path / ".cache" / "tmp"  # machines share no locks
    own.mkdir(parents=True, exist_ok=True)
    return machine.catsdogs("sync", check=False, TMPDIR=str(own), **variables)


def refused(said):
    """Check that a `sync` failed with one line, without a password; return it."""
    assert said.returncode == 1, said
    (line,) = said.stderr.splitlines()
    assert line.startswith("error: MLflow cannot be written to: ")
    assert servers.PASSWORD not in line
    return line


@pytest.fixture
def team(monkeypatch, tmp_path):
    """A team's servers; this process has neither keys of the bucket nor passwords."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # the tests' machine is a slow one
    with servers.started(servers.Team(tmp_path / "team")) as team:
        for name, value in team.variables().items():
            monkeypatch.setenv(name, value)
        yield team


# Let a training print each epoch, and wait for a file before it records the epoch.
HELD = """
import time
from pathlib import Path
from catsdogs.tracking.live import LiveRun
log_epoch = LiveRun.log_epoch
def held(self, epoch, values):
    print(f"epoch {epoch} is over", flush=True)
    while not Path(f"record{epoch}").exists():
        time.sleep(0.1)
    log_epoch(self, epoch, values)
LiveRun.log_epoch = held
"""


@pytest.mark.slow
def test_three_machines_write_at_once_to_one_server(made, team, tmp_path):
    """Without keys of the bucket, with passwords, and with a restart in the middle."""
    machines = [made.copy(tmp_path / f"machine{number}") for number in range(3)]
    people = [team.add(f"colleague{number}") for number in range(3)]
    client = mlflow.MlflowClient(team.url)
    for name, password in (("", ""), ("colleague0", "wrong")):
        assert "401" in refused(run_sync(machines[0], team.variables(name, password)))
    assert client.get_experiment_by_name(store.EXPERIMENT) is None
    with ThreadPoolExecutor() as pool:
        begun = [pool.submit(run_sync, *each) for each in zip(machines, people, strict=True)]
        while client.get_experiment_by_name(store.EXPERIMENT) is None or not shown(client):
            assert not all(each.done() for each in begun), [each.result() for each in begun]
            time.sleep(0.2)
        team.kill()
        team.database.start()
        team.start_mlflow()
    for each in begun:  # one line for whom it hit
        assert each.result().returncode == 0 or refused(each.result())
    for each in zip(machines, people, strict=True):
        assert run_sync(*each).returncode == 0
    for each in zip(machines, people, strict=True):
        assert "workspace: nothing to do" in run_sync(*each).stdout
    check_recorded(client)
    check_a_training(machines[1], people[1], client, team)


def check_a_training(machine, variables, client, team):
    """The servers are killed in the middle of a training, which MLflow then has as a whole."""
    machine.change_params({"train_basic": {"epochs": 3}})
    training = machine.start("train_basic", HELD, **variables)
    for epoch in (1, 2, 3):
        training.wait_for(f"epoch {epoch} is over")
        if epoch == 2:
            team.kill()
        (machine.path / f"record{epoch}").touch()
        if epoch == 2:
            training.wait_for("epoch 3 is over")  # so that the second is missed
            team.database.start()
            team.start_mlflow()
    ended = training.wait()
    assert ended.returncode == 0
    (warning,) = (line for line in ended.stderr.splitlines() if line.startswith("warning:"))
    assert servers.PASSWORD not in warning
    machine.run("dvc", "commit", "--force", "train_basic")
    said = machine.run("dvc", "repro", **variables)
    assert "Running stage 'train_basic'" not in said.stdout
    assert "warning:" not in said.stderr
    runs = shown(client)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 8}
    assert len(client.search_logged_models([store.open_experiment(client)])) == 4
    (run,) = (run for run in runs if run.data.params.get("epochs") == "3")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(each.step for each in history) == [1, 2, 3]


@pytest.mark.slow
def test_on_a_bad_day_one_line_is_said_and_nothing_is_lost(made, team, tmp_path):
    machine = made.copy(tmp_path / "machine")
    client = mlflow.MlflowClient(team.url)
    log = team.mlflow.folder / "log"

    def check(reason):
        line = refused(run_sync(machine, team.variables()))
        assert line.endswith("error responses')): the server's log says why"), line
        assert reason in log.read_text()

    team.database.stop(signal.SIGINT)
    check("Connection refused")
    team.database.start()
    team.bucket.stop()
    check("Could not connect to the endpoint URL")
    team.bucket.start()
    for fault in servers.S3_FAULTS.values():
        with team.bucket.fault(*fault):
            check(fault[2])
    team.database.run(servers.FULL)
    check("No space left on device")
    # A stage says so, too, and does what it has to do.
    said = machine.run("dvc", "repro", "--force", "--single-item", "compare", **team.variables())
    (warning,) = (line for line in said.stderr.splitlines() if line.startswith("warning:"))
    assert servers.PASSWORD not in warning
    team.database.run("drop function full_disk cascade")
    assert run_sync(machine, team.variables()).returncode == 0
    check_recorded(client)
    assert "workspace: nothing to do" in run_sync(machine, team.variables()).stdout


def check_recorded(client):
    """One experiment with its three models is there, whole, and nothing twice."""
    runs = shown(client)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 4}
    (whole,) = (run for run in runs if recording.CONTENT_TAG in run.data.tags)
    below = [run for run in runs if run is not whole]
    assert {run.data.tags[store.PARENT_TAG] for run in below} == {whole.info.run_id}
    experiment = store.open_experiment(client)
    md5s = {run.data.tags[store.MODEL_TAG] for run in below}
    assert len(md5s) == len(client.search_logged_models([experiment])) == 3
    for run in below:
        (model,) = recording.find_models(client, experiment, run.data.tags[store.MODEL_TAG])
        assert model in recording._linked(run)
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
        for name in run.data.metrics:
            steps = Counter(each.step for each in client.get_metric_history(run.info.run_id, name))
            assert set(steps.values()) == {1}, name
