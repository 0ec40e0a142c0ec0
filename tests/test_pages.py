"""What people look at: `dvc plots` in a real browser without a network, and the experiments."""

import csv
import json
import re

from catsdogs.commands import plots_page
from catsdogs.stage import UserError

import pytest
import yaml
from conftest import CATSDOGS, REPOSITORY

pytestmark = pytest.mark.slow
REVISIONS = ("HEAD", "other")
MODELS = ("train_basic", "train_augmented", "train_inception")
CONFUSION = "plots/evaluate/curves/confusion.csv"
OTHER_CONFUSION = {("cat", "cat"): 6, ("cat", "dog"): 0, ("dog", "cat"): 3, ("dog", "dog"): 2}
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
    confusion = repository.path / CONFUSION
    changed = confusion.read_text().partition("train_inception")[0] + "".join(
        f"train_inception,{actual},{predicted},{images}\n"
        for (actual, predicted), images in OTHER_CONFUSION.items()
    )
    confusion.unlink()
    confusion.write_text(changed)
    repository.run("dvc", "commit", "--force")
    repository.run("dvc", "exp", "save", "--name", "other")
    repository.git("checkout", ".")
    repository.run("dvc", "checkout")
    repository.run(*CATSDOGS, "plots-page")
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
    """Those of all models first, then each training's own."""
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    plots = pipeline["plots"] + [
        plot
        for stage in pipeline["stages"].values()
        for plot in stage.get("plots", [])
        if isinstance(plot, dict)
    ]
    titles = [options["title"] for chart in plots for options in chart.values()]
    titles = [title.replace("${data.classes[1]}", "dog") for title in titles]
    assert [chart["title"] for chart in charts] == titles
    assert len(titles) == 6 + len(MODELS)


def test_every_chart_tells_the_revisions_apart(charts):
    for chart in charts:
        assert set(REVISIONS) < set(chart["words"]), chart["title"]


def test_a_chart_of_all_models_has_a_line_for_each_model_and_revision(charts):
    diagonals = {"ROC (dog is positive)": 1, "Calibration": 1}
    among_all = [chart for chart in charts if "model" in chart["words"]]
    assert len(among_all) == 5
    for chart in among_all:
        drawn = [word for word in chart["words"] if f"train_{word}" in MODELS]
        assert drawn == ["basic", "augmented", "inception"], "in the order of evaluate.models"
        assert chart["lines"] == 6 + diagonals.get(chart["title"], 0), chart["title"]


def test_a_chart_of_one_model_has_accuracy_and_loss_of_training_and_validation(charts):
    of_one = [chart for chart in charts if "training" in chart["words"]]
    assert len(of_one) == len(MODELS)
    for chart in of_one:
        assert {"accuracy", "loss", "validation", "epoch"} < set(chart["words"])
        assert chart["lines"] == 8, chart["title"]


def test_the_confusions_are_counted(compared, charts):
    """A square for each model and revision, in four numbers each."""
    with (compared.path / CONFUSION).open() as file:
        one = [int(line["images"]) for line in csv.DictReader(file)]
    other = [*one[:8], *OTHER_CONFUSION.values()]
    (chart,) = [chart for chart in charts if chart["numbers"]]
    assert list(map(int, chart["numbers"])) == one + other
    headers = [word for word in chart["words"] if f"train_{word}" in MODELS]
    assert headers == ["basic", "augmented", "inception"]


def test_pictures_of_both_revisions_are_side_by_side(compared, page):
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
    plots = {
        name
        for stage in pipeline["stages"].values()
        for name in stage.get("plots", [])
        if isinstance(name, str)
    }
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
    assert '/catsdogs" experiments' in (REPOSITORY / "Makefile").read_text()
    lines = compared.run(*CATSDOGS, "experiments").stdout.splitlines()
    head, commit, experiment = (re.split(r" {2,}", line.strip()) for line in lines)
    assert head == ["experiment", "created", "basic", "augmented", "inception", "parameters"]
    assert len(commit) == 5
    assert experiment[0] == "other"
    assert experiment[2:4] == commit[2:4]
    assert experiment[4:] == ["0.7500", "train_inception.dropout=0.5"]
    assert max(map(len, lines)) <= 100
