"""Photographs of cats and dogs in a zip, a tar or a folder of any origin: read, checked, stored.

In: `PetImages/Cat/0.jpg` or `train/cat.0.jpg`, under any parent folders. Out: one zip with `cat/…`
and `dog/…`, whose bytes depend on the photographs' names and bytes alone.
"""

import bz2
import errno
import gzip
import lzma
import re
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from catsdogs.files import write_zip
from catsdogs.layout import CLASSES
from catsdogs.stage import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
NO_FILE = "a link or a device, not a file: pack the photographs themselves"
ENCRYPTED = 1  # a bit of a zip entry's flags
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that Python's zipfile does not know
    UnicodeDecodeError,
)


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name there, its size in bytes, and how to open it."""

    name: str
    size: int
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Limits:
    """How much is read before an archive counts as an attack, in bytes."""

    file: int
    total: int


@dataclass(frozen=True)
class Stored:
    """What `store` found: images per class, and the names of the files that are none."""

    images: dict[str, int]
    left_out: list[str]


def store(source: Path, target: Path, limits: Limits) -> Stored:
    """Copy every photograph of `source` into the zip `target`, byte for byte, in order of name.

    Raises:
        UserError: the source cannot be read, is unsafe, exceeds the limits, holds two photographs
            of one name, or lacks cats or dogs.
    """
    try:
        with _members(source, limits) as members:
            chosen, left_out = _choose(source, members, limits)
            write_zip(target, ((name, partial(_read, chosen[name])) for name in sorted(chosen)))
    except (*DAMAGE, OSError) as error:
        # Decompressors report damage as an OSError too, without a number of the system's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(
            f"{source} is damaged or not readable as an archive ({error}): fetch it again"
        ) from None
    counts = {kind: sum(name.startswith(f"{kind}/") for name in chosen) for kind in CLASSES}
    return Stored(counts, sorted(left_out))


def place(name: str) -> str | None:
    """Say where a file belongs: `cat/…` or `dog/…`, or None if it is no photograph of either.

    The innermost folder named for a class decides (`PetImages/Cat/0.jpg`), then the beginning of
    the file's name (`train/dog.0.jpg`).
    """
    # Backslashes as some of Windows' packers have them, accents as one or as two characters.
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


def _choose(
    source: Path, members: Iterable[Member], limits: Limits
) -> tuple[dict[str, Member], list[str]]:
    chosen: dict[str, Member] = {}
    left_out = []
    for member in members:
        _check_name(source, member.name)
        name = place(member.name)
        if name is None:
            left_out.append(member.name)
        elif name in chosen:
            raise UserError(
                f"{source}: {chosen[name].name} and {member.name} would both be {name}: "
                "rename one of them"
            )
        else:
            chosen[name] = member
            if member.size > limits.file:
                raise UserError(
                    f"{source}: {member.name} has {member.size:,} bytes, more than "
                    "data.max_file_mb allows: remove it or raise the bound"
                )
    if sum(member.size for member in chosen.values()) > limits.total:
        raise UserError(
            f"{source} holds more than data.max_total_gb allows: raise the bound if you trust it"
        )
    for kind in CLASSES:
        if not any(name.startswith(f"{kind}/") for name in chosen):
            raise UserError(
                f"{source} holds no image of a {kind}: expected are folders named cat and dog, "
                "or files named cat.<number>.jpg and dog.<number>.jpg"
            )
    return chosen, left_out


def _check_name(source: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{source}: the name {name!r} is not UTF-8: rename the file") from None
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        raise UserError(f"{source}: the entry {name!r} points outside the archive: do not use it")


def _read(member: Member) -> bytes:
    """Read a member, and no more than it claimed to hold."""
    with member.open() as file:
        content = file.read(member.size + 1)
    if len(content) != member.size:
        raise EOFError(f"{member.name} does not have the {member.size:,} bytes that it claims")
    return content


@contextmanager
def _members(source: Path, limits: Limits) -> Iterator[Iterable[Member]]:
    if source.is_dir():
        yield _folder_members(source)
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if any(entry.flag_bits & ENCRYPTED for entry in archive.infolist()):
                raise UserError(f"{source} is encrypted: unpack it and give the folder")
            yield _zip_members(source, archive)
    else:
        with _plain_tar(source, limits) as file:
            try:
                archive = tarfile.open(fileobj=_Frugal(file, limits.file + 1), mode="r:")  # noqa: SIM115
            except tarfile.TarError:
                raise UserError(
                    f"{source} is neither a zip, a tar nor a folder, or it is cut off"
                ) from None
            with archive:
                yield _tar_members(source, archive)


def _zip_members(source: Path, archive: zipfile.ZipFile) -> Iterator[Member]:
    for entry in archive.infolist():
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{source}: the entry {entry.filename!r} is {NO_FILE}")
        if not entry.filename.endswith("/"):  # `is_dir` fails where a NUL leaves an empty name
            yield Member(entry.filename, entry.file_size, partial(archive.open, entry))


def _folder_members(source: Path) -> Iterator[Member]:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            name = path.relative_to(source).as_posix()
            yield Member(name, path.stat().st_size, partial(path.open, "rb"))


def _tar_members(source: Path, archive: tarfile.TarFile) -> Iterator[Member]:
    for entry in archive:
        if entry.isfile():
            yield Member(entry.name, entry.size, partial(archive.extractfile, entry))
        elif not entry.isdir():
            raise UserError(f"{source}: the entry {entry.name!r} is {NO_FILE}")


class _Frugal:
    """A file that is not read in larger pieces than need be: a tar's headers claim any size."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self.file, self.most = file, most
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > max(self.most, tarfile.RECORDSIZE):
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)


@contextmanager
def _plain_tar(source: Path, limits: Limits) -> Iterator[BinaryIO]:
    """Copy a tar, decompressed, into a temporary file: its members are read in another order."""
    with _decompressed(source) as packed, tempfile.TemporaryFile() as plain:
        while chunk := packed.read(1 << 20):
            plain.write(chunk)
            if plain.tell() > limits.total:
                raise UserError(f"{source} unpacks to more than data.max_total_gb allows")
        plain.seek(0)
        yield plain


def _decompressed(source: Path) -> BinaryIO:
    for opener in (gzip.open, bz2.open, lzma.open):
        file = opener(source, "rb")
        try:
            file.read(1)
        except (OSError, EOFError, lzma.LZMAError):  # another format
            file.close()
        else:
            file.seek(0)
            return file
    return source.open("rb")
