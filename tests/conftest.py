"""What several tests need: a copy of the repository, tiny images, a server on loopback."""

import contextlib
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image
from processes import Python

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
PHOTOGRAPHS = SHARED / "data" / "dogs-vs-cats.zip"
STAND_IN_WEIGHTS = SHARED / "weights" / "inception_v3_notop_stand_in.h5"

# The command `catsdogs`, also where the package is not installed.
CATSDOGS = (sys.executable, "-c", "from catsdogs.commands import cli; cli.main()")
# The first makes the repository that most of them need; the second does not wait for it.
LONGEST = (
    "test_pipeline test_container test_training test_experiments test_interruptions test_faults "
)
ARTIFACT_PATHS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
}

# The whole pipeline in the fewest steps that still use every part of it.
TINY = {
    "data": {"sample_images": 60},
    "split": {"image_size": 76},
    "rehearsal": {"steps": 1},
    "local": {"checkpoint_steps": 1},
    "train_basic": {"filters": [4, 4], "dense": [8]},
    "train_augmented": {"filters": [4, 4], "dense": [8]},
    "train_inception": {"dense": [8], "untrained": {"statistics_batches": 1}},
    "evaluate": {"mistakes": 4, "hits": 4, "same_images": 4},
}
FEW_STEPS = {"epochs": 2, "steps_per_epoch": 3, "validation_steps": 2, "batch_size": 4}
for stage in ("train_basic", "train_augmented", "train_inception"):
    TINY[stage] |= FEW_STEPS


def merge(values: dict, changes: dict) -> dict:
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(values[key], value)
        else:
            values[key] = value
    return values


class Checkout:
    """A copy of the working tree, as a Git repository of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.output = ""
        files = self._git("ls-files", "--cached", "--others", "--exclude-standard", at=REPOSITORY)
        for name in files.splitlines():
            if (REPOSITORY / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / name, path / name)
        self._git("init", "--quiet", at=path)
        self.commit()

    def copy(self, path: Path) -> "Checkout":
        """A copy of what is here now, DVC's outputs and MLflow's store included."""
        shutil.copytree(self.path, path, symlinks=True)
        copied = Checkout.__new__(Checkout)
        copied.path, copied.output = path, self.output
        if (path / "mlflow.db").exists():  # which knows its artifacts by their absolute paths
            with sqlite3.connect(path / "mlflow.db") as store:
                for table, column in ARTIFACT_PATHS.items():
                    change = f"update {table} set {column} = replace({column}, ?, ?)"
                    store.execute(change, (str(self.path), str(path)))
        return copied

    def _git(self, *arguments: str, at: Path) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=at, check=True, capture_output=True, text=True).stdout

    def git(self, *arguments: str) -> str:
        return self._git(*arguments, at=self.path)

    def commit(self) -> None:
        self.git("add", "--all")
        self.commit_index()

    def commit_index(self) -> None:
        self.git("commit", "--quiet", "--allow-empty", "--message", "test")

    def change_params(self, changes: dict) -> None:
        path = self.path / "params.yaml"
        values = merge(yaml.safe_load(path.read_text()), changes)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def environment(self, **changes: str) -> dict[str, str]:
        """That of a person who has activated the environment in which the tests run."""
        environment = {name: value for name, value in os.environ.items() if "DVC" not in name}
        environment.pop("MLFLOW_TRACKING_URI", None)
        environment["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        environment["PYTHONPATH"] = str(self.path / "src")
        return environment | changes

    def run(self, *command: str, check: bool = True, **environment: str) -> CompletedProcess:
        """Run a program; `check` that it ends well."""
        result = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )
        return self._checked(result) if check else result

    def start(
        self, stage: str, before: str = "", fresh: bool = False, **environment: str
    ) -> Python:
        """Start a stage's script in a process of its own.

        Args:
            stage: its name.
            before: Python that this process runs first.
            fresh: whether nothing may be imported yet: for Keras on JAX.
            environment: variables besides those of `environment`.
        """
        path = str(self.path / f"src/{stage}.py")
        script = f"import runpy; runpy.run_path({path!r}, run_name='__main__')"
        source, variables = f"{before}\n{script}", self.environment(**environment)
        return Python(source, self.path, variables, fresh)

    def script(
        self,
        stage: str,
        before: str = "",
        check: bool = True,
        fresh: bool = False,
        **environment: str,
    ) -> CompletedProcess:
        """Run a stage's script to its end."""
        result = self.start(stage, before, fresh, **environment).wait()
        return self._checked(result) if check else result

    def catsdogs(
        self, *arguments: str, before: str = "", check: bool = True, **environment: str
    ) -> CompletedProcess:
        """Run a command of `catsdogs`."""
        source = (
            f"{before}\nimport sys; sys.argv = {['catsdogs', *arguments]!r}\n"
            "from catsdogs.commands.cli import main; main()"
        )
        result = Python(source, self.path, self.environment(**environment)).wait()
        return self._checked(result) if check else result

    @staticmethod
    def _checked(result: CompletedProcess) -> CompletedProcess:
        if result.returncode:
            said = f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
            raise AssertionError(f"{result.args} ended {result.returncode}:\n{said}")
        return result

    def forget_runs(self) -> None:
        """Empty MLflow's store; a new one would take MLflow seconds to make."""
        shutil.rmtree(self.path / "mlartifacts", ignore_errors=True)
        with contextlib.closing(sqlite3.connect(self.path / "mlflow.db")) as store, store:
            tables = "select name from sqlite_master where type = 'table'"
            for (table,) in store.execute(tables).fetchall():
                if table != "alembic_version":
                    store.execute(f"delete from {table}")


def run_python(code: str) -> str:
    """What a Python of its own prints that runs this code in the repository."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": "src"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def runs(checkout: Checkout) -> dict[str, dict]:
    """Each run that MLflow's default store shows: name, status, tags, parameters, metrics.

    But for how long it took, which is never the same.
    """
    found = {}
    with sqlite3.connect(checkout.path / "mlflow.db") as store:
        shown = "select run_uuid, name, status from runs where lifecycle_stage = 'active'"
        for identity, name, status in store.execute(shown).fetchall():

            def rows(columns: str, table: str, identity: str = identity) -> list[tuple]:
                query = f"select {columns} from {table} where run_uuid = ? order by 1, 2"
                return store.execute(query, (identity,)).fetchall()

            found[identity] = {
                "name": name,
                "status": status,
                "tags": dict(rows("key, value", "tags")),
                "params": dict(rows("key, value", "params")),
                "metrics": [
                    row for row in rows("key, step, value", "metrics") if row[0] != "cpu_seconds"
                ],
            }
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all processes have work until the end."""
    items.sort(key=lambda item: LONGEST.find(item.path.stem) % len(LONGEST))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    copy = Checkout(tmp_path / "repository")
    copy.change_params(TINY)
    return copy


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A repository after its first `dvc repro`, not to be changed; all test processes share it."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent / f"made-{session}" if session else folder / "made"
    folder.mkdir(exist_ok=True)
    kept = folder / "made.pickle"
    with FileLock(folder / "lock"):
        if not kept.exists():
            made = Checkout(folder / "repository")
            made.change_params(TINY)
            (made.path / "dvc.lock").unlink(missing_ok=True)
            made.commit()
            repro = made.run("dvc", "repro")
            made.output = repro.stdout + repro.stderr
            made.commit()
            kept.write_bytes(pickle.dumps(made))
        return pickle.loads(kept.read_bytes())


@pytest.fixture
def copy(made, tmp_path):
    """A copy of it, to be changed."""
    return made.copy(tmp_path / "copy")


def photo(seed: int, size: tuple[int, int] = (24, 20), kind: str = "JPEG") -> bytes:
    """A small picture of noise, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


class Server:
    """Serves `files` by path on loopback, with ranges; `answers` come first, one a request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: list = []
        self.fails = False  # whatever is asked for
        self.requests: list = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((self.command, self.path, dict(self.headers)))
                if server.fails:
                    self.send_error(500)
                elif server.answers and (answer := server.answers.pop(0)) is not None:
                    answer(self)
                elif self.path.partition("?")[0] not in server.files:
                    self.send_error(404)
                else:
                    server.serve(self, server.files[self.path.partition("?")[0]])

            def do_POST(self) -> None:
                self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @staticmethod
    def serve(request: BaseHTTPRequestHandler, content: bytes, cut: int | None = None) -> None:
        """Send content, or the asked range; with `cut`, break off after so many bytes of it."""
        start = 0
        wanted = request.headers.get("Range")
        if wanted and request.headers.get("If-Range", '"v1"') == '"v1"':
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(content)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header(
                "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
            )
        else:
            request.send_response(200)
        request.send_header("Content-Type", "application/zip")
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("ETag", '"v1"')
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start:][:cut])
        if cut is not None:
            request.wfile.flush()
            request.connection.close()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    """Chromium, where it is installed; on CI it has to be."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if not chromium and "CI" not in os.environ:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)


@pytest.fixture(scope="session")
def tensorflow():
    """TensorFlow, imported as the stages import it; it cannot be pinned a second time."""
    from catsdogs import runtime

    runtime.pin(runtime.Runtime("tensorflow", "float32", 2, True, "AVX2", 1), seed=1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A store without runs: MLflow takes seconds to make its tables."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    from catsdogs.tracking import store

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        store.connect()
    return path


@pytest.fixture
def client(monkeypatch, tmp_path, empty_store):
    """A client of MLflow's, of a store of this test's own."""
    from catsdogs.tracking import store

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    return store.connect()
