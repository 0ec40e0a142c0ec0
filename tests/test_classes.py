"""Two classes of one's own go through all stages, and nothing speaks of cats and dogs."""

import json
import re
from io import BytesIO
from pathlib import Path

from catsdogs import layout
from catsdogs.files import read_csv

import numpy as np
import pytest
from conftest import TINY, Checkout, runs
from PIL import Image
from processes import Python

CLASSES = "wolf", "fox"
TRAININGS = ("train_basic", "train_augmented", "train_inception")
OTHERS = re.compile(r"(?<![a-z])(cat|dog)s?(?![a-z])", re.IGNORECASE)
COLOURS = {"wolf": (120, 120, 130), "fox": (210, 110, 40)}
FOLDERS = {"wolf": "animals/Wolves", "fox": "animals/more/foxes"}


def picture(kind: str, number: int, form: str = "PNG") -> bytes:
    """Noise around the colour of its class."""
    noise = np.random.default_rng([number, len(kind)]).normal(0, 30, (70, 90, 3))
    pixels = (np.array(COLOURS[kind]) + noise).clip(0, 255).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Checkout:
    """A repository after `dvc repro` with wolves and foxes, not to be changed."""
    folder = tmp_path_factory.mktemp("zoo")
    for kind, name in FOLDERS.items():
        (folder / name).mkdir(parents=True)
        for number in range(30):
            (folder / name / f"{number}.png").write_bytes(picture(kind, number))
    checkout = Checkout(folder / "repository")
    checkout.change_params(TINY | {"data": {"source": "../animals", "classes": list(CLASSES)}})
    (checkout.path / "dvc.lock").unlink(missing_ok=True)
    checkout.output = checkout.run("dvc", "repro").stdout
    return checkout


pytestmark = pytest.mark.slow


def test_nothing_written_speaks_of_cats_and_dogs(zoo):
    written = [
        path
        for folder in ("metrics", "plots", "data/split")
        for path in (zoo.path / folder).rglob("*")
        if path.suffix in (".csv", ".json", ".md", ".html")
    ]
    assert len(written) >= 18
    for path in [*written, zoo.path / layout.PREDICTIONS]:
        text = re.sub(r"data:image/[^\"]*", "", path.read_text())
        assert not OTHERS.search(text), (path, OTHERS.search(text))
    assert not OTHERS.search(zoo.output)
    assert "animals: 30 wolf and 30 fox images" in zoo.output


def test_labels_are_the_positions_of_the_classes(zoo):
    for table in (layout.TRAIN, layout.VALIDATION, layout.PREDICTIONS):
        rows = read_csv(zoo.path / table)
        assert {(row["name"].partition("/")[0], row["label"]) for row in rows} == {
            ("wolf", "0"),
            ("fox", "1"),
        }


def test_scores_and_charts_name_the_classes(zoo):
    scores = json.loads((zoo.path / layout.SCORES).read_text())
    predictions = read_csv(zoo.path / layout.PREDICTIONS)
    for stage in TRAININGS:
        foxes = [float(row[stage]) >= 0.5 for row in predictions if row["label"] == "1"]
        assert (scores[stage]["fox_right"], len(foxes)) == (sum(foxes), 6)
        assert scores[stage]["wolf_right"] + scores[stage]["wolf_wrong"] == 6
    confusion = read_csv(zoo.path / layout.SCORE_CURVES / "confusion.csv")
    assert {row["actual"] for row in confusion} == {row["predicted"] for row in confusion}
    assert {row["actual"] for row in confusion} == set(CLASSES)
    figures = json.loads((zoo.path / layout.metrics("compare")).read_text())["models"]
    assert not any("notebook" in each for each in figures.values()), "of cats and dogs"
    report = (zoo.path / layout.REPORT).read_text()
    for said in ("<h1>Wolf or fox: ", "precision (fox)", "wolf wrong", "30 wolf, 30 fox"):
        assert said in report
    page = Path(zoo.run("dvc", "plots", "show").stdout.strip().removeprefix("file://")).read_text()
    for said in ("ROC (fox is positive)", "predicted P(fox)", "share of fox"):
        assert said in page
    assert not OTHERS.search(re.sub(r"data:image/[^\"]*", "", page))


def test_the_runs_name_the_classes(zoo):
    found = runs(zoo)
    assert len(found) == 4
    for run in found.values():
        assert run["params"]["data.classes"] == "['wolf', 'fox']"
        assert run["status"] == "FINISHED"
        assert not OTHERS.search(json.dumps(run))
    trained = [run for run in found.values() if "dvc.stage" in run["tags"]]
    for run in trained:
        names = {name for name, _, _ in run["metrics"]}
        assert {"evaluate/wolf_right", "evaluate/fox_wrong"} <= names


def test_a_model_knows_its_classes(zoo, tmp_path):
    """One of this checkout by params.yaml, one from MLflow by itself."""
    photo = tmp_path / "a.jpg"
    photo.write_bytes(picture("fox", 99, "JPEG"))
    said = zoo.catsdogs("predict", "--model", "basic", str(photo)).stdout
    assert re.fullmatch(rf"{photo}: (wolf|fox) \d+\.\d%\n", said)

    copy = zoo.copy(tmp_path / "copy")
    copy.catsdogs("champion")
    address = "models:/catsdogs@champion"
    copy.change_params({"data": {"classes": ["lynx", "bear"]}})
    (copy.path / "params.yaml").rename(copy.path / "kept.yaml")
    source = (
        "import json, mlflow\n"
        "from catsdogs.tracking import store\n"
        "store.connect()\n"
        f"model = mlflow.pyfunc.load_model({address!r})\n"
        f"answer = model.predict([{{'image': {np.zeros((9, 9, 3), int).tolist()}}}] * 2)\n"
        "print(json.dumps([answer.to_dict('list'), model.metadata.signature.outputs.to_dict()]))"
    )
    result = Python(source, copy.path, copy.environment()).wait()
    assert result.returncode == 0, result.stderr
    answer, signature = json.loads(result.stdout.splitlines()[-1])
    assert list(answer) == [each["name"] for each in signature] == ["class", "fox"]
    assert answer["class"] == [CLASSES[p >= 0.5] for p in answer["fox"]]
    (copy.path / "kept.yaml").rename(copy.path / "params.yaml")
    said = copy.catsdogs("predict", "--model", address, str(photo)).stdout
    assert re.fullmatch(rf"{photo}: (wolf|fox) \d+\.\d%\n", said)


def test_an_order_of_its_own_changes_the_labels_and_all_that_follows(zoo, tmp_path):
    copy = zoo.copy(tmp_path / "copy")
    copy.change_params(
        {"data": {"classes": ["fox", "wolf"], "source": str(zoo.path / "../animals")}}
    )
    waiting = copy.run("dvc", "status", "--json").stdout
    assert {"download", "split", "evaluate", "compare"} <= set(json.loads(waiting))
    for stage in ("download", "split"):
        copy.script(stage)
    before, after = (read_csv(path / layout.TRAIN) for path in (zoo.path, copy.path))
    assert [row["label"] for row in before] != [row["label"] for row in after]
    assert {row["name"][:3]: row["label"] for row in after} == {"fox": "0", "wol": "1"}
