"""Write files so that a path holds either the whole new content or what it held before.

Libraries for this give an open file, but Keras and Matplotlib want a path with the right suffix.
"""

import csv
import glob
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` when the block ends well.

    The block writes a file there, or makes a folder of files.

    The temporary name keeps the suffix, because some writers choose the format by it. If a killed
    process has left such a file, it is removed; that of a living process stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".part-*-{glob.escape(path.name)}"):
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            _remove(left)
    part, old = (path.with_name(f".part-{os.getpid()}-{each}{path.name}") for each in ("", "old-"))
    try:
        yield part
        for each in part.iterdir() if part.is_dir() else [part]:
            with each.open("rb+") as file:
                os.fsync(file.fileno())
        if path.is_dir():  # a folder replaces an empty one only
            path.replace(old)
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not name its file
        raise
    finally:
        _remove(part)
        _remove(old)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8. Line ends stay as they are."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Any) -> None:
    """Write values as indented JSON, with the keys in their order. Refuse NaN and infinity."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table. Its lines end with a line feed on every system."""
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_zip(target: Path, files: Iterable[tuple[str, Callable[[], bytes | IO[bytes]]]]) -> None:
    """Write a zip without compression. Its bytes depend only on the names and contents.

    Args:
        target: the zip to write.
        files: each file's name, and a function that returns its bytes or opens it.
    """
    with (
        replacing(target) as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, read in files:
            entry = zipfile.ZipInfo(name, ZIP_EPOCH)
            entry.create_system = 3  # Unix, also where this runs on Windows
            entry.external_attr = 0o644 << 16
            content = read()
            if isinstance(content, bytes):
                archive.writestr(entry, content)
            else:
                with content, archive.open(entry, "w") as file:
                    shutil.copyfileobj(content, file)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table: for each line a dictionary, by the names in the first line."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(path: Path, algorithm: str) -> str:
    """Hash a file; return hexadecimal digits."""
    start = partial(hashlib.new, algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, start).hexdigest()
