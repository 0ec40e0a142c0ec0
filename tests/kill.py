"""Kill `dvc repro` at random moments, let it go on, and compare the hashes with an unbroken run's.

    python tests/kill.py --kills 20 --seed 1           # a very small sample: minutes
    python tests/kill.py --kills 20 --seed 1 --default # what params.yaml has

It works in temporary copies of the repository and ends with status 1 if anything differs. Most
kills fall into a stage's work; some into its start, and some into the writing of its outputs and
what DVC does with them. How long each of these takes is measured first, in an undisturbed run.
"""

import argparse
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml
from conftest import TINY, Checkout

# So long that most kills find a training between two steps.
LONGER = {stage: {"epochs": 40} for stage in ("train_basic", "train_augmented", "train_inception")}
RUNNING = re.compile(r"Running stage '(\w+)'")
RESUMED = re.compile(r"(\w+) goes on after step ([\d,]+) of ([\d,]+)")
AT_WORK = re.compile(r"decoding|: accuracy |goes on after step")
PHASES = ("starting", "working", "writing")
WEIGHTS = (1, 6, 3)
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows the same
# What is killed how: all of the processes, as a power cut does; DVC alone; as Ctrl-C does.
WAYS = (
    ("all, SIGKILL", KILL, True),
    ("all, SIGKILL", KILL, True),
    ("dvc, SIGKILL", KILL, False),
    ("all, SIGTERM", signal.SIGTERM, True),
    ("all, SIGINT", signal.SIGINT, True),
)
SHELLS = ("/bin/bash", "/bin/sh")  # DVC starts stages through the user's; some wait, some do not


class Kill(NamedTuple):
    way: str
    stage: str
    phase: str  # that was aimed at
    after: float  # seconds into the stage
    step: int | None = None  # after which it went on
    steps: int = 0
    equal: bool | None = None


class Repro:
    """A `dvc repro` under way, in a session of its own; knows which stage runs since when."""

    def __init__(self, checkout: Checkout, *targets: str, shell: str = "/bin/bash") -> None:
        self.process = subprocess.Popen(
            ["dvc", "repro", *targets],
            cwd=checkout.path,
            env=checkout.environment(PYTHONUNBUFFERED="1", SHELL=shell),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.stage, self.since, self.lines, self.ended = "", 0.0, [], False
        self.at_work = False  # the stage says so
        self.durations: dict[str, float] = {}
        self.resumed: dict[str, tuple[int, int]] = {}  # the step after which, and of how many
        self.started = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if found := RESUMED.search(line):
                step, steps = (int(number.replace(",", "")) for number in found.groups()[1:])
                self.resumed[found[1]] = step, steps
            if line.startswith("Epoch 1/"):
                self.resumed.setdefault(self.stage, (0, 1))
            if found := RUNNING.search(line):
                self._begin(found[1])
            elif AT_WORK.search(line):
                self.at_work = True
        self.ended = True
        self._begin("")

    def _begin(self, stage: str) -> None:
        with self.started:
            if self.stage:
                self.durations[self.stage] = time.monotonic() - self.since
            self.stage, self.since, self.at_work = stage, time.monotonic(), False
            self.started.notify_all()

    def wait_for(self, stage: str) -> bool:
        """Wait until a stage runs; False if DVC ended before."""
        with self.started:
            self.started.wait_for(lambda: self.stage == stage or self.ended)
            return self.stage == stage

    def wait_until(
        self, stage: str, happened: Callable[[], bool], timeout: float = math.inf
    ) -> float:
        """Wait until something has happened or the stage has ended; return the stage's seconds."""
        since, end = self.since, time.monotonic() + timeout
        while self.stage == stage and not happened() and time.monotonic() < end:
            time.sleep(0.002)
        return time.monotonic() - since

    def wait(self) -> None:
        self.process.wait()
        self.reader.join(10)
        if self.process.returncode:
            raise SystemExit("dvc repro failed:\n" + "".join(self.lines[-40:]))

    def kill(self, number: int, everything: bool) -> tuple[str, float]:
        """End it; return the stage that ran and for how long it had."""
        at = self.stage, time.monotonic() - self.since
        kill = getattr(os, "killpg", os.kill) if everything else os.kill
        kill(self.process.pid, number)
        self.process.wait()
        self.reader.join(30)  # until the stage is gone too, which holds the pipe open
        if self.reader.is_alive():
            raise SystemExit(f"{at[0]} lives on 30 s after its end:\n" + "".join(self.lines[-40:]))
        return at


def free_locks(checkout: Checkout) -> bool:
    """Do what docs/reproducibility.md says of a kill while DVC wrote down what it has locked."""
    listed = checkout.path / ".dvc/tmp/rwlock"
    cut_off = listed.exists() and not listed.read_bytes()
    if cut_off:
        listed.unlink()
        print("removed .dvc/tmp/rwlock, which DVC was writing", file=sys.stderr, flush=True)
    return cut_off


def locked(checkout: Checkout) -> dict:
    path = checkout.path / "dvc.lock"
    return (yaml.safe_load(path.read_text()) if path.exists() else {}).get("stages", {})


def signs(checkout: Checkout, stage: str, running: Repro) -> tuple[Callable[[], bool], ...]:
    """Return what tells that a stage is at work, and what, that it writes its outputs."""
    described = yaml.safe_load((checkout.path / "dvc.yaml").read_text())["stages"][stage]
    outs = [out for key in ("outs", "metrics", "plots") for out in described.get(key, [])]
    paths = [checkout.path / (out if isinstance(out, str) else next(iter(out))) for out in outs]

    def is_saved() -> bool:
        return any(checkout.path.glob(f".cache/checkpoints/{stage}-*/state.npz"))

    was_saved = is_saved()  # by a process that was killed; then the stage says where it goes on

    def works() -> bool:
        parts = (part for path in paths for part in path.parent.glob(".part-*"))
        return running.at_work or (is_saved() and not was_saved) or any(parts) or writes()

    def writes() -> bool:
        return any(path.exists() for path in paths)

    return works, writes


def rebuild(checkout: Checkout, *targets: str) -> dict[str, dict[str, float]]:
    """Rebuild undisturbed; return how many seconds each phase of each stage took."""
    running = Repro(checkout, *targets)
    marks: dict[str, list[float]] = {}
    while not running.ended:
        if (stage := running.stage) and stage not in marks:
            marks[stage] = [
                running.wait_until(stage, sign) for sign in signs(checkout, stage, running)
            ]
        time.sleep(0.002)
    running.wait()
    return {
        stage: {
            "starting": works,
            "working": writes - works,
            "writing": running.durations[stage] - writes,
        }
        for stage, (works, writes) in marks.items()
    }


def kill_and_go_on(
    checkout: Checkout,
    reference: dict,
    measured: dict[str, dict[str, float]],
    kills: int,
    seed: int,
    *targets: str,
) -> list[Kill]:
    """Kill every stage in turn, trainings twice, in as few rebuilds as the kills take."""
    moments = random.Random(seed)
    aims = [stage for stage in measured for _ in range(1 + stage.startswith("train_"))]
    done: list[Kill] = []
    while len(done) < kills:
        forget(checkout)
        rebuilt: list[Kill] = []
        for stage in aims[: kills - len(done)]:
            number = len(done) + len(rebuilt)
            way, signal_number, everything = WAYS[number % len(WAYS)]
            (phase,) = moments.choices(PHASES, WEIGHTS)
            running = Repro(checkout, *targets, shell=SHELLS[number % len(SHELLS)])
            if running.wait_for(stage):
                works, writes = signs(checkout, stage, running)
                if phase != "starting":
                    running.wait_until(stage, works if phase == "working" else writes)
                step, steps = running.resumed.get(stage, (0, 1))
                left = 1 - step / steps if phase == "working" else 1
                delay = moments.uniform(0, measured[stage][phase] * left)
                running.wait_until(stage, lambda: False, delay)
            note_resumptions(rebuilt, running)
            at, after = running.kill(signal_number, everything)
            free_locks(checkout)
            if at:  # else it had come to its end before, being quicker this time
                rebuilt.append(Kill(way, at, phase, after))
                print(f"{number + 1}: {way} {after:.1f} s into {at}", file=sys.stderr, flush=True)
        last = Repro(checkout, *targets)
        last.wait()
        note_resumptions(rebuilt, last)
        stages = locked(checkout)
        done += [
            kill._replace(equal=stages[kill.stage] == reference[kill.stage]) for kill in rebuilt
        ]
        if stages != reference:
            print("dvc.lock differs from the undisturbed run's", file=sys.stderr)
    return done


def note_resumptions(kills: list[Kill], running: Repro) -> None:
    """Say where stages that were killed before went on."""
    for number, kill in enumerate(kills):
        if kill.step is None and kill.stage in running.resumed:
            step, steps = running.resumed[kill.stage]
            kills[number] = kill._replace(step=step, steps=steps)


def forget(checkout: Checkout) -> None:
    """Make DVC rebuild everything without its cache."""
    for name in ("dvc.lock", ".dvc/cache", ".dvc/tmp", "data", "models", ".cache"):
        path = checkout.path / name
        path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def table(kills: list[Kill]) -> str:
    lines = ["| # | what, how | stage | while | seconds into it | went on after | hash equal |"]
    lines.append("|---|---|---|---|---|---|---|")
    for number, kill in enumerate(kills, 1):
        on = f"step {kill.step} of {kill.steps}" if kill.step else "its start"
        cells = (number, kill.way, kill.stage, kill.phase, f"{kill.after:.1f}", on)
        lines.append(f"| {' | '.join(map(str, cells))} | {'yes' if kill.equal else 'NO'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--default", action="store_true", help="train as params.yaml has it")
    parser.add_argument("targets", nargs="*", help="stages; by default, all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder) / "repository")
        if not arguments.default:
            checkout.change_params(TINY)
            checkout.change_params(LONGER)
        forget(checkout)
        measured = rebuild(checkout, *arguments.targets)
        reference = locked(checkout)
        kills = kill_and_go_on(
            checkout, reference, measured, arguments.kills, arguments.seed, *arguments.targets
        )
    print(table(kills))
    trainings = [kill for kill in kills if kill.stage.startswith("train_")]
    resumed = sum(bool(kill.step) for kill in trainings)
    equal = sum(bool(kill.equal) for kill in kills)
    print(f"\n{resumed} of {len(trainings)} trainings went on after a step; ", end="")
    print(f"{equal} of {len(kills)} stages are equal")
    sys.exit(equal != len(kills))


if __name__ == "__main__":
    main()
