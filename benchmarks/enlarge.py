"""Fewer and more photographs than there are: `enlarge.py CHECKOUT FOLDER` writes three zips.

CHECKOUT has a split. Of its images, `small.zip` has every fifth, `whole.zip` all, and `large.zip`
four of each that differ in a pixel. All are encoded anew, so that an image takes as long to decode
in one zip as in another.
"""

import csv
import sys
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

COPIES, EVERY = 4, 5
QUALITY = 90
CHUNK = 100  # photographs that a process encodes before it hands them over
AT_ONCE = 8  # chunks: what is encoded waits in memory to be written


def encode(archive: Path, names: Sequence[str]) -> list[tuple[str, list[bytes]]]:
    """Encode the copies of some photographs, each copy with a red pixel in another place."""
    encoded = []
    with zipfile.ZipFile(archive) as opened:
        for name in names:
            with Image.open(BytesIO(opened.read(name))) as image:
                pixels = image.convert("RGB")
            encoded.append((name, [_copy(pixels, number) for number in range(COPIES)]))
    return encoded


def _copy(pixels: Image.Image, number: int) -> bytes:
    changed, content = pixels.copy(), BytesIO()
    changed.putpixel((number, 0), (255, 0, 0))
    changed.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def encoded(archive: Path, names: Sequence[str]) -> Iterator[tuple[str, list[bytes]]]:
    """Encode photographs on all cores, in their order."""
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    with ProcessPoolExecutor() as pool:
        for start in range(0, len(chunks), AT_ONCE):
            for some in pool.map(partial(encode, archive), chunks[start : start + AT_ONCE]):
                yield from some


def main() -> None:
    """Encode once, write to each zip what belongs there."""
    checkout, folder = (Path(argument) for argument in sys.argv[1:])
    tables = [checkout / "data/split" / f"{side}.csv" for side in ("train", "validation")]
    names = sorted(
        line["name"] for table in tables for line in csv.DictReader(table.open(encoding="utf-8"))
    )
    with ExitStack() as stack:
        small, whole, large = (
            stack.enter_context(zipfile.ZipFile(folder / f"{size}.zip", "w"))
            for size in ("small", "whole", "large")
        )
        images = encoded(checkout / "data/raw/images.zip", names)
        for place, (name, copies) in enumerate(images):
            path = PurePosixPath(name)
            for number, content in enumerate(copies):
                large.writestr(f"{path.parent}/{path.stem}-{number}.jpg", content)
            whole.writestr(name, copies[0])
            if place % EVERY == 0:
                small.writestr(name, copies[0])


if __name__ == "__main__":
    main()
