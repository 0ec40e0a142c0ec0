"""An experiment as DVC keeps it: a revision goes in, its parameters, hashes and files come out."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout, params
from catsdogs.files import digest
from catsdogs.stage import UserError

import yaml

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

LOCK = Path("dvc.lock")
# What an experiment is told apart by; `compare` only describes what these made.
DECISIVE = ("download", "split", *layout.TRAININGS, "evaluate")


@dataclass(frozen=True)
class Snapshot:
    """What `dvc.lock` says of one experiment, and where its files are.

    Attributes:
        experiment: DVC's name for it, or "" if it is a commit or the workspace.
        revision: the commit that it is, or that it was made from; "" outside of Git.
        stages: of `dvc.lock`, the stages that were made from one another.
        parameters: all of `params.yaml`.
        committed: whether the revision holds it, rather than what it was made from.
        files: of a revision, where DVC finds its files; None for the workspace.
        folder: where files of a revision are put.
    """

    experiment: str
    revision: str
    stages: Mapping[str, Any]
    parameters: Mapping[str, Any]
    committed: bool
    files: DVCFileSystem | None = None
    folder: Path = Path()

    @property
    def trainings(self) -> list[str]:
        """The training stages that have been run, or taken from DVC's cache."""
        return [stage for stage in layout.TRAININGS if stage in self.stages]

    @property
    def evaluated(self) -> bool:
        """Whether all models have been evaluated; else it is a part of an experiment."""
        return "evaluate" in self.stages

    @property
    def content(self) -> str:
        """Tells an experiment by all that it was given and all that it made."""
        parts = [
            [stage, self.stages[stage].get("params"), self.stages[stage]["outs"]]
            for stage in DECISIVE
            if stage in self.stages
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def params(self) -> dict[str, Any]:
        """The sections of `params.yaml` that the stages were run with."""
        sections: dict[str, Any] = {}
        for stage in self.stages.values():
            sections |= stage.get("params", {}).get("params.yaml", {})
        return sections

    def outputs(self, stage: str) -> dict[Path, str]:
        """The files and folders that a stage made, with the MD5 that DVC has of them."""
        outs = self.stages.get(stage, {}).get("outs", [])
        return {Path(out["path"]): out["md5"] for out in outs}

    @property
    def unused(self) -> dict[str, Any]:
        """Parameters of `params.yaml` that the stages were not run with."""
        wanted, used = dict(params.flatten(self.parameters)), params.flatten(self.params)
        # As numbers, because YAML reads what DVC writes as 1e-05 as text.
        return {
            key: wanted.get(key)
            for key, value in used
            if params.number(wanted.get(key)) != params.number(value)
        }

    def has(self, path: Path) -> bool:
        """Whether the experiment has a file of this name."""
        return self.files.exists(path.as_posix()) if self.files else path.exists()

    def within(self, path: Path) -> list[Path]:
        """The files of an output that is a folder; or the output, which is a file."""
        place = self.fetch(path)
        return sorted(path / each.name for each in place.iterdir()) if place.is_dir() else [path]

    def fetch(self, path: Path) -> Path:
        """Give the place of one of the experiment's files, or of a whole folder, on this disk.

        Raises:
            UserError: it is not there, or is not the one that `dvc.lock` speaks of.
        """
        target = self.folder / path
        if self.files and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.files.get(path.as_posix(), str(target), recursive=True)
            except OSError:
                raise UserError(
                    f"DVC's cache lacks {path} of {self.experiment or self.revision[:7]}: "
                    "`dvc pull` it from where the experiment was run, or run it again"
                ) from None
        made = {name: md5 for stage in self.stages for name, md5 in self.outputs(stage).items()}
        if not target.exists() or made.get(path) not in (None, _md5(target)):
            raise UserError(f"{path} is not what dvc.lock has: run `dvc repro`")
        return target


def of_workspace(experiment: str = "", revision: str = "") -> Snapshot:
    """The experiment in the working directory.

    Args:
        experiment: DVC's name for it, or "".
        revision: the commit that it was made from; Git's HEAD if it is left out.

    Raises:
        UserError: not all of its models are made and evaluated.
    """
    stages = _coherent(LOCK.read_text(encoding="utf-8") if LOCK.exists() else "")
    revision = revision or git("rev-parse", "HEAD")
    snapshot = Snapshot(experiment, revision, stages, params.read(), committed=True)
    if not snapshot.evaluated:
        raise UserError("the workspace is not evaluated yet: run `dvc repro`")
    head = replace(snapshot, stages=_coherent(git("show", f"HEAD:{LOCK}")))
    return replace(snapshot, committed=head.content == snapshot.content)


@contextmanager
def of_revision(revision: str, experiment: str = "", base: str = "") -> Iterator[Snapshot]:
    """The experiment that a revision holds; its files are fetched when they are asked for.

    Args:
        revision: the commit to look at.
        experiment: DVC's name for it, or "".
        base: the commit that an experiment was made from.

    Raises:
        UserError: the revision has no model.
    """
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(rev=revision)
    texts = {
        path: files.read_text(str(path)) if files.exists(str(path)) else ""
        for path in (LOCK, params.PARAMS)
    }
    parameters = yaml.safe_load(texts[params.PARAMS]) or {}
    stages = _coherent(texts[LOCK])
    with tempfile.TemporaryDirectory(prefix="catsdogs-") as folder:
        snapshot = Snapshot(
            experiment, base or revision, stages, parameters, True, files, Path(folder)
        )
        if not snapshot.trainings:
            raise UserError(f"{experiment or revision[:7]} has no model in its dvc.lock")
        yield snapshot


def _md5(path: Path) -> str:
    """The MD5 of a file, or of a flat folder, as DVC has it in `dvc.lock`."""
    if not path.is_dir():
        return digest(path, "md5")
    files = [{"md5": digest(each, "md5"), "relpath": each.name} for each in sorted(path.iterdir())]
    return hashlib.md5(json.dumps(files).encode(), usedforsecurity=False).hexdigest() + ".dir"


def git(*arguments: str) -> str:
    """What Git says in the working directory; empty if it fails."""
    return subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False
    ).stdout.strip()


def is_evaluated(revision: str) -> bool:
    """Whether a commit has evaluated the very models that it has, of the parameters it has."""
    lock, text = (git("show", f"{revision}:{path}") for path in (LOCK, params.PARAMS))
    parameters = yaml.safe_load(text) or {}
    snapshot = Snapshot("", revision, _coherent(lock), parameters, committed=True)
    return snapshot.evaluated and not snapshot.unused


def _coherent(lock: str) -> dict[str, Any]:
    """The stages that were made from what `dvc.lock` has of the stages before them.

    An experiment may have been run up to one stage only. The later ones are then still those of
    the commit that it was made from, and do not belong to it.
    """
    stages = (yaml.safe_load(lock) or {}).get("stages", {})
    made = {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", [])}
    coherent: dict[str, Any] = {}
    hashes: dict[str, str] = {}
    for name in (name for name in (*DECISIVE, "compare") if name in stages):
        needed = [dep for dep in stages[name].get("deps", []) if dep["path"] in made]
        if all(hashes.get(dep["path"]) == dep["md5"] for dep in needed):
            coherent[name] = stages[name]
            hashes |= {out["path"]: out["md5"] for out in stages[name].get("outs", [])}
    return coherent
