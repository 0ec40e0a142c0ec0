"""What processes use: CPU seconds, user and system, wall time and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Cost = np.ndarray  # seconds of CPU and of wall time: float64, 2


class NotMeasured(Exception):
    """Why something could not be measured."""


@dataclass(frozen=True)
class Usage:
    """What a process and the children it has waited for used."""

    cost: Cost
    peak: int  # bytes resident, of the largest single process
    samples: dict[str, np.ndarray]  # of each task that was probed: units, CPU, wall; float64, N×3

    def each(self, task: str) -> Cost:
        """Return what one unit of a task took: a step, a batch or an image."""
        return each(self.samples[task])

    @property
    def unprobed(self) -> Cost:
        """What it used besides the samples."""
        return self.cost - sum(samples[:, 1:].sum(axis=0) for samples in self.samples.values())


def each(samples: np.ndarray) -> Cost:
    """Return what one unit took, over all samples."""
    units, *cost = samples.sum(axis=0)
    return np.array(cost) / units


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    plan: Mapping[str, int] | None = None,
) -> Usage:
    """Run a command to its end, what it prints going to a log.

    Args:
        plan: what `probe.py` should measure inside the process.

    Raises:
        NotMeasured: it failed.
    """
    with tempfile.TemporaryDirectory() as temporary, log.open("w") as output:
        result = Path(temporary) / "samples.json"
        probe = json.dumps({**(plan or {}), "result": str(result)})
        variables = {**environment, "PROBE": probe}
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        noted = json.loads(result.read_text()) if result.exists() else {}
    if process.returncode or (plan and not noted):
        words = " ".join(Path(word).name for word in command[1:])
        last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
        raise NotMeasured(f"{words} ended with {process.returncode}: {last} ({log})")
    cost = np.array([used.ru_utime + used.ru_stime, wall])
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of `ru_maxrss`
    samples = {task: np.array(each_one, float) for task, each_one in noted.items()}
    return Usage(cost, used.ru_maxrss * unit, samples)
