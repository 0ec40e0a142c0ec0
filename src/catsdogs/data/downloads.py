"""Download files once, into the main checkout, where no rebuild and no experiment loses them.

An interrupted download continues where it stopped. That is why the code is our own: pooch and
`dvc import-url` start again, and huggingface_hub may join two versions of a file (no `If-Range`).
"""

import hashlib
import re
import time
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from catsdogs.files import digest
from catsdogs.layout import DOWNLOADS
from catsdogs.stage import UserError

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

TIMEOUT = (10, 60)  # seconds to connect, and between two chunks
CHUNK = 1 << 16  # bytes; a broken connection loses no more
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt; doubles before each further one
KAGGLE_COMPETITION = "dogs-vs-cats"
KAGGLE_RULES = f"https://www.kaggle.com/competitions/{KAGGLE_COMPETITION}/rules"


class Remote(NamedTuple):
    """A file on a server. `digest` is `<algorithm>:<hex>`, or None where it is not known."""

    url: str
    digest: str | None = None


def fetch(remote: Remote, folder: Path = DOWNLOADS) -> Path:
    """Return the path of a downloaded file, which is complete and has the right digest.

    Raises:
        UserError: there is no network, the server refuses, or the bytes are not the expected ones.
    """
    try:
        address = urlsplit(remote.url)
    except ValueError as error:
        raise UserError(f"{remote.url!r} is not an address: {error}") from None
    if address.username or address.password:
        raise UserError(
            "the address holds a user's name or password, which would go into dvc.lock: put them "
            "into ~/.netrc instead"
        )
    name = re.sub(r"[^\w.-]", "_", Path(address.path).name) or "download"
    key = hashlib.sha256(remote.url.encode()).hexdigest()[:12]
    target = folder / f"{key}-{name}"
    if not _is_right(target, remote):
        with _lock(target):
            if not _is_right(target, remote):  # no other process has fetched it meanwhile
                shown = f"{address.scheme}://{address.hostname}{address.path}"  # without a token
                _fetch(remote, target, shown)
    return target


def _is_right(path: Path, remote: Remote) -> bool:
    algorithm, _, expected = (remote.digest or "").partition(":")
    return path.exists() and (not expected or digest(path, algorithm) == expected)


def _lock(target: Path) -> AbstractContextManager[Any]:
    """Let one process at a time write a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{target}.lock")
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        print(f"another process downloads {target.name}: waiting for it", flush=True)
        return lock.acquire()


def _fetch(remote: Remote, target: Path, shown: str) -> None:
    part, version = Path(f"{target}.part"), Path(f"{target}.part.version")
    for attempt in range(ATTEMPTS):
        try:
            _download(remote.url, part, version, shown)
            break
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else 500
            if status < 500 and status != 429:
                raise UserError(f"{shown} answers {_reason(error)}: check the address") from None
            if isinstance(error, ValueError):  # no request was made
                raise UserError(f"cannot download {shown}: {_reason(error)}") from None
            if attempt == ATTEMPTS - 1:
                raise UserError(
                    f"cannot download {shown} ({_reason(error)}): check the network and run again,"
                    " or download it by other means and give its path"
                ) from None
            time.sleep(PAUSE * 2**attempt)
    version.unlink(missing_ok=True)
    if not _is_right(part, remote):
        part.unlink()
        raise UserError(f"{shown} is not the file that is expected ({remote.digest}): run again")
    part.replace(target)


def _download(url: str, part: Path, version: Path, shown: str) -> None:
    """Append to `part` what it lacks. If the file has changed on the server, start again."""
    known = version.read_text(encoding="utf-8") if version.exists() else ""
    have = part.stat().st_size if known and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # the server has no more bytes
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            raise requests.ConnectionError("the server has fewer bytes than are here")
        if answer.status_code not in (200, 206):
            raise requests.HTTPError(f"{answer.status_code} {answer.reason}", response=answer)
        resumed = answer.status_code == 206
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm.wrapattr(file, "write", total=total, initial=start, desc=shown) as shown_file,
        ):
            if not resumed:
                version.write_text(_version(answer), encoding="utf-8")
            for chunk in answer.iter_content(CHUNK):
                shown_file.write(chunk)


def _version(answer: requests.Response) -> str:
    """Return what `If-Range` takes to name this version of the file, or nothing."""
    tag = answer.headers.get("ETag", "W/")
    return answer.headers.get("Last-Modified", "") if tag.startswith("W/") else tag


def _reason(error: Exception) -> str:
    """Return the innermost reason of a network error, without addresses of objects in memory."""
    text = re.sub(r"<[^>]*>:? ?", "", str(error))
    return text.rpartition("(Caused by ")[2].strip(" )")[:200] or type(error).__name__


def fetch_kaggle(folder: Path = DOWNLOADS) -> Path:
    """Download the competition's `train.zip` with Kaggle's own client, which resumes, too.

    Raises:
        UserError: there are no credentials, the rules were not accepted, or there is no network.
    """
    target = folder / "kaggle" / "train.zip"
    done = target.with_name("train.zip.complete")
    if not done.exists():
        with _lock(target):
            if not done.exists():
                _fetch_kaggle(target)
                done.touch()
    return target


def _fetch_kaggle(target: Path) -> None:
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        api.authenticate()
    except (OSError, ValueError, SystemExit):
        raise UserError(
            "Kaggle wants credentials: create a token at https://www.kaggle.com/settings and put "
            "it into ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY"
        ) from None
    try:
        api.competition_download_file(KAGGLE_COMPETITION, target.name, path=target.parent)
    except requests.HTTPError as error:
        advice = {
            401: "the credentials are not valid: create a new token",
            403: f"accept the competition's rules in a browser, at {KAGGLE_RULES}",
        }.get(error.response.status_code, "try again later")
        raise UserError(f"Kaggle answers {error.response.status_code}: {advice}") from None
    except requests.RequestException as error:
        raise UserError(
            f"cannot reach Kaggle ({_reason(error)}): check the network and run again, "
            "or download train.zip in a browser and give its path"
        ) from None
    if not zipfile.is_zipfile(target):
        target.unlink()
        raise UserError("Kaggle's train.zip came incomplete: run again")
