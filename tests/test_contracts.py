"""The agreements between the parts: names, files, dependencies, parameters, the README."""

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

from catsdogs import report

import pytest
import yaml
from conftest import REPOSITORY

STAGES = (
    "download",
    "split",
    "train_basic",
    "train_augmented",
    "train_inception",
    "evaluate",
    "compare",
)
SOURCE = REPOSITORY / "src"
PIPELINE = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
README = (REPOSITORY / "README.md").read_text()
# The helper that reads more than the section it is called with.
BEGIN_TRAINING = ("runtime", "data.source")


def script(stage: str) -> Path:
    return SOURCE / f"{stage}.py"


def imported(path: Path) -> set[str]:
    """The project's modules that a file imports itself, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "catsdogs":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("catsdogs."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("catsdogs") for alias in node.names), path
    return names


def module(name: str) -> Path:
    return SOURCE / "catsdogs" / f"{name}.py"


def files(name: str) -> set[Path]:
    """A module and what it reads of the same name beside it, such as a template."""
    return set((SOURCE / "catsdogs").glob(f"{name}.*"))


def needed(path: Path) -> set[str]:
    """The modules that a file imports, directly or through another."""
    seen, waiting = {"__init__"}, imported(path)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= imported(module(name)) - seen
    return seen


def test_stages_are_scripts():
    assert tuple(PIPELINE["stages"]) == STAGES
    assert {path.stem for path in SOURCE.glob("*.py")} == set(STAGES)
    for stage in STAGES:
        assert PIPELINE["stages"][stage]["cmd"] == f"python src/{stage}.py"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_script_and_what_it_imports(stage):
    code = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("src/")}
    used = set().union({script(stage)}, *(files(name) for name in needed(script(stage))))
    assert code == {path.relative_to(REPOSITORY).as_posix() for path in used}


def test_imports_run_one_way():
    modules = [path.stem for path in (SOURCE / "catsdogs").glob("*.py")]
    TopologicalSorter({name: imported(module(name)) for name in modules}).prepare()
    for stage in STAGES:
        assert not {node for node in imported(script(stage)) if node in STAGES}
    commands = {"champion", "experiments", "plots_page", "predict", "results", "search"}
    commands |= {"sync", "verify"}
    loaded = {"serving"}  # by MLflow, by its name
    used = set().union(*(needed(script(stage)) for stage in STAGES)) | commands | loaded
    assert set(modules) == used, "a module that nothing uses"
    assert set().union(*map(files, used)) == set((SOURCE / "catsdogs").glob("*.*"))


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_declared_where_they_are_read(stage):
    source = script(stage).read_text()
    read = set(re.findall(r'params\.load(?:_text)?\("([\w.]+)"', source))
    for section in re.findall(r'begin_training\("([\w.]+)"', source):
        read |= {section, *BEGIN_TRAINING}
    assert set(PIPELINE["stages"][stage]["params"]) == read


def test_modules_read_no_parameters_but_by_the_one_helper():
    for path in (SOURCE / "catsdogs").glob("*.py"):
        reads = re.findall(r"params\.load\w*\(", path.read_text())
        assert len(reads) == {"runtime": 3, "predict": 2}.get(path.stem, 0), path.name


def test_every_parameter_is_read_by_a_stage():
    declared = {name for stage in PIPELINE["stages"].values() for name in stage["params"]}
    sections = set(yaml.safe_load((REPOSITORY / "params.yaml").read_text()))
    assert sections == {name for name in declared if "." not in name}


def test_every_parameter_has_its_reason_beside_it():
    for line in (REPOSITORY / "params.yaml").read_text().splitlines():
        if match := re.match(r"\s+(\w+):(.*)", line):
            assert "#" in match[2], f"params.yaml does not explain {match[1]}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_short(stage):
    """At most a hundred lines, not counting blank ones, imports and docstrings."""
    source = script(stage).read_text()
    lines = {number for number, line in enumerate(source.splitlines(), 1) if line.strip()}
    for node in ast.walk(ast.parse(source)):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if text or isinstance(node, ast.Import | ast.ImportFrom):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    assert len(lines) <= 100


def outputs(stage: str) -> dict[str, dict]:
    found = {}
    for key in ("outs", "metrics", "plots"):
        for out in PIPELINE["stages"][stage].get(key, []):
            found |= {out: {}} if isinstance(out, str) else out
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_have_the_names_that_the_stage_gives_them(stage):
    outs = outputs(stage)
    assert f"metrics/{stage}.json" in outs
    if stage.startswith("train_"):
        assert {f"models/{stage}.keras", f"plots/{stage}.csv"} < set(outs)
        assert {f"plots/{stage}_accuracy.png", f"plots/{stage}_loss.png"} < set(outs)
    for path, options in outs.items():
        in_git = path.startswith("metrics/") or path == "plots/compare.csv"
        assert options.get("cache", True) is not in_git, path


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_remembers_every_stage_that_takes_long(stage):
    """DVC's run cache leaves out a stage with an uncached output that is no metric and no plot."""
    uncached = [out for out in PIPELINE["stages"][stage]["outs"] if not isinstance(out, str)]
    assert bool(uncached) is (stage == "compare")


def test_charts_are_drawn_from_outputs():
    produced = set().union(*(outputs(stage) for stage in STAGES))
    for chart in PIPELINE["plots"]:
        for options in chart.values():
            for path in options["y"]:
                assert {path, str(Path(path).parent)} & produced


def test_the_reports_pictures_are_drawn_before_it():
    drawn = {path.as_posix() for gallery in report.GALLERIES for path in gallery.pictures.values()}
    for path in drawn:
        assert str(Path(path).parent) in PIPELINE["stages"]["compare"]["deps"]


def test_what_is_in_git_is_whole_and_nothing_else():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        assert not name.startswith(("data/", "models/", ".cache/")), name
        assert (REPOSITORY / name).stat().st_size < 1 << 20, name
    top = {name.split("/")[0] for name in tracked}
    known = set(re.findall(r"[\w.]+", README.partition("## What is where")[2]))
    hidden = {name for name in top if name.startswith(".")}
    assert top - hidden - {"README.md"} <= known, "missing in README's tree"


def test_the_readmes_tree_is_true():
    tree = re.search(r"## What is where\n\n```\n(.*?)```", README, re.DOTALL)[1]
    folder = ""
    for line in tree.splitlines():
        indent, names = re.match(r"( *)([\w./-]+(?:, [\w./-]+)*)", line).groups()
        for name in names.split(", "):
            path = name if not indent else folder + name
            generated = path.startswith(("data/", "models/"))
            assert generated or (REPOSITORY / path).exists(), f"{path} is not there"
        if not indent and names.endswith("/"):
            folder = names


def test_the_readmes_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"repro", "test"} <= named <= targets


def test_the_readmes_graph_is_dvcs(checkout):
    graph = checkout.run("dvc", "dag", "--mermaid").stdout.strip().expandtabs(4)
    assert f"```mermaid\n{graph}\n```" in README


def test_the_readme_is_short_and_speaks_of_every_stage():
    assert len(README.splitlines()) <= 150
    for stage in STAGES:
        assert f"`{stage}`" in README


def test_requirements_are_pinned():
    pinned = (REPOSITORY / "requirements.txt").read_text()
    names = re.findall(r"^([\w.-]+)==", pinned, re.MULTILINE)
    for line in (REPOSITORY / "requirements.in").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.match(r"[\w.-]+", line)[0] in names
    for line in pinned.splitlines():
        assert line.lstrip().startswith("#") or "==" in line
