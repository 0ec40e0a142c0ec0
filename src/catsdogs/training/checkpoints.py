"""Checkpoints: what an interrupted training needs to go on to the same bytes.

A checkpoint is a folder `<stage>-<hash>-<random>` below `.cache/checkpoints` of the main checkout.
The hash is of the parameters, data and code that the training depends on, so another training
never takes it up. One process at a time holds it.

Keras' `BackupAndRestore` does not serve here: it saves at fixed points of one `fit`, and its
folder knows nothing of parameters and code.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

from catsdogs import layout
from catsdogs.files import digest, replacing, write_text
from catsdogs.stage import UserError
from catsdogs.workers import ALONE, Workers

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike

LOCK = Path("dvc.lock")
KEPT = 3  # abandoned checkpoints of a stage


class State(NamedTuple):
    """The state of a training after a step."""

    variables: Sequence[ArrayLike]  # of the model and the optimizer
    progress: dict[str, Any]  # what else the loop goes on from, as JSON has it


class Checkpoint:
    """The checkpoint of one training, while this process holds it."""

    def __init__(self, stage: str, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self._state, self._done = folder / "state.npz", folder / "done"

    @property
    def name(self) -> str:
        """A name that no other training has, on any machine. A resumed training keeps it."""
        self.folder.mkdir(parents=True, exist_ok=True)  # by which it is found again
        return self.folder.name

    def load(self) -> State | None:
        """Return the state that was saved last, or None."""
        try:
            with np.load(self._state, allow_pickle=False) as saved:
                length, progress = json.loads(str(saved["progress"]))
                return State([saved[str(i)] for i in range(length)], progress)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, EOFError, RuntimeError, OSError, BadZipFile) as error:
            # A damaged file can name a place outside of itself; that is EINVAL.
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            print(f"{self._state} is damaged: the training starts again from its first step")
            return None

    def save(self, state: State) -> None:
        """Replace the saved state."""
        arrays = {str(i): np.asarray(variable) for i, variable in enumerate(state.variables)}
        progress = np.array(json.dumps([len(arrays), state.progress]))
        with replacing(self._state) as part:
            np.savez(part, allow_pickle=False, progress=progress, **arrays)

    def finish(self) -> None:
        """Note that all outputs of the training are written.

        Under DVC the state stays until `dvc.lock` has the outputs: DVC deletes the outputs of a
        stage that it did not see end.
        """
        if "DVC_STAGE" in os.environ:
            model = digest(layout.model(self.stage), "md5")
            write_text(self._done, json.dumps([_experiment(), model]))
        else:
            self.clear()

    def belongs_to_another_experiment(self) -> bool:
        """Tell whether another experiment finished this training and has yet to record it."""
        return self._done.exists() and json.loads(self._done.read_text())[0] != _experiment()

    def clear(self) -> None:
        """Delete what was saved."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


@contextmanager
def hold(
    stage: str,
    parameters: Mapping[str, Any],
    inputs: Iterable[Path],
    workers: Workers = ALONE,
) -> Iterator[Checkpoint]:
    """Hold the checkpoint of a training. It is empty if there is none to go on from.

    Args:
        stage: for example `train_basic`.
        parameters: everything that the training depends on besides its inputs and its code.
        inputs: the files that it reads.
        workers: of the training. All but the first process only read the checkpoint.

    Raises:
        UserError: the processes are of different trainings.
    """
    name = f"{stage}-{_identity(parameters, inputs)}"
    if not workers.is_first:
        folder = layout.CHECKPOINTS / workers.first_says("")
        if not folder.name.startswith(name):
            raise UserError(
                f"{stage}: the processes differ: let all of them have the same parameters, data, "
                "code, packages and processors"
            )
        yield Checkpoint(stage, folder)
        return
    remove_recorded()
    # Two experiments may run the same training at the same time; each gets its own folder.
    new = layout.CHECKPOINTS / f"{name}-{uuid.uuid4().hex}"
    kept = sorted(_folders(f"{name}-*"), key=lambda path: not (path / "state.npz").exists())
    for folder in [*kept, new]:
        with _locked(folder) as free:
            if not free or not (folder.exists() or folder == new):
                continue
            checkpoint = Checkpoint(stage, folder)
            if checkpoint.belongs_to_another_experiment():
                checkpoint.clear()
                continue
            _prune(stage, folder)
            workers.first_says(folder.name)
            yield checkpoint
            return


def remove_recorded() -> None:
    """Delete the checkpoints of trainings whose outputs `dvc.lock` has."""
    for done in layout.CHECKPOINTS.glob("*/done"):
        stage = done.parent.name.rsplit("-", 2)[0]
        with _locked(done.parent) as free:
            if free and done.exists() and _is_recorded(stage, json.loads(done.read_text())[1]):
                shutil.rmtree(done.parent)


def _is_recorded(stage: str, model_md5: str) -> bool:
    try:
        lock = yaml.safe_load(LOCK.read_text(encoding="utf-8"))
        outs = {out["path"]: out["md5"] for out in lock["stages"][stage]["outs"]}
    except (FileNotFoundError, yaml.YAMLError, TypeError, KeyError):
        return False
    return outs.get(layout.model(stage).as_posix()) == model_md5


def _experiment() -> str:
    return os.environ.get("DVC_EXP_NAME", "")


def _folders(pattern: str) -> list[Path]:
    return [path for path in layout.CHECKPOINTS.glob(pattern) if path.is_dir()]


def _identity(parameters: Mapping[str, Any], inputs: Iterable[Path]) -> str:
    """Hash the parameters, the inputs and the project's modules that are loaded."""
    project = Path(__file__).resolve().parents[2]
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    files = {Path(name).resolve() for name in loaded if name}
    code = sorted(path for path in files if path.is_relative_to(project))
    parts = {
        "parameters": parameters,
        "inputs": [digest(path, "sha256") for path in inputs],
        "code": [(path.relative_to(project).as_posix(), digest(path, "sha256")) for path in code],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder; give False if another process has it."""
    lock = FileLock(f"{folder}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if not folder.exists():
            with suppress(PermissionError):  # Windows does not delete what is open
                Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _prune(stage: str, held: Path) -> None:
    """Delete all but the newest of a stage's abandoned checkpoints."""
    others = [path for path in _folders(f"{stage}-*") if path != held]
    for folder in sorted(others, key=_age)[:-KEPT]:
        with _locked(folder) as free:
            if free and folder.exists():
                shutil.rmtree(folder)


def _age(folder: Path) -> float:
    return folder.stat().st_mtime if folder.exists() else 0.0
