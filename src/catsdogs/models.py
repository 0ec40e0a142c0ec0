"""Model files: a model goes in, a `.keras` file whose bytes depend on it alone comes out."""

from __future__ import annotations

import json
import re
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

    `keras.models.load_model` opens it. Keras notes the time of saving, in the zip's directory
    and in `metadata.json`, and tells shared objects apart by their address in memory, in
    `config.json`; both are replaced, so that equal models are equal files.
    """
    import keras

    with replacing(path) as part:
        keras.Model(model.inputs, model.outputs, name=model.name).save(part)
        with zipfile.ZipFile(part) as saved:
            files = {name: partial(saved.read, name) for name in sorted(saved.namelist())}
            metadata = {**json.loads(files["metadata.json"]()), "date_saved": SAVED}
            config = _number_shared_objects(files["config.json"]().decode())
            files["metadata.json"] = json.dumps(metadata).encode
            files["config.json"] = config.encode
            write_zip(part, files.items())


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, int] = {}
    return re.sub(
        r'("shared_object_id": )(\d+)',
        lambda match: match[1] + str(numbers.setdefault(match[2], len(numbers))),
        config,
    )


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
