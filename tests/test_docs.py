"""The documentation: its tables follow from their data, and what its pages name exists."""

import json
import math
import re
import runpy
import shlex
from itertools import pairwise
from statistics import NormalDist

from catsdogs import params
from catsdogs.commands import cli, preset

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY

PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += [p.relative_to(REPOSITORY).as_posix() for p in sorted(REPOSITORY.glob("docs/**/*.md"))]
TEXT = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in PAGES}
TABLES = runpy.run_path(str(REPOSITORY / "docs/results/tables.py"))
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
PARAMETERS = dict(params.flatten(yaml.safe_load((REPOSITORY / "params.yaml").read_text())))
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def code(page: str) -> list[str]:
    """All code of a page, commands that go over several lines as one."""
    text = TEXT[page].replace("\\\n", " ")
    blocks = [line for block in FENCED.findall(text) for line in block.splitlines()]
    return blocks + re.findall(r"`([^`\n]+)`", FENCED.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def changes(command: str) -> dict[str, str]:
    """The parameters that `dvc exp run -S` changes, and their values as they are written."""
    words = pairwise(shlex.split(command, comments=True))
    settings = [after for word, after in words if word in ("-S", "--set-param")]
    return dict(setting.split("=", 1) for setting in settings)


def test_the_tables_follow_from_their_data():
    written, used = TABLES["tables"](), []
    for page in TABLES["PAGES"]:
        assert TABLES["fill"](TEXT[page], written) == TEXT[page], "run docs/results/tables.py"
        used += TABLES["PLACE"].findall(TEXT[page])
    assert sorted(name for _, name, _ in used) == sorted(written)
    assert sum(text.count("<!-- table: ") for text in TEXT.values()) == len(used)


def test_results_of_ones_own_have_the_tables_of_presets(tmp_path):
    """Not all is evaluated, two presets train the basic network alike, one name has no seed."""

    def model(md5, images=3200):
        return {"md5": md5, "last_epoch": {"images": images}, "cpu_seconds": len(md5)}

    alike = "-S train_basic.epochs=9 -S train_basic.seed="
    own = f"-S train_augmented.epochs=8 {alike}"
    runs = {
        "notebook-1": ("", {"train_basic": model("a"), "train_augmented": model("b")}),
        "notebook-2": ("-S train_basic.seed=2", {"train_basic": model("c")}),
        "falling-2": (f"{alike}2", {"train_basic": model("ee", 6400)}),
        "mine-2": (f"{own}2", {"train_basic": model("ee"), "train_augmented": model("ff", 9600)}),
        "mine-10": (f"{own}10", {"train_basic": model("gggg"), "train_augmented": {"md5": "d"}}),
        "dropout": ("", {"train_basic": model("h")}),
    }
    kept = {}
    for name, (command, models) in runs.items():
        for each in models.values():
            if each["md5"] != "d":
                each["evaluated"] = {}
        kept[name] = {"command": f"dvc exp run {command}", "models": models}
    (tmp_path / "runs.json").write_text(json.dumps(kept), encoding="utf-8")
    predictions = {
        **{"label": [0, 0, 1, 1], "a": [0, 0, 0, 1], "b": [0, 1, 1, 0.5], "c": [0, 1, 0.49, 1]},
        **{"ee": [0, 0, 1, 0.5], "ff": [0, 0, 0, 0], "gggg": [1, 1, 0, 0]},
    }
    pd.DataFrame(predictions).to_csv(tmp_path / "predictions.csv.gz")
    basic, augmented = (
        [
            [*row[:1], row[2], row[3][:5], *row[4:]]
            for row in TABLES["Results"](tmp_path).presets(f"train_{network}")
        ]
        for network in ("basic", "augmented")
    )
    assert basic == [
        ["`notebook`", "2", "0.625", "", "3,200", "1"],
        ["`falling`", "2", "0.500", "-0.125", "6,400", "3"],  # `initial`, below it, was not run
    ]
    assert augmented == [
        ["`notebook`", "1", "0.750", "", "3,200", "1"],
        ["`mine`", "1", "0.500", "-0.250", "9,600", "2"],
    ]
    kept["mine-10"]["command"] += " -S train_basic.dropout=0.1"
    (tmp_path / "runs.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(
        SystemExit, match=r"error: the experiments mine-… differ in more than their seeds"
    ):
        list(TABLES["Results"](tmp_path).presets("train_basic"))


def test_a_table_is_replaced_and_nothing_else():
    page = "a\n<!-- table: one -->\nold\n<!-- /table -->\nb\n<!-- table: two -->\n<!-- /table -->"
    filled = TABLES["fill"](page, {"one": "| 1 |\n", "two": "| 2 |\n"})
    assert "old" not in filled
    assert filled.startswith("a\n<!-- table: one -->\n\n| 1 |\n\n<!-- /table -->\nb\n")
    assert TABLES["fill"](filled, {"one": "| 1 |\n", "two": "| 2 |\n"}) == filled


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", TEXT[page])):
        if not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
            assert target.exists(), link
            if anchor:
                assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_exist(page):
    for line in code(page):
        for target in re.findall(r"(?:^|[;&|] )make ([a-z-]+)", line):
            assert target in TARGETS, line
        for script in re.findall(r"\bpython3? ([\w./-]+\.py)\b", line):
            assert (REPOSITORY / script).exists(), line
        for name, rest in re.findall(r"(?:^|[;&|] )catsdogs ([a-z-]+)(.*)", line):
            assert name in cli.app.commands, line
            known = {option for each in cli.app.commands[name].params for option in each.opts}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known | {"--help"}, line


@pytest.mark.parametrize("page", PAGES)
def test_the_parameters_exist(page):
    for line in code(page):
        if line.lstrip().startswith("dvc exp run") and "…" not in line:
            assert set(changes(line)) <= set(PARAMETERS), line


ELSEWHERE = ("data.source", "train_inception.weights", "evaluate.models")
RUNS = json.loads((REPOSITORY / "docs/results/runs.json").read_text(encoding="utf-8"))
TRIALS = json.loads((REPOSITORY / "docs/results/tuning/runs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RUNS)
def test_a_kept_run_has_the_parameters_of_its_preset(name):
    """And its seed. Of a run that is evaluated in part, only that part is shown."""
    stem, _, seed = name.rpartition("-")
    told = {} if stem in TABLES["OTHERS"] else preset.read(stem)
    run = {key: yaml.safe_load(value) for key, value in changes(RUNS[name]["command"]).items()}
    models = RUNS[name]["models"]
    shown = [stage for stage in models if "evaluated" in models[stage]]
    seeds = {f"{stage}.seed": int(seed) for stage in ("train_basic", "train_augmented")}
    told |= {key: number for key, number in seeds.items() if number != PARAMETERS[key]}
    told |= {} if stem == "float32" else {"runtime.precision": "bfloat16"}

    def of_shown(values):
        hidden = tuple(f"{stage}." for stage in models if stage not in shown)
        return {key: params.number(values[key]) for key in values if not key.startswith(hidden)}

    assert of_shown({key: run[key] for key in run if key not in ELSEWHERE}) == of_shown(told)


@pytest.mark.parametrize(
    ("trial", "name", "stage"),
    [
        ("muon", "muon", "train_basic"),
        ("better", "better", "train_augmented"),
        ("inception-deeper", "better", "train_inception"),
    ],
)
def test_a_preset_has_what_was_tried(trial, name, stage):
    """The trial that was chosen has the parameters of its preset."""
    other = tuple(f"{stage}.{key}" for key in ("seed", "weights", "validation_steps"))

    def of_stage(values):
        kept = [key for key in values if key.startswith(f"{stage}.") and not key.startswith(other)]
        return {key: params.number(values[key]) for key in kept}

    found = [run for key, run in TRIALS.items() if key.rpartition("-")[0] == trial]
    assert found
    for run in found:
        tried = {key: yaml.safe_load(text) for key, text in changes(run["command"]).items()}
        assert of_stage(tried) == of_stage(preset.read(name))


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
    """Of seeds and images that are both drawn at random, and of some images alone."""
    rng, covered = np.random.default_rng(1), []
    for seeds in (10, 3, 1):
        spread = 0.2 if seeds > 1 else 0
        whole = math.sqrt(1.5**2 + 0.7**2 + spread**2)
        truth = NormalDist().cdf(1.2 / whole)
        for _ in range(200):
            signal = rng.normal(1.2, 1.5, 500) + rng.normal(0, 0.7, (seeds, 500))
            right = signal + rng.normal(0, spread, (seeds, 1)) > 0
            low, high = TABLES["mean_interval"](right.astype(float))
            covered.append(low <= truth <= high)
    assert 0.92 < np.mean(covered) < 0.98


def test_the_examples_are_not_empty():
    """Guard the tests above against patterns that find nothing."""
    everything = [line for page in PAGES for line in code(page)]
    assert sum("catsdogs " in line for line in everything) > 5
    assert sum(line.startswith("make ") for line in everything) > 5
    assert sum("dvc exp run" in line for line in everything) > 5
