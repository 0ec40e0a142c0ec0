"""What processes use: commands go in; CPU seconds, wall time and peak memory come out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from contender import END


class NotMeasured(Exception):
    """Why something could not be measured."""


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU, user and system, and of wall time, which are reckoned with alike."""

    cpu: float
    wall: float

    def __iter__(self) -> Iterator[float]:
        yield from (self.cpu, self.wall)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.cpu * factor, self.wall * factor)

    def __truediv__(self, other: Cost) -> Cost:
        return Cost(self.cpu / other.cpu, self.wall / other.wall)


NOTHING = Cost(0.0, 0.0)


class Usage(NamedTuple):
    """What a process and those that it has waited for used."""

    cost: Cost
    peak: int  # bytes resident, of the largest single process


class Sample(NamedTuple):
    """What a task took."""

    units: int  # images or steps
    cost: Cost

    @property
    def each(self) -> Cost:
        """What one unit took."""
        return self.cost * (1 / self.units)


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path) -> Usage:
    """Run a command to its end.

    Raises:
        NotMeasured: it failed.
    """
    began = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    cpu, peak = _wait(process, log)
    return Usage(Cost(cpu, time.perf_counter() - began), peak)


def _wait(process: subprocess.Popen, log: Path) -> tuple[float, int]:
    """Wait for a process; return its CPU seconds and its peak memory."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise _failure(process, f"ended with {process.returncode}", log)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of `ru_maxrss`
    return used.ru_utime + used.ru_stime, used.ru_maxrss * unit


def _failure(process: subprocess.Popen, how: str, log: Path) -> NotMeasured:
    words = [Path(word).name for word in process.args[1:]]
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    return NotMeasured(f"{' '.join(words)} {how}: {last} ({log})")


class Contender:
    """The benchmark's side of a process that does tasks when told to: see `contender.py`."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self.log = log
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        self.used: Usage | None = None  # once it has ended
        self.began = time.perf_counter()
        self.busy = 0.0  # seconds of wall time, its start among them
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()

    def do(self, task: str) -> None:
        """Let it do a task, and note among `samples` what it took.

        Raises:
            NotMeasured: it ended instead.
        """
        began = time.perf_counter() if self.busy else self.began
        self._tell(task)
        answered = self.process.stdout.readline()
        if not answered:
            raise _failure(self.process, "stopped", self.log)
        answer = json.loads(answered)
        self.busy += time.perf_counter() - began
        self.samples[task].append(Sample(answer["units"], Cost(answer["cpu"], answer["wall"])))

    def end(self) -> None:
        """Give it no more tasks, wait for its end, and note what it used when it was not idle.

        Raises:
            NotMeasured: it failed.
        """
        began = time.perf_counter()
        self._tell(END)
        cpu, peak = _wait(self.process, self.log)
        self.used = Usage(Cost(cpu, self.busy + time.perf_counter() - began), peak)

    def _tell(self, word: str) -> None:
        try:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise _failure(self.process, "stopped", self.log) from None


def in_turn(turns: Sequence[tuple[Contender, str]], rounds: int = 1) -> None:
    """Let contenders do their tasks one after the other, round after round."""
    for _ in range(rounds):
        for contender, task in turns:
            contender.do(task)


def cost(samples: Sequence[Sample]) -> Cost:
    """What a unit took, in the median round."""
    return _median([sample.each for sample in samples])


def ratio(over: Sequence[Sample], under: Sequence[Sample]) -> Cost:
    """The median, over the rounds, of the ratio of what was measured side by side."""
    return _median([one.each / other.each for one, other in zip(over, under, strict=True)])


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(median(each.cpu for each in costs), median(each.wall for each in costs))


def grouped(samples: Sequence[Sample], size: int) -> list[Sample]:
    """Take so many samples at a time as one."""
    groups = (samples[start : start + size] for start in range(0, len(samples), size))
    return [Sample(sum(each.units for each in group), total(group)) for group in groups]


def total(samples: Iterable[Sample]) -> Cost:
    """What several samples took together."""
    return sum((sample.cost for sample in samples), NOTHING)
