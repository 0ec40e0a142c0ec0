"""What people look at: `dvc plots` in a real browser without a network, and the experiments."""

import json
import re
import sys
from collections import Counter

from catsdogs import experiments, plots_page
from catsdogs.stage import UserError

import pytest
import yaml
from conftest import REPOSITORY

pytestmark = pytest.mark.slow
REVISIONS = ("HEAD", "other")
MODELS = ("train_basic", "train_augmented", "train_inception")
# A chart as the browser has drawn it: its title, all its words, how many lines, and its numbers.
READ_CHART = """svg => {
    const texts = selector => [...svg.querySelectorAll(selector)].map(each => each.textContent);
    return {
        title: texts(".role-title text").at(-1),
        words: texts("text"),
        lines: svg.querySelectorAll(".mark-line path").length,
        numbers: texts(".mark-text.role-mark text"),
    };
}"""


@pytest.fixture(scope="module")
def compared(made, tmp_path_factory):
    """A repository with an experiment, which was not computed but written by hand."""
    repository = made.copy(tmp_path_factory.mktemp("pages") / "repository")
    repository.change_params({"train_inception": {"dropout": 0.5}})
    scores = repository.path / "metrics/evaluate.json"
    values = json.loads(scores.read_text())
    values["train_inception"]["accuracy"] = 0.75
    scores.write_text(json.dumps(values, indent=2))
    confusion = repository.path / "plots/evaluate/curves/train_inception_confusion.csv"
    changed = "actual,predicted\n" + "cat,cat\n" * 6 + "dog,cat\n" * 3 + "dog,dog\n" * 3
    confusion.unlink()
    confusion.write_text(changed)
    repository.run("dvc", "commit", "--force")
    repository.run("dvc", "exp", "save", "--name", "other")
    repository.git("checkout", ".")
    repository.run("dvc", "checkout")
    repository.run(sys.executable, "-m", "catsdogs.plots_page")
    # The page has to outlast this, or DVC would fail where it is named.
    repository.run("make", "clean", "VENV=none")
    return repository


@pytest.fixture(scope="module")
def page(compared, browser):
    """DVC's page of HEAD beside the experiment, drawn; what went wrong, and what it asked for."""
    address = compared.run("dvc", "plots", "diff", *REVISIONS).stdout.strip()
    page = browser.new_context(offline=True).new_page()
    page.wrong, page.asked = [], []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda line: page.wrong.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    charts = page.locator("main > div:not([style])").count()
    page.wait_for_function(f"document.querySelectorAll('svg.marks').length == {charts}")
    return page


@pytest.fixture(scope="module")
def charts(page):
    return [svg.evaluate(READ_CHART) for svg in page.locator("svg.marks").all()]


def test_nothing_comes_from_the_network(page):
    assert page.wrong == []
    assert all(address.startswith(("file:", "data:")) for address in page.asked)


def test_every_chart_is_drawn_in_the_order_of_dvc_yaml(charts):
    plots = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["plots"]
    titles = [options["title"] for chart in plots for options in chart.values()]
    assert [chart["title"] for chart in charts] == titles


def test_every_chart_tells_the_revisions_apart(charts):
    for chart in charts:
        assert set(REVISIONS) < set(chart["words"]), chart["title"]


def test_a_chart_of_all_models_has_a_line_for_each_model_and_revision(charts):
    diagonals = {"ROC (dog is positive)": 1, "Calibration": 1}
    among_all = [chart for chart in charts if "inception" in chart["words"]]
    assert len(among_all) == 5
    for chart in among_all:
        assert {"basic", "augmented"} < set(chart["words"])
        assert chart["lines"] == 6 + diagonals.get(chart["title"], 0), chart["title"]


def test_a_chart_of_one_model_has_training_and_validation_of_each_revision(charts):
    of_one = [chart for chart in charts if "training and validation" in chart["title"]]
    assert [chart["lines"] for chart in of_one] == [4] * 6


def test_the_confusions_are_counted(compared, charts):
    drawn = {chart["title"].split(",")[0]: chart["numbers"] for chart in charts}
    for model in MODELS:
        lines = (
            (compared.path / f"plots/evaluate/curves/{model}_confusion.csv").read_text().split()
        )
        counts = Counter(lines[1:])
        one = [
            counts[f"{actual},{guess}"] for actual in ("cat", "dog") for guess in ("cat", "dog")
        ]
        other = [6, 0, 3, 3] if model == "train_inception" else one
        numbers = drawn[model.removeprefix("train_").capitalize()]
        assert sorted(map(int, numbers)) == sorted(one + other), model


def test_pictures_of_both_revisions_are_side_by_side(compared, page):
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    plots = {name for stage in pipeline["stages"].values() for name in stage.get("plots", [])}
    pictures = {
        str(path.relative_to(compared.path))
        for plot in plots
        for path in (
            (compared.path / plot).glob("*") if "." not in plot else [compared.path / plot]
        )
    }
    blocks = page.locator("main > div[style]").all()
    assert {block.locator("> p").inner_text() for block in blocks} == pictures
    for block in blocks:
        assert block.locator("div > p").all_inner_texts() == list(REVISIONS)
        one, other = block.locator("img").all()
        assert one.evaluate("image => image.naturalWidth") > 0
        assert other.evaluate("image => image.naturalWidth") > 0
        left, right = one.bounding_box(), other.bounding_box()
        assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
        assert right["x"] + right["width"] <= page.viewport_size["width"]


def test_the_page_is_set_up_in_a_repository_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run from the repository's root"):
        plots_page.main()


def test_the_library_inside_the_page_cannot_end_it(monkeypatch):
    monkeypatch.setattr(
        plots_page.vl_convert, "javascript_bundle", lambda *_: "</script>{scripts}"
    )
    assert "</script>{" not in plots_page.page()
    assert "{scripts}" not in plots_page.page()


def test_experiments_fit_a_terminal(compared):
    """As `make experiments` shows them."""
    assert "-m catsdogs.experiments" in (REPOSITORY / "Makefile").read_text()
    lines = compared.run(sys.executable, "-m", "catsdogs.experiments").stdout.splitlines()
    head, commit, experiment = (re.split(r" {2,}", line.strip()) for line in lines)
    assert head == ["experiment", "created", "basic", "augmented", "inception", "parameters"]
    assert len(commit) == 5
    assert experiment[0] == "other"
    assert experiment[2:4] == commit[2:4]
    assert experiment[4:] == ["0.7500", "train_inception.dropout=0.5"]
    assert max(map(len, lines)) <= 100


def state(name, parameters, accuracy):
    metrics = {f"train_{model}": {"accuracy": accuracy} for model in ("basic", "augmented")}
    return {
        "rev": "1234567890",
        "name": name,
        "data": {
            "timestamp": "2024-02-03T04:05:06",
            "params": {"params.yaml": {"data": parameters}},
            "metrics": {"metrics/evaluate.json": {"data": metrics}},
        },
    }


def test_experiments_of_every_kind(monkeypatch):
    parameters = {"train_basic": {"dense": [8, 8], "seed": 1}, "data": {"source": "sample"}}
    changed = {"train_basic": {"dense": [16], "seed": 1}, "data": {"source": "microsoft"}}
    queued = state("waits", changed, 0)
    queued["data"]["metrics"] = {}
    lost = {"rev": "abcdefghij", "name": None, "data": None}
    failed = state("failed", changed, 0.5)  # of which DVC shows what its commit has
    partial = state("partial", parameters, 0.5) | {"rev": "2345678901"}  # likewise
    commit = state(None, parameters, 0.5) | {
        "experiments": [
            {"revs": [queued], "executor": {"state": "queued"}},
            {"revs": [lost], "executor": {"state": "failed"}},
            {"revs": [failed], "executor": {"state": "failed"}},
            {"revs": [partial], "executor": {"state": "success"}},
            {"revs": [state("same", parameters, 0.25)], "executor": None},
        ]
    }
    mine = {"1234567890", "abcdefghij"}
    monkeypatch.setattr(experiments, "is_evaluated", mine.__contains__)
    assert experiments.table([commit]).splitlines() == [
        "experiment  created     basic   augmented  inception  parameters",
        "1234567     2024-02-03  0.5000  0.5000",
        "  waits     queued                                    train_basic.dense=[16]",
        "                                                      data.source=microsoft",
        "  abcdefg   failed",
        "  failed    failed                                    train_basic.dense=[16]",
        "                                                      data.source=microsoft",
        "  partial   2024-02-03",
        "  same      2024-02-03  0.2500  0.2500",
    ]
