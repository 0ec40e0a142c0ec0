"""The page that a person sends on: its words, its numbers, and that it needs nothing besides."""

import base64
import copy
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from itertools import combinations

from catsdogs import layout, params
from catsdogs.reporting import report
from catsdogs.reporting.report import Comparison

import pytest
import yaml
from conftest import REPOSITORY
from PIL import Image

MODELS = BASIC, AUGMENTED, INCEPTION = "train_basic", "train_augmented", "train_inception"
PARAMS = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
IMAGES = 500
HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}"


def pair(first, second, differ):
    p = 1e-9 if differ else 0.4567
    return {"only_first": first, "only_second": second, "p": p, "p_holm": p, "differ": differ}


def comparison(right=(400, 405, 480), differ=(False, True, True), **changes) -> Comparison:
    """Made up: how many images each model gets right, and which of the pairs differ."""
    scores, facts, last_epoch = {}, {}, {}
    for number, (name, count) in enumerate(zip(MODELS, right, strict=True), 1):
        names = ("loss", "roc_auc", "precision", "recall", "f1", "brier", "calibration_error")
        scores[name] = {key: number / 10 + i / 1000 for i, key in enumerate(names)} | {
            "accuracy": count / IMAGES,
            "accuracy_low": count / IMAGES - 0.0123,
            "accuracy_high": count / IMAGES + 0.0117,
            "cat_right": count - 200,
            "cat_wrong": 60 + number,
            "dog_right": 200,
            "dog_wrong": 50 - number,
        }
        last_epoch[name] = {"val_loss": 0.3011 * number, "val_accuracy": 0.3107 * number}
        facts[name] = {
            "settings": copy.deepcopy(PARAMS[name]),
            "planned_steps": 1500,
            "steps": 1500,
            "parameters": 4_894_913 + number,
            "trainable_parameters": 3_894_913 + number,
            "runtime": "float32, 2 threads, AVX2",
        }
    facts[INCEPTION]["weights"] = "imagenet"
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
        "unused": {"cat": 901, "dog": 0},
    }
    download = {
        "source": "photographs.zip",
        "sha256": "f875364eb80b079c559deb06e8810206847c4617b41c6de35c9248f4b08cc450",
        "images": {"cat": 1249, "dog": 1251},
        "left_out": {"count": 12, "first": ["one.txt", "two.txt"]},
        "copies": {"count": 13, "first": ["sample/1.jpg"]},
        "contradictions": {"count": 2, "first": ["one/3.jpg", "two/4.jpg"]},
        "renamed": {"count": 14, "first": ["train/0.jpg", "valid/0.jpg"]},
    }
    told = Comparison(
        classes=("cat", "dog"),
        drawn=False,
        download=download,
        split=split | {"rejected": 34, "duplicate_groups": 56, "exact_copies": 78},
        facts=facts,
        last_epoch=last_epoch,
        scores=scores,
        notebook={name: {"val_accuracy": 0.7786, "val_loss": 0.4764} for name in MODELS},
        tests=tests,
        confidence=0.9,
        significance=0.05,
    )
    return replace(told, **changes)


def of_models(told, *names):
    """A comparison of some models, also of ones that are copies of `train_basic`."""
    facts, scores, last = (
        {name: copy.deepcopy(each.get(name, each[BASIC])) for name in names}
        for each in (told.facts, told.scores, told.last_epoch)
    )
    tests = {f"{one}/{two}": pair(5, 6, False) for one, two in combinations(names, 2)}
    notebook = {name: told.notebook[name] for name in names if name in told.notebook}
    return replace(
        told, facts=facts, scores=scores, last_epoch=last, notebook=notebook, tests=tests
    )


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Small ones of all kinds, as `evaluate` draws them of three models."""
    monkeypatch.chdir(tmp_path)
    names = ["same_images"]
    names += [f"{name}_{kind}" for name in MODELS for kind in ("mistakes", "hits")]
    names += [f"{name}_{kind}" for name in MODELS[:2] for kind in ("filters", "feature_maps")]
    paths = [layout.PICTURES / f"{name}.png" for name in names]
    charts = [layout.ALL_CURVES_FIGURE, layout.ALL_SCORES_FIGURE]
    for number, path in enumerate(paths + charts):
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
        self.text += "" if tag in ("code", "wbr") else " "

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
        "The best model is inception: it gets 480 of 500 validation images right, 96.0% "
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

    of_all = (told.download, told.split, told.scores, told.last_epoch, told.notebook)
    values = [value for each in of_all for value in numbers(each) if not isinstance(value, str)]
    values = [value for value in values if isinstance(value, int | float)]
    assert len(values) > 60
    for value in values:
        assert (str(value) if isinstance(value, int) else f"{value:.4f}") in shown, value
    for said in (
        report.summary(told),
        *(report.verdict(name, test) for name, test in told.tests.items()),
        "photographs.zip",
        told.download["sha256"],
        "Files left out 12: one.txt, two.txt, …",
        "Copies of files in another folder, each image counted once 13: sample/1.jpg, …",
        "with the bytes of one of the other 2: one/3.jpg, two/4.jpg ",
        "keep their folders in their names, which others have, too 14: train/0.jpg, valid/",
        "Images unused 901 cat: each side has as many of one class as of the other",
        "accuracy’s 90% interval",
    ):
        assert said in text
    for title, words in report.GALLERIES.values():
        assert f"{title} {words}" in text


def test_of_files_and_images_that_are_not_used_only_those_that_there_are(pictures):
    told = comparison()
    lists = ("left_out", "copies", "contradictions", "renamed")
    told.download.update({key: {"count": 0, "first": []} for key in lists})
    told.split.update(unused={"cat": 0, "dog": 0})
    text = Elements(report.page(told)).text
    assert "Files left out none " in text
    for word in ("Copies", "with the bytes", "keep their folders", "unused"):
        assert word not in text
    told.split.update(unused={"cat": 3, "dog": 4})
    assert "Images unused 3 cat, 4 dog: " in Elements(report.page(told)).text


def test_what_was_run_is_all_settings_as_they_are_named():
    told = comparison()
    told.facts[BASIC]["settings"] |= {"learning_rate": "1e-3"}
    told.facts[INCEPTION]["settings"] |= {"weights": "/srv/of-a-person/weights.h5"}
    told.facts[INCEPTION]["settings"]["augmentation"]["horizontal_flip"] = True
    told.facts[INCEPTION]["weights"] = "weights.h5"
    rows = report.settings(told)
    assert rows["steps"] == ["1,500"] * 3
    assert rows["parameters"] == ["4,894,914", "4,894,915", "4,894,916"]
    assert rows["trainable parameters"][0] == "3,894,914"
    assert rows["optimizer"] == ["adam", "adam", "rmsprop"]
    assert rows["learning_rate"] == ["0.001", "0.001", "0.0001"]
    assert rows["filters"] == ["32, 64, 128", "32, 64, 128", "–"]
    assert rows["augmentation.zoom"] == ["–", "0.2", "0.2"]
    assert rows["augmentation.horizontal_flip"] == ["–", "no", "yes"]
    assert rows["fine_tuning.above"] == ["–", "–", "none"]
    assert rows["weights"] == ["–", "–", "weights.h5"]
    keys = {key for name in MODELS for key, _ in params.flatten(PARAMS[name])}
    assert rows["computed with"] == ["float32, 2 threads, AVX2"] * 3
    assert set(rows) == keys | {"steps", "parameters", "trainable parameters", "computed with"}


def test_settings_of_all_models_are_folded(pictures):
    page = report.page(comparison())
    apart, _, together = page.partition("<details>")
    assert "optimizer" in apart and "optimizer" not in together
    together = Elements(together.partition("</details>")[0]).text
    same = {key for key, row in report.settings(comparison()).items() if len(set(row)) == 1}
    assert {"steps", "batch_size", "seed"} < same
    assert ">steps</th>" in apart
    same.remove("steps")
    assert f"The same in all models: {len(same)} settings" in together
    for key in same:
        assert f" {key} " in together
        assert f">{key}</th>" not in apart.replace("<wbr>", "")


@pytest.mark.parametrize("names", [[BASIC], [INCEPTION, "train_new"], [*MODELS, "train_new"]])
def test_any_models_are_compared(pictures, names):
    told = of_models(comparison(), *names)
    titles = [name.removeprefix("train_") for name in names]
    table, page = report.table(told), report.page(told)
    rows = re.findall(r"^\| (\w+) \| [\d.]+ \(.*$", table, re.MULTILINE)
    assert rows == titles
    for name, line in zip(names, re.findall(r"^\| \w+ \| \d.*", table, re.M), strict=True):
        assert line.count("–") == (2 if name == "train_new" else 0)
    assert table.count("cannot be told apart") == len(names) * (len(names) - 1) / 2
    assert ("McNemar" in table) == ("McNemar" in page) == (len(names) > 1)
    assert ("<details>" in page) == (len(names) > 1)
    for title in titles:
        assert f">{title}</th>" in page
    drawn = {alt for tag, attributes in Elements(page).tags for alt in [attributes.get("alt")]}
    drawn = {alt.rpartition(": ")[2] for alt in drawn if alt and "mistakes" in alt}
    assert drawn == set(titles) - {"new"}, "pictures that are there, of models that are compared"
    assert ("What they find" in page) == (BASIC in names)


def test_a_rehearsal_is_called_one(pictures):
    earnest = comparison()
    assert "rehearsal" not in report.page(earnest) + report.table(earnest)
    warned = report.table(replace(earnest, drawn=True))
    assert warned.startswith("A rehearsal: the images here are drawn, ")
    assert warned.endswith(report.table(earnest)), "and nothing else changes"
    drawn = Elements(report.page(replace(earnest, drawn=True))).text
    assert "This was a rehearsal. The images are cats and dogs drawn by the program" in drawn
    assert "cut short" not in drawn
    earnest.facts[BASIC]["steps"] = 195
    drawn = Elements(report.page(replace(earnest, drawn=True))).text
    assert "and the trainings are cut short" in drawn
    assert "steps 195 (in earnest: 1,500) 1,500 1,500 " in drawn
    assert "random weights" not in drawn
    earnest.facts[INCEPTION]["weights"] = "random"
    untrained = Elements(report.page(earnest)).text
    said = "The pretrained part of inception has random weights"
    assert f"This was a rehearsal. {said}" in untrained
    assert said in report.table(earnest)
    assert "drawn by the program" not in untrained


def test_it_speaks_of_the_classes_that_there_are(pictures):
    told = comparison()
    for score in told.scores.values():
        for verdict in ("right", "wrong"):
            score[f"hot dog_{verdict}"] = score.pop(f"cat_{verdict}")
            score[f"salad_{verdict}"] = score.pop(f"dog_{verdict}")
    told.download["images"] = {"hot dog": 1249, "salad": 1251}
    told.split["unused"] = {"hot dog": 0, "salad": 2}
    page = Elements(report.page(replace(told, classes=("hot dog", "salad")))).text
    for said in (
        "Hot dog or salad: the models compared",
        "precision (salad)",
        "hot dog wrong 61 62 63",
        "salad right 200 200 200",
        "gives a P(salad) of 0.7, for example, 70% are of the class salad",
        "1,249 hot dog, 1,251 salad",
        "480 of 500 validation images right",
        "unused 2 salad:",
    ):
        assert said in page
    assert not re.search(r"\bcats?\b|(?<!hot )\bdogs?\b", page, re.IGNORECASE)


def test_hostile_text_is_text(pictures):
    told = comparison()
    harmless = Elements(report.page(told)).tags
    lists = ("left_out", "copies", "contradictions", "renamed")
    told.download.update({key: {"count": 1, "first": [HOSTILE]} for key in lists}, source=HOSTILE)
    told.facts[INCEPTION]["weights"] = HOSTILE
    page = Elements(report.page(told))
    assert page.text.count(HOSTILE) == 6
    assert [tag for tag, _ in page.tags if tag != "code"] == [
        tag for tag, _ in harmless if tag != "code"
    ]


def test_the_page_holds_all_it_needs_and_says_not_where_it_was_made(pictures, tmp_path):
    told = comparison()
    told.facts[INCEPTION]["settings"]["weights"] = "/srv/weights/of-a-person.h5"
    page = report.page(told)
    sources = [attributes["src"] for tag, attributes in Elements(page).tags if tag == "img"]
    assert len(sources) == len(pictures) + 2 == len(set(sources))
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
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
    told.split.update(tuning=IMAGES, validation=999, judged_by="tuning")
    told.split["asked"]["tuning"] = 4000
    table, page = report.table(told), Elements(report.page(told)).text
    assert f"of all {IMAGES} tuning images" in table
    assert "The images here are tuning images: no validation image has been looked at." in table
    assert f"of {IMAGES} tuning images right" in page
    assert "the validation images are still unseen" in page
    assert "999" not in page
    assert "asked for: 20,000 and 4,000" in page
