"""The agreements between the parts: names, files, dependencies, parameters, the README."""

import ast
import re
import subprocess
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

from catsdogs import layout
from catsdogs.commands import cli, deps

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SOURCE = REPOSITORY / "src"
PACKAGE = SOURCE / "catsdogs"
PIPELINE = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
STAGES = tuple(PIPELINE["stages"])
PARAMS = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
README = (REPOSITORY / "README.md").read_text()
# What each room may import besides itself and the ground, which is all modules outside of rooms.
ROOMS = {
    "data": set(),
    "models": {"data"},
    "evaluation": set(),
    "reporting": {"evaluation"},
    "tracking": {"data", "models"},
    "training": {"data", "models", "reporting", "tracking"},
}
ROOMS["commands"] = set(ROOMS)
# What MLflow loads by its name, and the entry point of pyproject.toml.
ENTRIES = [PACKAGE / "tracking/serving.py", PACKAGE / "commands/cli.py"]


def script(stage: str) -> Path:
    return SOURCE / f"{stage}.py"


def room(path: Path) -> str:
    """The folder of a module below the package; "" for the ground."""
    return path.relative_to(PACKAGE).parent.as_posix().strip(".")


def outputs(stage: str) -> dict[str, dict]:
    found = {}
    for key in ("outs", "metrics", "plots"):
        for out in PIPELINE["stages"][stage].get(key, []):
            found |= {out: {}} if isinstance(out, str) else out
    return found


def test_stages_are_scripts():
    assert {path.stem for path in SOURCE.glob("*.py")} == set(STAGES)
    for stage in STAGES:
        assert PIPELINE["stages"][stage]["cmd"] == f"python src/{stage}.py"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_script_and_what_it_imports(stage):
    code = [dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("src/")]
    used = [path.relative_to(REPOSITORY) for path in deps.needed(script(stage), SOURCE)]
    assert code == [path.as_posix() for path in used], "`catsdogs deps` writes them"


@pytest.mark.parametrize(
    ("text", "left_out"),
    [("", True), ('"""What."""\n', True), ('"""What."""\nx = 1\n', False), ("x = 1\n", False)],
)
def test_a_package_is_a_dependency_if_it_has_code(tmp_path, text, left_out):
    package = tmp_path / "catsdogs/part"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text)
    (package / "module.py").write_text('"""Empty, but a module."""\n')
    script = tmp_path / "stage.py"
    script.write_text("from catsdogs.part import module\n")
    code = [package / "__init__.py", package / "module.py"]
    assert deps.needed(script, tmp_path) == [script, *code[left_out:]]


def test_imports_run_one_way():
    modules = {path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    imported = {path: deps.imported(path, SOURCE) & modules for path in modules}
    TopologicalSorter(imported).prepare()  # it finds circles
    for path, others in imported.items():
        allowed = ROOMS[room(path)] | {room(path), ""} if room(path) else {""}
        assert {room(other) for other in others} <= allowed, path
    for stage in STAGES:
        assert not deps.imported(script(stage), SOURCE) & set(map(script, STAGES))


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_imports(name):
    said = ast.get_docstring(ast.parse((PACKAGE / name / "__init__.py").read_text()))
    if name == "commands":
        assert "May import everything else; nothing imports it." in said
    else:
        (sentence,) = re.findall(r"^Imports the ground[^.]*\.$", said, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", sentence)) == ROOMS[name]


def test_there_is_no_module_that_nothing_uses():
    used = {
        path for each in [*map(script, STAGES), *ENTRIES] for path in deps.needed(each, SOURCE)
    }
    files = {path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".html")}
    files = {path for path in files if not deps.is_description(path)}
    assert used - set(map(script, STAGES)) == files


def read_parameters(path: Path) -> set[str]:
    """The sections and keys of `params.yaml` that a file reads."""
    text = path.read_text()
    read = set(re.findall(r'params\.load(?:_text)?\("([\w.]+)"', text))
    read |= {"evaluate"} if "params.load_models(" in text else set()
    if "params.load_classes(" in text and "data" not in read:
        read |= {"data.classes"}
    for section in re.findall(r'loop\.begin\("(\w+)"', text):
        read |= {section} | read_parameters(PACKAGE / "training/loop.py")
    if re.search(r"\bruntime\.(load|pin_for_inference)\(", text):
        read |= read_parameters(PACKAGE / "runtime.py")
    return read


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_declared_where_they_are_read(stage):
    """But for `local`, which changes no result. `params.check` reads all, and gives nothing."""
    read = read_parameters(script(stage)) - {"local"}
    assert set(PIPELINE["stages"][stage]["params"]) == read


def test_modules_of_stages_read_no_parameters_but_by_two_helpers():
    used = {path for stage in STAGES for path in deps.needed(script(stage), SOURCE)}
    reading = {path.name for path in used if "params.load" in path.read_text()}
    assert reading - {f"{stage}.py" for stage in STAGES} == {"loop.py", "runtime.py"}


def test_every_parameter_is_read_by_a_stage():
    declared = {name for stage in PIPELINE["stages"].values() for name in stage["params"]}
    assert set(PARAMS) == {name for name in declared if "." not in name} | {"local"}


def test_what_changes_no_result_outdates_no_training():
    """`rehearsal` reaches the trainings by a file of the split, which is empty for photographs."""
    for stage in STAGES:
        declared = set(PIPELINE["stages"][stage]["params"])
        assert "local" not in declared
        if stage.startswith("train_") or stage == "evaluate":
            assert declared - {"data.classes"} == {stage, "runtime"}
            assert layout.REHEARSAL.as_posix() in PIPELINE["stages"][stage]["deps"]


def test_every_parameter_has_its_reason_beside_it():
    for line in (REPOSITORY / "params.yaml").read_text().splitlines():
        if match := re.match(r"\s+(\w+):(.*)", line):
            assert "#" in match[2], f"params.yaml does not explain {match[1]}"


def test_all_trainings_are_evaluated():
    assert PARAMS["evaluate"]["models"] == [name for name in STAGES if name.startswith("train_")]


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_have_the_names_that_the_stage_gives_them(stage):
    outs = outputs(stage)
    assert layout.metrics(stage).as_posix() in outs
    if stage.startswith("train_"):
        figures = {layout.curve_figure(stage, quantity) for quantity in ("accuracy", "loss")}
        paths = {layout.model(stage), layout.facts(stage), layout.curves(stage), *figures}
        assert {path.as_posix() for path in paths} <= set(outs)
    for path, options in outs.items():
        is_text = path.endswith((".json", ".csv", ".md"))
        of_model = stage == "evaluate" or stage.startswith("train_")
        is_metric = of_model and path == layout.metrics(stage).as_posix()
        in_git = is_metric or (stage == "compare" and is_text)
        assert options.get("cache", True) is not in_git, path


def test_only_what_people_compare_is_a_metric():
    metrics = [out for stage in PIPELINE["stages"].values() for out in stage.get("metrics", [])]
    stages = [name for name in STAGES if name.startswith("train_")] + ["evaluate"]
    assert metrics == [{f"metrics/{name}.json": {"cache": False}} for name in stages]


def test_what_computes_models_outdates_them():
    """And its versions are those that are installed."""
    versions = (REPOSITORY / "versions.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in versions}
    needed = {"tensorflow", "keras", "numpy", "opencv-python-headless", "jax", "jaxlib", "pillow"}
    assert names >= needed
    for file in (
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-gpu.txt",
        "requirements-team.txt",
    ):
        pins = {line.partition(" ")[0] for line in (REPOSITORY / file).read_text().splitlines()}
        known = {line.partition("==")[0] for line in pins}
        assert {line for line in versions if line.partition("==")[0] in known} <= pins, file
    for stage in STAGES:
        computes = stage.startswith("train_") or stage in ("split", "evaluate")
        assert ("versions.txt" in PIPELINE["stages"][stage]["deps"]) is computes


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_remembers_every_stage_that_takes_long(stage):
    """DVC's run cache leaves out a stage with an uncached output that is no metric and no plot."""
    uncached = [out for out in PIPELINE["stages"][stage]["outs"] if not isinstance(out, str)]
    assert bool(uncached) is (stage == "compare")


def test_evaluate_and_compare_name_no_model():
    """So that another model takes no change of theirs in dvc.yaml."""
    for stage in ("evaluate", "compare"):
        described = yaml.safe_dump({**PIPELINE["stages"][stage], "params": []})
        assert "train_" not in described.replace("src/catsdogs/training", "")
    assert "train_" not in yaml.safe_dump(PIPELINE["plots"])


def test_charts_are_drawn_from_outputs():
    produced = set().union(*(outputs(stage) for stage in STAGES))
    for chart in PIPELINE["plots"]:
        for options in chart.values():
            for path in options["y"]:
                assert {path, str(Path(path).parent)} & produced


def test_nothing_that_dvc_has_is_in_git():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        assert not name.startswith(("data/", "models/", ".cache/")), name
        assert (REPOSITORY / name).stat().st_size < 1 << 20, name


def documents() -> dict[str, str]:
    paths = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in paths}


def test_what_the_documents_tell_to_run_exists():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for name, text in documents().items():
        code = "\n".join(re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL))
        assert set(re.findall(r"(?<![\w-])make ([a-z-]+)", code)) <= targets, name
        assert set(re.findall(r"(?m)(?:^|`)catsdogs ([a-z-]+)", code)) <= set(cli.app.commands), (
            name
        )
    assert {"repro", "test"} <= set(re.findall(r"make ([a-z]+)", README))


def test_the_readmes_graph_is_dvcs(checkout):
    graph = checkout.run("dvc", "dag", "--mermaid").stdout.strip().expandtabs(4)
    assert f"```mermaid\n{graph}\n```" in README


def test_requirements_are_pinned():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    extras["team"] += extras["s3"]  # one file has both
    versions = []
    for extra in ("", "dev", "gpu", "team"):
        file = REPOSITORY / f"requirements{f'-{extra}' if extra else ''}.txt"
        wanted = project["dependencies"] + extras.get(extra, [])
        lines = file.read_text().splitlines()
        pins = [Requirement(line) for line in lines if line and line.lstrip()[0] != "#"]
        assert all(str(each.specifier).startswith("==") for each in pins)
        versions.append({canonicalize_name(each.name): str(each.specifier) for each in pins})
        assert {canonicalize_name(Requirement(each).name) for each in wanted} <= set(versions[-1])
    runs, *others = versions
    assert all(runs.items() <= each.items() for each in others)
    assert others[0]["jax"] == others[1]["jax"]
