"""The documentation: its tables follow from their data, and what its pages name exists."""

import json
import re
import runpy
import shlex
from itertools import pairwise

from catsdogs import params
from catsdogs.commands import cli

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


def test_the_better_parameters_are_those_that_were_run():
    (told,) = (changes(line) for line in code("docs/better.md") if "--name better" in line)
    runs = json.loads((REPOSITORY / "docs/results/runs.json").read_text(encoding="utf-8"))
    run = changes(runs["better-1"]["command"])
    for command in (told, run):
        for elsewhere in ("data.source", "train_inception.weights", "runtime.cpu_isa"):
            command.pop(elsewhere, None)
    assert told == run


def test_the_examples_are_not_empty():
    """Guard the tests above against patterns that find nothing."""
    everything = [line for page in PAGES for line in code(page)]
    assert sum("catsdogs " in line for line in everything) > 5
    assert sum(line.startswith("make ") for line in everything) > 5
    assert sum("dvc exp run" in line for line in everything) > 5
