"""Read photographs of cats and dogs from a zip, a tar or a folder, and store them in one zip.

The source holds `PetImages/Cat/0.jpg` or `train/cat.0.jpg`, below any folders. The zip holds
`cat/…` and `dog/…`. Its bytes depend only on the names and the bytes of the photographs.
"""

import errno
import io
import lzma
import re
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Self, cast

from catsdogs.files import write_zip
from catsdogs.layout import CLASSES
from catsdogs.stage import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
MAX_NAME = 4096  # characters, as long as a path may be on Linux
MAX_HEADER = 1 << 24  # bytes that a tar may hold about one of its files
NO_FILE = "a link or a device, not a file: pack the photographs themselves"
ENCRYPTED = 1  # a bit of a zip entry's flags
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,  # a number or a name that is none
    NotImplementedError,  # a compression that zipfile does not know
    RecursionError,  # a tar's header that describes a header that describes a header …
)


class Limits(NamedTuple):
    """The largest photograph and the largest archive that are read, in bytes."""

    file: int
    total: int


class Stored(NamedTuple):
    """What `store` found: the number of images per class, and the names of all other files."""

    images: dict[str, int]
    left_out: list[str]


class Member(NamedTuple):
    """A file of an archive: its name there, the bytes that it claims, and what opens it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def store(source: Path, target: Path, limits: Limits) -> Stored:
    """Copy every photograph of `source` into the zip `target`, byte for byte, in order of name.

    The source is read once, in its own order, into a temporary zip beside `target`.

    Raises:
        UserError: the source cannot be read, is unsafe, exceeds the limits, holds two photographs
            of one name, or has no cats or no dogs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryFile(dir=target.parent) as file,
            zipfile.ZipFile(file, "a") as unpacked,
        ):
            found, left_out = _unpack(source, unpacked, limits)
            write_zip(target, ((name, partial(unpacked.read, name)) for name in sorted(found)))
    except (*DAMAGE, OSError) as error:
        # Decompressors report damage as an OSError, too, but without a number of the system's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"{source} is damaged or not readable as an archive ({error}): fetch it again"
        ) from None
    counts = {kind: sum(name.startswith(f"{kind}/") for name in found) for kind in CLASSES}
    return Stored(counts, sorted(left_out))


def stored_name(name: str) -> str | None:
    """Return the name under which a file is stored, or None if it is no photograph of a class.

    The innermost folder that is named for a class decides (`PetImages/Cat/0.jpg`). Without one,
    the beginning of the file's name does (`train/dog.0.jpg`).
    """
    # Some packers on Windows write backslashes; accents may be one character or two.
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    if hidden or path.suffix.casefold() not in IMAGE_SUFFIXES:
        return None
    for depth in range(len(path.parts) - 2, -1, -1):
        kind = path.parts[depth].casefold().removesuffix("s")
        if kind in CLASSES:
            return "/".join([kind, *path.parts[depth + 1 :]])
    kind = path.name.partition(".")[0].casefold()
    return f"{kind}/{path.name}" if kind in CLASSES else None


def _unpack(
    source: Path, unpacked: zipfile.ZipFile, limits: Limits
) -> tuple[dict[str, str], list[str]]:
    """Copy the photographs into a zip; return their old names by their new, and all others."""
    found: dict[str, str] = {}
    left_out = []
    total = 0
    for member in _members(source, limits):
        _check_name(source, member.name)
        name = stored_name(member.name)
        if name is None:
            left_out.append(member.name)
            continue
        if name in found:
            raise UserError(
                f"{source}: {found[name]} and {member.name} would both be {name}: "
                "rename one of them"
            )
        if member.size > limits.file:
            raise UserError(
                f"{source}: {member.name} has {member.size:,} bytes, more than "
                "data.max_file_mb allows: remove it or raise the bound"
            )
        total += member.size
        _check_total(source, total, limits)
        with member.open() as file:
            content = file.read(member.size + 1)
        if len(content) != member.size:
            raise EOFError(f"{member.name} does not have the {member.size:,} bytes it claims")
        unpacked.writestr(name, content)
        found[name] = member.name
    for kind in CLASSES:
        if not any(name.startswith(f"{kind}/") for name in found):
            raise UserError(
                f"{source} holds no image of a {kind}: it should have folders named cat and dog, "
                "or files named cat.<number>.jpg and dog.<number>.jpg"
            )
    return found, left_out


def _check_name(source: Path, name: str) -> None:
    if len(name) > MAX_NAME:
        raise UserError(f"{source}: a name has {len(name):,} characters: do not use it")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{source}: the name {name!r} is not UTF-8: rename the file") from None
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        raise UserError(f"{source}: the entry {name!r} points outside the archive: do not use it")


def _check_total(source: Path, total: int, limits: Limits) -> None:
    if total > limits.total:
        raise UserError(
            f"{source} holds more than data.max_total_gb allows: raise the bound if you trust it"
        )


def _members(source: Path, limits: Limits) -> Iterator[Member]:
    """List the files of an archive. Each can be opened until the next one is asked for."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                name = path.relative_to(source).as_posix()
                yield Member(name, path.stat().st_size, partial(io.FileIO, path))
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            yield from _zip_members(source, archive)
    else:
        try:
            # Not in tarfile's stream mode, which does not check gzip's sum, and ends after the
            # first of bzip2's streams.
            tar = tarfile.open(source, tarinfo=_Header)  # noqa: SIM115
        except tarfile.ReadError:
            raise UserError(
                f"{source} is neither a zip, a tar nor a folder, or it is cut off"
            ) from None
        with tar:
            yield from _tar_members(source, tar, limits)


def _zip_members(source: Path, archive: zipfile.ZipFile) -> Iterator[Member]:
    for entry in archive.infolist():
        if entry.flag_bits & ENCRYPTED:
            raise UserError(f"{source} is encrypted: unpack it and give the folder")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{source}: the entry {entry.filename!r} is {NO_FILE}")
        if not entry.filename.endswith("/"):  # `is_dir` fails where a NUL leaves an empty name
            yield Member(entry.filename, entry.file_size, partial(archive.open, entry))


def _tar_members(source: Path, archive: tarfile.TarFile, limits: Limits) -> Iterator[Member]:
    for entry in archive:
        if entry.size < 0:
            raise tarfile.ReadError(f"a file of {entry.size:,} bytes")
        _check_total(source, entry.offset_data + entry.size, limits)
        if entry.isfile():
            opener = partial(archive.extractfile, entry)
            yield Member(entry.name, entry.size, cast(Callable[[], IO[bytes]], opener))
        elif not entry.isdir():
            raise UserError(f"{source}: the entry {entry.name!r} is {NO_FILE}")
    rest = cast(IO[bytes], archive.fileobj)
    while rest.read(1 << 20):  # to the end, where the sums are that a decompressor checks
        _check_total(source, rest.tell(), limits)


class _Header(tarfile.TarInfo):
    """Refuses two headers that tarfile accepts: one that is huge, and one that is damaged."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.strip(b"\0"):  # tarfile would take it for the end of the archive
                raise tarfile.ReadError(str(error)) from None
            raise
        if not header.isreg() and header.size > MAX_HEADER:  # tarfile would read all of it
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header
