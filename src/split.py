"""Stage `split`: decode every image once, and draw the training and validation images.

In: `data/raw/images.zip`.
Out: `data/split/images.npy`, every usable image, uint8, N×size×size×3; `train.csv` and
`validation.csv` beside it, with the row, name and label of each image; `rejected.csv`, what could
not be used and why; `metrics/split.json`.

With `split.tuning`, so many of the training images stand in `validation.csv` instead, and the
validation images in neither table: no later stage sees what is to judge at the end.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from catsdogs import layout, params, stage
from catsdogs.files import replacing, write_csv, write_json
from catsdogs.images import decode_archive
from catsdogs.layout import CLASSES
from catsdogs.pixels import PixelWriter
from catsdogs.stage import UserError

import numpy as np
from pydantic import Field

SIDES = ("train", "validation", "tuning")


class Split(params.Section):
    train: Annotated[params.Whole, Field(ge=2, multiple_of=2)]
    validation: Annotated[params.Whole, Field(ge=2, multiple_of=2)]
    tuning: Annotated[params.Whole, Field(ge=0, multiple_of=2)]
    image_size: Annotated[params.Whole, Field(ge=16, le=2048)]
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    max_megapixels: Annotated[params.Real, Field(gt=0, le=178)]
    seed: params.Seed


class Picture(NamedTuple):
    row: int
    name: str
    label: int  # the position of its class in CLASSES
    digest: bytes  # equal for images that are the same to the pixel


def main() -> None:
    split = params.load("split", Split)
    if split.tuning >= split.train:
        raise UserError("split.tuning should be less than split.train, of which it is a part")
    with replacing(layout.PIXELS) as part:
        pictures, rejected = store(split, part)
        write_csv(layout.REJECTED, ["name", "reason"], rejected)
        sides = draw(pictures, split)
    judge = "tuning" if split.tuning else "validation"
    # In the order of the draw, so that the first hundred are a fair sample of all.
    for path, side in ((layout.TRAIN, "train"), (layout.VALIDATION, judge)):
        rows = [(picture.row, picture.name, picture.label) for picture in sides[side]]
        write_csv(path, ["row", "name", "label"], rows)
    counts = {side: len(drawn) for side, drawn in sides.items()}
    sizes = Counter(picture.digest for picture in pictures).values()
    metrics = {
        **counts,
        "judged_by": judge,
        "asked": {side: getattr(split, side) for side in sides},
        "rejected": len(rejected),
        "duplicate_groups": sum(size > 1 for size in sizes),
        "exact_copies": sum(sizes) - len(sizes),
    }
    write_json(layout.metrics("split"), metrics)
    print(f"{counts['train']:,} training and {counts['validation']:,} validation images")
    if split.tuning:
        print(f"{counts['tuning']:,} tuning images judge; the validation images are set aside")
    if sum(counts.values()) < split.train + split.validation:
        print(
            f"fewer than the {split.train:,} and {split.validation:,} asked for: there are "
            f"{len(pictures):,} usable images, {len(rejected):,} were rejected"
        )


def store(split: Split, target: Path) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Write every usable image of the archive into one array, in the archive's order."""
    pictures, rejected = [], []
    with target.open("wb") as file:
        writer = PixelWriter(file, split.image_size)
        for name, result in decode_archive(
            layout.ARCHIVE, split.image_size, split.interpolation, split.max_megapixels
        ):
            if isinstance(result, str):
                rejected.append((name, result))
            else:
                label = CLASSES.index(name.partition("/")[0])
                digest = hashlib.blake2b(result.tobytes(), digest_size=16).digest()
                pictures.append(Picture(writer.append(result), name, label, digest))
        writer.close()
    return pictures, rejected


def draw(pictures: Sequence[Picture], split: Split) -> dict[str, list[Picture]]:
    """Draw the images of each side, half of each class, none on two sides.

    The tuning images are taken from the training images after all else is drawn, so that the
    validation images are the same with and without them.

    Raises:
        UserError: there are too few usable images for one of the sides.
    """
    per_class = min(sum(picture.label == label for picture in pictures) for label in (0, 1))
    asked = split.train + split.validation
    available = min(2 * per_class, asked)
    quota = {side: getattr(split, side) * available // asked // 2 for side in SIDES}
    rng = np.random.default_rng(split.seed)
    validation, rest = hold_out(pictures, quota["validation"], rng)
    train = list(take([[rest[i]] for i in rng.permutation(len(rest))], quota["train"]))
    tuning, train = hold_out(train, quota["tuning"], rng)
    sides = {"train": train, "validation": validation, "tuning": tuning}
    for side, drawn in sides.items():
        if getattr(split, side) and {picture.label for picture in drawn} != {0, 1}:
            raise UserError(
                f"{len(pictures)} usable images in {layout.ARCHIVE} are too few for split.{side}: "
                f"{layout.REJECTED} says what was left out and why; give more, or other shares"
            )
    return sides


def hold_out(
    pictures: Sequence[Picture], per_class: int, rng: np.random.Generator
) -> tuple[list[Picture], list[Picture]]:
    """Draw so many images of each class; return them, and those that are equal to none of them.

    Images that are the same to the pixel stay together. Groups of them come last, so that what is
    drawn is distinct where that is possible.
    """
    groups: dict[bytes, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.digest, []).append(picture)
    members = list(groups.values())
    order = [members[i] for i in rng.permutation(len(members))]
    held = list(take(sorted(order, key=lambda group: len(group) > 1), per_class))
    digests = {picture.digest for picture in held}
    return held, [picture for picture in pictures if picture.digest not in digests]


def take(groups: Sequence[Sequence[Picture]], per_class: int) -> Iterator[Picture]:
    """Take whole groups, as long as they fit, until each class has its number of images."""
    left = [per_class, per_class]
    for group in groups:
        labels = [picture.label for picture in group]
        wanted = [labels.count(label) for label in (0, 1)]
        if all(want <= room for want, room in zip(wanted, left, strict=True)):
            left = [room - want for want, room in zip(wanted, left, strict=True)]
            yield from group


if __name__ == "__main__":
    stage.run(main)
