"""Tell which class photos show, by a model of this checkout, a file, or from MLflow."""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal, NoReturn

from catsdogs import layout, params, runtime
from catsdogs.commands import champion
from catsdogs.data import archives, images
from catsdogs.models import saved
from catsdogs.stage import UserError, one_line
from catsdogs.tracking import store
from catsdogs.tracking.serving import Classifier

from pydantic import Field

if TYPE_CHECKING:
    import keras

    Photo = tuple[str, Callable[[], bytes]]  # what it is called, and how its file is read

TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of an answer
PIECE = 1 << 16  # bytes


class Split(params.Section, extra="ignore"):
    """What the section `split` of `params.yaml` says of one image."""

    image_size: params.Count
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    max_megapixels: Annotated[params.Real, Field(gt=0, le=178)]


def main(sources: Sequence[str], name: str | None = None, as_json: bool = False) -> None:
    """Print a line for every photo.

    Args:
        sources: files, folders, patterns, addresses, or `-` for the standard input.
        name: a model that was trained here, such as `basic` or `train_basic`; a `.keras` file; or
            an address in MLflow. By default, the last of `evaluate.models`.
        as_json: print each line as a JSON object.

    Raises:
        UserError: there is no such model, or a photo cannot be used.
    """
    name = name or layout.title(params.load_models()[-1])
    runtime.pin_for_inference()
    classifier = load(name)
    failed = total = 0
    for photo, read_photo in find(sources):
        total += 1
        try:
            found = classifier.probability(classifier.decode(read_photo()))
        except (images.UnusableImage, OSError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            print(f"{photo}: not an image that can be used: {reason}", file=sys.stderr)
            failed += 1
            continue
        if not 0 <= found <= 1:
            raise UserError(f"{name} answers {found}, which is no probability: take another")
        answer = classifier.classes[int(found >= 0.5)]
        if as_json:
            print(json.dumps({"file": photo, "class": answer, classifier.classes[1]: found}))
        else:
            print(f"{photo}: {answer} {max(found, 1 - found):.1%}")
    if failed:
        raise UserError(f"{failed} of {total} files could not be used")


def load(name: str) -> Classifier:
    """Load a model; `runtime.pin_for_inference` comes first.

    Args:
        name: as that of `main`.

    Raises:
        UserError: there is no such model, or it does not tell two classes of images apart.
    """
    split, trained = params.load("split", Split), params.load_models()
    interpolation: str = split.interpolation
    classes: Sequence[str] = params.load_classes()
    if name.startswith(("models:/", "runs:/")):
        path, interpolation, classes = download(name)
        if interpolation not in images.INTERPOLATIONS:
            raise UserError(
                f"split.interpolation of {name} is {interpolation!r}, which is unknown here: name "
                "another model"
            )
    else:
        stage = f"train_{layout.title(name)}"
        path = layout.model(stage) if stage in trained else Path(name)
        if stage not in trained and not path.exists():
            known = ", ".join(map(layout.title, trained))
            raise UserError(f"{name} is neither a file nor a model of this checkout: {known}")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a .keras file")
    model = adapt(saved.load(path), name, split.image_size)
    return Classifier(model, interpolation, classes, split.max_megapixels)


def adapt(model: keras.Model, name: str, size: int) -> keras.Model:
    """Make a model from images to P(second class), N×1, of one that says it in another way.

    Args:
        model: from RGB pixels, 0-255, N×height×width×3, to one number, before or after a sigmoid,
            or to two, one of each class, before or after a softmax.
        name: what the user calls it.
        size: height and width in pixels where the model takes any.

    Raises:
        UserError: the model takes something else than RGB images, or answers something else.
    """
    import keras

    try:
        (takes,), (gives,) = model.inputs, model.outputs
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f"{name} does not take one image and give one answer: name another model"
        ) from None
    if len(takes.shape) != 4 or takes.shape[3] != 3:
        raise UserError(
            f"{name} takes {_shape(takes)} and not RGB images, height×width×3: name another model"
        )
    layer = gives._keras_history.operation
    while isinstance(layer, keras.Model):
        layer = layer.outputs[0]._keras_history.operation
    activation = getattr(getattr(layer, "activation", None), "__name__", type(layer).__name__)
    second = {
        ((1,), "sigmoid"): lambda: gives,
        ((1,), "linear"): lambda: keras.ops.sigmoid(gives),
        ((2,), "softmax"): lambda: gives[:, 1:],
        ((2,), "linear"): lambda: keras.ops.softmax(gives)[:, 1:],
    }.get((tuple(gives.shape[1:]), activation.lower()))
    if second is None:
        raise UserError(
            f"{name} gives {_shape(gives)} from `{activation}`: one number from sigmoid or linear "
            "can be used, or two, one of each class, from softmax or linear"
        )
    output = second()
    if None in takes.shape[1:3]:
        rows, columns = (side or size for side in takes.shape[1:3])
        image = keras.Input((rows, columns, 3), dtype=takes.dtype)
        return keras.Model(image, keras.Model(takes, output)(image))
    return model if output is gives else keras.Model(takes, output)


def _shape(tensor: keras.KerasTensor) -> str:
    return "×".join(str(side or "any") for side in tensor.shape[1:]) or "a number"


def find(sources: Sequence[str]) -> Iterator[Photo]:
    """Yield each photo's name, and what reads it; only reading tells that it is not there."""
    for source in sources:
        if source == "-":
            yield source, partial(_read, sys.stdin.buffer)
        elif not source:  # a variable of the shell that is not set, and not this folder
            yield source, partial(_refuse, "the name is empty")
        elif re.match(r"[a-z]+://", source, re.IGNORECASE):
            yield source, partial(fetch, source)
        elif glob.has_magic(source) and not os.path.lexists(source):
            found = _match(source)
            if not found:
                yield source, partial(_refuse, "no file matches")
            for path in found:
                yield from _find_below(path)
        else:
            yield from _find_below(Path(source))


def _match(pattern: str) -> list[Path]:
    """Return what a pattern matches; of `**` the files, each once, even where links go round."""
    home = os.path.expanduser(pattern)  # noqa: PTH111  as in layout.resolve
    found = sorted(map(Path, glob.glob(home, recursive=True)))  # noqa: PTH207  it follows links
    if "**" not in pattern:
        return found
    by_length = sorted(found, key=lambda path: -len(path.parts))
    files = {os.path.realpath(path): path for path in by_length if path.is_file()}
    return sorted(files.values())


def _find_below(path: Path) -> Iterator[Photo]:
    """Yield a file, or all images in a folder and its folders, linked ones included."""
    if not path.is_dir():
        yield str(path), partial(read, path)
        return
    seen, unreadable, photos, others = set[str](), list[OSError](), list[Path](), list[str]()
    for folder, folders, files in os.walk(path, onerror=unreadable.append, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(
            each
            for each in folders
            if not each.startswith(".") and os.path.realpath(Path(folder, each)) not in seen
        )
        for name in sorted(each for each in files if not each.startswith(".")):
            if Path(name).suffix.casefold() in archives.IMAGE_SUFFIXES:
                photos.append(Path(folder, name))
            else:
                others.append(name)
    for photo in photos:
        yield str(photo), partial(read, photo)
    for error in unreadable:
        yield str(error.filename), partial(_refuse, str(error.strerror))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        print(f"{path}: left out, for its name: {others[0]}{more}", file=sys.stderr)
    if not photos and not unreadable:
        yield str(path), partial(_refuse, "there is no image in this folder")


def read(path: Path) -> bytes:
    """Read a file of at most `images.MAX_FILE_MB`.

    Raises:
        OSError: as `open`.
        UnusableImage: it is larger.
    """
    with path.open("rb") as file:
        return _read(file)


def _read(file: IO[bytes]) -> bytes:
    return _bounded(iter(partial(file.read, PIECE), b""))


def _bounded(pieces: Iterator[bytes]) -> bytes:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > images.MAX_FILE_MB * 1e6:
            _refuse(f"more than {images.MAX_FILE_MB} MB")
    return bytes(content)


def _refuse(reason: str) -> NoReturn:
    raise images.UnusableImage(reason)


def fetch(address: str) -> bytes:
    """Download an image of at most `images.MAX_FILE_MB`.

    Raises:
        UnusableImage: the server cannot be reached, or answers something else; with the reason.
    """
    import requests
    from urllib3.exceptions import LocationParseError

    if not address.lower().startswith(("http://", "https://")):
        _refuse("of addresses, only http:// and https:// can be used")
    try:
        # Some servers refuse the name that requests gives itself.
        who = {"User-Agent": "catsdogs"}
        with requests.get(address, headers=who, timeout=TIMEOUT, stream=True) as answer:
            if not answer.ok:
                _refuse(f"the server answers {answer.status_code} {answer.reason}")
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                _refuse("the server answers with a web page: give the address of the image itself")
            return _bounded(answer.iter_content(PIECE))
    except requests.Timeout:
        _refuse("the server does not answer in time")
    except requests.ConnectionError:
        _refuse("the server cannot be reached")
    except (requests.RequestException, LocationParseError) as error:
        _refuse(one_line(error))


def download(address: str) -> tuple[Path, str, Sequence[str]]:
    """Fetch a model from MLflow.

    Returns:
        Its Keras file, the same as DVC's, and the `split.interpolation` and `data.classes` that it
        was trained with.

    Raises:
        UserError: MLflow does not have it, or it is not a model of this pipeline.
    """
    from mlflow.artifacts import download_artifacts, list_artifacts

    made = ", which `catsdogs champion` names" if address == champion.ADDRESS else ""
    with store.needed(f"MLflow has no {address}{made}"):
        store.connect()
        stored = list_artifacts(address)
        found = list(Path(download_artifacts(address)).rglob("*") if stored else ())
    models = [path for path in found if path.suffix == ".keras"]
    is_ours = any(path.name == "interpolation" for path in found)
    if not stored or (is_ours and not models):
        raise UserError(
            f"MLflow has lost files of {address}: run `catsdogs sync`, then `catsdogs champion`"
        )
    if len(models) != 1 or not is_ours:
        raise UserError(
            f"{address} is not a model of this pipeline: name one, such as {champion.ADDRESS}"
        )
    # Beside it: a folder that has lost its model may have such notes, too.
    interpolation, named = (models[0].with_name(name) for name in ("interpolation", "classes"))
    classes = named.read_text(encoding="utf-8").splitlines() if named.exists() else None
    return models[0], interpolation.read_text(encoding="utf-8"), classes or layout.CATS_AND_DOGS
