"""Files from the network: an address goes in, the path of a complete, checked file comes out.

Downloads stay in the main checkout, outside DVC's outputs, so that no rebuild fetches them again,
and one that was interrupted goes on where it stopped.
"""

import hashlib
import re
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from catsdogs.files import digest
from catsdogs.layout import DOWNLOADS
from catsdogs.stage import UserError

import requests
from tqdm import tqdm

TIMEOUT = (10, 60)  # seconds to connect, and between two chunks
CHUNK = 1 << 16  # bytes; what a broken connection can lose
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
KAGGLE_COMPETITION = "dogs-vs-cats"
KAGGLE_RULES = f"https://www.kaggle.com/competitions/{KAGGLE_COMPETITION}/rules"


@dataclass(frozen=True)
class Remote:
    """A file on a server. `digest` is `<algorithm>:<hex>`, or None where it is not known."""

    url: str
    digest: str | None = None


class _Retry(Exception):
    """The download broke off in a way that another attempt may mend."""


def fetch(remote: Remote, folder: Path = DOWNLOADS) -> Path:
    """Download a file once, going on where an earlier attempt stopped, and check its digest.

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
    if target.exists() and _is_right(target, remote):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shown = f"{address.scheme}://{address.hostname}{address.path}"  # a query may hold a secret
    for attempt in range(ATTEMPTS):
        try:
            _download(remote.url, part, shown)
            break
        except (requests.ConnectionError, requests.Timeout, _Retry) as error:
            if attempt == ATTEMPTS - 1:
                raise UserError(
                    f"cannot download {shown} ({_reason(error)}): check the network and run again,"
                    " or download it by other means and give its path"
                ) from None
            time.sleep(PAUSE * 2**attempt)
        except requests.RequestException as error:
            raise UserError(f"cannot download {shown}: {_reason(error)}") from None
    if not _is_right(part, remote):
        part.unlink()
        _validator(part).unlink(missing_ok=True)
        raise UserError(f"{shown} is not the file that is expected ({remote.digest}): run again")
    part.replace(target)
    _validator(part).unlink(missing_ok=True)
    return target


def _is_right(path: Path, remote: Remote) -> bool:
    algorithm, _, expected = (remote.digest or "").partition(":")
    return not expected or digest(path, algorithm) == expected


def fetch_kaggle(folder: Path = DOWNLOADS) -> Path:
    """Download the competition's `train.zip` with Kaggle's own client.

    Raises:
        UserError: there are no credentials, the rules were not accepted, or there is no network.
    """
    target = folder / "kaggle" / "train.zip"
    done = target.with_name("train.zip.complete")
    if done.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
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
        api.competition_download_file(KAGGLE_COMPETITION, "train.zip", path=target.parent)
    except requests.HTTPError as error:
        status = error.response.status_code
        advice = {
            401: "the credentials are not valid: create a new token",
            403: f"accept the competition's rules in a browser, at {KAGGLE_RULES}",
        }.get(status, "try again later")
        raise UserError(f"Kaggle answers {status}: {advice}") from None
    except requests.RequestException as error:
        raise UserError(
            f"cannot reach Kaggle ({_reason(error)}): check the network and run again, "
            "or download train.zip in a browser and give its path"
        ) from None
    if not zipfile.is_zipfile(target):
        target.unlink()
        raise UserError("Kaggle's train.zip came incomplete: run again")
    done.touch()
    return target


def _download(url: str, part: Path, shown: str) -> None:
    """Append to `part` what it lacks. A server's new version of the file starts it afresh."""
    validator = _validator(part)
    have = part.stat().st_size if part.exists() and validator.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing lies beyond what is here
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            raise _Retry("the server has fewer bytes than are here")
        if answer.status_code == 429 or answer.status_code >= 500:
            raise _Retry(f"the server answers {answer.status_code}")
        if answer.status_code not in (200, 206):
            raise UserError(
                f"{shown} answers {answer.status_code} {answer.reason}: check the address"
            )
        resumed = answer.status_code == 206
        _remember(validator, answer)
        length = answer.headers.get("Content-Length")
        start = have if resumed else 0
        total = start + int(length) if length else None
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(desc=shown, total=total, initial=start, unit="B", unit_scale=True) as bar,
        ):
            try:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
            except requests.RequestException as error:
                raise _Retry(f"the connection broke off: {_reason(error)}") from None
    if total is not None and part.stat().st_size != total:
        raise _Retry(f"{part.stat().st_size:,} of {total:,} bytes came")


def _validator(part: Path) -> Path:
    """The file that says which version of the remote file a part belongs to."""
    return part.with_name(part.name + ".version")


def _remember(validator: Path, answer: requests.Response) -> None:
    version = answer.headers.get("ETag", "")
    if not version or version.startswith("W/"):  # a weak tag may not be used in If-Range
        version = answer.headers.get("Last-Modified", "")
    if version:
        validator.write_text(version)
    else:
        validator.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The innermost reason of a network error, without addresses of objects in memory."""
    text = re.sub(r"<[^>]*>:? ?", "", str(error))
    return text.rpartition("(Caused by ")[2].strip(" )")[:200] or type(error).__name__
