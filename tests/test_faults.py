"""What can go wrong around a stage: it says so in a line, or does without, and spoils nothing."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from catsdogs import layout

import pytest
import requests
from conftest import PHOTOGRAPHS, STAND_IN_WEIGHTS, Checkout
from kill import Repro, locked

slow = pytest.mark.slow
STAGES = ("download", "split", "train_basic", "evaluate", "compare")
# No file may grow beyond so many bytes.
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def contents(checkout):
    """Every output, by its name; a name that holds half a file would show here."""
    folders = ("data", "models", "metrics", "plots")
    paths = [path for name in folders for path in (checkout.path / name).rglob("*")]
    return {path: path.read_bytes() for path in paths if path.is_file()}


def fails_in_one_line(result, *said):
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    for text in said:
        assert text in last


@pytest.mark.parametrize("stage", STAGES)
def test_no_room(copy, stage):
    before = contents(copy)
    result = copy.script(stage, before=LIMIT.format(size=1000), check=False)
    fails_in_one_line(result, "File too large: make room and run again")
    after = contents(copy)
    assert set(after) == set(before), "no half file is left, none is lost"
    changed = [path.name for path in after if after[path] != before[path]]
    assert changed == []


def test_no_room_for_the_model(copy):
    """The checkpoints are left out, so that the figures are written and the model is not."""
    copy.change_params({"local": {"checkpoint_steps": 1000}, "train_basic": {"dense": [99]}})
    result = copy.script("train_basic", before=LIMIT.format(size=100_000), check=False)
    fails_in_one_line(result, "models/train_basic.keras", "make room and run again")


@slow
def test_a_full_disk(made, tmp_path):
    """The checkout on a file system that is too small for the split."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        checkout = Checkout.__new__(Checkout)
        checkout.path = disk / "copy"
        ignored = shutil.ignore_patterns(".git", ".dvc", "ml*", "split", "*.keras", "docs")
        shutil.copytree(made.path, checkout.path, ignore=ignored)
        with contextlib.suppress(OSError), (disk / "ballast").open("wb") as ballast:
            while True:
                ballast.write(bytes(1 << 12))
                ballast.flush()
        os.truncate(disk / "ballast", (disk / "ballast").stat().st_size - 200_000)
        result = checkout.script("split", check=False)
        fails_in_one_line(result, "images: No space left on device: make room and run again")
        assert not list((checkout.path / "data/split").iterdir())
        (disk / "ballast").unlink()
        checkout.script("split")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_read_only_folder(copy):
    folder = copy.path / "data/split"
    folder.chmod(0o555)
    # Permissions do not stop root, unless it gives up that privilege.
    privileges = "-dac_override,-dac_read_search"
    less = ["setpriv", f"--bounding-set={privileges}", f"--inh-caps={privileges}"]
    command = [*(less if os.geteuid() == 0 else []), sys.executable, "src/split.py"]
    result = copy.run(*command, check=False)
    folder.chmod(0o755)
    fails_in_one_line(result, "data/split/", "Permission denied")


@slow
def test_two_at_once(copy):
    """The second is refused by DVC while the first one's stage runs, and disturbs nothing."""
    reference = locked(copy)
    copy.run("rm", "-rf", "dvc.lock", ".dvc/cache")
    first = Repro(copy, "train_basic")
    assert first.wait_for("train_basic")
    second = copy.run("dvc", "repro", check=False)
    assert second.returncode
    assert "is busy" in second.stderr or "Unable to acquire lock" in second.stderr
    assert first.stage.startswith("train"), "the first was still at it"
    first.wait()
    assert locked(copy)["train_basic"] == reference["train_basic"]


@pytest.fixture(scope="module")
def mlflow_server(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    artifacts = ["--artifacts-destination", str(folder / "artifacts")]
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            ["mlflow", "server", *store, *artifacts, *address],
            cwd=folder,
            env=made.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    for _ in range(120):
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                break
        time.sleep(0.5)
    yield port
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()


class Line:
    """A connection to a server that can be slow, silent or cut."""

    def __init__(self, port: int, delay: float = 0) -> None:
        self.port, self.delay, self.silent = port, delay, False
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                self.sockets += [near, far]
                threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                for source in select.select([near, far], [], [])[0]:
                    if not (content := source.recv(1 << 16)):
                        near.close(), far.close()
                        return
                    time.sleep(self.delay if source is far else 0)
                    if not self.silent:
                        (far if source is near else near).sendall(content)

    def cut(self) -> None:
        # A listener that another thread waits on goes on listening after a mere close.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        for each in (self.listener, *self.sockets):
            each.close()


def train(checkout, address, at_epoch_2=None):
    """Train under a tracking address; return what the stage said on stderr."""
    patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    process = checkout.start("train_basic", MLFLOW_TRACKING_URI=address, **patience)
    if at_epoch_2:
        process.wait_for("Epoch 2/")
        at_epoch_2()
    result = process.wait()
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


WARNING = "warning: train_basic is not recorded in MLflow"


@slow
@pytest.mark.parametrize("fault", ["slow", "cut", "silent", "silent from the start", "500"])
def test_a_server_in_trouble(copy, mlflow_server, server, fault):
    before = contents(copy)
    (copy.path / "models/train_basic.keras").unlink()
    line = Line(mlflow_server, delay=0.1 if fault == "slow" else 0)
    if fault == "500":
        server.fails = True
        errors = train(copy, server.url)
    elif fault == "slow":
        errors = train(copy, line.url)
    elif fault == "cut":
        errors = train(copy, line.url, line.cut)
    elif fault == "silent":
        errors = train(copy, line.url, lambda: setattr(line, "silent", True))
    else:
        line.silent = True
        errors = train(copy, line.url)
    line.cut()
    assert (WARNING in errors) is (fault != "slow")
    assert errors.count("warning:") == (fault != "slow"), "once, not for every epoch"
    after = contents(copy)
    changed = [path for path in after if after[path] != before[path]]
    assert changed == []


@pytest.mark.parametrize("password", ["secret", "sec@secret"])
def test_no_password_reaches_the_output(copy, password):
    errors = train(copy, f"http://somebody:{password}@127.0.0.1:9")
    assert WARNING in errors
    assert "secret" not in errors


@pytest.fixture
def three_gigabytes():
    """A group of processes that may have 3 GB of memory among them, files in memory included."""
    for root, bound in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", root, f"catsdogs-test-{os.getpid()}")
        try:
            group.mkdir()
            (group / bound).write_text("3000000000")
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        yield group / "cgroup.procs"
        group.rmdir()
        return
    pytest.skip("only root can bound a group's memory")


@slow
@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="the real photographs are not here")
def test_three_gigabytes_are_enough_for_25000_photographs(three_gigabytes, tmp_path):
    checkout = Checkout(tmp_path / "repository")
    few = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 2}
    checkout.change_params(
        {
            "data": {"source": str(PHOTOGRAPHS)},
            "local": {"checkpoint_steps": 1},
            "train_inception": {**few, "weights": str(STAND_IN_WEIGHTS)},
        }
    )
    for stage in ("download", "split", "train_inception"):
        join = f"echo $$ > {three_gigabytes} && exec {sys.executable} src/{stage}.py"
        result = checkout.run("sh", "-c", join)
        assert "warning" not in result.stderr
    shards = list((checkout.path / layout.PIXELS).iterdir())
    assert len(shards) > 1
    assert sum(path.stat().st_size for path in shards) > 25_000 * 150 * 150 * 3


def test_the_whole_is_not_written_where_a_part_fails(tmp_path):
    from catsdogs.files import replacing, write_text

    path = tmp_path / "a.txt"
    write_text(path, "before")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".part-{ended.pid}-a.txt").write_text("of a process that was killed")
    (tmp_path / f".part-{os.getppid()}-a.txt").write_text("of a process that still writes it")
    write_text(Path(path), "after")
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == [f".part-{os.getppid()}-a.txt", "a.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    from catsdogs.files import replacing

    def write(folder, *names):
        folder.mkdir()
        for name in names:
            (folder / name).write_text("new")

    path = tmp_path / "folder"
    write(path, "1", "2", "3")
    with pytest.raises(RuntimeError), replacing(path) as part:
        write(part, "1")
        raise RuntimeError
    assert sorted(path.iterdir()) == [path / "1", path / "2", path / "3"]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for left in (f".part-{ended.pid}-folder", f".part-{ended.pid}-old-folder"):
        write(tmp_path / left, "1")
    with replacing(path) as part:
        write(part, "4")
    assert list(path.iterdir()) == [path / "4"], "nothing of what was there before"
    assert list(tmp_path.iterdir()) == [path]
