import hashlib
import io
import json
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import download
from catsdogs.data import downloads
from catsdogs.data.downloads import Remote, fetch
from catsdogs.models import weights
from catsdogs.stage import UserError

import pytest
import yaml
from conftest import REPOSITORY, STAND_IN_WEIGHTS, Server, merge, photo

CONTENT = bytes(range(256)) * 5000


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0)


def digest_of(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def kept(folder):
    """The files of a folder of downloads, but for their locks."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def cut(count):
    return lambda request: Server.serve(request, CONTENT, cut=count)


def status(code):
    return lambda request: request.send_error(code)


def test_a_file_is_fetched_once(server, tmp_path):
    server.files["/a.zip"] = CONTENT
    remote = Remote(f"{server.url}/a.zip", digest_of(CONTENT))
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert len(kept(tmp_path)) == 1


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.files["/a.zip"] = CONTENT
    server.answers = [cut(700_000)]
    assert fetch(Remote(f"{server.url}/a.zip"), tmp_path).read_bytes() == CONTENT
    start = int(server.requests[1][2]["Range"].removeprefix("bytes=").rstrip("-"))
    assert 700_000 - downloads.CHUNK <= start <= 700_000
    assert server.requests[1][2]["If-Range"] == '"v1"'


def test_a_later_process_goes_on_too(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.files["/a.zip"] = CONTENT
    server.answers = [cut(200_000)]
    remote = Remote(f"{server.url}/a.zip", digest_of(CONTENT))
    with pytest.raises(UserError, match="cannot download"):
        fetch(remote, tmp_path)
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert server.requests[1][2]["Range"].startswith("bytes=1")


def test_two_processes_do_not_disturb_each_other(server, tmp_path, capsys):
    """The second waits, and finds the file."""
    started = threading.Event()

    def slow(request):
        started.set()
        time.sleep(0.5)
        Server.serve(request, CONTENT)

    server.answers = [slow]
    remote = Remote(f"{server.url}/a.zip")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(fetch, remote, tmp_path)
        started.wait()
        second = pool.submit(fetch, remote, tmp_path)
        assert first.result() == second.result()
    assert first.result().read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert "another process downloads" in capsys.readouterr().out


def test_a_part_of_unknown_version_is_not_continued(server, tmp_path, monkeypatch):
    """Killed when it had begun the new version's part, and not yet noted which it is."""
    server.files["/a.zip"] = CONTENT
    server.answers = [cut(200_000)]
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    remote = Remote(f"{server.url}/a.zip")
    with pytest.raises(UserError, match="cannot download"):
        fetch(remote, tmp_path)
    (version,) = tmp_path.glob("*.version")
    version.unlink()
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert "Range" not in server.requests[1][2]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    def newer(request):
        request.headers.replace_header("If-Range", '"v0"')
        Server.serve(request, CONTENT[::-1])

    server.answers = [cut(200_000), newer]
    assert fetch(Remote(f"{server.url}/a.zip"), tmp_path).read_bytes() == CONTENT[::-1]


def test_busy_servers_are_asked_again(server, tmp_path):
    server.files["/a.zip"] = CONTENT
    server.answers = [status(429), status(500), status(503)]
    assert fetch(Remote(f"{server.url}/a.zip"), tmp_path).read_bytes() == CONTENT


def test_a_server_that_hangs_is_asked_again(server, tmp_path, monkeypatch):
    """Once before it answers, and once in the middle of the file."""
    monkeypatch.setattr(downloads, "TIMEOUT", (1, 0.3))
    server.files["/a.zip"] = CONTENT

    def stalls(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.send_header("ETag", '"v1"')
        request.end_headers()
        request.wfile.write(CONTENT[:300_000])
        request.wfile.flush()
        time.sleep(1)

    server.answers = [lambda _: time.sleep(1), stalls]
    assert fetch(Remote(f"{server.url}/a.zip"), tmp_path).read_bytes() == CONTENT
    assert int(server.requests[2][2]["Range"].removeprefix("bytes=").rstrip("-")) > 200_000


def test_a_wrong_length_is_noticed(server, tmp_path):
    """Too long a promise is a broken connection; too short a one gives other bytes."""

    def promises(length):
        def answer(request):
            request.send_response(200)
            request.send_header("Content-Length", str(length))
            request.end_headers()
            request.wfile.write(CONTENT[:length])

        return answer

    server.files["/a.zip"] = CONTENT
    server.answers = [promises(len(CONTENT) + 1)]
    assert fetch(Remote(f"{server.url}/a.zip"), tmp_path).read_bytes() == CONTENT
    server.answers = [promises(1000)]
    with pytest.raises(UserError, match="is not the file that is expected"):
        fetch(Remote(f"{server.url}/a.zip?other", digest_of(CONTENT)), tmp_path)


def test_an_address_with_a_password_is_refused(server, tmp_path):
    address = server.url.replace("//", "//somebody:secret@")
    with pytest.raises(UserError, match=r"~/\.netrc") as error:
        fetch(Remote(f"{address}/a.zip"), tmp_path)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("code", [403, 404])
def test_a_refusal_is_one_line_and_hides_the_query(server, tmp_path, code):
    server.answers = [status(code)]
    with pytest.raises(UserError, match=f"answers {code}") as error:
        fetch(Remote(f"{server.url}/a.zip?key=secret"), tmp_path)
    assert "secret" not in str(error.value)
    assert not kept(tmp_path)


def test_wrong_bytes_are_not_kept(server, tmp_path):
    server.files["/a.zip"] = CONTENT
    with pytest.raises(UserError, match="is not the file that is expected"):
        fetch(Remote(f"{server.url}/a.zip", digest_of(b"other")), tmp_path)
    assert not kept(tmp_path)


def test_a_kept_file_that_rotted_is_fetched_anew(server, tmp_path):
    server.files["/a.zip"] = CONTENT
    remote = Remote(f"{server.url}/a.zip", digest_of(CONTENT))
    kept = fetch(remote, tmp_path)
    kept.write_bytes(b"rotten")
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


def test_no_network_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="check the network and run again, or download it by"):
        fetch(Remote("http://127.0.0.1:9/a.zip"), tmp_path)


def archive_of(layout):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(6):
            for kind in ("cat", "dog"):
                archive.writestr(layout(kind, number), photo(2 * number + (kind == "dog")))
    return stream.getvalue()


@pytest.fixture
def run_download(tmp_path, monkeypatch):
    """Run the stage on a source; return the names of the images that it stores."""
    monkeypatch.chdir(tmp_path)
    for function in (fetch, downloads.fetch_kaggle):
        monkeypatch.setattr(function, "__defaults__", (tmp_path / ".cache",))

    def run(source, **changes):
        values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
        merge(values, {"data": {"source": source, "sample_images": 20}, **changes})
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        download.main()
        with zipfile.ZipFile("data/raw/images.zip") as stored:
            return stored.namelist()

    return run


def test_microsoft(server, run_download, monkeypatch):
    content = archive_of(lambda kind, number: f"PetImages/{kind.title()}/{number}.jpg")
    server.files["/pets.zip"] = content
    remote = Remote(f"{server.url}/pets.zip", digest_of(content))
    monkeypatch.setattr(download, "MICROSOFT", remote)
    names = run_download("microsoft")
    assert names[:2] == ["cat/0.jpg", "cat/1.jpg"]
    assert len(names) == 12


def test_a_url(server, run_download):
    server.files["/mine.zip"] = archive_of(lambda kind, number: f"train/{kind}.{number}.jpg")
    assert len(run_download(f"{server.url}/mine.zip")) == 12


@pytest.fixture
def kaggle(server, monkeypatch):
    """Kaggle's own client, directed to loopback."""
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "0123456789")
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, server.url)

    def redirect(request):
        server.asked = json.loads(request.body)
        request.send_response(302)
        request.send_header("Location", f"{server.url}/signed/train.zip?token=secret")
        request.send_header("Content-Length", "0")
        request.end_headers()

    server.answers = [redirect]
    return server


def test_kaggle(kaggle, run_download):
    kaggle.files["/signed/train.zip"] = archive_of(
        lambda kind, number: f"train/{kind}.{number}.jpg"
    )
    names = run_download("kaggle")
    assert len(names) == 12
    assert kaggle.asked == {"competitionName": "dogs-vs-cats", "fileName": "train.zip"}
    run_download("kaggle")
    assert len(kaggle.requests) == 2, "nothing is asked once the file is here"


def test_kaggle_whose_rules_were_not_accepted(kaggle, tmp_path):
    kaggle.answers = [status(403)]
    with pytest.raises(UserError, match="accept the competition's rules in a browser, at https"):
        downloads.fetch_kaggle(tmp_path)


def test_kaggle_without_network(kaggle, server, tmp_path):
    server.close()
    with pytest.raises(UserError, match="cannot reach Kaggle"):
        downloads.fetch_kaggle(tmp_path)


def test_kaggle_without_credentials(checkout, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(checkout.path))
    checkout.change_params({"data": {"source": "kaggle"}})
    result = checkout.script("download", check=False)
    assert result.returncode == 1
    assert "Kaggle wants credentials" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "source", ["sampel", "nowhere/photos.zip", "/nowhere/photos.zip", "~nobody/x"]
)
def test_a_source_that_is_nothing(run_download, tmp_path, source):
    with pytest.raises(UserError) as error:
        run_download(source)
    said = str(error.value)
    assert said.startswith(f"data.source is '{source}': neither sample, microsoft, kaggle")
    assert "\n" not in said
    assert not (tmp_path / "data").exists()


def test_imagenet_weights_come_while_download_runs(server, run_download, monkeypatch):
    server.files["/notop.h5"] = b"weights"
    remote = Remote(f"{server.url}/notop.h5", digest_of(b"weights"))
    monkeypatch.setattr(weights, "IMAGENET", remote)
    run_download("sample", train_inception={"weights": "imagenet"})
    assert [path for _, path, _ in server.requests] == ["/notop.h5"]
    assert weights.locate("imagenet").read_bytes() == b"weights"


def test_imagenet_is_the_file_that_keras_names():
    import ast
    import importlib.util
    from pathlib import Path

    keras = Path(importlib.util.find_spec("keras").origin).parent
    tree = ast.parse((keras / "src/applications/inception_v3.py").read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert weights.IMAGENET.url in texts
    assert weights.IMAGENET.digest.removeprefix("md5:") in texts


def test_weights_that_are_not_inceptions(tmp_path):
    import h5py

    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["kernel"] = [1.0, 2.0]
    with pytest.raises(
        UserError, match=r"holds 2 parameters and InceptionV3 .* of another network"
    ):
        weights.locate(str(other))
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(UserError, match="is damaged or not an HDF5 file"):
        weights.locate(str(tmp_path / "text.h5"))
    with pytest.raises(UserError, match="neither imagenet, random nor a file"):
        weights.locate("nowhere.h5")


@pytest.mark.skipif(not STAND_IN_WEIGHTS.exists(), reason="the stand-in weights are not here")
def test_weights_in_keras_own_layout():
    assert weights.locate(str(STAND_IN_WEIGHTS)) == STAND_IN_WEIGHTS
    assert weights.locate("random") is None
