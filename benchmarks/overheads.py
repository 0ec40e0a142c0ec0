"""Overheads: what `dvc repro` costs with nothing to do, and stages before they do anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from checkout import LOGS, REPOSITORY, WORK, Checkout, environment
from measure import Sample, Usage, cost, ratio, run
from photographs import Sources
from table import Bound, Line, seconds

PART = "Overheads"
ROUNDS = 5
STAGES = 7
NOTE = f"""\
CPU / wall. The trivial pipeline copies a file {STAGES} times, one dependency and one output a
stage. A stage's start is its script imported by a fresh interpreter, its `main` not called."""
LIGHT = ("download", "split", "compare")  # which need neither TensorFlow nor MLflow
START = "import runpy; runpy.run_path('src/{}.py', run_name='imported')"
# Every Python process that ends leaves its number if it has loaded TensorFlow.
WITNESS = """\
import atexit, os, pathlib, sys
def tell():
    if "tensorflow" in sys.modules:
        pathlib.Path({folder!r}, str(os.getpid())).touch()
atexit.register(tell)
"""

# The whole pipeline on very few drawn images.
FEW = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1, "batch_size": 4}
CNN = FEW | {"filters": [4, 4], "dense": [8]}
TINY = {
    "data": {"sample_images": 60},
    "split": {"image_size": 76},
    "runtime": {"rehearsal": 1},
    "train_basic": CNN,
    "train_augmented": CNN,
    "train_inception": FEW | {"dense": [8], "untrained": {"statistics_batches": 1}},
    "evaluate": {"mistakes": 2, "hits": 2, "same_images": 2},
}


def measure(_: Sources) -> list[Line]:
    """Measure what does not depend on the images."""
    checkout = Checkout("tiny", TINY)
    checkout.repro()
    return [
        _nothing_to_do(checkout),
        *(_start(checkout, stage) for stage in LIGHT),
        _imports(checkout),
    ]


def _nothing_to_do(checkout: Checkout) -> Line:
    folders = checkout.path, trivial_pipeline(WORK / "trivial")
    rounds = [[_sample(_repro(folder)) for folder in folders] for _ in range(ROUNDS)]
    ours, other = zip(*rounds, strict=True)
    what = "`dvc repro` with nothing to do / in a trivial pipeline"
    texts = seconds(cost(ours)), seconds(cost(other))
    return Line(PART, what, *texts, *ratio(ours, other), Bound("≤", 1.3))


def _repro(folder: Path, *arguments: str, **variables: str) -> Usage:
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    return run(command, folder, environment(**variables), LOGS / f"{folder.name}-repro.log")


def _sample(used: Usage) -> Sample:
    return Sample(1, used.cost)


def trivial_pipeline(folder: Path) -> Path:
    """Make a Git repository whose pipeline copies a file again and again, all up to date."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stages = {
        f"copy{number}": {
            "cmd": f"cp file{number} file{number + 1}",
            "deps": [f"file{number}"],
            "outs": [f"file{number + 1}"],
        }
        for number in range(STAGES)
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (folder / "file0").write_text("content\n")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    run(["dvc", "init", "--quiet"], folder, environment(), LOGS / "trivial-init.log")
    shutil.copy(REPOSITORY / ".dvc/config", folder / ".dvc/config")
    _repro(folder)
    return folder


def start(checkout: Checkout, stage: str) -> Usage:
    """Import a stage's script and do nothing."""
    command = [sys.executable, "-c", START.format(stage)]
    here = environment(PYTHONPATH="src")
    return run(command, checkout.path, here, LOGS / f"start-{stage}.log")


def _start(checkout: Checkout, stage: str) -> Line:
    used = cost([_sample(start(checkout, stage)) for _ in range(ROUNDS)])
    bound = Bound("≤", 1, " s")
    return Line(PART, f"start of `{stage}`", seconds(used), ratio=used.cpu, bound=bound)


def _imports(checkout: Checkout) -> Line:
    """Count the processes of a training that load TensorFlow, which takes seconds each time."""
    folder = WORK / "witness"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITNESS.format(folder=str(folder)))
    again = ("--force", "--single-item", "train_basic")
    _repro(checkout.path, *again, PYTHONPATH=str(folder))
    count = sum(path.name.isdecimal() for path in folder.iterdir())
    what = "processes of `dvc repro train_basic` that load TensorFlow"
    return Line(PART, what, str(count), ratio=count, bound=Bound("≤", 1))
