"""Download files once, into the main checkout, where no rebuild and no experiment loses them.

An interrupted download continues where it stopped. That is why the code is our own: pooch and
`dvc import-url` start again, and huggingface_hub may join two versions of a file (no `If-Range`).

Where the bytes to expect are not known, the server is asked whether the file is still the same.
"""

import hashlib
import json
import os
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from catsdogs.files import digest
from catsdogs.layout import DOWNLOADS
from catsdogs.stage import UserError

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm
from urllib3.exceptions import LocationParseError

TIMEOUT = (10, 60)  # seconds to connect, and between two chunks
CHUNK = 1 << 16  # bytes; a broken connection loses no more
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt; doubles before each further one
VERSION = ("ETag", "Last-Modified", "Content-Length")  # what tells versions of a file apart
VARIABLE = re.compile(r"\$\{?([A-Z][A-Z0-9_]*)\}?")  # of the environment, in an address
SECRET = re.compile(
    "token|secret|passw|pwd|sig$|signat|cred|auth(?!or)|key(?!word)|jwt|session", re.IGNORECASE
)
ADVICE = (
    "write $NAME in its place and set an environment variable NAME, or use ~/.netrc for a user's "
    "name and password"
)
LOCKED = f"which would go into dvc.lock: {ADVICE}"
KAGGLE_COMPETITION = "dogs-vs-cats"
KAGGLE_RULES = f"https://www.kaggle.com/competitions/{KAGGLE_COMPETITION}/rules"


class Remote(NamedTuple):
    """A file on a server, and how to know it.

    Args:
        url: may hold names of environment variables, as `$NAME` or `${NAME}`.
        digest: `<algorithm>:<hex>`, or None where it is not known.
        problem: says what is wrong with a downloaded file, or nothing.
    """

    url: str
    digest: str | None = None
    problem: Callable[[Path], str] = lambda _: ""


def fetch(remote: Remote, folder: Path = DOWNLOADS) -> Path:
    """Return the path of a downloaded file, which is complete and has no problem.

    A file of unknown digest is fetched again if it has changed at its source. If that cannot be
    found out, the file that was fetched before is used.

    Raises:
        UserError: there is no network, the server refuses, or the bytes are not the expected ones.
    """
    address = _split(remote.url)
    shown = f"{address.scheme}://{address.netloc}{address.path}"  # without a token
    name = re.sub(r"[^\w.-]", "_", Path(address.path).name, flags=re.ASCII)[-100:] or "download"
    key = hashlib.sha256(remote.url.encode()).hexdigest()[:12]
    target = folder / f"{key}-{name}"
    if remote.digest and not _problem(target, remote):
        return target
    before = _state(target)
    with _lock(target):
        usable = not _problem(target, remote)
        if usable and (remote.digest or _state(target) != before):
            return target  # another process has fetched it meanwhile
        try:
            _fetch(remote, target, shown, usable)
        except UserError as error:
            if not usable:
                raise
            print(f"{error}; this run uses what was downloaded before, {target}", flush=True)
    return target


def refuse_secrets(url: str) -> None:
    """Refuse an address that holds a secret where a name of a variable could stand.

    Raises:
        UserError: its user's name, its password or a part of its query looks like a secret.
    """
    address = _split(url)
    for name, value in parse_qsl(f"{address.query}&{address.fragment}"):
        if SECRET.search(name) and not VARIABLE.search(value):
            raise UserError(f"the address holds a secret, {name}, {LOCKED}")


def _split(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
    except ValueError as error:
        raise UserError(f"this is not an address: {error}") from None
    if address.username or address.password:
        raise UserError(f"the address holds a user's name or password, {LOCKED}")
    return address


def _with_secrets(url: str) -> str:
    """Put the values of environment variables into an address."""

    def value(variable: re.Match[str]) -> str:
        try:
            return os.environ[variable[1]]
        except KeyError:
            raise UserError(
                f"the address names {variable[0]}, but no environment variable has that name"
            ) from None

    return VARIABLE.sub(value, url)


def _problem(path: Path, remote: Remote) -> str:
    """Say what is wrong with a file; nothing if it is as it should be."""
    if not path.exists():
        return "is not here"
    algorithm, _, expected = (remote.digest or "").partition(":")
    if expected and digest(path, algorithm) != expected:
        return (
            f"is not the file that is expected ({remote.digest}): check that no proxy or sign-in "
            "page answers in its place, and run again"
        )
    return remote.problem(path)


def _state(path: Path) -> tuple[int, int] | None:
    """Tell one version of a file from another."""
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _lock(target: Path) -> AbstractContextManager[Any]:
    """Let one process at a time write a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{target}.lock")
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        print(f"another process downloads {target.name}: waiting for it", flush=True)
        return lock.acquire()


def _fetch(remote: Remote, target: Path, shown: str, usable: bool) -> None:
    """Download a file, unless it is `usable` and has not changed at its source."""
    part, version = Path(f"{target}.part"), Path(f"{target}.version")
    url, part_version = _with_secrets(remote.url), Path(f"{part}.version")
    known = _read_version(version) if usable else {}
    for attempt in range(ATTEMPTS):
        try:
            if not _download(url, part, part_version, shown, known):
                return
            break
        except (requests.RequestException, LocationParseError) as error:
            reason = _reason(error, remote.url)
            answer = getattr(error, "response", None)
            status = answer.status_code if answer is not None else 500
            if status < 500 and status != 429:
                token = f"; if it wants a token, {ADVICE}" if status in (401, 403) else ""
                raise UserError(f"{shown} answers {reason}: check the address{token}") from None
            if isinstance(error, ValueError):  # no request was made
                raise UserError(f"cannot download {shown}: {reason}") from None
            if attempt == ATTEMPTS - 1:
                raise UserError(
                    f"cannot download {shown} ({reason}): check the network and run again,"
                    " or download it by other means and give its path"
                ) from None
            time.sleep(PAUSE * 2**attempt)
    if problem := _problem(part, remote):
        part.unlink()
        part_version.unlink(missing_ok=True)
        raise UserError(f"{shown} {problem}")
    version.unlink(missing_ok=True)
    part.replace(target)
    if remote.digest:  # which tells versions apart by itself
        part_version.unlink(missing_ok=True)
    else:
        part_version.replace(version)


def _download(
    url: str, part: Path, part_version: Path, shown: str, known: Mapping[str, str]
) -> bool:
    """Append to `part` what it lacks. If the file has changed on the server, start again.

    Args:
        known: the version of the file that is complete, if there is one.

    Returns:
        Whether there is another version of the file than that.
    """
    begun = _read_version(part_version)
    have = part.stat().st_size if _strong(begun) and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": _strong(begun)}
    else:
        conditions = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
        headers |= {key: known[name] for key, name in conditions.items() if name in known}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # the server has no more bytes
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return True
            part.unlink()
            raise requests.ConnectionError("the server has fewer bytes than are here")
        version = {name: answer.headers[name] for name in VERSION if name in answer.headers}
        # Some servers ignore the conditions, and send the same file.
        same = version == known and len(known.keys() - {"Content-Length"}) > 0
        if answer.status_code == 304 or (answer.status_code == 200 and same):
            return False
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
                part_version.write_text(json.dumps(version), encoding="utf-8")
            for chunk in answer.iter_content(CHUNK):
                shown_file.write(chunk)
    return True


def _read_version(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # there is none, or it was not written to its end
        return {}


def _strong(version: Mapping[str, str]) -> str:
    """Return what `If-Range` takes to name a version of a file, or nothing."""
    tag = version.get("ETag", "W/")
    return version.get("Last-Modified", "") if tag.startswith("W/") else tag


def _reason(error: Exception, url: str = "") -> str:
    """Return the innermost reason of a network error, without what may be secret.

    Nor does it hold addresses of objects in memory.

    Args:
        url: the address as it was given, with the names of variables.
    """
    text = re.sub(r"<[^>]*>:? ?", "", str(error))
    for variable in VARIABLE.finditer(url):
        text = text.replace(os.environ[variable[1]], variable[0])
    text = re.sub(r"(//)\S*@|\?\S*", r"\1", text)  # of an address that a server sent us to
    return text.rpartition("(Caused by ")[2].strip(" )") or type(error).__name__


def fetch_kaggle(folder: Path = DOWNLOADS) -> Path:
    """Download the competition's `train.zip` with Kaggle's own client, which resumes, too.

    Raises:
        UserError: there are no credentials, the rules were not accepted, or there is no network.
    """
    target = folder / "kaggle" / "train.zip"
    done = target.with_name("train.zip.complete")
    if not (done.exists() and target.exists()):
        with _lock(target):
            if not (done.exists() and target.exists()):
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
