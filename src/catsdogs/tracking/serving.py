"""What `mlflow models serve` loads: a model that answers for photographs of any size.

    {"dataframe_records": [{"image": "<an image file in base64>"}, …]}
    {"dataframe_records": [{"image": [[[255, 240, 12], …], …]}, …]}

The second form is RGB pixels, 0-255, height×width×3. Both are squashed to the model's size, as the
stage `split` does it. The answer has `class` and `dog`, which is P(dog), for each image.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout
from catsdogs.data import images
from catsdogs.models import saved

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import keras
    import pandas as pd

MAX_MEGAPIXELS = 100


class Classifier:
    """A model, and how its images are squashed."""

    def __init__(self, model: keras.Model, interpolation: str) -> None:
        self.model, self.interpolation = model, interpolation
        self.size = model.input_shape[1]

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each row of `data`, whose column `image` holds files or pixels.

        Raises:
            MlflowException: a value in the column is no image.
        """
        import pandas as pd
        from mlflow.exceptions import MlflowException

        pixels = []
        for place, image in enumerate(data["image"]):
            try:
                pixels.append(self._pixels(image))
            except (ValueError, images.UnusableImage) as error:
                raise MlflowException.invalid_parameter_value(
                    f"image {place} is neither an image file in base64 nor RGB pixels: {error}"
                ) from None
        # One by one, because in a batch the last bits of an answer depend on its place.
        dog = np.array([self.model.predict_on_batch(each[None])[0, 0] for each in pixels], float)
        return pd.DataFrame({"class": np.take(layout.CLASSES, (dog >= 0.5) * 1), "dog": dog})

    def _pixels(self, image: Any) -> np.ndarray:
        """Return the image as the model takes it: uint8, size×size×3."""
        if isinstance(image, str):
            content = base64.b64decode(image, validate=True)
            return images.decode(content, self.size, self.interpolation, MAX_MEGAPIXELS)
        values = np.array(image, dtype=float)
        if values.ndim != 3 or values.shape[2] != 3 or not ((values >= 0) & (values <= 255)).all():
            raise ValueError(f"{values.shape} values instead of height×width×3 of 0 to 255")
        method = images.INTERPOLATIONS[self.interpolation]
        picture = Image.fromarray(np.rint(values).astype(np.uint8))
        return np.asarray(picture.resize((self.size, self.size), method))


def _load_pyfunc(folder: str) -> Classifier:
    """Load the folder that MLflow stored; MLflow calls this."""
    (model,) = Path(folder).glob("*.keras")
    return Classifier(saved.load(model), Path(folder, "interpolation").read_text("utf-8"))
