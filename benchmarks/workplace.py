"""Where it is measured: copies of the working tree below `.cache/bench`, with other parameters."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from machine import NATIVE
from measure import NotMeasured, Usage, run

REPOSITORY = Path(__file__).resolve().parent.parent
BENCHMARKS = REPOSITORY / "benchmarks"
WORK = Path(os.environ.get("CATSDOGS_BENCH") or REPOSITORY / ".cache/bench")
# What a person may have set that would change what is measured.
FOREIGN = ("CATSDOGS", "DVC", "JAX", "KERAS", "MLFLOW", "OMP_", "ONEDNN", "PYTHON", "TF_", "XLA")
SMALL = {  # what a quick run computes: few weights, and few of the trunk's blocks
    "split": {"image_size": 76},
    "train_basic": {"dense": [8]},
    "train_augmented": {"dense": [8]},
    "train_inception": {"dense": [8], "cut": "mixed0"},
    "evaluate": {"mistakes": 1, "hits": 2, "same_images": 2, "channels": 1},
}
PHOTOGRAPHS = 24_900  # the public archive has 25,000, some of which no decoder reads


@dataclass(frozen=True)
class Bench:
    """What is asked for on the command line."""

    photographs: str  # a value of `data.source`
    weights: str  # a value of `train_inception.weights`
    torch: bool  # measure PyTorch, too
    quick: bool  # only show that everything runs
    cpu_isa: str = NATIVE  # the widest instructions that oneDNN may use, in everything

    def few(self, count: int) -> int:
        """Return a number of steps, images or rounds, or a small one if it is to be quick."""
        return max(1, count // 50) if self.quick else count


class Clone:
    """A Git repository with the working tree's files and none of their outputs."""

    def __init__(self, name: str, bench: Bench, changes: dict[str, Any] | None = None) -> None:
        self.path, self.cpu_isa = WORK / name, bench.cpu_isa
        shutil.rmtree(self.path, ignore_errors=True)
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        for file in listed.stdout.decode().splitlines():
            if file != "dvc.lock" and (REPOSITORY / file).is_file():
                (self.path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / file, self.path / file)
        subprocess.run(["git", "init", "--quiet"], cwd=self.path, check=True)
        downloads = REPOSITORY / ".cache/downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        (self.path / ".cache").mkdir()
        (self.path / ".cache/downloads").symlink_to(downloads)
        isa = {"cpu_isa": bench.cpu_isa}  # for drawn images, too
        rehearsal = {"steps": 1, "threads": NATIVE} | isa
        self.change_params({"runtime": isa, "rehearsal": rehearsal} | (changes or {}))

    def change_params(self, changes: dict[str, Any]) -> None:
        """Change values of its `params.yaml`, section by section."""
        path = self.path / "params.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section, some in changes.items():
            values[section] |= some
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def run(self, *command: str, plan: dict[str, int] | None = None, **variables: str) -> Usage:
        """Run a program in it, as a person who has set nothing but the given variables.

        Raises:
            NotMeasured: it failed.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        environment = kept | {"PATH": path, "PYTHONPATH": str(self.path / "src")} | variables
        words = [self.path.name, *(Path(word).stem for word in command[1:4])]
        return run(command, self.path, environment, WORK / f"{'-'.join(words)}.log", plan)

    def stage(self, name: str, plan: dict[str, int] | None = None) -> Usage:
        """Run a stage's script as DVC does, without DVC; measure inside it if there is a plan."""
        probe = [str(BENCHMARKS / "probe.py")] if plan else []
        return self.run(sys.executable, *probe, f"src/{name}.py", plan=plan)

    def rival(self, script: str, *arguments: str, plan: dict[str, int]) -> Usage:
        """Run a script of the benchmarks on the photographs, with the pipeline's instructions."""
        python = torch_python() if "pytorch" in arguments else sys.executable
        folders = str(self.path / "folders")
        isa = {} if self.cpu_isa == NATIVE else {"ONEDNN_MAX_CPU_ISA": self.cpu_isa}
        return self.run(python, str(BENCHMARKS / script), *arguments, folders, plan=plan, **isa)


@cache
def photographs(bench: Bench) -> tuple[Clone, list[Usage]]:
    """Split all the photographs; return where, and what `download` and `split` used.

    The clone has them as other libraries want them, too: `folders/train/cat` and so on.

    Raises:
        NotMeasured: the photographs cannot be had, or are fewer than the bounds were set for.
    """
    data = {"source": bench.photographs, "sample_images": bench.few(10_000)}
    clone = Clone("photographs", bench, SMALL if bench.quick else None)
    clone.change_params({"data": data, "train_inception": {"weights": bench.weights}})
    used = [clone.stage(stage) for stage in ("download", "split")]
    images = 0
    with zipfile.ZipFile(clone.path / "data/raw/images.zip") as archive:
        for side in ("train", "validation"):
            with (clone.path / f"data/split/{side}.csv").open(encoding="utf-8") as table:
                names = [row["name"] for row in csv.DictReader(table)]
            archive.extractall(clone.path / "folders" / side, names)
            images += len(names)
    if images < PHOTOGRAPHS and not bench.quick:
        raise NotMeasured(f"{bench.photographs} has {images:,} images instead of 25,000")
    return clone, used


def torch_python() -> str:
    """Return the interpreter of PyTorch's environment, which is made the first time: 5.5 GB.

    Raises:
        NotMeasured: PyTorch cannot be installed.
    """
    folder, requirements = WORK / "torch", str(BENCHMARKS / "requirements-torch.txt")
    python = str(folder / "bin/python")
    if not (folder / "ready").exists():
        create = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install = [python, "-m", "pip", "install", "--quiet", "--requirement", requirements]
        for command in (create, install):
            run(command, WORK, os.environ, WORK / "torch.log")
        (folder / "ready").touch()
    return python
