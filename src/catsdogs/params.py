"""`params.yaml`, read and checked section by section.

A stage's script declares the keys of its section and their ranges, as a subclass of `Section`. The
class of a training has the script's name: `TrainBasic` is in `src/train_basic.py`. `SECTIONS` has
the others.
"""

import difflib
import math
import pkgutil
import re
import reprlib
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from catsdogs import layout
from catsdogs.stage import UserError, one_line

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PARAMS = Path("params.yaml")
# The class of each section, but for those of training stages.
SECTIONS = {
    "data": "download:Data",
    "split": "split:Split",
    "runtime": "catsdogs.runtime:Settings",
    "rehearsal": "catsdogs.runtime:Rehearsal",
    "local": "catsdogs.runtime:Local",
    "evaluate": "evaluate:Evaluate",
    "compare": "compare:Compare",
}


def number(value: Any) -> Any:
    """Read a text such as 1e-4, which is a number to a person but not to YAML 1.1."""
    if not isinstance(value, str):
        return value
    try:
        read = float(value)
    except ValueError:
        return value
    return int(read) if math.isfinite(read) and read.is_integer() else read


class _Loader(yaml.SafeLoader):
    """Takes `no` and `on` for texts, as YAML 1.2 does: DVC writes them without quotes."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def parse(text: str) -> Any:
    """Read the text of a YAML file that DVC writes, too: `params.yaml` or `dvc.lock`."""
    return yaml.load(text, _Loader)  # noqa: S506  it is a SafeLoader


Real = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(number)]
Count = Annotated[Whole, Field(ge=1, le=1_000_000)]
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, lt=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Layers = Annotated[list[Annotated[Whole, Field(ge=1, le=65_536)]], Field(min_length=1)]


# The name of a class. Answers have a column `class` already, and `file`.
CLASS = re.compile(r"(?!(class|file)$)[^\W_]([\w -]{0,38}\w)?")


class Section(BaseModel):
    """The keys of a section. All of them are required, and no other is allowed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def conflicts(self, name: str, sections: Mapping[str, Any]) -> Iterator[str]:
        """Yield what cannot be, though each value is in its range.

        Args:
            name: that of this section.
            sections: those sections of `params.yaml` whose values are in their ranges.
        """
        yield from ()


SectionT = TypeVar("SectionT", bound=Section)


def load(section: str, model: type[SectionT], path: Path = PARAMS) -> SectionT:
    """Read one section of `params.yaml` and check it.

    Raises:
        UserError: the file cannot be read, or something in the section is missing, unknown,
            of a wrong type or out of range.
    """
    found = _validate(section, model, read(path))
    if isinstance(found, str):
        raise UserError(f"{path}: {found}")
    return found


def check(path: Path = PARAMS) -> None:
    """Check the whole of `params.yaml`, before a stage spends time on a part of it.

    No output depends on this. So DVC is not told that a stage reads the sections of others. Their
    classes are imported by name, so their modules are no `deps`.

    Raises:
        UserError: the file cannot be read, or something is wrong; this has all of it.
    """
    document = read(path)
    before = set(sys.modules)
    sections: dict[str, Section] = {}
    problems = []
    for name in [*SECTIONS, *_trainings(document)]:
        try:
            found = _validate(name, _class(name), document)
        except (ImportError, AttributeError) as error:
            if error.name not in (name, _class_name(name)):
                raise
            found = f"{name} has no src/{name}.py with a class {_class_name(name)}"
        if isinstance(found, str):
            problems.append(found)
        else:
            sections[name] = found
    # A checkpoint depends on the project's modules that are loaded: not on other stages'.
    for module in set(sys.modules) - before:
        if module.startswith("catsdogs.") or module in {*document, "download"}:
            del sys.modules[module]
    for name, section in sections.items():
        problems += section.conflicts(name, sections)
    problems += _wrong_classes(document) if "data" in sections else []
    problems += _wrong_models(document) if "evaluate" in sections else []
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}")


def _validate(section: str, model: type[SectionT], document: Mapping[str, Any]) -> SectionT | str:
    """Return a section, or what is wrong with it."""
    values = document.get(section)
    if not isinstance(values, dict):
        return f"the section `{section}` is missing or empty"
    try:
        return model.model_validate(values)
    except ValidationError as error:
        return _explain(section, model, error)


def _class(section: str) -> type[Section]:
    return pkgutil.resolve_name(SECTIONS.get(section) or f"{section}:{_class_name(section)}")


def _class_name(stage: str) -> str:
    return stage.title().replace("_", "")


def load_text(key: str, path: Path = PARAMS) -> str:
    """Read one text from another stage's section, such as `data.source`.

    Raises:
        UserError: the file cannot be read, or holds no such text.
    """
    value = _find(read(path), key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: {key} is {value!r} but should be a text")
    return value


def load_classes(path: Path = PARAMS) -> tuple[str, str]:
    """Read `data.classes`: the names of the two classes. The position of each is its label.

    Raises:
        UserError: the file cannot be read, or does not list two names that can be told apart.
    """
    document = read(path)
    if problems := _wrong_classes(document):
        raise UserError(f"{path}: {problems[0]}")
    first, second = _find(document, "data.classes")
    return unicodedata.normalize("NFC", first), unicodedata.normalize("NFC", second)


def _wrong_classes(sections: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with `data.classes`."""
    names = _find(sections, "data.classes")
    problem = ""
    if not isinstance(names, list) or len(names) != 2:
        problem = "should list two classes, such as [cat, dog]"
    elif not all(isinstance(name, str) and CLASS.fullmatch(name) for name in names):
        problem = (
            "should list two names of letters, digits, spaces, - and _, up to 40, in quotes where "
            "YAML reads no text, and none of them `class` or `file`"
        )
    elif layout.spellings(names[0]) & layout.spellings(names[1]):
        problem = "should list two names that differ in more than case, spaces or a plural"
    return [f"data.classes is {reprlib.repr(names)} but {problem}"] if problem else []


def load_models(path: Path = PARAMS) -> list[str]:
    """Read `evaluate.models`: the training stages that are compared, in the order of the tables.

    Raises:
        UserError: the file cannot be read, or the list is missing, empty or names no section.
    """
    sections = read(path)
    if problems := _wrong_models(sections):
        raise UserError(f"{path}: {'; '.join(problems)}")
    return _find(sections, "evaluate.models")


def _wrong_models(sections: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with `evaluate.models`."""
    models, trainings = _find(sections, "evaluate.models"), _trainings(sections)
    if not isinstance(models, list) or not models or len(set(map(str, models))) < len(models):
        return [f"evaluate.models is {models!r} but should list training stages"]
    return [
        f"evaluate.models has {name}, which is no training stage{suggest(name, trainings)}"
        for name in models
        if name not in trainings
    ]


def read(path: Path = PARAMS) -> dict[str, Any]:
    """Read the whole of `params.yaml` and check the names of its sections.

    Raises:
        UserError: the file cannot be read, or has a section that no stage knows.
    """
    try:
        document = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not here: run from the repository's root") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no sections")
    known = [*SECTIONS, *_trainings(document)]
    for section in document:
        if section not in known:
            raise UserError(f"{path}: {section} is unknown{suggest(section, known)}")
    return document


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return every value with its full name, such as `train_basic.learning_rate`."""
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += flatten(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def _trainings(sections: Mapping[str, Any]) -> list[str]:
    return [name for name in sections if str(name).startswith("train_")]


def _find(sections: Mapping[str, Any], key: str) -> Any:
    section, name = key.split(".")
    values = sections.get(section)
    return values.get(name) if isinstance(values, dict) else None


def _explain(section: str, model: type[BaseModel], error: ValidationError) -> str:
    """Say what is wrong with every offending key, on one line."""
    problems = []
    for problem in error.errors():
        key = ".".join([section, *map(str, problem["loc"])])
        if problem["type"] == "extra_forbidden":
            siblings = _fields(model, problem["loc"][:-1])
            problems.append(f"{key} is unknown{suggest(problem['loc'][-1], siblings)}")
        elif problem["type"] == "missing":
            problems.append(f"{key} is missing")
        else:
            rule = problem["msg"].removeprefix("Input ")
            problems.append(f"{key} is {reprlib.repr(problem['input'])} but {rule}")
    return "; ".join(problems)


def _fields(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    for name in path:
        nested: Any = model.model_fields[str(name)].annotation
        model = nested
    return list(model.model_fields)


def suggest(name: Any, known: Iterable[str]) -> str:
    """Say which known name is most like a wrong one, or list them all."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, 1)
    return f": did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
