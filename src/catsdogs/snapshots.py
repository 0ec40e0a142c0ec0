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

from catsdogs import layout
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
        stages: the stages of `dvc.lock`.
        committed: whether the revision holds it, rather than what it was made from.
        files: of a revision, where DVC finds its files; None for the workspace.
        folder: where files of a revision are put.
    """

    experiment: str
    revision: str
    stages: Mapping[str, Any]
    committed: bool
    files: DVCFileSystem | None = None
    folder: Path = Path()

    @property
    def content(self) -> str:
        """Tells an experiment by all that it was given and all that it made."""
        parts = [
            [stage, self.stages[stage].get("params"), self.stages[stage]["outs"]]
            for stage in DECISIVE
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
        """The files that a stage made, with their MD5."""
        outs = self.stages.get(stage, {}).get("outs", [])
        return {Path(out["path"]): out["md5"] for out in outs}

    def has(self, path: Path) -> bool:
        """Whether the experiment has a file of this name."""
        return self.files.exists(path.as_posix()) if self.files else path.exists()

    def fetch(self, path: Path) -> Path:
        """Give the place of one of the experiment's files on this disk.

        Raises:
            UserError: it is not there, or is not the one that `dvc.lock` speaks of.
        """
        target = self.folder / path
        if self.files and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.files.get_file(path.as_posix(), str(target))
            except OSError:
                raise UserError(
                    f"DVC's cache lacks {path} of {self.experiment or self.revision[:7]}: "
                    "`dvc pull` it from where the experiment was run, or run it again"
                ) from None
        made = {name: md5 for stage in self.stages for name, md5 in self.outputs(stage).items()}
        if not target.exists() or made.get(path) not in (None, digest(target, "md5")):
            raise UserError(f"{path} is not what dvc.lock has: run `dvc repro`")
        return target


def of_workspace(experiment: str = "", revision: str = "") -> Snapshot:
    """The experiment in the working directory, up to and including `evaluate`.

    Args:
        experiment: DVC's name for it, or "".
        revision: the commit that it was made from; Git's HEAD if it is left out.

    Raises:
        UserError: not all of its models are made and evaluated.
    """
    stages = _stages(LOCK.read_text(encoding="utf-8") if LOCK.exists() else "", "the workspace")
    # What there is of `compare` may be of an earlier experiment, and being made anew.
    decisive = {stage: stages[stage] for stage in DECISIVE}
    snapshot = Snapshot(experiment, revision or git("rev-parse", "HEAD"), decisive, committed=True)
    try:
        head = _stages(git("show", f"HEAD:{LOCK}"), "HEAD")
    except UserError:
        head = {}
    same = head and replace(snapshot, stages=head).content == snapshot.content
    return replace(snapshot, committed=bool(same))


@contextmanager
def of_revision(revision: str, experiment: str = "", base: str = "") -> Iterator[Snapshot]:
    """The experiment that a revision holds; its files are fetched when they are asked for.

    Args:
        revision: the commit to look at.
        experiment: DVC's name for it, or "".
        base: the commit that an experiment was made from.

    Raises:
        UserError: the revision has no `dvc.lock`, or not all of its models are evaluated in it.
    """
    from dvc.api import DVCFileSystem

    files = DVCFileSystem(rev=revision)
    lock = files.read_text(str(LOCK)) if files.exists(str(LOCK)) else ""
    stages = _stages(lock, experiment or revision[:7])
    with tempfile.TemporaryDirectory(prefix="catsdogs-") as folder:
        yield Snapshot(experiment, base or revision, stages, True, files, Path(folder))


def git(*arguments: str) -> str:
    """What Git says in the working directory; empty if it fails."""
    return subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False
    ).stdout.strip()


def _stages(lock: str, name: str) -> dict[str, Any]:
    stages = (yaml.safe_load(lock) or {}).get("stages", {})
    missing = [stage for stage in DECISIVE if stage not in stages]
    if missing:
        raise UserError(f"{name}: dvc.lock lacks {', '.join(missing)}: run `dvc repro`")
    return stages
