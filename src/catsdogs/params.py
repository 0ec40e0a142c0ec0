"""`params.yaml`, read and checked section by section.

A stage's script declares the keys of its section and their ranges, as a subclass of `Section`.
"""

import difflib
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from catsdogs.stage import UserError

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PARAMS = Path("params.yaml")
SECTIONS = ("data", "split", "runtime", "evaluate", "compare")  # and one for each training stage


def number(value: Any) -> Any:
    """Read a text such as 1e-4, which is a number to a person but not to YAML 1.1."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if math.isfinite(number) and number.is_integer() else number


Real = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(number)]
Count = Annotated[Whole, Field(ge=1, le=1_000_000)]
Positive = Annotated[Real, Field(gt=0)]
Share = Annotated[Real, Field(ge=0, lt=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Layers = Annotated[list[Annotated[Whole, Field(ge=1, le=65_536)]], Field(min_length=1)]


class Section(BaseModel):
    """The keys of a section. All of them are required, and no other is allowed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


def load(section: str, model: type[SectionT], path: Path = PARAMS) -> SectionT:
    """Read one section of `params.yaml` and check it.

    Raises:
        UserError: the file cannot be read, or something in the section is missing, unknown,
            of a wrong type or out of range.
    """
    values = read(path).get(section)
    if not isinstance(values, dict):
        raise UserError(f"{path}: the section `{section}` is missing or empty")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(section, model, error)}") from None


def load_text(key: str, path: Path = PARAMS) -> str:
    """Read one text from another stage's section, such as `data.source`.

    Raises:
        UserError: the file cannot be read, or holds no such text.
    """
    value = _find(read(path), key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: {key} is {value!r} but should be a text")
    return value


def load_models(path: Path = PARAMS) -> list[str]:
    """Read `evaluate.models`: the training stages that are compared, in the order of the tables.

    Raises:
        UserError: the file cannot be read, or the list is missing, empty or names no section.
    """
    sections = read(path)
    models = _find(sections, "evaluate.models")
    if not isinstance(models, list) or not models or len(set(map(str, models))) < len(models):
        raise UserError(f"{path}: evaluate.models is {models!r} but should list training stages")
    for name in models:
        if name not in (trainings := _trainings(sections)):
            raise UserError(
                f"{path}: evaluate.models has {name}, which is no training stage"
                f"{_known(name, trainings)}"
            )
    return models


def read(path: Path = PARAMS) -> dict[str, Any]:
    """Read the whole of `params.yaml` and check the names of its sections.

    Raises:
        UserError: the file cannot be read, or has a section that no stage knows.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not here: run from the repository's root") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} is not YAML: {reason}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no sections")
    known = [*SECTIONS, *_trainings(document)]
    for section in document:
        if section not in known:
            raise UserError(f"{path}: {section} is unknown{_known(section, known)}")
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
            problems.append(f"{key} is unknown{_known(problem['loc'][-1], siblings)}")
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


def _known(name: Any, known: list[str]) -> str:
    """Suggest the known name that is most like a wrong one, or list them all."""
    close = difflib.get_close_matches(str(name), known, 1)
    return f": did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
