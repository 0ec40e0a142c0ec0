"""The page that a person sends on: its words, its numbers, and that it needs nothing besides."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

from catsdogs import layout, params, report
from catsdogs.report import Comparison

import pytest
import yaml
from conftest import REPOSITORY
from PIL import Image

BASIC, AUGMENTED, INCEPTION = layout.TRAININGS
IMAGES = 500
HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}"


def pair(first, second, differ):
    p = 1e-9 if differ else 0.4567
    return {"only_first": first, "only_second": second, "p": p, "p_holm": p, "differ": differ}


def comparison(right=(400, 405, 480), differ=(False, True, True), **changes) -> Comparison:
    """Made up: how many images each model gets right, and which of the pairs differ."""
    scores, trainings = {}, {}
    for number, (name, count) in enumerate(zip(layout.TRAININGS, right, strict=True), 1):
        names = ("loss", "roc_auc", "precision", "recall", "f1", "brier", "calibration_error")
        scores[name] = {key: number / 10 + i / 1000 for i, key in enumerate(names)} | {
            "accuracy": count / IMAGES,
            "accuracy_low": count / IMAGES - 0.0123,
            "accuracy_high": count / IMAGES + 0.0117,
            "cats_right": count - 200,
            "cats_wrong": 60 + number,
            "dogs_right": 200,
            "dogs_wrong": 50 - number,
        }
        trainings[name] = {
            "val_loss": 0.3011 * number,
            "val_accuracy": 0.3107 * number,
            "parameters": 4_894_913 + number,
            "trainable_parameters": 3_894_913 + number,
            "steps": 1500,
        }
    trainings[INCEPTION]["weights"] = "imagenet"
    pairs = {f"{BASIC}/{AUGMENTED}": (0, 1), f"{BASIC}/{INCEPTION}": (0, 2)}
    pairs |= {f"{AUGMENTED}/{INCEPTION}": (1, 2)}
    tests = {
        name: pair(7 + max(0, right[i] - right[j]), 7 + max(0, right[j] - right[i]), differs)
        for (name, (i, j)), differs in zip(pairs.items(), differ, strict=True)
    }
    split = {
        "train": 2000,
        "validation": IMAGES,
        "tuning": 0,
        "judged_by": "validation",
        "asked": {"train": 20000, "validation": 5000, "tuning": 0},
    }
    download = {
        "source": "photographs.zip",
        "sha256": "f875364eb80b079c559deb06e8810206847c4617b41c6de35c9248f4b08cc450",
        "images": {"cat": 1249, "dog": 1251},
        "left_out": {"count": 12, "first": ["one.txt", "two.txt"]},
    }
    told = Comparison(
        drawn=False,
        runs=runs(REPOSITORY / "params.yaml"),
        measured={
            "download": download,
            "split": split | {"rejected": 34, "duplicate_groups": 56, "exact_copies": 78},
            "evaluate": scores,
            **trainings,
        },
        notebook={name: {"val_accuracy": 0.7786, "val_loss": 0.4764} for name in trainings},
        tests=tests,
        confidence=0.9,
        significance=0.05,
    )
    return replace(told, **changes)


def runs(path):
    return {name: params.load(name, report.Run, path) for name in layout.TRAININGS}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Small ones, wherever the page looks for them."""
    monkeypatch.chdir(tmp_path)
    paths = [path for gallery in report.GALLERIES for path in gallery.pictures.values()]
    for number, path in enumerate([*paths, *map(layout.figure, ("compare", "compare_scores"))]):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (19 * number, 0, 0)).save(path)
    return paths


class Elements(HTMLParser):
    """The start tags of a page, and its text without markup."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += "" if tag == "code" else " "

    def handle_data(self, data):
        self.text += data


def test_verdicts_in_words():
    test = pair(5, 50, True)
    assert report.verdict(f"{BASIC}/{INCEPTION}", test) == (
        "inception beats basic (50 to 5 images, p < 0.0001)"
    )
    test = pair(50, 5, True) | {"p_holm": 0.0123}
    assert report.verdict(f"{BASIC}/{INCEPTION}", test) == (
        "basic beats inception (50 to 5 images, p = 0.012)"
    )
    assert report.verdict(f"{BASIC}/{INCEPTION}", pair(5, 6, False)) == (
        "basic and inception cannot be told apart (5 to 6 images, p = 0.46)"
    )


def test_the_summary_of_one_best_model():
    assert report.summary(comparison()) == (
        "The best of the three is inception: it gets 480 of 500 validation images right, 96.0% "
        "(90% interval 94.8 to 97.2). "
        "Inception beats basic by 16.0 percentage points (95% interval 12.4 to 19.5); "
        "inception beats augmented by 15.0 percentage points (95% interval 11.5 to 18.4); "
        "basic and augmented cannot be told apart."
    )


@pytest.mark.parametrize(
    ("right", "differ", "said"),
    [
        ((470, 475, 400), (False, True, True), "augmented gets 475 of 500 .* apart from basic. B"),
        ((470, 470, 400), (False, True, True), "basic gets 470 of 500 .* apart from augmented. B"),
        ((400, 470, 470), (True, True, False), "augmented gets 470 .* apart from inception. A"),
        ((470, 471, 472), (False,) * 3, "inception gets 472 .* apart from basic and augmented. B"),
    ],
)
def test_the_summary_where_no_model_is_best(right, differ, said):
    summary = report.summary(comparison(right, differ))
    assert re.match(f"No model is shown to be the best: {said}", summary), summary
    assert ("beats" in summary) is any(differ)


def test_all_numbers_are_on_the_page(pictures):
    told = comparison()
    text = Elements(report.page(told)).text
    shown = {number.replace(",", "") for number in re.findall(r"\d[\d.,]*\d|\d", text)}

    def numbers(value):
        for item in value.values():
            yield from numbers(item) if isinstance(item, dict) else [item]

    values = [value for value in numbers(told.measured) if isinstance(value, int | float)]
    assert len(values) > 60
    for value in [*values, *numbers(told.notebook)]:
        assert (str(value) if isinstance(value, int) else f"{value:.4f}") in shown, value
    for said in (
        report.summary(told),
        *(report.verdict(name, test) for name, test in told.tests.items()),
        "photographs.zip",
        told.measured["download"]["sha256"],
        "12: one.txt, two.txt, …",
        "adam, learning rate 0.001",
        "rmsprop, learning rate 0.0001",
        "width shift 0.2, height shift 0.2, shear 0.2, zoom 0.2",
        "1,500, in 15 epochs, each step of 32 images",
        "InceptionV3 up to mixed7, frozen; dense, 1024 units; dropout 0.2",
        "accuracy’s 90% interval",
    ):
        assert said in text
    for gallery in report.GALLERIES:
        assert f"{gallery.title} {gallery.text}" in text


def test_a_rehearsal_is_called_one(pictures):
    earnest = comparison()
    assert "rehearsal" not in report.page(earnest) + report.table(earnest)
    warned = report.table(replace(earnest, drawn=True))
    assert warned.startswith("A rehearsal: the images here are drawn, ")
    assert warned.endswith(report.table(earnest)), "and nothing else changes"
    drawn = Elements(report.page(replace(earnest, drawn=True))).text
    assert "This was a rehearsal. The images are cats and dogs drawn by the program" in drawn
    assert "cut short" not in drawn
    earnest.measured[BASIC]["steps"] = 195
    drawn = Elements(report.page(replace(earnest, drawn=True))).text
    assert "and the trainings are cut short" in drawn
    assert "195 (in earnest: 1,500), in 15 epochs" in drawn
    assert "random weights" not in drawn
    earnest.measured[INCEPTION]["weights"] = "random"
    untrained = Elements(report.page(earnest)).text
    assert "This was a rehearsal. Inception’s trunk has random weights" in untrained
    assert "drawn by the program" not in untrained


def test_hostile_text_is_text(pictures):
    told = comparison()
    harmless = Elements(report.page(told)).tags
    told.measured["download"] |= {"source": HOSTILE, "left_out": {"count": 1, "first": [HOSTILE]}}
    told.measured[INCEPTION]["weights"] = HOSTILE
    page = Elements(report.page(told))
    assert page.text.count(HOSTILE) == 3
    assert [tag for tag, _ in page.tags if tag != "code"] == [
        tag for tag, _ in harmless if tag != "code"
    ]


def test_the_page_holds_all_it_needs_and_says_not_where_it_was_made(pictures, tmp_path):
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values[INCEPTION]["weights"] = "/srv/weights/of-a-person.h5"
    values[INCEPTION]["augmentation"] |= {"shear": "1e-1", "zoom": 0, "rotation": 15}
    values[INCEPTION]["augmentation"]["horizontal_flip"] = True
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    page = report.page(comparison(runs=runs(params.PARAMS)))
    sources = [attributes["src"] for tag, attributes in Elements(page).tags if tag == "img"]
    assert len(sources) == len(pictures) + 2 == len(set(sources))
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert "height shift 0.2, shear 0.1, rotation 15, horizontal flip " in Elements(page).text
    for loads in ("http:", "https:", "<script", "<link", "url(", "@import", "srcset", "file:"):
        assert loads not in page
    for place in (str(tmp_path), str(REPOSITORY), "/srv", "of-a-person"):
        assert place not in page


def test_equal_numbers_and_pictures_are_equal_pages(pictures):
    assert report.page(comparison()) == report.page(comparison())
    Image.new("RGB", (8, 6), "white").save(pictures[0])
    assert report.page(comparison()) != report.page(comparison(confidence=0.95))


def test_charts_are_kept_to_the_pixel(tmp_path):
    path = tmp_path / "chart.png"
    chart = Image.effect_noise((40, 30), 100).convert("RGB")
    chart.save(path)
    for lossless in (True, False):
        attributes = report.embed(path, lossless)
        assert (attributes["width"], attributes["height"]) == chart.size
        data = base64.b64decode(attributes["src"].partition(",")[2])
        shown = Image.open(BytesIO(data)).convert("RGB")
        assert (shown.tobytes() == chart.tobytes()) is lossless


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it_without_network(made, browser, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    page = context.new_page()
    errors, asked = [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url[:99]))
    page.on("request", lambda request: asked.append(request.url))
    url = (made.path / "plots/report.html").as_uri()
    page.goto(url)
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    scrolls = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    warned = page.locator("aside").inner_text()
    context.close()
    assert len(widths) >= 5
    assert min(widths) > 0
    assert errors == []
    assert [address for address in asked if not address.startswith("data:")] == [url]
    assert scrolls <= 0
    assert "This was a rehearsal." in warned
    assert (made.path / "plots/report.html").stat().st_size < 3e6


def test_tuning_images_are_not_called_validation_images(pictures):
    told = comparison()
    told.measured["split"] |= {"tuning": IMAGES, "validation": 999, "judged_by": "tuning"}
    told.measured["split"]["asked"]["tuning"] = 4000
    table, page = report.table(told), Elements(report.page(told)).text
    assert table.startswith(f"On all {IMAGES} tuning images")
    assert "The images here are tuning images: no validation image has been looked at." in table
    assert f"of {IMAGES} tuning images right" in page
    assert "the validation images are still unseen" in page
    assert "999" not in page
    assert "asked for: 20,000 and 4,000" in page
