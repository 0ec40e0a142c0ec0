"""Snapshots: an experiment as DVC keeps it, with its parameters, hashes and files.

In `dvc.lock` DVC has what every stage was given and what it made; a snapshot reads that of the
workspace, a commit or an experiment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout, params
from catsdogs.files import digest
from catsdogs.git import git
from catsdogs.stage import UserError
from catsdogs.tracking import store

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

LOCK = Path("dvc.lock")


class NothingTrainedError(UserError):
    """An experiment has no model, or the workspace has models that are not evaluated."""


@dataclass(frozen=True)
class Snapshot:
    """What `dvc.lock` says of one experiment, and where its files are."""

    experiment: str  # DVC's name for it, or "" if it is a commit or the workspace
    revision: str  # the commit that it is, or that it was made from; "" outside of Git
    stages: Mapping[str, Any]  # of `dvc.lock`, those that were made from one another
    params_file: Mapping[str, Any]  # the whole of `params.yaml`
    committed: bool = True  # whether the revision holds it, rather than what it was made from
    files: DVCFileSystem | None = None  # of a revision; the workspace's are read where they are
    prefix: str = ""  # of their names there, if the project is in a folder of the repository
    folder: Path = Path()  # where the files are, or are put once they are asked for

    @property
    def trainings(self) -> list[str]:
        """The trainings that were run, or taken from DVC's cache, in the order of the tables."""
        listed = self.params_file.get("evaluate", {}).get("models", [])
        ran = [stage for stage in self.stages if stage.startswith("train_")]
        return sorted(ran, key=[*listed, *ran].index)

    @property
    def evaluated(self) -> list[str]:
        """The trainings whose models were evaluated; none if the experiment is only a part."""
        section = self.params.get("evaluate", {})
        return list(section.get("models", [])) if "evaluate" in self.stages else []

    @property
    def content(self) -> str:
        """A hash of all that the experiment was given and made; `compare` only describes it."""
        parts = [
            [name, stage.get("params"), stage["outs"]]
            for name, stage in sorted(self.stages.items())
            if name != "compare"
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def params(self) -> dict[str, Any]:
        """The sections of `params.yaml` that the stages were run with."""
        sections: dict[str, Any] = {}
        for stage in self.stages.values():
            sections |= stage.get("params", {}).get("params.yaml", {})
        return sections

    @property
    def unused(self) -> list[str]:
        """The parameters whose value in `params.yaml` is not the one that the stages ran with."""
        return list(changed(self.params, self.params_file))

    @property
    def scores(self) -> Any:
        """All scores of each evaluated model. Earlier commits have them in the metrics."""
        new = layout.SCORES in self.outputs("evaluate")
        return self.read_json(layout.SCORES if new else layout.metrics("evaluate"))

    def last_epoch(self, stage: str) -> dict[str, float]:
        """What a training measured in its last epoch. Earlier commits have it in the metrics."""
        facts = self.read_json(layout.facts(stage))
        return facts.get("last_epoch") or self.read_json(layout.metrics(stage))

    def outputs(self, stage: str) -> dict[Path, str]:
        """Return the files and folders that a stage made, with their MD5 as DVC has it."""
        return outputs({stage: self.stages.get(stage, {})})

    def read_json(self, path: Path) -> Any:
        """Read one of the experiment's JSON files."""
        return json.loads(self.fetch(path).read_text(encoding="utf-8"))

    def fetch(self, path: Path) -> Path:
        """Return where one of the experiment's files, or a whole folder, is on this disk.

        Raises:
            UserError: it is missing, or is not the one that `dvc.lock` speaks of.
        """
        target = self.folder / path
        if self.files and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.files.get(f"{self.prefix}{path.as_posix()}", str(target), recursive=True)
            except OSError:
                raise UserError(f"DVC's cache lacks {path} of {self._again()}") from None
        if not target.exists() or outputs(self.stages).get(path) not in (None, _md5(target)):
            raise UserError(f"{path} is not what dvc.lock has: run `dvc repro`")
        return target

    def _again(self) -> str:
        """Return what it is called, and how its files are made again."""
        if self.experiment:
            return f"{self.experiment}: `dvc exp apply {self.experiment}` and `dvc repro` make it"
        name = self.revision[:7]
        if self.revision == git("rev-parse", "HEAD"):
            return f"{name}: `dvc repro` makes it"
        return f"{name}: `git checkout {name}` and `dvc repro` make it"


def of_workspace() -> Snapshot:
    """Return the experiment in the working directory.

    Raises:
        NothingTrainedError: not all of its models are made and evaluated.
    """
    stages = _coherent(LOCK.read_text(encoding="utf-8") if LOCK.exists() else "")
    # Until a stage ends, `dvc.lock` has what it made the last time.
    stages.pop(os.environ.get("DVC_STAGE", ""), None)
    tags = store.current_tags()
    experiment, revision = tags.get(store.EXPERIMENT_TAG, ""), tags.get(store.REVISION_TAG, "")
    snapshot = Snapshot(experiment, revision, stages, params.read())
    if not snapshot.evaluated:
        raise NothingTrainedError("the workspace is not evaluated yet: run `dvc repro`")
    head = replace(snapshot, stages=_coherent(git("show", f"HEAD:./{LOCK}", optional=True)))
    return replace(snapshot, committed=head.content == snapshot.content)


@contextmanager
def of_revision(revision: str, experiment: str = "", base: str = "") -> Iterator[Snapshot]:
    """Give what a commit holds: with its name and base, if it is an experiment of DVC.

    Raises:
        NothingTrainedError: the revision has no model.
        UserError: Git cannot be asked.
    """
    from dvc.api import DVCFileSystem

    snapshot = _in_git(revision)
    if not snapshot.trainings:
        raise NothingTrainedError(f"{experiment or revision[:7]} has no model in its dvc.lock")
    with tempfile.TemporaryDirectory(prefix="catsdogs-") as folder:
        yield replace(
            snapshot,
            experiment=experiment,
            revision=base or revision,
            files=DVCFileSystem(rev=revision, subrepos=True),
            prefix=git("rev-parse", "--show-prefix"),
            folder=Path(folder),
        )


def is_evaluated(revision: str) -> bool:
    """Tell whether a commit has evaluated the very models and parameters that it holds."""
    snapshot = _in_git(revision)
    return bool(snapshot.evaluated) and not snapshot.unused


def changed(values: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that `before` lacks or has otherwise, by their full names.

    Numbers are compared as numbers, because YAML reads 1e-05, as DVC writes it, as text.
    """
    known = {name: params.number(value) for name, value in params.flatten(before)}
    flat = params.flatten(values)
    return {name: value for name, value in flat if params.number(value) != known.get(name)}


def setting(name: str, value: Any) -> str:
    """Return a parameter as `dvc exp run --set-param` takes it."""
    is_plain = isinstance(value, str) and re.fullmatch(r"[\w./:+-]+", value)  # to Hydra's grammar
    return f"{name}={value if is_plain else json.dumps(value, separators=(',', ':'))}"


def outputs(stages: Mapping[str, Any]) -> dict[Path, str]:
    """Return the files and folders that stages of `dvc.lock` made, with their MD5."""
    made = (out for stage in stages.values() for out in stage.get("outs", []))
    return {Path(out["path"]): out["md5"] for out in made}


def read_lock(text: str) -> dict[str, Any]:
    """Return the stages in the text of a `dvc.lock`."""
    return (params.parse(text) or {}).get("stages", {})


def _in_git(revision: str) -> Snapshot:
    lock, text = (git("show", f"{revision}:./{path}") for path in (LOCK, params.PARAMS))
    return Snapshot("", revision, _coherent(lock), params.parse(text) or {})


def _coherent(lock: str) -> dict[str, Any]:
    """Return the stages of `dvc.lock` that were made from what it has of the stages before them.

    An experiment may have been run up to one stage only. The later ones are then still those of
    the commit that it was made from, and do not belong to it.
    """
    stages = read_lock(lock)
    made = outputs(stages)

    def is_stale(name: str) -> bool:
        for dep in stages[name].get("deps", []):
            path = Path(dep["path"])
            sources = {out: md5 for out, md5 in made.items() if path in (out, *out.parents)}
            if sources and dep["md5"] != (sources.get(path) or _folder_md5(path, sources)):
                return True
        return False

    while stale := [name for name in stages if is_stale(name)]:
        for name in stale:  # of which nothing else can be made
            made |= dict.fromkeys(outputs({name: stages.pop(name)}), "stale")
    return stages


def _md5(path: Path) -> str:
    """Return the MD5 of a file, or of a folder without folders, as DVC has it in `dvc.lock`."""
    if not path.is_dir():
        return digest(path, "md5")
    return _folder_md5(path, {each: digest(each, "md5") for each in path.iterdir()})


def _folder_md5(folder: Path, files: Mapping[Path, str]) -> str:
    listed = [
        {"md5": md5, "relpath": path.relative_to(folder).as_posix()}
        for path, md5 in sorted(files.items())
    ]
    return hashlib.md5(json.dumps(listed).encode(), usedforsecurity=False).hexdigest() + ".dir"
