"""What the server of MLflow answers: to images in all forms in which people send them."""

import base64
import json
from io import BytesIO

from catsdogs.tracking.serving import Classifier

import numpy as np
import pandas as pd
import pytest
from conftest import photo
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel, scoring_server
from PIL import Image

PHOTO = photo(1, (60, 40), "PNG")
TEXT = base64.b64encode(PHOTO).decode()
PIXELS = np.asarray(Image.open(BytesIO(PHOTO))).tolist()
LONG = 400  # letters of an answer


class Mean:
    """A model that answers with the mean of the pixels, of 255."""

    input_shape = (None, 8, 8, 3)

    def predict_on_batch(self, pixels):
        return pixels.mean(axis=(1, 2, 3)).reshape(-1, 1) / 255


@pytest.fixture(scope="module")
def classifier():
    return Classifier(Mean(), "bilinear", ("cat", "dog"), max_megapixels=0.01)


@pytest.fixture(scope="module")
def post(classifier):
    """Send the server a request, in this process; return the status and the answer."""
    meta = Model()
    meta.add_flavor("python_function", loader_module="catsdogs.tracking.serving")
    model = PyFuncModel(model_meta=meta, model_impl=classifier)

    def send(body, kind="application/json"):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            answer = scoring_server.invocations(content, kind, model, None)
        except MlflowException as error:
            return error.get_http_status_code(), error.serialize_as_json()
        return answer.status, answer.response

    return send


@pytest.fixture(scope="module")
def dog(classifier):
    return classifier.probability(classifier.decode(PHOTO))


def records(image):
    return {"dataframe_records": [{"image": image}]}


@pytest.mark.parametrize(
    "body",
    [
        records(TEXT),
        records(PIXELS),
        records({"b64": TEXT}),
        records(base64.encodebytes(PHOTO).decode()),
        records(f"data:image/png;base64,{TEXT}"),
        records(base64.urlsafe_b64encode(PHOTO).decode().rstrip("=")),
        {"dataframe_split": {"columns": ["image"], "data": [[TEXT]]}},
        {"dataframe_split": {"columns": ["id", "image"], "data": [[1, TEXT]]}},
        {"instances": [{"image": TEXT}]},
        {"instances": [{"image": {"b64": TEXT}}]},
        {"instances": [{"b64": TEXT}]},
        {"instances": [{"image_bytes": {"b64": TEXT}}]},
        {"instances": [TEXT]},
        {"instances": [PIXELS]},
        {"instances": [{"image": PIXELS}]},
        {"inputs": {"image": [TEXT]}},
        {"inputs": {"image": TEXT}},
        {"inputs": [TEXT]},
        {"inputs": {"image": [PIXELS]}},
    ],
)
def test_what_people_send_is_answered(post, dog, body):
    status, answer = post(body)
    assert status == 200, answer
    (found,) = json.loads(answer)["predictions"]
    assert found == {"class": "dog" if dog >= 0.5 else "cat", "dog": pytest.approx(dog, abs=0.02)}


def test_several_images_are_several_answers(post, dog):
    black = [[[0, 0, 0]]]
    for body in (
        {"dataframe_records": [{"image": TEXT}, {"image": black}, {"image": {"b64": TEXT}}]},
        {"inputs": {"image": [TEXT, TEXT, TEXT]}},
    ):
        _, answer = post(body)
        assert len(json.loads(answer)["predictions"]) == 3
    _, answer = post({"dataframe_records": [{"image": TEXT}, {"image": black}]})
    first, second = json.loads(answer)["predictions"]
    assert (first["dog"], second) == (dog, {"class": "cat", "dog": 0.0})


def test_a_table_of_text_is_answered(post):
    assert post(f"image\n{TEXT}\n".encode(), "text/csv")[0] == 200


def test_from_python_an_image_may_be_bytes_or_an_array(classifier, dog):
    given = [PHOTO, bytearray(PHOTO), memoryview(PHOTO), np.array(PIXELS), TEXT]
    found = classifier.predict(pd.DataFrame({"image": given}))
    assert found["dog"].tolist() == pytest.approx([dog] * len(given), abs=0.02)
    row = classifier.predict(pd.DataFrame({"image": [[TEXT, TEXT]]}))
    assert row["dog"].tolist() == [dog, dog], "as MLflow hands over a column that has a schema"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (records(TEXT + "!!"), "a text that is not base64"),
        (records("https://example.org/cat.jpg"), "a text that is not base64"),
        (records("no image"), "not an image in a known format"),
        (records(TEXT[: len(TEXT) // 2]), "damaged"),
        (records(""), "the file is empty"),
        (records(None), "values of shape ()"),
        (records(3), "values of shape ()"),
        (records([[1, 2], [3, 4]]), "values of shape (2, 2), not (height, width, 3)"),
        (records([[0.5] * 9000] * 3), "values of shape (3, 9000)"),
        (records([[1], [2, 3]]), "of type list"),
        (records([[[1, 2, 300]]]), "values that are not from 0 to 255"),
        (records([[[0, 0.5, 1]]]), "values from 0 to 1: multiply them by 255"),
        (records({"url": "x" * 9000}), "of type dict"),
        (records({"b64": 5}), "values of shape ()"),
        (records([[[1, 2, 3]] * 120] * 100), "more than 0.01 megapixels"),
        (records(base64.b64encode(photo(1, (120, 100))).decode()), "120x100 pixels, more than"),
        (
            {"dataframe_records": [{"a": TEXT, "b": TEXT}]},
            "no column `image`; the columns are: `a",
        ),
        ({"instances": [{"a": TEXT, "b": TEXT}]}, "there is no column `image`"),
        ({"dataframe_records": []}, "there is no column `image`"),
    ],
)
def test_what_is_wrong_is_one_short_line(post, body, problem):
    status, answer = post(body)
    assert status == 400
    said = json.loads(answer)
    assert problem in said["message"] and "\n" not in said["message"]
    assert len(answer) < LONG and "stack_trace" not in said
    if "column" not in problem:
        assert said["message"].startswith("image 0 is neither an image file in base64 nor RGB")
