"""Model files: equal models are equal `.keras` files, which `keras.models.load_model` opens."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from catsdogs.files import replacing, write_zip
from catsdogs.stage import UserError, one_line

if TYPE_CHECKING:
    import keras

SIXTEEN_BITS = re.compile(r'"(mixed_)?b?float16"')  # of a layer's policy, of a tensor
SAVED = "1980-01-01@00:00:00"  # in place of the time that Keras notes


def save(model: keras.Model, path: Path) -> None:
    """Write a model as a `.keras` file, without its optimizer. It computes in float32.

    Keras notes the time of saving in the zip's directory and in `metadata.json`, and numbers
    shared objects in `config.json` by their address in memory. This replaces both. It replaces the
    16-bit precision of a training, too: the weights are float32 anyway.
    """
    import keras

    with tempfile.TemporaryDirectory() as folder, replacing(path) as part:
        saved = Path(folder) / "model"  # a folder, because Keras builds a zip in memory
        keras.Model(model.inputs, model.outputs, name=model.name).save(saved, zipped=False)
        metadata = json.loads((saved / "metadata.json").read_text(encoding="utf-8"))
        config = (saved / "config.json").read_text(encoding="utf-8")
        (saved / "metadata.json").write_text(json.dumps({**metadata, "date_saved": SAVED}))
        config = SIXTEEN_BITS.sub('"float32"', _number_shared_objects(config))
        (saved / "config.json").write_text(config, encoding="utf-8")
        files = sorted(each for each in saved.rglob("*") if each.is_file())
        names = [each.relative_to(saved).as_posix() for each in files]
        write_zip(part, zip(names, [partial(FileIO, each) for each in files], strict=True))


def load(path: Path) -> keras.Model:
    """Load a model. A file from elsewhere runs no code.

    Raises:
        UserError: the file is missing, or it is no Keras model.
    """
    import keras

    if not path.is_file():
        raise UserError(f"{path} is not here: run `dvc repro`, or name another model")
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = one_line(error)
        raise UserError(f"{path} is not a model that Keras can load: {reason}") from None


def _number_shared_objects(config: str) -> str:
    numbers: dict[str, int] = {}
    return re.sub(
        r'("shared_object_id": )(\d+)',
        lambda match: match[1] + str(numbers.setdefault(match[2], len(numbers))),
        config,
    )
