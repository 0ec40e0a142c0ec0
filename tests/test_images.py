import struct
import zlib
from io import BytesIO

from catsdogs.images import UnusableImage, decode
from catsdogs.pixels import PixelReader, PixelWriter

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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "MPO"])
def test_every_format(kind):
    assert is_plain(read(encode(plain("RGB", RED), kind)), RED, 4)


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
        (b"I am a text that somebody named cat.7.jpg", "not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in a known format"),
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
    image = Image.new("L", (20_000, 4_000), 77)
    assert is_plain(read(encode(image, "PNG"), max_megapixels=100), (77, 77, 77))


def test_rows_come_back_as_they_were_written(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    path = tmp_path / "images.npy"
    with path.open("wb") as file:
        writer = PixelWriter(file, 4)
        assert [writer.append(image) for image in images] == [0, 1, 2, 3, 4]
        writer.close()
    assert np.array_equal(np.load(path), images)
    reader = PixelReader(path)
    assert len(reader) == 5
    assert np.array_equal(reader[[4, 0, 4]], images[[4, 0, 4]])
    assert reader[[]].shape == (0, 4, 4, 3)
    with pytest.raises(IndexError):
        reader[[5]]
