"""Read photographs of two classes from a zip, a tar or a folder, and store them in one zip.

The source holds `PetImages/Cat/0.jpg` or `train/cat.0.jpg`, below any folders, for the class `cat`
of `data.classes`. The zip holds `cat/…`. Its bytes depend only on the names of classes and
photographs, and on the photographs' bytes. An archive within the source is read as if it had been
unpacked into a folder of its name.
"""

import errno
import hashlib
import io
import lzma
import re
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, NoReturn, Self, cast

from catsdogs.files import write_zip
from catsdogs.layout import CATS_AND_DOGS, plain, spellings
from catsdogs.stage import UserError

# All that Pillow knows for `images.FORMATS`.
IMAGE_SUFFIXES = frozenset(
    """
    .apng .avif .avifs .blp .bmp .bw .cur .dcx .dds .dib .flc .fli .ftc .ftu .gbr .gif .icb .icns
    .ico .im .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .msp .pbm .pcd .pcx .pfm .pgm .png
    .pnm .ppm .psd .pxr .qoi .ras .rgb .rgba .sgi .tga .tif .tiff .vda .vst .webp .xbm .xpm
    """.split()  # noqa: SIM905
)
UNREAD = (".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef")  # of cameras, besides
ARCHIVE = re.compile(r"\.(zip|tar|tgz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
# How files begin that people take for archives, what they are and what to do.
OTHER_FILES = {
    b"<": "a web page, perhaps to sign in: download the file in a browser, and give its path",
    b"{": "a text, perhaps a server's message of an error: check where it comes from",
    b"version https://git-lfs": (
        "a pointer of Git LFS: run `git lfs pull`, or give the address of the file itself"
    ),
    b"Rar!": "a RAR archive: unpack it, and give the folder",
    b"7z\xbc\xaf": "a 7z archive: unpack it, and give the folder",
}
MAX_DEPTH = 3  # archives in one another
MAX_NAME = 4096  # characters, as long as a path may be on Linux
MAX_HEADER = 1 << 24  # bytes that a tar may hold about one of its files
NO_FILE = "a link or a device, not a file: pack the photographs themselves"
ENCRYPTED = 1  # a bit of a zip entry's flags
# Not Deflate64, in which Windows packs what is large.
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,  # a number or a name that is none
    NotImplementedError,  # a version that zipfile does not know
    RecursionError,  # a tar's header that describes a header that describes a header …
)


class Damaged(UserError):
    """What is no archive, or is a damaged one."""


class Limits(NamedTuple):
    """The largest photograph and the largest archive that are read, in bytes."""

    file: int
    total: int


class Stored(NamedTuple):
    """What `store` found. All but the first are names of files in the source."""

    images: dict[str, int]  # how many of each class are stored
    left_out: list[str]  # no photographs of a class
    copies: list[str]  # have the bytes of a file in another folder, which is stored
    contradictions: list[str]  # are stored, but have the bytes of a file of another class
    renamed: list[str]  # stored with their folders, because others have the same name without


class Member(NamedTuple):
    """A file of an archive: its name there, the bytes that it claims, and what opens it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def store(
    source: Path, target: Path, limits: Limits, classes: tuple[str, str] = CATS_AND_DOGS
) -> Stored:
    """Copy every photograph of `source` into the zip `target`, byte for byte, in order of name.

    The source is read once, in its own order, into a temporary file beside `target`. Files with
    the same bytes and class are stored from one folder only.

    Raises:
        UserError: the source cannot be read, is unsafe, exceeds the limits, or has no image of a
            class. It is `Damaged` where another copy of it may do.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=target.parent) as unpacked:
            found, places, left_out = _unpack(source, unpacked, limits, classes, target.parent)
            names, stored = _arrange(source, found, left_out, classes)
            for kind, count in stored.images.items():
                if not count:
                    raise UserError(
                        f"{source} holds no image of the class {kind}{_why(stored, classes)}"
                    )
            del found  # which is large

            def read(digest: str) -> bytes:
                start, size = places[digest]
                unpacked.seek(start)
                return unpacked.read(size)

            write_zip(target, ((name, partial(read, names[name])) for name in sorted(names)))
    except (*DAMAGE, OSError) as error:
        # Decompressors report damage as an OSError, too, but without a number of the system's.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise Damaged(
            f"{source} is damaged or not readable as an archive ({error}): fetch it again"
        ) from None
    return stored


def problem(path: Path) -> str:
    """Say what is wrong with a file that should be an archive; nothing if it is one."""
    with path.open("rb") as file:
        try:
            archive = _open(file)
        except DAMAGE as error:
            return f"is a damaged archive ({error})"
        if archive is None:
            return _what(file)
        archive.close()
        return ""


def _open(file: IO[bytes]) -> tarfile.TarFile | zipfile.ZipFile | None:
    """Open an archive; return None if the file is none."""
    file.seek(0)
    try:
        # Not in tarfile's stream mode, which does not check gzip's sum, and ends after the first
        # of bzip2's streams. First, because a tar that ends with a zip looks like a zip.
        return tarfile.open(fileobj=file, tarinfo=_Header)
    except (*DAMAGE, OSError):
        return zipfile.ZipFile(file) if zipfile.is_zipfile(file) else None


def _what(file: IO[bytes]) -> str:
    file.seek(0)
    beginning = file.read(1000)
    if not beginning:
        return "is empty: fetch it again"
    for start, kind in OTHER_FILES.items():
        if beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(start):
            return f"is {kind}"
    return (
        "is neither a zip, a tar nor a folder: fetch it again if it is cut off; if it is packed "
        "in another way, unpack it, and give the folder"
    )


def stored_name(name: str, classes: tuple[str, str] = CATS_AND_DOGS) -> str | None:
    """Return the name under which a file is stored, or None if it is no photograph of a class.

    The innermost folder that is named for a class decides (`PetImages/Cats/0.jpg`). Without one,
    the beginning of the file's name does, up to a character that is no letter (`train/dog.0.jpg`).
    """
    path = PurePosixPath(_normal(name))
    if _is_hidden(path) or path.suffix.casefold() not in IMAGE_SUFFIXES:
        return None
    kinds = _kinds(classes)
    for depth in range(len(path.parts) - 2, -1, -1):
        if kind := kinds.get(plain(path.parts[depth])):
            return "/".join([kind, *path.parts[depth + 1 :]])
    stem = plain(path.stem)
    for form, kind in kinds.items():
        # `catalogue` is no cat, and `type 12` is not of `type 1`.
        is_more = str.isalnum if form[-1].isdigit() else str.isalpha
        if stem.startswith(form) and not is_more(stem[len(form) :][:1]):
            return f"{kind}/{path.name}"
    return None


@cache
def _kinds(classes: tuple[str, str]) -> dict[str, str]:
    """The class that each spelling means, the longest first: `hot dog` is not of `hot`."""
    forms = {form: kind for kind in classes for form in spellings(kind)}
    return dict(sorted(forms.items(), key=lambda each: (-len(each[0]), each)))


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _unpack(
    source: Path,
    unpacked: IO[bytes],
    limits: Limits,
    classes: tuple[str, str],
    scratch: Path,
) -> tuple[dict[str, list[tuple[str, str]]], dict[str, tuple[int, int]], list[str]]:
    """Copy the photographs into a file, one behind the other.

    Args:
        scratch: a folder for temporary files.

    Returns:
        For each hash of a photograph's bytes the names of its files, as `stored_name` has them and
        in the source; for each hash where the bytes begin and how many they are; and the names of
        all other files.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    places: dict[str, tuple[int, int]] = {}
    left_out = []
    total = 0
    for member in _members(source, limits, scratch):
        _check_name(source, member.name)
        name = stored_name(member.name, classes)
        if name is None:
            left_out.append(member.name)
            continue
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
        # Empty files are no copies of each other: each is an image that is lost.
        digest = hashlib.blake2b(content or member.name.encode(), digest_size=16).hexdigest()
        if digest not in found:
            places[digest] = unpacked.tell(), len(content)
            unpacked.write(content)
        found.setdefault(digest, []).append((name, member.name))
    return found, places, left_out


def _arrange(
    source: Path,
    found: Mapping[str, list[tuple[str, str]]],
    left_out: list[str],
    classes: tuple[str, str],
) -> tuple[dict[str, str], Stored]:
    """Choose the photographs to store, and their names.

    Equal files of one folder are the data set's own, and stay: the split keeps them together.
    Equal files of another folder come from a second copy of the data set, or of a part of it.
    Equal files of both classes stay and are counted: a person has to judge.

    Returns:
        The hashes by name, and what was done.
    """
    copies: list[str] = []
    contradictions: list[str] = []
    renamed: list[str] = []
    left: set[tuple[str, str, str]] = set()
    for digest, files in found.items():
        kept: dict[str, str] = {}
        folders: dict[str, PurePosixPath] = {}  # of each class
        for name, original in sorted(files):
            folder = folders.setdefault(name.partition("/")[0], _folder_of(original))
            if name in kept or _folder_of(original) != folder:
                copies.append(original)
            else:
                kept[name] = original
        if len(folders) > 1:
            contradictions += kept.values()
        left |= {(name, original, digest) for name, original in kept.items()}
    names: dict[str, str] = {}
    for level in range(3):
        wanted = {photograph: _candidate(level, *photograph) for photograph in left}
        counts = Counter(wanted.values())
        for photograph, name in wanted.items():
            if counts[name] == 1 and name not in names:
                left.remove(photograph)
                _, original, names[name] = photograph
                renamed += [original] * (level > 0)
    for name, original, _ in left:
        raise UserError(f"{source}: {original} and another file would both be {name}: rename one")
    images = {kind: sum(name.startswith(f"{kind}/") for name in names) for kind in classes}
    lists = (left_out, copies, contradictions, renamed)
    return names, Stored(images, *map(sorted, lists))


def _folder_of(name: str) -> PurePosixPath:
    return PurePosixPath(_normal(name)).parent


def _candidate(level: int, name: str, original: str, digest: str) -> str:
    """A photograph's name: as short as can be, then with all its folders, then with its hash."""
    if level == 0:
        return name
    path = PurePosixPath(name)
    if level == 1:
        return f"{path.parts[0]}/{PurePosixPath(_normal(original))}"
    return str(path.with_name(f"{path.stem}-{digest}{path.suffix}"))


def _normal(name: str) -> str:
    # Some packers on Windows write backslashes; accents may be one character or two.
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _why(stored: Stored, classes: tuple[str, str]) -> str:
    """Say what a source should hold that has no image of a class, and what it holds instead."""
    one, other = classes
    said = (
        f": it should have folders named {one} and {other}, or files named {one}.<number>.jpg and "
        f"{other}.<number>.jpg; data.classes in params.yaml names the classes"
    )
    if stored.left_out:
        said += f"; other files are {suffixes(stored.left_out)}"
    if any(PurePosixPath(name).suffix.casefold() in UNREAD for name in stored.left_out):
        said += "; convert photographs that Pillow does not read, such as .heic, to JPEG"
    return said


def suffixes(names: list[str]) -> str:
    """Count files by their suffixes, and name the most frequent ones."""
    counts = Counter(PurePosixPath(name).suffix.casefold() or "no suffix" for name in names)
    said = [f"{count:,} {suffix}" for suffix, count in counts.most_common(5)]
    return ", ".join(said + ["…"] * (len(counts) > 5))


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


def _members(source: Path, limits: Limits, scratch: Path) -> Iterator[Member]:
    """List the files of a source. Each can be opened until the next one is asked for."""
    total = 0

    def unfold(source: Path, members: Iterator[Member], depth: int) -> Iterator[Member]:
        nonlocal total
        for member in members:
            is_archive = depth < MAX_DEPTH and ARCHIVE.search(member.name)
            if not is_archive or _is_hidden(PurePosixPath(member.name)):
                yield member
                continue
            total += member.size
            _check_total(source, total, limits)
            name = source / member.name
            with member.open() as packed, tempfile.TemporaryFile(dir=scratch) as file:
                shutil.copyfileobj(packed, file)
                for inner in unfold(name, _archive(name, file, limits), depth + 1):
                    _check_name(name, inner.name)
                    yield inner._replace(name=f"{ARCHIVE.sub('', member.name)}/{inner.name}")

    yield from unfold(source, (_folder if source.is_dir() else _open_archive)(source, limits), 0)


def _folder(source: Path, _: Limits) -> Iterator[Member]:
    for path in _walk(source, frozenset()):
        name = path.relative_to(source).as_posix()
        if path.is_file():
            yield Member(name, path.stat().st_size, partial(io.FileIO, path))
        else:
            yield Member(name, 0, partial(_refuse, path))


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """List what is below a folder and is none, through links, but not in circles."""
    real = folder.resolve()
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _walk(path, above | {real})
        else:
            yield path


def _refuse(path: Path) -> NoReturn:
    raise UserError(f"{path} is {NO_FILE}")


def _open_archive(source: Path, limits: Limits) -> Iterator[Member]:
    with source.open("rb") as file:
        yield from _archive(source, file, limits)


def _archive(source: Path, file: IO[bytes], limits: Limits) -> Iterator[Member]:
    archive = _open(file)
    if archive is None:
        raise Damaged(f"{source} {_what(file)}")
    with archive:
        if isinstance(archive, zipfile.ZipFile):
            yield from _zip_members(source, archive)
        else:
            yield from _tar_members(source, archive, limits)


def _zip_members(source: Path, archive: zipfile.ZipFile) -> Iterator[Member]:
    for entry in archive.infolist():
        if entry.flag_bits & ENCRYPTED:
            raise UserError(f"{source} is encrypted: unpack it and give the folder")
        if entry.compress_type not in COMPRESSIONS:
            raise UserError(
                f"{source}: the entry {entry.filename!r} is compressed by method "
                f"{entry.compress_type}, which Python cannot read: unpack it and give the folder"
            )
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{source}: the entry {entry.filename!r} is {NO_FILE}")
        if not entry.filename.endswith(("/", "\\")):  # `is_dir` fails for an empty name
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
