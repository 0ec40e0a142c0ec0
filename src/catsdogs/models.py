"""Model files: a model goes in, a `.keras` file whose bytes depend on it alone comes out."""

from __future__ import annotations

import hashlib
import json
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from catsdogs.files import replacing, write_zip
from catsdogs.stage import UserError

if TYPE_CHECKING:
    import keras

SAVED = "1980-01-01@00:00:00"  # in place of the time that Keras notes


def save(model: keras.Model, path: Path) -> None:
    """Write a model as a `.keras` file without its optimizer.

    `keras.models.load_model` opens it. Keras stores the time of saving in the zip's directory
    and in `metadata.json`; both are replaced by fixed ones, so that equal models are equal files.
    """
    import keras

    with replacing(path) as part:
        keras.Model(model.inputs, model.outputs, name=model.name).save(part)
        _remove_dates(part)


def _remove_dates(path: Path) -> None:
    with zipfile.ZipFile(path) as model:
        files = {name: partial(model.read, name) for name in sorted(model.namelist())}
        metadata = {**json.loads(files["metadata.json"]()), "date_saved": SAVED}
        files["metadata.json"] = lambda: json.dumps(metadata).encode()
        write_zip(path, files.items())


def load(path: Path) -> keras.Model:
    """Load a model; a file from elsewhere runs no code.

    Raises:
        UserError: the file is not there or is no Keras model.
    """
    import keras

    if not path.is_file():
        raise UserError(f"{path} is not here: run `dvc repro`, or name another model")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a model that Keras can load: {reason}") from None


def fingerprint(path: Path) -> str:
    """The MD5 of a file, which is what `dvc.lock` knows it by."""
    with path.open("rb") as file:
        hashed = hashlib.md5(usedforsecurity=False)
        while chunk := file.read(1 << 20):
            hashed.update(chunk)
    return hashed.hexdigest()
