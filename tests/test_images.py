import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from io import BytesIO

from catsdogs.data import images
from catsdogs.data.images import UnusableImage, decode
from catsdogs.stage import UserError

import numpy as np
import pytest
from conftest import photo
from PIL import Image

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def encode(image, kind, **options):
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(content, size=8, interpolation="nearest", max_megapixels=1):
    return decode(content, size, interpolation, max_megapixels)


def plain(mode, colour, size=(16, 12)):
    return Image.new(mode, size, colour)


def is_plain(pixels, colour, tolerance=0):
    return np.abs(pixels.astype(int) - colour).max() <= tolerance


def test_pixels_are_rgb_bytes_squashed_to_a_square():
    pixels = read(photo(0, (30, 10)), size=8)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(
    "kind",
    "AVIF BMP DDS DIB GIF ICO IM JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP".split(),  # noqa: SIM905
)
def test_every_format(kind):
    """Of those in `images.FORMATS` that Pillow can write in colour."""
    assert is_plain(read(encode(plain("RGB", RED, (32, 32)), kind)), RED, 4)


def test_cmyk():
    assert is_plain(read(encode(plain("CMYK", (0, 255, 255, 0)), "JPEG")), RED, 4)


def test_grey():
    assert is_plain(read(encode(plain("L", 90), "JPEG")), (90, 90, 90), 2)


def test_16_bit_grey_keeps_its_shades():
    image = Image.fromarray(np.full((12, 16), 100 * 256, np.uint16))
    assert is_plain(read(encode(image, "PNG")), (100, 100, 100))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_left_out(dtype):
    image = Image.fromarray(np.full((12, 16), 200, dtype))
    with pytest.raises(UnusableImage, match="pixels of 32 bits"):
        read(encode(image, "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_becomes_white(mode):
    colour = (255, 0, 0, 0) if mode == "RGBA" else (0, 0)
    assert is_plain(read(encode(plain(mode, colour), "PNG")), WHITE)


def test_a_palette_with_transparency():
    image = plain("P", 0)
    image.putpalette([255, 0, 0] + [0, 255, 0] * 255)
    assert is_plain(read(encode(image, "PNG")), RED)
    assert is_plain(read(encode(image, "PNG", transparency=0)), WHITE)


def test_of_an_animation_the_first_frame():
    frames = [plain("RGB", GREEN), plain("RGB", RED)]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert is_plain(read(content), GREEN)


def test_exif_orientation_is_applied():
    image = plain("RGB", GREEN)
    image.paste(RED, (0, 0, 16, 6))  # red above, green below
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: red at the right
    pixels = read(encode(image, "PNG", exif=exif))
    assert is_plain(pixels[:, 4:], RED)
    assert is_plain(pixels[:, :4], GREEN)


def bomb(width, height):
    """A valid PNG header for a huge picture, and hardly anything else."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0\0\0\x1cftypheic" + bytes(99), "in a known format, but HEIC: convert it to JPEG"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "pointer of Git LFS: run `git lfs pull`",
        ),
        (b"<html>404</html>", "not an image in a known format, but a web page or SVG"),
        (encode(plain("LAB", 0), "TIFF"), "colours in LAB, which Pillow does not convert"),
        (b"I am a text that somebody named cat.7.jpg", "not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a known format"),
        (encode(plain("RGB", RED), "PNG").replace(b"IHDR", b"iHDR"), "damaged: a PNG that cannot"),
        (b"\xff\xd8\xff" + bytes(99), "damaged: a JPEG that cannot be read"),
        (photo(0, (300, 300))[:2000], "damaged: image file is truncated"),
        (encode(plain("RGB", RED), "PNG")[:50], "damaged: "),
        (bomb(20_000, 20_000), "more than split.max_megapixels|more pixels than"),
        (bomb(1_100, 1_000), "1100x1000 pixels, more than split.max_megapixels"),
        (bomb(900, 1_000), "damaged: "),
    ],
)
def test_what_cannot_be_used_has_a_reason(content, reason):
    with pytest.raises(UnusableImage, match=reason) as unusable:
        read(content)
    assert "0x" not in str(unusable.value).replace("x1000", ""), "an address differs every time"


def test_a_large_image_is_used_where_it_may_be():
    """Larger than what Pillow warns of."""
    image = Image.new("L", (10_000, 9_500), 77)
    assert is_plain(read(encode(image, "JPEG"), max_megapixels=100), (77, 77, 77), 1)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_start_in_every_way(tmp_path, method):
    """Windows and macOS spawn them, Linux forks them; the order is the archive's."""
    photos = [photo(number) for number in range(3 * images.CHUNK)]
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number, content in enumerate(photos):
            archive.writestr(f"cat/{number}.jpg", content)
        archive.writestr("cat/empty.jpg", b"")
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        *decoded, empty = images.decode_archive(tmp_path / "images.zip", 8, "bilinear", 1)
    finally:
        multiprocessing.set_start_method(usual, force=True)
    assert [name for name, _ in decoded] == [f"cat/{i}.jpg" for i in range(len(photos))]
    for (_, pixels), content in zip(decoded, photos, strict=True):
        assert np.array_equal(pixels, read(content, interpolation="bilinear"))
    assert empty == ("cat/empty.jpg", "the file is empty")


SCARCE = """
import joblib, resource, sys
from pathlib import Path
from catsdogs import stage
from catsdogs.data import images

def main():
    joblib.cpu_count = lambda: int(sys.argv[1])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 230 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    list(images.decode_archive(Path("images.zip"), 16, "bilinear", 100))

stage.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_too_little_memory_stops_the_stage(tmp_path, kind, workers):
    """It is no property of an image. WebP's and AVIF's decoders take it for damage."""
    small, large = (encode(plain("RGB", RED, size), kind) for size in ((40, 40), (9000, 9000)))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(200):
            archive.writestr(f"cat/{number}.x", large if number == 130 else small)
    command = [sys.executable, "-c", SCARCE, str(workers)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (said,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert "images.zip: cat/130.x: too little memory to decode an image: give more, or" in said
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reader_without_memory_stops_the_stage(tmp_path, monkeypatch, workers):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("the fault reaches a worker by a fork alone")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("cat/1.jpg", photo(1))

    def fails(*_):
        raise MemoryError

    monkeypatch.setattr("joblib.cpu_count", lambda: workers)
    for place in ("catsdogs.data.images._opened", "PIL.Image.Image.resize"):
        monkeypatch.setattr(place, fails)
        with pytest.raises(UserError, match="too little memory to decode an image"):
            list(images.decode_archive(tmp_path / "images.zip", 8, "nearest", 1))
        monkeypatch.undo()


def test_a_worker_that_is_killed_is_one_line(tmp_path, monkeypatch):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("the killer reaches a worker by a fork alone")
    monkeypatch.setattr(images, "decode", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("cat/1.jpg", photo(1))
    with pytest.raises(UserError, match=r"was killed, .* lower split\.max_megapixels"):
        list(images.decode_archive(tmp_path / "images.zip", 8, "nearest", 1))
