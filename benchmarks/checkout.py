"""A copy of the working tree to measure in, with parameters of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
WORK = REPOSITORY / ".cache" / "bench"
LOGS = WORK / "logs"
# What a person may have set that would reach what is measured.
FOREIGN = ("DVC", "MLFLOW", "TF_", "ONEDNN", "KERAS", "PYTHONPATH", "OMP_", "CATSDOGS")


def environment(**more: str) -> dict[str, str]:
    """The environment of a person who has activated the one that runs this, and set nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"PATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"} | more


def merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Change values in place, section by section; return them."""
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(values[key], value)
        else:
            values[key] = value
    return values


class Checkout:
    """A Git repository below `.cache/bench` with today's code; outputs of earlier runs stay."""

    def __init__(self, name: str, changes: dict[str, Any]) -> None:
        self.path = WORK / name
        for stale in ("src", ".cache/checkpoints"):
            shutil.rmtree(self.path / stale, ignore_errors=True)
        listed = _git(REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard")
        for file in listed.splitlines():
            if file != "dvc.lock" and (REPOSITORY / file).is_file():
                (self.path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / file, self.path / file)
        self.change_params(changes)
        self._share_downloads()
        _git(self.path, "init", "--quiet")

    def change_params(self, changes: dict[str, Any]) -> None:
        """Change some values of its `params.yaml`."""
        path = self.path / "params.yaml"
        values = merge(yaml.safe_load(path.read_text(encoding="utf-8")), changes)
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def _share_downloads(self) -> None:
        downloads = REPOSITORY / ".cache" / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        (self.path / ".cache").mkdir(exist_ok=True)
        link = self.path / ".cache" / "downloads"
        if not link.exists():
            link.unlink(missing_ok=True)  # which leads nowhere once the repository was moved
            link.symlink_to(downloads)

    def run(self, *command: str) -> measure.Usage:
        """Run a program of the environment.

        Raises:
            NotMeasured: it failed.
        """
        log = LOGS / f"{self.path.name}-{Path(command[-1]).stem}.log"
        return measure.run(command, self.path, environment(), log)

    def stage(self, name: str) -> measure.Usage:
        """Run a stage's script as DVC does, without DVC."""
        return self.run(sys.executable, f"src/{name}.py")

    def repro(self, *stages: str) -> None:
        """Bring stages, or all, and what they depend on up to date."""
        self.run(sys.executable, "-m", "dvc", "repro", *stages)

    def contender(self, script: str, *arguments: str) -> measure.Contender:
        """Start a script of the benchmarks here, with the copy's modules before it."""
        command = [sys.executable, str(REPOSITORY / "benchmarks" / script), *arguments]
        words = [argument for argument in arguments if "/" not in argument]
        log = LOGS / f"{'-'.join([Path(script).stem, *words])}.log"
        here = environment(PYTHONPATH=str(self.path / "src"))
        return measure.Contender(command, self.path, here, log)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
