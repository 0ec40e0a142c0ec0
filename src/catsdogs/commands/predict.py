"""Tell whether photos show a cat or a dog, by a model of this checkout, a file, or from MLflow."""

import sys
from collections.abc import Sequence
from pathlib import Path

from catsdogs import layout, params, runtime
from catsdogs.data import images
from catsdogs.models import saved
from catsdogs.stage import UserError
from catsdogs.tracking import store

MAX_MEGAPIXELS = 178


def main(photos: Sequence[Path], name: str | None = None) -> None:
    """Print a line for every photo.

    Args:
        photos: image files.
        name: a model trained here, without `train_`; a `.keras` file; or an address in MLflow.

    Raises:
        UserError: there is no such model, or a file is not an image.
    """
    models = params.load_models()
    name = name or layout.title(models[-1])
    if name.startswith(("models:/", "runs:/")):
        path, interpolation = download(name)
    else:
        path = layout.model(f"train_{name}") if f"train_{name}" in models else Path(name)
        interpolation = params.load_text("split.interpolation")
    if interpolation not in images.INTERPOLATIONS:
        raise UserError(f"split.interpolation of {name} is {interpolation!r}")
    runtime.pin_for_inference()
    model = saved.load(path)
    if len(model.input_shape) != 4 or model.input_shape[3] != 3 or model.output_shape[1:] != (1,):
        raise UserError(f"{name} does not take images and give P(dog)")
    size = model.input_shape[1]
    failed = 0
    for photo in photos:
        try:
            pixels = images.decode(photo.read_bytes(), size, interpolation, MAX_MEGAPIXELS)
        except (images.UnusableImage, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"{photo}: not an image that can be used: {reason}", file=sys.stderr)
            failed += 1
        else:
            dog = float(model.predict_on_batch(pixels[None])[0, 0])
            print(f"{photo}: {'dog' if dog >= 0.5 else 'cat'} {max(dog, 1 - dog):.1%}")
    if failed:
        raise UserError(f"{failed} of {len(photos)} files could not be used")


def download(address: str) -> tuple[Path, str]:
    """Fetch a model from MLflow.

    Returns:
        Its Keras file, the same as DVC's, and the `split.interpolation` that it was trained with.

    Raises:
        UserError: MLflow does not have it, or it is not a model of this pipeline.
    """
    from mlflow.artifacts import download_artifacts

    with store.needed(f"MLflow has no {address}"):
        store.connect()
        folder = Path(download_artifacts(address))
    models, notes = list(folder.rglob("*.keras")), list(folder.rglob("interpolation"))
    if len(models) != 1 or len(notes) != 1:
        raise UserError(f"{address} is not a model of this pipeline")
    return models[0], notes[0].read_text(encoding="utf-8")
