"""`params.yaml`: a section's name and model go in, its checked values come out.

A stage's script says which keys its section has and what they may be, as a subclass of `Section`.
"""

import difflib
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from catsdogs.stage import UserError

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PARAMS = Path("params.yaml")
SECTIONS = (
    "data",
    "split",
    "runtime",
    "train_basic",
    "train_augmented",
    "train_inception",
    "evaluate",
    "compare",
)


def number(value: Any) -> Any:
    """Read what YAML 1.1 takes for text and a person for a number, such as 1e-4."""
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
    """The keys of a section: all of them required, no other allowed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


class Training(Section):
    """What all three trainings have."""

    optimizer: Literal["adam", "rmsprop", "sgd"]
    learning_rate: Positive
    schedule: Literal["constant", "cosine"]
    warmup_steps: Annotated[Whole, Field(ge=0, le=1_000_000)]
    weight_averaging: Share
    batch_size: Count
    epochs: Count
    steps_per_epoch: Count
    validation_steps: Count
    seed: Seed


def load(section: str, model: type[SectionT], path: Path = PARAMS) -> SectionT:
    """Read one section of `params.yaml` and check it against its model.

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
    """Read one text that another stage's section holds, such as `data.source`.

    Raises:
        UserError: the file cannot be read, or holds no such text.
    """
    section, name = key.split(".")
    values = read(path).get(section)
    value = values.get(name) if isinstance(values, dict) else None
    if not isinstance(value, str) or not value:
        raise UserError(f"{path}: {key} is {value!r} but should be a text")
    return value


def read(path: Path = PARAMS) -> dict[str, Any]:
    """Read the whole of `params.yaml`; only the sections' names are checked.

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
    for section in document:
        if section not in SECTIONS:
            raise UserError(f"{path}: {section} is unknown{_known(str(section), SECTIONS)}")
    return document


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Name every value by its whole key: `train_basic.learning_rate`."""
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += flatten(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def _explain(section: str, model: type[BaseModel], error: ValidationError) -> str:
    """Say what is wrong with every offending key, on one line."""
    problems = []
    for problem in error.errors():
        key = ".".join([section, *map(str, problem["loc"])])
        if problem["type"] == "extra_forbidden":
            siblings = _fields(model, problem["loc"][:-1])
            problems.append(f"{key} is unknown{_known(str(problem['loc'][-1]), siblings)}")
        elif problem["type"] == "missing":
            problems.append(f"{key} is missing")
        else:
            rule = problem["msg"].removeprefix("Input ")
            problems.append(f"{key} is {reprlib.repr(problem['input'])} but {rule}")
    return "; ".join(problems)


def _fields(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    for name in path:
        model = model.model_fields[str(name)].annotation
    return list(model.model_fields)


def _known(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f": did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
