"""Search for better parameters: Optuna chooses them, DVC's queue runs an experiment per trial.

All tuning images judge the trials (`split.tuning`), so the validation images choose nothing.

The parameters of a trial follow from the command and the results of the trials before it, and its
name follows from the command. So the same command finds what is done and goes on from there.

Several machines share the trials of one command in a database of Optuna. Then what a trial gets
depends on which of them asks first.
"""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from catsdogs import params
from catsdogs.commands.programs import output
from catsdogs.commands.sync import choose, find_experiments
from catsdogs.git import git, require
from catsdogs.stage import UserError, one_line
from catsdogs.tracking.snapshots import Snapshot, of_revision

import dvc.api
import optuna
import yaml
from dvc.exceptions import DvcException
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sqlalchemy.exc import SQLAlchemyError

PAUSE = 3  # seconds between two looks at the experiments


class Search(NamedTuple):
    """All that decides the trials, but for their number; see `catsdogs search --help`."""

    stage: str
    space: tuple[str, ...]
    jobs: int
    tuning: int
    metric: str

    @property
    def digest(self) -> str:
        """Six hexadecimal digits that tell this search from others."""
        text = json.dumps(self._asdict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:6]

    def name(self, part: int | str) -> str:
        """Return the name of the experiment that is a trial, counted from 1, or the split."""
        return f"search-{self.digest}-{part}"


def main(search: Search, trials: int, storage: str = "", remote: str = "") -> None:
    """Run the trials that are missing, and print a line for each and how to use the best.

    Args:
        search: what decides the trials.
        trials: how many in all. When several machines ask for the last one, all get one.
        storage: the URL of a database, if other machines take trials of this search, too.
        remote: Git's remote to which each trial is pushed then.

    Raises:
        UserError: there can be no such search, a trial cannot be run, none has a result, or the
            database is away.
    """
    space = read_space(search.stage, search.space)
    begin(search)
    with _reached(storage):
        study = _open_study(search, storage)
        batch = _own_unfinished(study, search) if storage else {}
    while True:
        with _reached(storage):
            while len(batch) < search.jobs and len(study.trials) < trials:
                if not storage:
                    # A seed for each trial: the same trials wherever a search stopped.
                    seed = int(search.digest, 16) + len(study.trials) + 1
                    study.sampler = optuna.samplers.TPESampler(seed=seed)
                trial = study.ask(space)
                batch[search.name(trial.number + 1)] = trial
        if not batch:
            break
        asked = {name: _settings(trial.params) for name, trial in batch.items()}
        for name, value in run_experiments(asked, search):
            failed = None if value is not None else optuna.trial.TrialState.FAIL
            with _reached(storage):
                study.tell(batch[name].number, value, state=failed)
            result = f"failed: dvc queue logs {name}" if failed else f"{search.metric} {value}"
            print(f"{name}: {' '.join(asked[name])}: {result}", flush=True)
            if storage and not failed:
                _push(name, remote)
        batch = {}
    if all(trial.value is None for trial in study.trials):
        raise UserError("no trial has a result: `dvc queue logs` says why, with a trial's name")
    best, name = study.best_trial, search.name(study.best_trial.number + 1)
    print(f"the best is {name}, {search.metric} {best.value} on tuning images; go on with")
    if storage:
        print(f"  dvc exp pull {remote} {name}")
    print(f"  dvc exp apply {name}")
    print("or judge it by the validation images, trained on all training images:")
    settings = ["split.tuning=0", *_settings(best.params)]
    print("  dvc exp run", *(f"-S {shlex.quote(each)}" for each in settings))


def _open_study(search: Search, storage: str) -> optuna.Study:
    """Open what Optuna knows of a search: in memory, or in a database, a study for each commit."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=_open_database(storage) if storage else None,
        # Another machine's trial counts as a bad one until it ends, so that the next is elsewhere.
        sampler=optuna.samplers.TPESampler(constant_liar=True),
        study_name=search.name(git("rev-parse", "HEAD")[:7]),
        direction="maximize" if search.metric == "val_accuracy" else "minimize",
        load_if_exists=True,
    )


def _open_database(url: str) -> optuna.storages.RDBStorage:
    how = {"pool_pre_ping": True}  # the server may have been restarted between two trials
    for _ in range(3):  # machines that begin at the same moment all make the tables
        with suppress(SQLAlchemyError):
            return optuna.storages.RDBStorage(url, engine_kwargs=how)
        time.sleep(1)
    return optuna.storages.RDBStorage(url, engine_kwargs=how)


def _own_unfinished(study: optuna.Study, search: Search) -> dict[str, optuna.trial.BaseTrial]:
    """Return the trials that this machine took and whose results the database lacks."""
    known, running = _states(), [optuna.trial.TrialState.RUNNING]
    trials = {search.name(each.number + 1): each for each in study.get_trials(states=running)}
    return {name: trial for name, trial in trials.items() if name in known}


@contextmanager
def _reached(storage: str) -> Iterator[None]:
    """Turn an error of Optuna's database into one line."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError) as error:
        reason = one_line(getattr(error, "__cause__", None) or error)
        raise UserError(
            f"{urlsplit(storage).hostname or storage} does not keep the trials: {reason}; "
            "once it does, the same command goes on"
        ) from None


def _push(name: str, remote: str) -> None:
    """Push a trial for the others. If that fails, say how to do it later: the search goes on."""
    try:
        output("dvc", "exp", "push", remote, name)
    except UserError as error:
        print(f"warning: {error}; `dvc exp push {remote} {name}` sends it later", file=sys.stderr)


def read_space(
    stage: str, texts: Sequence[str]
) -> dict[str, optuna.distributions.BaseDistribution]:
    """Read where to look, in Hydra's grammar, which `dvc exp run --set-param` has, too.

    Returns:
        The distribution of each parameter: numbers for an interval, else texts.

    Raises:
        UserError: a text is not of that grammar, or does not name a parameter of a training stage.
    """
    if stage not in (stages := params.load_models()):
        raise UserError(f"{stage} is not a training stage: {', '.join(stages)}")
    known = OmegaConf.load(params.PARAMS)
    space: dict[str, optuna.distributions.BaseDistribution] = {}
    for text in texts:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
            name, values = override.key_or_group, override.value()
            if override.is_interval_sweep():
                kind = IntDistribution if isinstance(values.start, int) else FloatDistribution
                space[name] = kind(values.start, values.end, log="log" in values.tags)
            elif override.is_sweep_override():
                space[name] = CategoricalDistribution(list(override.sweep_string_iterator()))
            else:
                space[name] = CategoricalDistribution([override.get_value_element_as_str()])
        except (HydraException, ValueError) as error:
            raise UserError(f"{text}: {' '.join(str(error).split())}") from None
        value = OmegaConf.select(known, name)
        if not name.startswith(f"{stage}.") or value is None:
            raise UserError(f"{text}: {stage} has no such parameter in {params.PARAMS}")
        if OmegaConf.is_dict(value):
            raise UserError(f"{text}: {name} has several parameters, name those")
    return space


def begin(search: Search) -> None:
    """Make the split, which all trials share.

    Raises:
        UserError: there are no tuning images, there are changes that are not committed, or the
            split cannot be made.
    """
    if search.tuning < 1:
        raise UserError(
            "without tuning images, the validation images would choose: give --tuning 2 or more"
        )
    require()
    if output("git", "status", "--porcelain", "--untracked-files=no"):
        raise UserError("trials belong to a commit: commit your changes first, or stash them")
    if search.name(1) in _states():
        return
    split = search.name("split")
    # Only the list tells whether it is done: one that was stopped stays "running" in the table.
    if split not in output("dvc", "exp", "list", "--name-only").split():
        _experiment(split, search.tuning, [], "--temp", "split")
    # DVC's cache has the split now. The experiment would show the commit's scores.
    output("dvc", "exp", "remove", split)


def run_experiments(
    asked: Mapping[str, Sequence[str]], search: Search
) -> Iterator[tuple[str, float | None]]:
    """Run those experiments that DVC does not have yet, each with its settings.

    Yields:
        The name of each experiment that ends, and its metric, None if it failed.

    Raises:
        UserError: DVC refuses an experiment, it has no worker, or it was run with other settings.
    """
    known = _states()
    if any(known.get(name) == "Running" for name in asked) and not _is_worked_on():
        known = _states()  # the last one may have ended in the meantime
        if lost := " ".join(name for name in asked if known.get(name) == "Running"):
            raise UserError(
                f"nobody runs {lost} now: `dvc queue kill {lost}`, `dvc queue remove {lost}`, "
                "and the same command goes on"
            )
    for name in [name for name in asked if name not in known]:
        judged_by_all = [f"{search.stage}.validation_steps=0", *asked[name]]
        _experiment(name, search.tuning, judged_by_all, "--queue", search.stage)
    waiting = list(asked)
    while waiting:
        known = _states()
        if any(known.get(name) == "Queued" for name in waiting):
            output("dvc", "queue", "start", "--jobs", str(search.jobs))
        for name in [name for name in waiting if known.get(name) not in ("Queued", "Running")]:
            waiting.remove(name)
            failed = known.get(name, "Failed") == "Failed"
            if failed or not (done := choose(name, find_experiments())):
                yield name, None
                continue
            with of_revision(done.commit, name, done.base) as trial:
                _check(trial, asked[name])
                value = trial.last_epoch(search.stage)[search.metric]
            yield name, value
        if waiting:
            time.sleep(PAUSE)


def _check(trial: Snapshot, settings: Sequence[str]) -> None:
    """Raise a `UserError` if an experiment was run with other settings.

    That happens if a failed trial is run again and succeeds: its result changes later trials.
    """
    used, name = dict(params.flatten(trial.params_file)), trial.experiment
    for parameter, text in (setting.split("=", 1) for setting in settings):
        if params.number(used[parameter]) != params.number(yaml.safe_load(text)):
            raise UserError(
                f"{name} was run with {parameter}={used[parameter]}, but {text} is asked now that "
                f"a trial before it has another result: `dvc exp remove` it and those after it"
            )


def _states() -> dict[str, str]:
    """The state of each experiment of this commit: Queued, Running, Failed, or another if done."""
    try:
        rows = dvc.api.exp_show()
    except (DvcException, OSError):  # an experiment may end while DVC looks at it
        time.sleep(PAUSE)
        rows = dvc.api.exp_show()
    return {row["Experiment"]: row["State"] for row in rows}


def _is_worked_on() -> bool:
    """Whether a worker of DVC's queue has work; a busy one may not answer at once."""
    idle = "Worker status: 0 active"
    return any(idle not in output("dvc", "queue", "status") for _ in range(3))


def _experiment(name: str, tuning: int, settings: Sequence[str], *how: str) -> None:
    changes = [f"--set-param={setting}" for setting in (f"split.tuning={tuning}", *settings)]
    output("dvc", "exp", "run", "--name", name, *changes, *how)


def _settings(values: Mapping[str, Any]) -> list[str]:
    """Parameters for `dvc exp run --set-param`, with four digits, for people to read."""
    return [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    ]
