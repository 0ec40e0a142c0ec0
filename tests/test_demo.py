"""The page of `catsdogs demo`: its answers, and how it looks in a real browser."""

import base64
import inspect
import signal
import socket
import subprocess
import types
from io import BytesIO

from catsdogs import layout
from catsdogs.commands import demo
from catsdogs.reporting import explanations
from catsdogs.stage import UserError
from catsdogs.tracking.serving import Classifier

import numpy as np
import pytest
from conftest import CATSDOGS, REPOSITORY, photo
from PIL import Image

TITLES = ["basic", "augmented", "inception"]


class Mean:
    """A model that answers with the mean of the pixels, of 255."""

    input_shape = (None, 8, 8, 3)

    def predict_on_batch(self, pixels):
        return pixels.mean(axis=(1, 2, 3)).reshape(-1, 1) / 255


def left(images):
    """Grad-CAM of a model that looks at the left half."""
    return np.repeat([[[1, 0]]], len(images), axis=0).astype(np.float32)


@pytest.fixture
def client(monkeypatch):
    """What a browser would ask of the page of one model."""
    monkeypatch.chdir(REPOSITORY)
    model = demo.Model("basic", Classifier(Mean(), "bilinear", ("cat", "dog")), left)
    return demo.make_app([model], {"cat/1.jpg": photo(1, kind="PNG")}).test_client()


def picture(address):
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(BytesIO(base64.b64decode(content)))


def test_an_answer_has_the_class_its_probability_and_where_the_model_looks(client):
    reply = client.post("/answers", data=photo(1, (60, 40)))
    (answer,) = reply.json["answers"]
    classifier = Classifier(Mean(), "bilinear", ("cat", "dog"))
    dog = classifier.probability(classifier.decode(photo(1, (60, 40))))
    assert (answer["model"], answer["second"]) == ("basic", dog)
    assert answer["class"] == ("dog" if dog >= 0.5 else "cat")
    heat = np.asarray(picture(answer["heat"]))
    assert heat.shape == (8, 8, 4)
    assert heat[:, :2, :3].sum() > 3 * heat[:, -2:, :3].sum(), "brighter where it looks"
    assert set(np.unique(heat[..., 3])) == {round(255 * demo.VISIBLE)}
    assert picture(reply.json["preview"]).size == (8, 8)


def test_the_heat_map_is_as_visible_as_in_the_report():
    assert f'"alpha": {demo.VISIBLE}' in inspect.getsource(explanations.draw_heat_maps)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_what_is_no_photograph_is_refused_in_one_line(client, content):
    reply = client.post("/answers", data=content)
    assert reply.status_code == 400
    assert reply.json["error"].startswith("This cannot be used: ")


def test_a_file_that_is_too_large_is_refused(client):
    client.application.config["MAX_CONTENT_LENGTH"] = 10
    reply = client.post("/answers", data=photo(1))
    assert (reply.status_code, reply.json["error"]) == (
        413,
        "This cannot be used: more than 50 MB.",
    )


def test_another_sites_name_does_not_open_the_page(client):
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"Host": "127.0.0.1:7860"}).status_code == 200
    assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400


def test_models_that_are_missing_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train_basic.keras, .* missing: run `dvc repro`"):
        demo.main(0)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A checkout whose models are files of nothing."""
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "TRACKING_STORE", tmp_path / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    names = [f"train_{title}" for title in TITLES]
    layout.MODELS.mkdir()
    for name in names:
        layout.model(name).write_text(name)
    return names


def test_a_port_that_is_taken_is_one_line(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be used .*--port"):
            demo.main(port)


@pytest.mark.parametrize(
    ("champion", "expected"),
    [
        ("train_basic", ["basic, the champion", "augmented", "inception"]),
        ("another", [*TITLES, "the champion"]),
        (None, TITLES),
    ],
)
def test_the_champion_of_mlflow_is_shown_once(models, monkeypatch, capsys, champion, expected):
    def download(address):
        if champion is None:
            raise UserError(f"MLflow has no {address}")
        layout.MODELS.joinpath("fetched").write_text(champion)
        return layout.MODELS / "fetched", "bilinear"

    asked = []
    fake = types.SimpleNamespace(model=None)
    monkeypatch.setattr(demo.predict, "download", download)
    monkeypatch.setattr(demo.predict, "load", lambda name: asked.append(name) or fake)
    monkeypatch.setattr(demo, "GradCam", lambda _: None)
    assert [model.title for model in demo.load(models)] == TITLES, "there is no store to ask"
    layout.TRACKING_STORE.touch()
    asked.clear()
    assert [model.title for model in demo.load(models)] == expected
    assert asked == TITLES + ["models:/catsdogs@champion"] * (champion == "another")
    assert ("without a champion: MLflow has no" in capsys.readouterr().err) == (not champion)


def test_without_the_data_there_are_no_examples(models, capsys):
    assert demo.examples() == {}
    assert "without examples: data/split is not here" in capsys.readouterr().err


@pytest.fixture(scope="module")
def address(made):
    """Where the page of the tiny pipeline is."""
    command = [*CATSDOGS, "demo", "--port", "0"]
    with subprocess.Popen(
        command, cwd=made.path, env=made.environment(), stdout=subprocess.PIPE, text=True
    ) as running:
        line = running.stdout.readline()
        assert line.startswith("open http://127.0.0.1:")
        yield line.split()[1]
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0


@pytest.fixture(params=[1280, 390])
def page(browser, address, request):
    """The page, on a desk and on a phone; what went wrong, and what it asked for."""
    page = browser.new_page(viewport={"width": request.param, "height": 844})
    page.wrong, page.asked = [], []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda line: page.wrong.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    yield page
    local = (f"{address}/", "data:", "blob:")
    assert all(url.startswith(local) for url in page.asked), "nothing comes from elsewhere"
    assert page.wrong == []
    page.close()


def answers(page):
    """What each model says on the page, once all of it is drawn."""
    page.locator("section:not([hidden])").wait_for()
    page.wait_for_function(
        "[...document.querySelectorAll('article img')].every(each => each.naturalWidth > 0)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    for card in page.locator("article").all():
        photograph, heat = (image.bounding_box() for image in card.locator("img").all())
        assert heat == pytest.approx(photograph, abs=1), "the map lies on the photograph"
    return dict(
        zip(
            page.locator("article h3").all_inner_texts(),
            page.locator("article .says").all_inner_texts(),
            strict=True,
        )
    )


@pytest.mark.slow
def test_a_photograph_that_is_chosen(page, made, tmp_path):
    path = tmp_path / "pet.jpg"
    path.write_bytes(photo(1, (90, 60)))
    page.locator("input[type=file]").set_input_files(path)
    said = answers(page)
    assert list(said) == TITLES
    assert page.locator("section h2").inner_text() == "pet.jpg"
    answer = made.catsdogs("predict", "--model", "basic", str(path)).stdout.strip()
    assert answer == f"{path}: {said['basic'].replace(' %', '%')}"
    width, height = (
        page.locator("article img").first.bounding_box()[k] for k in ("width", "height")
    )
    assert width / height == pytest.approx(90 / 60, rel=0.05), "not squashed"
    page.get_by_label("show where each model looks").uncheck()
    assert not page.locator(".heat").first.is_visible()


@pytest.mark.slow
def test_a_photograph_that_is_dropped(page):
    content = base64.b64encode(photo(2)).decode()
    transfer = page.evaluate_handle(
        """content => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt());
            transfer.items.add(new File([bytes], "dropped.jpg"));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": transfer})
    assert list(answers(page)) == TITLES
    assert page.locator("section h2").inner_text() == "dropped.jpg"


@pytest.mark.slow
def test_ten_examples_are_of_the_validation_images(page, made):
    table = (made.path / layout.VALIDATION).read_text()
    names = [image.get_attribute("alt") for image in page.locator(".examples img").all()]
    assert all(name in table for name in names)
    kinds = [name.partition("/")[0] for name in names]
    assert len(names) <= 10 and kinds.count("cat") == kinds.count("dog") > 2
    page.locator(".examples button").nth(1).click()
    assert list(answers(page)) == TITLES
    assert page.locator("section h2").inner_text() == names[1]
    assert page.locator("[aria-pressed=true] img").get_attribute("alt") == names[1]


@pytest.mark.slow
def test_a_format_that_the_browser_cannot_show(page, tmp_path):
    path = tmp_path / "pet.tif"
    path.write_bytes(photo(1, kind="TIFF"))
    page.locator("input[type=file]").set_input_files(path)
    assert list(answers(page)) == TITLES


@pytest.mark.slow
def test_what_is_no_photograph_is_said(page, tmp_path):
    (tmp_path / "notes.jpg").write_text("a text")
    page.locator("input[type=file]").set_input_files(tmp_path / "notes.jpg")
    page.get_by_text("This cannot be used: not an image in a known format.").wait_for()
    assert not page.locator("section").is_visible()
    # The browser notes the status by itself.
    assert all("400" in line for line in page.wrong)
    page.wrong.clear()


@pytest.mark.slow
def test_drawn_animals_are_said_to_be_drawn(page):
    assert page.get_by_text("These models have seen drawn animals only.").is_visible()
