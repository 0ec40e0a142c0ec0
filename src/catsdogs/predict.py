"""Tell cats from dogs: photographs go in, a line for each comes out.

    python -m catsdogs.predict --model inception photo.jpg …
    python -m catsdogs.predict --model models:/catsdogs@champion photo.jpg …

To be run from the repository's root, with `src` on Python's path.
"""

import argparse
import sys
from pathlib import Path

from catsdogs import images, layout, models, params, runtime, tracking
from catsdogs.stage import UserError, run

MAX_MEGAPIXELS = 178


def main() -> None:
    """Print a line for every photograph; fail if one of the files is none."""
    arguments = _parse()
    place, interpolation = _locate(arguments.model)
    if interpolation not in images.INTERPOLATIONS:
        raise UserError(f"split.interpolation of {arguments.model} is {interpolation!r}")
    runtime.pin(params.load("runtime", runtime.Runtime))
    model = models.load(place)
    if len(model.input_shape) != 4 or model.input_shape[3] != 3 or model.output_shape[1:] != (1,):
        raise UserError(f"{arguments.model} does not take images and give P(dog)")
    size = model.input_shape[1]
    failed = 0
    for photo in arguments.photos:
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
        raise UserError(f"{failed} of {len(arguments.photos)} files could not be used")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m catsdogs.predict", description="Tell cats from dogs."
    )
    names = ", ".join(name.removeprefix("train_") for name in layout.TRAININGS)
    parser.add_argument(
        "--model",
        default="inception",
        help=f"{names} (as trained here), a .keras file, or MLflow's address of a model",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="photo")
    return parser.parse_args()


def _locate(model: str) -> tuple[Path, str]:
    """Where a model's file is, and how the images were squashed that it learned from."""
    trained = f"train_{model}"
    if model.startswith(("models:/", "runs:/")):
        return _download(model)
    place = layout.model(trained) if trained in layout.TRAININGS else Path(model)
    return place, params.load_text("split.interpolation")


def _download(address: str) -> tuple[Path, str]:
    """Fetch a model from MLflow; the file is the one that DVC has."""
    from mlflow.artifacts import download_artifacts

    try:
        tracking.connect()
        folder = download_artifacts(address)
    # Whatever a store, a server or a wrong address raises.
    except Exception as error:
        raise UserError(f"MLflow has no {address}: {tracking.reason(error)}") from None
    found = list(Path(folder).rglob("*.keras"))
    interpolation = found[0].with_name("interpolation") if len(found) == 1 else None
    if not interpolation or not interpolation.exists():
        raise UserError(f"{address} is not a model of this pipeline's")
    return found[0], interpolation.read_text(encoding="utf-8")


if __name__ == "__main__":
    run(main, "some photographs were not looked at")
