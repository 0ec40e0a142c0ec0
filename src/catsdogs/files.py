"""Writing files so that a name holds either the whole new content or what it held before."""

import csv
import glob
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` when the block ends well.

    The temporary name keeps the suffix, because some writers choose the format by it. What a
    killed process left there of the same file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".part-*-{glob.escape(path.name)}"):
        left.unlink(missing_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # which a failing write does not say
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, its line ends as they are."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Any) -> None:
    """Write values as indented JSON, the keys in the order given, NaN and infinity refused."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table whose lines end with a line feed on every system."""
    with (
        replacing(path) as part,
        part.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_zip(target: Path, files: Iterable[tuple[str, Callable[[], bytes | IO[bytes]]]]) -> None:
    """Write a zip without compression whose bytes depend on the names and contents alone.

    Args:
        target: the zip to write.
        files: names, and what gives their content, whole or to be read bit by bit.
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
    """Read a table: one dictionary per line, by the names in the first."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(path: Path, algorithm: str) -> str:
    """Hash a file; return hexadecimal digits."""
    hashed = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            hashed.update(chunk)
    return hashed.hexdigest()
