"""Kill `dvc repro` at random moments, let it go on, and compare the hashes with an unbroken run's.

    python tests/kill.py --kills 20 --seed 1           # a very small sample: minutes
    python tests/kill.py --kills 20 --seed 1 --default # what params.yaml has

It works in temporary copies of the repository and ends with status 1 if anything differs.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import yaml
from conftest import TINY, Checkout

# So long that most kills find a training under way, not one that starts.
LONGER = {
    "train_basic": {"epochs": 60},
    "train_augmented": {"epochs": 60},
    "train_inception": {"epochs": 20},
}
RUNNING = re.compile(r"Running stage '(\w+)'")
RESUMED = re.compile(r"(\w+) goes on after step ([\d,]+) of ([\d,]+)")
# What is killed how: all of the processes, as a power cut does; DVC alone; as Ctrl-C does.
WAYS = (
    ("all, SIGKILL", signal.SIGKILL, True),
    ("all, SIGKILL", signal.SIGKILL, True),
    ("dvc, SIGKILL", signal.SIGKILL, False),
    ("all, SIGTERM", signal.SIGTERM, True),
    ("all, SIGINT", signal.SIGINT, True),
)

SHELLS = ("/bin/bash", "/bin/sh")  # DVC starts stages through the user's; some wait, some do not


class Kill(NamedTuple):
    way: str
    stage: str
    after: float  # seconds into the stage
    resumed: str = ""
    equal: bool | None = None


class Repro:
    """A `dvc repro` under way, in a session of its own; knows which stage runs since when."""

    def __init__(self, checkout: Checkout, *targets: str, shell: str = "/bin/bash") -> None:
        self.process = subprocess.Popen(
            ["dvc", "repro", *targets],
            cwd=checkout.path,
            env=checkout.environment() | {"PYTHONUNBUFFERED": "1", "SHELL": shell},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.stage, self.since, self.lines, self.ended = "", 0.0, [], False
        self.durations: dict[str, float] = {}
        self.resumed: dict[str, str] = {}
        self.started = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if found := RESUMED.search(line):
                self.resumed[found[1]] = f"step {found[2]} of {found[3]}"
            if found := RUNNING.search(line):
                self._begin(found[1])
        self.ended = True
        self._begin("")

    def _begin(self, stage: str) -> None:
        with self.started:
            if self.stage:
                self.durations[self.stage] = time.monotonic() - self.since
            self.stage, self.since = stage, time.monotonic()
            self.started.notify_all()

    def wait_for(self, stage: str) -> bool:
        """Wait until a stage runs; False if DVC ended before."""
        with self.started:
            self.started.wait_for(lambda: self.stage == stage or self.ended)
            return self.stage == stage

    def wait(self) -> None:
        self.process.wait()
        self.reader.join(10)
        if self.process.returncode:
            raise SystemExit("dvc repro failed:\n" + "".join(self.lines[-40:]))

    def kill(self, number: int, everything: bool) -> tuple[str, float]:
        """End it; return the stage that ran and for how long it had."""
        at = self.stage, time.monotonic() - self.since
        target = os.killpg if everything else os.kill
        target(self.process.pid, number)
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


def rebuild(checkout: Checkout) -> dict[str, float]:
    """Rebuild everything undisturbed; return how long each stage took, in seconds."""
    undisturbed = Repro(checkout)
    undisturbed.wait()
    return undisturbed.durations


def kill_and_go_on(
    checkout: Checkout, reference: dict, durations: dict[str, float], kills: int, seed: int
) -> list[Kill]:
    """Kill every stage in turn, as often as is asked for, in as few rebuilds as need be."""
    moments = random.Random(seed)
    done: list[Kill] = []
    number = 0
    while number < kills:
        forget(checkout)
        rebuilt: list[Kill] = []
        for stage, duration in durations.items():
            if number == kills:
                break
            way, signal_number, everything = WAYS[number % len(WAYS)]
            delay = moments.uniform(0, duration)
            running = Repro(checkout, shell=SHELLS[number % len(SHELLS)])
            if running.wait_for(stage):
                time.sleep(delay)
            note_resumptions(rebuilt, running)
            at, after = running.kill(signal_number, everything)
            free_locks(checkout)
            if at:  # else it had come to its end before, being quicker this time
                rebuilt.append(Kill(way, at, after))
                number += 1
                print(f"{number}: {way} {after:.1f} s into {at}", file=sys.stderr, flush=True)
        last = Repro(checkout)
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
    """Say where the stage that was killed last went on."""
    if kills and not kills[-1].resumed and kills[-1].stage in running.resumed:
        kills[-1] = kills[-1]._replace(resumed=running.resumed[kills[-1].stage])


def forget(checkout: Checkout) -> None:
    """Make DVC rebuild everything without its cache."""
    checkout.run("rm", "-rf", "dvc.lock", ".dvc/cache", ".dvc/tmp", "data", "models", ".cache")


def table(kills: list[Kill]) -> str:
    lines = ["| # | what, how | stage | seconds into it | went on after | hash equal |"]
    lines.append("|---|---|---|---|---|---|")
    for number, kill in enumerate(kills, 1):
        cells = (number, kill.way, kill.stage, f"{kill.after:.1f}", kill.resumed or "its start")
        lines.append(f"| {' | '.join(map(str, cells))} | {'yes' if kill.equal else 'NO'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--default", action="store_true", help="train as params.yaml has it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder) / "repository")
        if not arguments.default:
            checkout.change_params(TINY)
            checkout.change_params(LONGER)
        forget(checkout)
        durations = rebuild(checkout)
        reference = locked(checkout)
        kills = kill_and_go_on(checkout, reference, durations, arguments.kills, arguments.seed)
    print(table(kills))
    equal = sum(bool(kill.equal) for kill in kills)
    print(f"\n{equal} of {len(kills)} equal")
    sys.exit(equal != len(kills))


if __name__ == "__main__":
    main()
