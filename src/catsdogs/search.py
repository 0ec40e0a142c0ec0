"""Choose parameters: where to look goes in, a DVC experiment for each trial and the best come out.

    python -m catsdogs.search train_basic 'train_basic.learning_rate=tag(log,interval(1e-4,1e-2))'

To be run from the repository's root, with `src` on Python's path. Optuna says what to try, DVC's
queue runs it. Tuning images judge (`split.tuning`), so that the validation images choose nothing.

What a trial tries follows from the commit, the command and the results of the trials before it,
and its name from the command. So the same command finds what is done and goes on from there.
"""

import argparse
import hashlib
import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from catsdogs import layout, params
from catsdogs.stage import UserError, run

import dvc.api
import optuna
import yaml
from dvc.exceptions import DvcException
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

PAUSE = 3  # seconds between two looks at the experiments


def main() -> None:
    """Run the trials that are missing, print a line for each, and what to do with the best."""
    arguments = _parse()
    space = read_space(arguments.stage, arguments.space)
    search = begin(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    goal = "maximize" if arguments.metric == "val_accuracy" else "minimize"
    study = optuna.create_study(direction=goal)
    for first in range(1, arguments.trials + 1, arguments.jobs):
        batch = {}
        for number in range(first, min(first + arguments.jobs, arguments.trials + 1)):
            # Seeded anew for each, so that it does not matter where a search was stopped.
            study.sampler = optuna.samplers.TPESampler(seed=int(search, 16) + number)
            batch[f"search-{search}-{number}"] = study.ask(space)
        asked = {name: _settings(trial.params) for name, trial in batch.items()}
        for name, value in run_experiments(asked, arguments):
            failed = None if value is not None else optuna.trial.TrialState.FAIL
            study.tell(batch[name], value, state=failed)
            result = f"failed: dvc queue logs {name}" if failed else f"{arguments.metric} {value}"
            print(f"{name}: {' '.join(asked[name])}: {result}", flush=True)
    if all(trial.value is None for trial in study.trials):
        raise UserError("no trial has a result: the logs say why")
    best, name = study.best_trial, f"search-{search}-{study.best_trial.number + 1}"
    print(f"the best is {name}, {arguments.metric} {best.value} on tuning images; go on with")
    print("  dvc exp show --only-changed")
    print(f"  dvc exp apply {name}")
    print("or judge it by the validation images, trained on all training images:")
    settings = ["split.tuning=0", *_settings(best.params)]
    print("  dvc exp run", *(f"-S {shlex.quote(each)}" for each in settings))


def read_space(stage: str, overrides: Sequence[str]) -> dict[str, BaseDistribution]:
    """Read where to look, in the grammar of Hydra, which is that of `dvc exp run --set-param`.

    Returns:
        For each parameter its distribution: of numbers for an interval, of texts otherwise.

    Raises:
        UserError: a text is not of that grammar, or names no parameter of the stage.
    """
    known = OmegaConf.load(params.PARAMS)
    space: dict[str, BaseDistribution] = {}
    for text in overrides:
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


def begin(arguments: argparse.Namespace) -> str:
    """Make the split, before several trials want it at once; one that cannot be ends the search.

    Returns:
        What tells this search from others, in hexadecimal digits.

    Raises:
        UserError: there can be no search; the text says why.
    """
    if arguments.tuning < 1:
        raise UserError("without tuning images, the validation images would choose")
    if _run("git", "status", "--porcelain", "--untracked-files=no"):
        raise UserError("trials belong to a commit: commit your changes first, or stash them")
    command = {name: value for name, value in vars(arguments).items() if name != "trials"}
    search = hashlib.sha256(json.dumps(command, sort_keys=True).encode()).hexdigest()[:6]
    if f"search-{search}-1" not in _states():
        # One that was stopped is shown as running for ever, but is not in the list.
        split = f"search-{search}-split"
        if split not in _run("dvc", "exp", "list", "--name-only").split():
            _experiment(split, arguments.tuning, [], "--temp", "split")
        _run("dvc", "exp", "remove", split)  # DVC's cache has the split; its scores are others'
    return search


def run_experiments(
    asked: Mapping[str, Sequence[str]], arguments: argparse.Namespace
) -> Iterator[tuple[str, float | None]]:
    """Run those experiments that DVC does not have yet, each with its settings.

    Yields:
        As one ends, its name and its metric, None if it failed.

    Raises:
        UserError: DVC refuses an experiment, nobody runs it, or it was run with other settings.
    """
    known = _states()
    if any(known.get(name) == "Running" for name in asked) and not _is_worked_on():
        known = _states()  # for the last one may have ended in the meantime
        if lost := " ".join(name for name in asked if known.get(name) == "Running"):
            raise UserError(
                f"nobody runs {lost} now: `dvc queue kill {lost}`, `dvc queue remove {lost}`, "
                "and the same command goes on"
            )
    for name in [name for name in asked if name not in known]:
        _experiment(name, arguments.tuning, asked[name], "--queue", arguments.stage)
    waiting = list(asked)
    while waiting:
        known = _states()
        if any(known.get(name) == "Queued" for name in waiting):
            _run("dvc", "queue", "start", "--jobs", str(arguments.jobs))
        for name in [name for name in waiting if known.get(name) not in ("Queued", "Running")]:
            waiting.remove(name)
            if known.get(name, "Failed") == "Failed":
                yield name, None
            else:
                _check(name, asked[name])
                metrics = dvc.api.read(str(layout.metrics(arguments.stage)), rev=name)
                yield name, json.loads(metrics)[arguments.metric]
        if waiting:
            time.sleep(PAUSE)


def _check(name: str, settings: Sequence[str]) -> None:
    """Raise a `UserError` if an experiment was not run with these settings.

    A trial that failed, and was run again with success, leads to others after it.
    """
    used = dict(params.flatten(yaml.safe_load(dvc.api.read(str(params.PARAMS), rev=name))))
    for parameter, text in (setting.split("=", 1) for setting in settings):
        if params.number(used[parameter]) != params.number(yaml.safe_load(text)):
            raise UserError(
                f"{name} was run with {parameter}={used[parameter]}, and {text} is asked now that "
                f"a trial before it has another result: `dvc exp remove` it and those after it"
            )


def _states() -> dict[str, str]:
    """Each of this commit's experiments: Queued, Running, Failed, or anything else once done."""
    try:
        rows = dvc.api.exp_show()
    except (DvcException, OSError):  # one may end while DVC looks at it
        time.sleep(PAUSE)
        rows = dvc.api.exp_show()
    return {row["Experiment"]: row["State"] for row in rows}


def _is_worked_on() -> bool:
    """Whether DVC's queue has a worker with work; a busy one may not answer at once."""
    idle = "Worker status: 0 active"
    return any(idle not in _run("dvc", "queue", "status") for _ in range(3))


def _experiment(name: str, tuning: int, settings: Sequence[str], *how: str) -> None:
    changes = [f"--set-param={setting}" for setting in (f"split.tuning={tuning}", *settings)]
    _run("dvc", "exp", "run", "--name", name, *changes, *how)


def _settings(values: Mapping[str, Any]) -> list[str]:
    """As `dvc exp run --set-param` has them, with four digits, for people to read."""
    texts = {
        name: f"{each:.4g}" if isinstance(each, float) else each for name, each in values.items()
    }
    return [f"{name}={text}" for name, text in texts.items()]


def _run(*command: str) -> str:
    """Run a program and return what it prints; if it fails, raise the first reason it gives."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = re.search(r"(?im)^(?:error|fatal): *(.+)$", result.stderr)
        raise UserError(f"{' '.join(command[:3])}: {reason[1] if reason else result.stderr}")
    return result.stdout


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m catsdogs.search", description="Choose the parameters of a training."
    )
    add = parser.add_argument
    add("stage", choices=layout.TRAININGS)
    add("space", nargs="+", help="where to look, as in train_basic.dense=[64,256],[128,512]")
    add("--trials", type=_count, default=20, help="how many in all (20)")
    add("--jobs", type=_count, default=1, help="how many at a time (1)")
    add("--tuning", type=int, default=4000, help="how many training images judge (4000)")
    add("--metric", choices=("val_accuracy", "val_loss"), default="val_accuracy")
    return parser.parse_intermixed_args()


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("should be at least 1")
    return int(text)


if __name__ == "__main__":
    run(main, "DVC's queue goes on with what it has, and the same command with the search")
