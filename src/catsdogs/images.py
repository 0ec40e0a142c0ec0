"""Pictures as arrays: the bytes of an image file go in, RGB pixels of a fixed size come out."""

import multiprocessing
import os
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path

from catsdogs.stage import Interrupted, UserError, begin_worker

import numpy as np
from PIL import (
    Image,
    ImageOps,
    TiffImagePlugin,  # noqa: F401  Pillow knows a format once its reader is imported
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)
from tqdm import tqdm

CHUNK = 64  # images that a process decodes before it hands them over
# Pillow's other readers are seldom used, and one of them starts another program (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class UnusableImage(Exception):
    """The bytes do not hold a picture that can be used. The text is the reason."""


def decode(content: bytes, size: int, interpolation: str, max_megapixels: float) -> np.ndarray:
    """Decode an image file and squash it to a square.

    The first frame of an animation counts. EXIF's orientation is applied, transparency becomes
    white, and 16-bit grey is reduced to 8 bits.

    Args:
        content: the bytes of the file.
        size: side of the square in pixels.
        interpolation: a key of `INTERPOLATIONS`.
        max_megapixels: larger images are refused before they are decoded.

    Returns:
        RGB pixels, uint8, size×size×3.

    Raises:
        UnusableImage: with the reason.
    """
    method = INTERPOLATIONS[interpolation]
    if not content:
        raise UnusableImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd but readable is read
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                megapixels = image.width * image.height / 1e6
                if megapixels > max_megapixels:
                    raise UnusableImage(
                        f"{image.width}x{image.height} pixels, more than split.max_megapixels"
                    )
                image.draft("RGB", (size, size))  # a JPEG is decoded no larger than it need be
                image.load()
                upright = _to_colour(ImageOps.exif_transpose(image))
                return np.asarray(_on_white(upright.resize((size, size), method)))
    except UnusableImage:
        raise
    except UnidentifiedImageError:
        raise UnusableImage("not an image in a known format") from None
    except Image.DecompressionBombError:
        raise UnusableImage("more pixels than split.max_megapixels") from None
    # Damaged files make Pillow's readers raise whatever their arithmetic runs into.
    except Exception as error:
        detail = str(error) if isinstance(error, OSError) else type(error).__name__
        raise UnusableImage(f"damaged: {detail}") from None


def decode_archive(
    archive: Path, size: int, interpolation: str, max_megapixels: float
) -> Iterator[tuple[str, np.ndarray | str]]:
    """Decode all images of a zip on all cores, in its order.

    The arguments are those of `decode`.

    Yields:
        Each image's name with its pixels, or with the reason why it cannot be used.

    Raises:
        UserError: a decoding process was killed.
    """
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    chunks = deque(names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
    decode_some = partial(_decode_some, archive, (size, interpolation, max_megapixels))
    with (
        ProcessPoolExecutor(initializer=begin_worker) as pool,
        tqdm(total=len(names), desc="decoding", unit=" images") as bar,
    ):
        under_way: deque[Future] = deque()
        try:
            while chunks or under_way:
                # No more than can be decoded soon, or the images pile up where writing is slow.
                while chunks and len(under_way) < 2 * (os.cpu_count() or 1):
                    under_way.append(pool.submit(decode_some, chunks.popleft()))
                results = under_way.popleft().result()
                bar.update(len(results))
                yield from results
        except BrokenProcessPool:
            raise UserError(
                "a process that decodes images was killed, most likely for want of memory: "
                "lower split.max_megapixels"
            ) from None
        except Interrupted:
            for process in multiprocessing.active_children():
                process.kill()
            raise


def _decode_some(
    archive: Path, how: tuple[int, str, float], names: Sequence[str]
) -> list[tuple[str, np.ndarray | str]]:
    results: list[tuple[str, np.ndarray | str]] = []
    for name in names:
        try:
            results.append((name, decode(_opened(archive).read(name), *how)))
        except UnusableImage as unusable:
            results.append((name, str(unusable)))
    return results


@lru_cache(maxsize=1)
def _opened(archive: Path) -> zipfile.ZipFile:
    """Open the archive once for the life of a decoding process: its directory is long."""
    return zipfile.ZipFile(archive)


def _to_colour(image: Image.Image) -> Image.Image:
    """Convert to RGB, or to RGBA where something is transparent."""
    if image.mode.startswith("I;16"):  # which Pillow's own conversion cuts off at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnusableImage("pixels of 32 bits, whose white is not known")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
