"""Decode image files into RGB pixels of one size: a single file, or all of a zip on all cores."""

import warnings
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path

from catsdogs.stage import UserError, begin_worker

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

CHUNK = 64  # images that a worker decodes before it returns them
# What holds outside the pipeline; the defaults of split.max_megapixels and data.max_file_mb.
MAX_MEGAPIXELS, MAX_FILE_MB = 100, 50
# Not what only another program or library decodes (EPS, WMF, HDF5, …), nor what any bytes may pass
# for (SPIDER, FITS, …).
FORMATS = tuple(
    """
    AVIF BLP BMP CUR DCX DDS DIB FLI FTEX GBR GIF ICNS ICO IM JPEG JPEG2000 MSP PCD PCX PIXAR PNG
    PPM PSD QOI SGI SUN TGA TIFF WEBP XBM XPM
    """.split()  # noqa: SIM905
)
USUAL = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
Image.init()  # imports the readers
NO_MEMORY = "too little memory to decode an image: give more, or lower split.max_megapixels"
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


class UnusableImage(Exception):
    """The bytes are no image that can be used. The text is the reason."""


Decoded = tuple[str, np.ndarray | str]  # an image's name, and its pixels or why it is unusable


def decode(
    content: bytes, size: int | tuple[int, int], interpolation: str, max_megapixels: float
) -> np.ndarray:
    """Decode an image file and squash it to a square, or to any height and width.

    Of an animation it takes the first frame. It applies the orientation in EXIF, makes what is
    transparent white, and reduces 16-bit grey to 8 bits.

    Args:
        content: the bytes of the file.
        size: side of the square in pixels, or height and width.
        interpolation: a key of `INTERPOLATIONS`.
        max_megapixels: larger images are refused, before they are decoded.

    Returns:
        RGB pixels, uint8, height×width×3.

    Raises:
        UnusableImage: with the reason.
        UserError: there is too little memory. That is no property of the image.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if not content:
        raise UnusableImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are odd but readable
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                megapixels = image.width * image.height / 1e6
                if megapixels > max_megapixels:
                    raise UnusableImage(
                        f"{image.width}x{image.height} pixels, more than split.max_megapixels "
                        f"({max_megapixels:g})"
                    )
                side = max(height, width)  # before EXIF turns it
                image.draft("RGB", (side, side))  # decodes a JPEG no larger than necessary
                image.load()
                upright = _to_colour(ImageOps.exif_transpose(image))
                method = INTERPOLATIONS[interpolation]
                return np.asarray(_on_white(upright.resize((width, height), method)))
    except UnusableImage:
        raise
    except UnidentifiedImageError:
        for name in USUAL:
            begins_like_one = Image.OPEN[name][1]
            if begins_like_one and begins_like_one(content[:16]):
                raise UnusableImage(f"damaged: a {name} that cannot be read") from None
        raise UnusableImage(f"not an image in a known format{_what(content)}") from None
    except Image.DecompressionBombError:
        raise UnusableImage("more pixels than split.max_megapixels") from None
    # On damaged files, Pillow's readers raise errors of any kind.
    except Exception as error:
        if isinstance(error, MemoryError) or not _has_room(max_megapixels):
            raise UserError(NO_MEMORY) from None
        detail = str(error) if isinstance(error, OSError) else type(error).__name__
        raise UnusableImage(f"damaged: {detail}") from None


def _has_room(megapixels: float) -> bool:
    """Whether there is memory for all that a decoder may want for so large an image.

    Some decoders call an image damaged where they get no memory.
    """
    try:
        np.empty(int(megapixels * 1e6) * 16, np.uint8)
    except MemoryError:
        return False
    return True


def _what(content: bytes) -> str:
    """Name some formats that people take for a photograph's."""
    if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        return ", but HEIC: convert it to JPEG"
    if content.startswith(b"version https://git-lfs"):
        return ", but a pointer of Git LFS: run `git lfs pull`"
    return ", but a web page or SVG" if content.lstrip()[:1] == b"<" else ""


def decode_archive(
    archive: Path, size: int, interpolation: str, max_megapixels: float
) -> Generator[Decoded, None, None]:
    """Decode all images of a zip on all cores, in its order.

    The arguments are those of `decode`.

    Yields:
        Each image's name, and its pixels or the reason why it cannot be used.

    Raises:
        UserError: there is too little memory, or a worker was killed.
    """
    import joblib  # which knows a container's share of the cores; takes a while to import

    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    del opened  # whose directory is large
    decode_chunk = partial(_decode_chunk, archive, (size, interpolation, max_megapixels))
    chunks = (names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
    workers = joblib.cpu_count()
    pool = ProcessPoolExecutor(workers, initializer=begin_worker)
    try:
        with tqdm(total=len(names), desc="decoding", unit=" images") as bar:
            for results in _map_ahead(pool, decode_chunk, chunks, 2 * workers):
                bar.update(len(results))
                yield from results
    except BrokenProcessPool:
        raise UserError(
            "a process that decodes images was killed, most likely because memory ran out: "
            "lower split.max_megapixels"
        ) from None
    except MemoryError:  # reading a file, or handing pixels over
        raise UserError(f"{archive}: {NO_MEMORY}") from None
    finally:
        # Python's own end would stumble over workers that are still at their chunk.
        pool.shutdown(cancel_futures=True)


def _map_ahead(
    pool: Executor,
    function: Callable[[list[str]], list[Decoded]],
    chunks: Iterable[list[str]],
    ahead: int,
) -> Iterator[list[Decoded]]:
    """As `pool.map`, but with at most so many results in memory (Python 3.14's `buffersize`)."""
    futures: deque[Future[list[Decoded]]] = deque()
    for chunk in chunks:
        futures.append(pool.submit(function, chunk))
        if len(futures) == ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _decode_chunk(
    archive: Path, how: tuple[int, str, float], names: Sequence[str]
) -> list[Decoded]:
    results: list[Decoded] = []
    for name in names:
        try:
            results.append((name, decode(_opened(archive).read(name), *how)))
        except UnusableImage as unusable:
            results.append((name, str(unusable)))
        except UserError as error:
            raise UserError(f"{archive}: {name}: {error}") from None
    return results


@lru_cache(maxsize=1)
def _opened(archive: Path) -> zipfile.ZipFile:
    """Open the archive once per worker: reading its directory takes a while."""
    return zipfile.ZipFile(archive)


def _to_colour(image: Image.Image) -> Image.Image:
    """Convert to RGB, or to RGBA where something is transparent."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts values off at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "LAB":
        raise UnusableImage("colours in LAB, which Pillow does not convert: store it as RGB")
    if image.mode in ("I", "F"):
        raise UnusableImage("pixels of 32 bits, whose white is not known")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
