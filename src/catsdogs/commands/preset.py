"""Put the parameters of a preset into `params.yaml`, whose comments stay.

A preset is a file of `presets`. It has what it changes, in the sections of `params.yaml`; with
`after`, it comes on top of another one. DVC's own way would be Hydra's config groups, but with
those every `dvc exp run` writes `params.yaml` anew, without its comments and what was edited there
(https://github.com/treeverse/dvc/pull/8093).
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from catsdogs import params
from catsdogs.files import write_text
from catsdogs.params import suggest
from catsdogs.stage import UserError, one_line

import yaml
from ruamel.yaml import YAML

FOLDER = Path("presets")


def main(name: str | None) -> None:
    """Apply a preset and print what it changes; without a name, list all presets.

    Raises:
        UserError: there is no such preset, or it names a parameter that `params.yaml` lacks.
    """
    if name is None:
        for preset, description in descriptions().items():
            print(f"{preset}: {description}")
        return
    before = dict(params.flatten(params.read()))
    round_trip = YAML()
    document = round_trip.load(params.PARAMS.read_text(encoding="utf-8"))
    changes: list[str] = []
    for key, value in read(name).items():
        if key not in before:
            section = key.partition(".")[0]
            siblings = [each for each in before if each.startswith(f"{section}.")] or document
            raise UserError(f"the preset sets {key}, which is unknown{suggest(key, siblings)}")
        *sections, last = key.split(".")
        place: Any = document
        for section in sections:
            place = place[section]
        if params.number(before[key]) != value:
            place[last] = value
            changes.append(f"{key}: {before[key]} -> {value}")
    text = io.StringIO()
    round_trip.dump(document, text)
    write_text(params.PARAMS, text.getvalue())
    print(
        *changes, "run it with `dvc exp run`; `git checkout params.yaml` takes it back", sep="\n"
    )


def descriptions(folder: Path = FOLDER) -> dict[str, str]:
    """Return what each preset is: the comment in its first line."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")}
    return {name: text.partition("\n")[0].strip("# ") for name, text in sorted(texts.items())}


def read(name: str) -> dict[str, Any]:
    """Return what a preset sets: each parameter's full name and its value.

    Raises:
        UserError: there is no such preset, or it is none.
    """
    values: dict[str, Any] = {}
    for preset in reversed(list(_chain(name))):
        values |= {key: params.number(value) for key, value in params.flatten(preset)}
    return values


def _chain(name: str) -> Iterator[dict[str, Any]]:
    """Yield a preset, then the one that it comes after, and so on."""
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    seen: list[str] = []
    while name:
        path = FOLDER / f"{name}.yaml"
        if name in seen:
            raise UserError(f"{path} comes after itself: name another one in its `after`")
        if name not in known:
            raise UserError(f"{name} is no preset{suggest(name, known)}")
        try:
            values = params.parse(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{path} is not YAML: {one_line(error)}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path} holds no sections")
        seen.append(name)
        name = str(values.pop("after", ""))
        yield values
