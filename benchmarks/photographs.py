"""The photographs, split by the pipeline, and as folders for the libraries that want those."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from checkout import REPOSITORY, WORK, Checkout
from measure import NotMeasured

SIDES = ("train", "validation")
NEEDED = 24_900  # images: the public archive's, less those that no decoder reads


class Sources(NamedTuple):
    """Where photographs and weights come from."""

    photographs: str  # a value of `data.source`
    weights: str  # a value of `train_inception.weights`


@cache
def prepare(sources: Sources) -> Checkout:
    """Return a checkout whose split is up to date, made of all the photographs.

    Raises:
        NotMeasured: the photographs cannot be had, or there are not as many as a table speaks of.
    """
    changes = {
        "data": {"source": sources.photographs},
        "train_inception": {"weights": sources.weights},
    }
    checkout = Checkout("photographs", changes)
    checkout.repro("split")
    split = json.loads((checkout.path / "metrics/split.json").read_text(encoding="utf-8"))
    images = sum(split[side] for side in SIDES)
    if images < NEEDED:
        raise NotMeasured(
            f"{sources.photographs} has {images:,} images: what is asked is of 25,000 photographs"
        )
    return checkout


@cache
def folders(checkout: Checkout) -> Path:
    """Return a folder with `train/cat`, `train/dog`, `validation/cat`, …: the split's images."""
    target = WORK / "folders"
    if not _is_made_from(target, checkout):
        shutil.rmtree(target, ignore_errors=True)
        with zipfile.ZipFile(checkout.path / "data/raw/images.zip") as archive:
            for side, table in zip(SIDES, _tables(checkout), strict=True):
                with table.open(newline="", encoding="utf-8") as lines:
                    names = [line["name"] for line in csv.DictReader(lines)]
                archive.extractall(target / side, names)
        _note(target, checkout)
    return target


@cache
def enlarged(checkout: Checkout) -> Path:
    """Return a folder with `small.zip`, `whole.zip` and `large.zip`: see `enlarge.py`."""
    target = WORK / "enlarged"
    if not _is_made_from(target, checkout):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        script = REPOSITORY / "benchmarks" / "enlarge.py"
        checkout.run(sys.executable, str(script), str(checkout.path), str(target))
        _note(target, checkout)
    return target


def _tables(checkout: Checkout) -> list[Path]:
    return [checkout.path / "data/split" / f"{side}.csv" for side in SIDES]


def _fingerprint(checkout: Checkout) -> str:
    content = b"".join(table.read_bytes() for table in _tables(checkout))
    return hashlib.sha256(content).hexdigest()


def _is_made_from(target: Path, checkout: Checkout) -> bool:
    noted = target / "made-from"
    return noted.exists() and noted.read_text() == _fingerprint(checkout)


def _note(target: Path, checkout: Checkout) -> None:
    (target / "made-from").write_text(_fingerprint(checkout))
