"""Where an interrupted training goes on: its state goes in, and comes out for the next process.

A checkpoint is a folder of its own, held by one process at a time. Its name says what it belongs
to, so that a training with other parameters, other data or other code never meets it.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from catsdogs import layout
from catsdogs.files import digest, replacing, write_text

import numpy as np
import yaml
from numpy.typing import ArrayLike

LOCK = Path("dvc.lock")
KEPT = 3  # abandoned checkpoints of a stage


class State(NamedTuple):
    """What a training needs to go on: all its variables, and what it has to tell."""

    variables: Sequence[ArrayLike]  # which are read one after another
    facts: dict[str, Any]


class Checkpoint:
    """The checkpoint of one training, as long as this process holds it."""

    def __init__(self, stage: str, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self._state, self._done = folder / "state.npz", folder / "done"

    @property
    def name(self) -> str:
        """Tells this training from all others, anywhere; it lives through kills."""
        named = self.folder / "name"
        if not named.exists():
            write_text(named, uuid.uuid4().hex)
        return named.read_text()

    def load(self) -> State | None:
        """Return the state that was saved last, or None."""
        try:
            with np.load(self._state, allow_pickle=False) as saved:
                count, facts = json.loads(str(saved["facts"]))
                return State([saved[str(i)] for i in range(count)], facts)
        except FileNotFoundError:
            return None
        except (
            ValueError,
            KeyError,
            EOFError,
            RuntimeError,
            OSError,
            zipfile.BadZipFile,
        ) as error:
            # Damage shows as a place in the file that cannot be, too.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            print(f"{self._state} is damaged: the training starts anew")
            return None

    def save(self, state: State) -> None:
        """Put a state in the place of the one before."""
        arrays = {str(i): variable for i, variable in enumerate(state.variables)}
        with replacing(self._state) as part:
            np.savez(part, facts=np.array(json.dumps([len(arrays), state.facts])), **arrays)

    def finish(self) -> None:
        """Say that the training's outputs are all there.

        Under DVC the state stays until DVC has recorded the outputs, for it takes them away from a
        stage that it saw no end of.
        """
        if "DVC_STAGE" in os.environ:
            model = digest(layout.model(self.stage), "md5")
            write_text(self._done, json.dumps([_experiment(), model]))
        else:
            self.clear()

    def is_of_another_experiment(self) -> bool:
        """Whether a training ended here whose outputs are another experiment's to record."""
        return self._done.exists() and json.loads(self._done.read_text())[0] != _experiment()

    def clear(self) -> None:
        """Remove what was saved."""
        for path in self.folder.iterdir():
            path.unlink()


@contextmanager
def hold(
    stage: str, parameters: Mapping[str, Any], inputs: Iterable[Path]
) -> Iterator[Checkpoint]:
    """Hold the checkpoint of a training, or an empty one.

    Args:
        stage: `train_basic` for example.
        parameters: all that the training depends on besides its inputs and the code.
        inputs: the files that it reads.
    """
    remove_recorded()
    belonging = f"{stage}-{_identity(parameters, inputs)}"
    # Two experiments may train the same model at the same time: each has a place of its own.
    abandoned = sorted(layout.CHECKPOINTS.glob(f"{belonging}-*"), key=_is_empty)
    new = (layout.CHECKPOINTS / f"{belonging}-{place}" for place in count())
    for folder in chain(abandoned, new):
        with _locked(folder, create=True) as free:
            if not free:
                continue
            _prune(stage, folder)
            checkpoint = Checkpoint(stage, folder)
            if checkpoint.is_of_another_experiment():
                checkpoint.clear()
            try:
                yield checkpoint
            finally:
                if not any(folder.iterdir()):
                    folder.rmdir()
            return


def remove_recorded() -> None:
    """Remove the checkpoints of trainings whose outputs DVC has recorded."""
    for done in layout.CHECKPOINTS.glob("*/done"):
        stage = done.parent.name.rsplit("-", 2)[0]
        with _locked(done.parent) as free:
            if free and is_recorded(stage, json.loads(done.read_text())[1]):
                shutil.rmtree(done.parent)


def is_recorded(stage: str, fingerprint: str) -> bool:
    """Whether `dvc.lock` has the model of a stage, by its MD5."""
    model = layout.model(stage).as_posix()
    try:
        lock = yaml.safe_load(LOCK.read_text(encoding="utf-8"))
        outs = {out["path"]: out["md5"] for out in lock["stages"][stage]["outs"]}
    except (FileNotFoundError, yaml.YAMLError, TypeError, KeyError):
        return False
    return outs.get(model) == fingerprint


def _experiment() -> str:
    return os.environ.get("DVC_EXP_NAME", "")


def _is_empty(folder: Path) -> bool:
    return not (folder / "state.npz").exists()


def _identity(parameters: Mapping[str, Any], inputs: Iterable[Path]) -> str:
    code = Path(__file__).resolve().parent.parent
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    files = {Path(name).resolve() for name in loaded if name}
    sources = sorted(path for path in files if path.is_relative_to(code))
    parts = {
        "parameters": parameters,
        "inputs": [digest(path, "sha256") for path in inputs],
        "code": [(path.name, digest(path, "sha256")) for path in sources],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _locked(folder: Path, create: bool = False) -> Iterator[bool]:
    """Lock a folder; give False where another process has it or has removed it."""
    if create:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        opened = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _take(opened)
    finally:
        os.close(opened)


def _take(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(opened).st_nlink > 0


def _prune(stage: str, held: Path) -> None:
    """Remove all but the newest of a stage's abandoned checkpoints."""
    others = [path for path in layout.CHECKPOINTS.glob(f"{stage}-*") if path != held]
    for folder in sorted(others, key=_age)[:-KEPT]:
        with _locked(folder) as free:
            if free:
                shutil.rmtree(folder)


def _age(folder: Path) -> float:
    return folder.stat().st_mtime if folder.exists() else 0.0
