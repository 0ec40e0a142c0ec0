"""The `deps` of the stages in `dvc.yaml`: each stage's script and the modules that it imports.

DVC compares files, so an edit reruns the stages that import the edited module, and no others. It
reads every file at each call, so an `__init__.py` that only describes its package is left out.
"""

import ast
from pathlib import Path

from catsdogs.files import replacing
from catsdogs.stage import UserError

from ruamel.yaml import YAML

PIPELINE = Path("dvc.yaml")
SOURCE = Path("src")


def main() -> None:
    """Write the modules that each stage imports into `dvc.yaml`; leave the rest as it is.

    Raises:
        UserError: a stage has no script of its name.
    """
    editor = YAML()  # keeps comments and order
    editor.indent(mapping=2, sequence=4, offset=2)
    editor.width = 1000
    document = editor.load(PIPELINE.read_text(encoding="utf-8"))
    for name, stage in document["stages"].items():
        script = SOURCE / f"{name}.py"
        if not script.exists():
            raise UserError(
                f"{script} is not here, but {PIPELINE} has the stage {name}: write the script, or "
                "take the stage out"
            )
        others = [dep for dep in stage.get("deps", []) if not dep.startswith("src/")]
        code = [path.as_posix() for path in needed(script)]
        if code + others != list(stage.get("deps", [])):
            stage["deps"] = code + others
            print(f"{name}: deps written")
    with replacing(PIPELINE) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        editor.dump(document, file)


def needed(script: Path, source: Path = SOURCE) -> list[Path]:
    """Return a script, the modules that it imports, directly or not, and their templates."""
    seen: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += imported(path, source)
    templates = {other for path in seen for other in path.parent.glob(f"{path.stem}.html")}
    computing = {path for path in seen if not is_description(path)}
    return [script, *sorted((computing | templates) - {script})]


def is_description(path: Path) -> bool:
    """Tell whether a file is a package's `__init__.py` with nothing but a docstring."""
    if path.name != "__init__.py":
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return len(tree.body) - (ast.get_docstring(tree) is not None) == 0


def imported(path: Path, source: Path = SOURCE) -> set[Path]:
    """Return the project's modules that a file imports itself, wherever in the file."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            place = source.joinpath(*name.split("."))
            packages = [folder / "__init__.py" for folder in (place, *place.parents)]
            files = [place.with_suffix(".py"), *packages] if name.startswith("catsdogs") else []
            found |= {file for file in files if file.exists()}
    return found
