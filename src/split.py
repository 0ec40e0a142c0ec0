"""Stage `split`: decode every image once, and draw the training and validation images.

In: `data/raw/images.zip`.
Out: `data/split/images`, every usable image in shards, uint8, n×size×size×3; `train.csv` and
`validation.csv`, with the row, name and label of each image; `rejected.csv`, the images that
cannot be used, and why; `rehearsal.json`, what drawn images are trained with, or null;
`metrics/split.json`.

With `split.tuning`, `validation.csv` holds that many of the training images instead, and no table
holds the validation images. So no later stage sees the images that judge at the end.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

from catsdogs import layout, params, runtime, stage
from catsdogs.data.images import Decoded, decode_archive
from catsdogs.files import replacing, write_csv, write_json
from catsdogs.stage import UserError

import numpy as np
from pydantic import Field

SIDES = ("train", "validation", "tuning")
SHARD = 16_384  # images in a shard at most; 1.1 GB of 150×150 pixels


class Split(params.Section):
    train: Annotated[params.Whole, Field(ge=2, multiple_of=2)]
    validation: Annotated[params.Whole, Field(ge=2, multiple_of=2)]
    tuning: Annotated[params.Whole, Field(ge=0, multiple_of=2)]
    image_size: Annotated[params.Whole, Field(ge=16, le=2048)]
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    max_megapixels: Annotated[params.Real, Field(gt=0, le=178)]
    seed: params.Seed

    def conflicts(self, name: str, sections: Mapping[str, Any]) -> Iterator[str]:
        if self.tuning >= self.train:
            yield f"{name}.tuning should be less than {name}.train, of which it is a part"

    @property
    def judge(self) -> str:
        """The side that later stages measure the models by."""
        return "tuning" if self.tuning else "validation"


class Picture(NamedTuple):
    row: int
    name: str
    label: int  # the position of its class in `data.classes`
    digest: bytes  # equal for images with the same pixels


def main() -> None:
    params.check()
    split, classes = params.load("split", Split), params.load_classes()
    is_drawn = params.load_text("data.source") == layout.SAMPLE
    rehearsal = params.load("rehearsal", runtime.Rehearsal).model_dump() if is_drawn else None
    with replacing(layout.PIXELS) as part:
        pictures, rejected = decode(split, classes, part)
        write_csv(layout.REJECTED, ["name", "reason"], rejected)
        sides = draw(pictures, split)
    # In the order of the draw, so that the first hundred are a fair sample of all.
    for path, side in ((layout.TRAIN, "train"), (layout.VALIDATION, split.judge)):
        rows = [(picture.row, picture.name, picture.label) for picture in sides[side]]
        write_csv(path, ["row", "name", "label"], rows)
    write_json(layout.REHEARSAL, rehearsal)
    report(split, classes, pictures, sides, len(rejected))


def decode(
    split: Split, classes: tuple[str, str], target: Path
) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Write the pixels of every usable image into shards, in the archive's order.

    Returns:
        The usable images, and the name of each other with the reason.

    Raises:
        UserError: the archive was made for other classes.
    """
    pictures: list[Picture] = []
    rejected: list[tuple[str, str]] = []

    def usable(decoded: Iterable[Decoded]) -> Iterator[tuple[int, bytes]]:
        shard = rows = 0
        for name, result in decoded:
            if isinstance(result, str):
                rejected.append((name, result))
                continue
            kind = name.partition("/")[0]
            if kind not in classes:
                raise UserError(f"{layout.ARCHIVE} has the class {kind}: run `dvc repro`")
            pixels = result.tobytes()
            digest = hashlib.blake2b(pixels, digest_size=16).digest()
            pictures.append(Picture(len(pictures), name, classes.index(kind), digest))
            if rows and (rows == SHARD or begins_shard(name)):
                shard, rows = shard + 1, 0
            rows += 1
            yield shard, pixels

    target.mkdir()
    with closing(  # or an error would be followed by the bar of its progress
        decode_archive(layout.ARCHIVE, split.image_size, split.interpolation, split.max_megapixels)
    ) as decoded:
        for shard, images in groupby(usable(decoded), itemgetter(0)):
            with (target / layout.shard_name(shard)).open("wb") as file:
                write_header(file, 0, split.image_size)
                rows = 0
                for _, pixels in images:
                    file.write(pixels)
                    rows += 1
                file.seek(0)
                write_header(file, rows, split.image_size)
    return pictures, rejected


def begins_shard(name: str) -> bool:
    """Whether an image begins a shard. One in `SHARD` / 2 does, so that most end before `SHARD`.

    As the name alone decides, an image more or less changes its own shard, not all that follow.
    """
    drawn = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(drawn) % (SHARD // 2) == 0


def write_header(file: BinaryIO, rows: int, size: int) -> None:
    """Write the header of a `.npy` file, which NumPy makes equally long for any number of rows."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (rows, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def draw(pictures: Sequence[Picture], split: Split) -> dict[str, list[Picture]]:
    """Draw the images of each side, half of each class, and no image on two sides.

    The tuning images are drawn last, from the training images, so that the validation images are
    the same with and without them.

    Raises:
        UserError: there are too few usable images for one of the sides.
    """
    per_class = min(sum(picture.label == label for picture in pictures) for label in (0, 1))
    asked = split.train + split.validation
    available = min(2 * per_class, asked)
    quota = {side: getattr(split, side) * available // asked // 2 for side in SIDES}
    rng = np.random.default_rng(split.seed)
    validation, rest = hold_out(pictures, quota["validation"], rng)
    train = list(take(([rest[i]] for i in rng.permutation(len(rest))), quota["train"]))
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
    """Draw so many images of each class; return them, and the images that equal none of them.

    Images with the same pixels stay together. They are drawn last, so that the images drawn are
    distinct where possible.
    """
    copies = defaultdict(list)
    for picture in pictures:
        copies[picture.digest].append(picture)
    groups = list(copies.values())
    shuffled = [groups[i] for i in rng.permutation(len(groups))]
    held = list(take(sorted(shuffled, key=lambda group: len(group) > 1), per_class))
    digests = {picture.digest for picture in held}
    return held, [picture for picture in pictures if picture.digest not in digests]


def take(groups: Iterable[Sequence[Picture]], per_class: int) -> Iterator[Picture]:
    """Take whole groups, of those that fit, until each class has its number of images."""
    left = Counter(dict.fromkeys((0, 1), per_class))
    for group in groups:
        labels = Counter(picture.label for picture in group)
        if labels <= left:
            left -= labels
            yield from group


def report(
    split: Split,
    classes: tuple[str, str],
    pictures: Sequence[Picture],
    sides: dict[str, list[Picture]],
    rejected: int,
) -> None:
    counts = {side: len(drawn) for side, drawn in sides.items()}
    copies = Counter(picture.digest for picture in pictures).values()
    usable, used = (
        {
            kind: sum(picture.label == label for picture in each)
            for label, kind in enumerate(classes)
        }
        for each in (pictures, [picture for drawn in sides.values() for picture in drawn])
    )
    unused = {kind: usable[kind] - used[kind] for kind in classes}
    metrics = {
        **counts,
        "judged_by": split.judge,
        "asked": {side: getattr(split, side) for side in sides},
        "used": used,
        "unused": unused,
        "rejected": rejected,
        "duplicate_groups": sum(count > 1 for count in copies),
        "exact_copies": len(pictures) - len(copies),
    }
    write_json(layout.metrics("split"), metrics)
    print(f"{counts['train']:,} training and {counts['validation']:,} validation images")
    if split.tuning:
        print(f"{counts['tuning']:,} tuning images judge; the validation images are set aside")
    if sum(counts.values()) < split.train + split.validation:
        print(
            f"fewer than the {split.train:,} and {split.validation:,} asked for: there are "
            f"{len(pictures):,} usable images, {rejected:,} were rejected"
        )
    if any(unused.values()):
        many = " and ".join(f"{count:,} {kind}" for kind, count in unused.items() if count)
        print(f"{many} images go unused: every side has as many of one class as of the other")


if __name__ == "__main__":
    stage.run(main)
