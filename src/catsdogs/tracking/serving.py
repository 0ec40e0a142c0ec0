"""What `mlflow models serve` loads: a model that answers for photographs of any size.

    {"dataframe_records": [{"image": "<an image file in base64>"}, …]}
    {"dataframe_records": [{"image": [[[255, 240, 12], …], …]}, …]}

The second form is RGB pixels, 0-255, height×width×3. Base64 may have line breaks, be a data URL
(`data:image/jpeg;base64,…`) or stand in `{"b64": …}`; from Python, an image may be bytes. All are
squashed to the model's size, as the stage `split` does it. For each image the answer has `class`
and, under the name of the second class, its probability: `{"class": "cat", "dog": 0.2}`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs.data import images
from catsdogs.models import saved

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import keras
    import pandas as pd

DATA_URL = re.compile(r"data:[^,]{0,200},")
URL_SAFE = str.maketrans("-_", "+/")


class Classifier:
    """A model, how its images are squashed, and the names of its classes.

    Args:
        model: from N×height×width×3, RGB, 0-255, to the probability of the second class, N×1.
        interpolation: a key of `images.INTERPOLATIONS`.
        classes: two names.
        max_megapixels: larger images are refused.
    """

    def __init__(
        self,
        model: keras.Model,
        interpolation: str,
        classes: Sequence[str],
        max_megapixels: float = images.MAX_MEGAPIXELS,
    ) -> None:
        self.model, self.interpolation, self.classes = model, interpolation, classes
        self.max_megapixels = max_megapixels
        self.size: tuple[int, int] = model.input_shape[1:3]

    def decode(self, content: bytes) -> np.ndarray:
        """Decode an image file as the model takes it: uint8, height×width×3.

        Raises:
            UnusableImage: with the reason.
            UserError: there is too little memory.
        """
        return images.decode(content, self.size, self.interpolation, self.max_megapixels)

    def probability(self, pixels: np.ndarray) -> float:
        """Return P(second class) of one image: in a larger batch its last bits would differ.

        Args:
            pixels: RGB, 0-255, height×width×3.
        """
        return float(self.model.predict_on_batch(pixels[None])[0, 0])

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each image in `data`: in its column `image`, or its only one.

        Raises:
            MlflowException: there is no such column, or a value is no image. The text is one line.
        """
        import pandas as pd

        pixels = []
        for place, image in enumerate(_images(data)):
            try:
                pixels.append(self._pixels(image))
            except images.UnusableImage as error:
                raise _refusal()(
                    f"image {place} is neither an image file in base64 nor RGB pixels: {error}"
                ) from None
        found = np.array([self.probability(each) for each in pixels], float)
        named = np.take(self.classes, (found >= 0.5) * 1)
        return pd.DataFrame({"class": named, self.classes[1]: found})

    def _pixels(self, image: Any) -> np.ndarray:
        """Return the image as the model takes it: uint8, height×width×3."""
        for key in ("image", "b64"):  # one of a list of rows; as TensorFlow Serving has it
            if isinstance(image, dict) and set(image) == {key}:
                image = image[key]
        if isinstance(image, str):
            return self.decode(_from_base64(image))
        if isinstance(image, (bytes, bytearray, memoryview)):
            return self.decode(bytes(image))
        try:
            values = np.array(image, dtype=float)
        except (ValueError, TypeError):
            raise images.UnusableImage(f"it is of type {type(image).__name__}") from None
        if values.ndim != 3 or values.shape[2] != 3 or not values.size:
            raise images.UnusableImage(f"values of shape {values.shape}, not (height, width, 3)")
        if not ((values >= 0) & (values <= 255)).all():
            raise images.UnusableImage("values that are not from 0 to 255")
        if values.max() <= 1 and (values % 1).any():  # a nearly black image to the model
            raise images.UnusableImage("values from 0 to 1: multiply them by 255")
        if values.size > 3e6 * self.max_megapixels:
            raise images.UnusableImage(f"more than {self.max_megapixels:g} megapixels")
        height, width = self.size
        picture = Image.fromarray(np.rint(values).astype(np.uint8))
        method = images.INTERPOLATIONS[self.interpolation]
        return np.asarray(picture.resize((width, height), method))


def _images(data: Any) -> Iterator[Any]:
    """Yield the images of what MLflow hands over: a table, lists by name, or a list."""
    names = list(data.keys()) if hasattr(data, "keys") else None
    if names is not None:
        name = names[0] if len(names) == 1 else "image"
        if name not in names:
            known = ", ".join(f"`{str(each)[:20]}`" for each in names[:3]) or "none"
            raise _refusal()(f"there is no column `image`; the columns are: {known}")
        data = data[name]
    for image in [data] if isinstance(data, (str, bytes, dict)) or not np.ndim(data) else data:
        if isinstance(image, np.ndarray) and not image.ndim:
            yield image.item()
        elif isinstance(image, (list, np.ndarray)) and _are_files(image):
            yield from image  # MLflow makes one row of `{"inputs": {"image": [a, b]}}`
        else:
            yield image


def _are_files(values: Sequence[Any] | np.ndarray) -> bool:
    return len(values) > 0 and all(isinstance(each, (str, bytes, dict)) for each in values)


def _from_base64(text: str) -> bytes:
    """Decode base64 as people write it: with line breaks, in a data URL, without padding."""
    start = DATA_URL.match(text)
    letters = "".join(text[start.end() if start else 0 :].split()).translate(URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise images.UnusableImage("a text that is not base64") from None


@cache
def _refusal() -> type[Exception]:
    """Return the error for a wrong request. MLflow is imported by those that need it only."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    class Refusal(MlflowException):
        """Its text stays as it is: MLflow's server would put the whole request before it."""

        message = property(lambda self: self.args[0], lambda self, _: None)

        def __init__(self, text: str) -> None:
            super().__init__(text, error_code=INVALID_PARAMETER_VALUE)

    return Refusal


def _load_pyfunc(folder: str) -> Classifier:
    """Load the folder that MLflow stored; MLflow calls this."""
    (model,) = Path(folder).glob("*.keras")
    interpolation, classes = (
        Path(folder, name).read_text("utf-8") for name in ("interpolation", "classes")
    )
    return Classifier(saved.load(model), interpolation, classes.splitlines())
