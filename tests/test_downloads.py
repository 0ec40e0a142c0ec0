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


@pytest.mark.parametrize(
    ("code", "advice"),
    [(401, r"token, write \$NAME"), (403, r"\$NAME .*netrc"), (404, "address$")],
)
def test_a_refusal_is_one_line_and_hides_the_query(server, tmp_path, code, advice):
    server.answers = [status(code)]
    with pytest.raises(UserError, match=f"answers {code} .*{advice}") as error:
        fetch(Remote(f"{server.url}/a.zip?key=secret"), tmp_path)
    assert "secret" not in str(error.value)
    assert not kept(tmp_path)


@pytest.mark.parametrize("host", ["example..com", f"{'a' * 70}.com"])
def test_a_host_that_cannot_be_is_one_line(tmp_path, host):
    with pytest.raises(UserError, match=r"cannot download .*label empty or too long"):
        fetch(Remote(f"http://{host}/a.zip"), tmp_path)


@pytest.mark.parametrize("name", ["a" * 300, "猫" * 90], ids=["latin", "wide"])
def test_a_name_longer_than_a_disk_takes(server, tmp_path, name):
    server.answers = [lambda request: server.serve(request, CONTENT)]
    assert fetch(Remote(f"{server.url}/{name}.zip"), tmp_path).read_bytes() == CONTENT


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
        merge(merge(values, {"data": {"source": source, "sample_images": 20}}), changes)
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


def test_other_classes(server, run_download):
    server.files["/mine.zip"] = archive_of(
        lambda kind, number: f"{ {'cat': 'Wolves', 'dog': 'fox'}[kind] }/{number}.jpg"
    )
    names = run_download(f"{server.url}/mine.zip", data={"classes": ["wolf", "fox"]})
    assert {name.partition("/")[0] for name in names} == {"wolf", "fox"}


@pytest.mark.parametrize("source", ["sample", "microsoft", "kaggle"])
def test_sources_of_cats_and_dogs_have_no_other_classes(run_download, source):
    said = f"data.source {source} holds the classes cat and dog, .* wolf and fox: set it to"
    with pytest.raises(UserError, match=said):
        run_download(source, data={"classes": ["wolf", "fox"]})


def test_dogs_may_come_first(run_download):
    assert len(run_download("sample", data={"classes": ["dog", "cat"]})) == 20


PAGE = b"<html><body>Sign in to continue</body></html>"


def answer(content, code=200, **headers):
    """Answers with a content, and without what tells versions apart unless it is given."""

    def send(request):
        request.send_response(code)
        for name, value in {"Content-Length": len(content), **headers}.items():
            request.send_header(name.replace("_", "-"), str(value))
        request.end_headers()
        request.wfile.write(content)

    return send


def archive(seed):
    return archive_of(lambda kind, number: f"{kind}s/{seed}-{number}.jpg")


def seeds(names):
    return {name.partition("/")[2].partition("-")[0] for name in names}


def test_a_page_to_sign_in_is_not_kept(server, run_download, tmp_path):
    url = f"{server.url}/pets.zip"
    server.answers = [answer(PAGE)]
    with pytest.raises(UserError, match=f"{url} is a web page, perhaps to sign in: download"):
        run_download(url)
    assert not kept(tmp_path / ".cache")
    server.files["/pets.zip"] = archive(1)
    assert seeds(run_download(url)) == {"1"}


def test_a_page_that_was_kept_is_fetched_again(server, run_download, tmp_path):
    server.files["/pets.zip"] = archive(1)
    run_download(f"{server.url}/pets.zip")
    (path,) = (tmp_path / ".cache").glob("*.zip")
    path.write_bytes(PAGE)
    assert seeds(run_download(f"{server.url}/pets.zip")) == {"1"}


@pytest.mark.parametrize(
    "version", [{}, {"ETag": 'W/"{}"'}, {"Last_Modified": "Thu, 0{} Jan 1970 00:00:00 GMT"}]
)
def test_what_changed_at_its_source_is_fetched_again(server, run_download, version):
    """Without the mark of a version, whatever comes is taken; its length says nothing."""

    def marked(seed, **more):
        marks = {name: value.format(seed) for name, value in version.items()}
        return answer(archive(seed), **marks)

    url = f"{server.url}/pets.zip"
    for seed in (1, 2):
        server.answers = [marked(seed)]
        assert seeds(run_download(url)) == {str(seed)}
    marks = {name.replace("_", "-"): value.format(1) for name, value in version.items()}
    asked = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
    for name, value in marks.items():
        assert server.requests[1][2][asked[name]] == value


@pytest.mark.parametrize("same", [answer(b"", 304), answer(archive(1), ETag='"1"')])
def test_what_did_not_change_is_not_fetched_again(server, run_download, tmp_path, same):
    """Even if the server ignores the question."""
    server.answers = [answer(archive(1), ETag='"1"'), same]
    run_download(f"{server.url}/pets.zip")
    (path,) = (tmp_path / ".cache").glob("*.zip")
    before = path.stat().st_mtime_ns
    assert seeds(run_download(f"{server.url}/pets.zip")) == {"1"}
    assert path.stat().st_mtime_ns == before
    assert len(server.requests) == 2


@pytest.mark.parametrize("failure", [answer(PAGE), status(403), None])
def test_what_cannot_be_asked_for_is_used_as_it_is(server, run_download, capsys, failure):
    """A page, an address whose time is up, no network: and it is said."""
    server.files["/pets.zip"] = archive(1)
    run_download(f"{server.url}/pets.zip")
    server.answers = [failure]
    server.files.clear()
    if failure is None:
        server.close()
    capsys.readouterr()
    assert seeds(run_download(f"{server.url}/pets.zip")) == {"1"}
    assert "this run uses what was downloaded before" in capsys.readouterr().out


def test_a_damaged_archive_is_not_kept(server, run_download, tmp_path):
    """A server that does not say how long a file is, or has the damage itself."""
    damaged = bytearray(archive(1))
    damaged[len(damaged) // 2] ^= 255
    server.answers = [answer(bytes(damaged), ETag='"1"')]
    server.files["/pets.zip"] = archive(2)
    with pytest.raises(UserError, match=r"is damaged .* the next run downloads it"):
        run_download(f"{server.url}/pets.zip")
    assert not list((tmp_path / ".cache").glob("*.zip"))
    assert seeds(run_download(f"{server.url}/pets.zip")) == {"2"}


@pytest.mark.parametrize(
    "query", ["token=hush", "a=b&X-Amz-Signature=hush", "sig=hush", "apikey=hush", "#key=hush"]
)
def test_a_secret_in_an_address_is_refused(server, run_download, query):
    with pytest.raises(UserError, match=r"holds a secret, .* write \$NAME in its place") as error:
        run_download(f"{server.url}/pets.zip?{query}")
    assert "hush" not in str(error.value)
    assert not server.requests


def test_a_word_that_only_begins_like_a_secret_is_none(server, run_download):
    server.files["/pets.zip"] = archive(1)
    run_download(f"{server.url}/pets.zip?keyword=cats&author=me")


@pytest.mark.parametrize("source", ["s3://me:hush@pets?key=hush", "http://[hush?key=hush"])
def test_another_address_is_one_line_without_its_secrets(run_download, source):
    said = r"http and https are known: .* give its path|not an address"
    with pytest.raises(UserError, match=said) as error:
        run_download(source)
    assert "hush" not in str(error.value)


@pytest.mark.parametrize(
    "failure", [None, status(403), answer(b"", 302, Location="x:/hush/?hush")]
)
def test_a_secret_in_a_variable_stays_there(
    server, run_download, monkeypatch, tmp_path, capfd, failure
):
    server.files["/hush/pets.zip"] = archive(1)
    server.answers = [failure]
    source = f"{server.url}/$PETS_PATH/pets.zip?a=b&token=${{PETS_TOKEN}}"
    with pytest.raises(UserError, match="names \\$PETS_PATH, but no environment variable"):
        run_download(source)
    monkeypatch.setenv("PETS_PATH", "hush")
    monkeypatch.setenv("PETS_TOKEN", "hush-hush")
    said = ""
    try:
        run_download(source)
        assert failure is None
    except UserError as error:
        said = str(error)
        assert failure and "\n" not in said
    assert server.requests[0][1] == "/hush/pets.zip?a=b&token=hush-hush"
    assert "hush" not in said + "".join(capfd.readouterr())
    for path in tmp_path.rglob("*"):
        assert "hush" not in str(path)
        assert path.is_dir() or b"hush" not in path.read_bytes()


def test_a_name_and_password_come_from_netrc(server, run_download, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.files["/pets.zip"] = archive(1)
    run_download(f"{server.url}/pets.zip")
    assert server.requests[0][2]["Authorization"] == "Basic bWU6aHVzaA=="


def test_what_was_done_with_the_files_is_counted(run_download, tmp_path, capsys):
    files = {f"a/{kind}s/{i}.jpg": f"{kind}{i}" for i in range(12) for kind in ("cat", "dog")}
    files |= {f"b/{name}": content for name, content in files.items()}
    files |= {"b/a/cats/0.jpg": "another", "c/cats/9.jpg": "dog9", "c/cats/1.heic": "?"}
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    run_download(str(tmp_path / "pets.zip"))
    metrics = json.loads((tmp_path / "metrics/download.json").read_text())
    assert metrics["images"] == {"cat": 14, "dog": 12}
    assert metrics["left_out"] == {"count": 1, "first": ["c/cats/1.heic"]}
    assert metrics["copies"]["count"] == 23
    assert len(metrics["copies"]["first"]) == 10
    assert metrics["contradictions"]["first"] == ["a/dogs/9.jpg", "c/cats/9.jpg"]
    assert metrics["renamed"] == {
        "count": 4,
        "first": ["a/cats/0.jpg", "a/cats/9.jpg", "b/a/cats/0.jpg", "c/cats/9.jpg"],
    }
    out = capsys.readouterr().out
    assert "14 cat and 12 dog images; 1 other files left out (1 .heic)" in out
    assert "23 files left out as copies of files in another folder: b/a/cats/1.jpg, " in out
    assert "2 images have the bytes of one of the other class: look at them: a/dogs/9.jpg" in out


@pytest.mark.parametrize(
    "source", ["~/my photos (1)/pets=2,v1.zip", "https://h.org/p.zip?a=b&token=$TOKEN", "a{b}[c]"]
)
def test_any_source_can_be_set_as_the_pages_show(tmp_path, source):
    from dvc.utils.hydra import apply_overrides

    assert "-S 'data.source=\"~/my photos/" in (REPOSITORY / "README.md").read_text()
    (tmp_path / "params.yaml").write_text("data:\n  source: sample\n")
    apply_overrides(tmp_path / "params.yaml", [f'data.source="{source}"'])
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["data"]["source"] == source


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
