"""The servers of a team, on loopback: PostgreSQL, S3 (moto's), and MLflow on both.

MLflow runs as the package has it, with what only a server needs in an environment beside it.
"""

import contextlib
import getpass
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import pytest
import requests
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent
PINS = REPOSITORY / "requirements-team.txt"
PAGE = (REPOSITORY / "docs" / "team.md").read_text(encoding="utf-8")
PACKAGES = ("boto3", "flask-wtf", "psycopg2-binary", "dvc-s3", "moto[server]>=5,<6")
PASSWORD = "a long password"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
# moto's server, which answers with an error of S3 as long as there is a file that says which.
MOTO = """
import json
from pathlib import Path
from moto import server
real = server.DomainDispatcherApplication.__call__
def call(self, environ, start_response):
    methods, status, code = "", "", ""
    if Path("fault.json").exists():
        methods, status, code = json.loads(Path("fault.json").read_text())
    if environ["REQUEST_METHOD"] not in methods.split():
        return real(self, environ, start_response)
    start_response(status, [("Content-Type", "application/xml")])
    said = f"<Error><Code>{code}</Code><Message>{code} of the test</Message></Error>"
    return [said.encode() * (environ["REQUEST_METHOD"] != "HEAD")]
server.DomainDispatcherApplication.__call__ = call
server.main()
"""
# Of S3 and of what speaks it, for each bad day: requests, status and code.
S3_FAULTS = {
    "full": ("PUT POST", "507 Insufficient Storage", "XMinioStorageFull"),
    "read-only": ("PUT POST", "403 Forbidden", "AccessDenied"),
    "password": ("GET HEAD PUT POST", "403 Forbidden", "InvalidAccessKeyId"),
    "clock": ("GET HEAD PUT POST", "403 Forbidden", "RequestTimeTooSkewed"),
}
# What PostgreSQL says, and the number that it gives, when its disk is full.
FULL = """
create function full_disk() returns trigger language plpgsql as $$ begin raise exception
    'could not extend file "base/5/16384": No space left on device' using errcode = 'disk_full';
end $$;
create trigger full_disk before insert on metrics execute function full_disk();
"""


def on_page(begin: str) -> str:
    """A block of code on the page for a team that begins so."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if block.startswith(begin))
    return found.replace("\\\n", "")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def programs() -> Path:
    """The programs of an environment that is made once, and kept in the temporary folder."""
    if sys.platform == "win32":
        pytest.skip("PostgreSQL and moto are started as on Linux and macOS")
    known = hashlib.sha256(PINS.read_bytes() + f"{PACKAGES}{sys.executable}".encode()).hexdigest()[
        :12
    ]
    folder = Path(tempfile.gettempdir(), f"catsdogs-servers-{getpass.getuser()}-{known}")
    with FileLock(f"{folder}.lock"):
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=not shutil.which("uv"))
            python = folder / "bin" / "python"
            pip = (
                ["uv", "pip", "install", "--python", python]
                if shutil.which("uv")
                else [python, "-m", "pip", "install"]
            )
            # The pins have markers and no extras, so that they may be constraints.
            command = [*pip, "--quiet", "--constraint", PINS, *PACKAGES]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"the servers cannot be installed: {made.stderr[-300:]}")
            (path,) = (folder / "lib").glob("python*/site-packages")
            (path / "tests.pth").write_text("\n".join(site.getsitepackages()))
            (folder / "ready").touch()
    return folder / "bin"


class Program:
    """A server of its own process group, which can be stopped and started again."""

    def __init__(self, command, folder, environment=None, user=None):
        self.command, self.folder, self.user = [str(each) for each in command], folder, user
        self.environment = {**os.environ, **(environment or {})}
        self.process = None

    def start(self):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                user=self.user,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, number=signal.SIGTERM):
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            self.process.wait(60)
            self.process = None

    def wait_for(self, ready):
        for _ in range(240):
            with contextlib.suppress(OSError):
                if ready():
                    return
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            time.sleep(0.5)
        raise AssertionError((self.folder / "log").read_text()[-3000:])


class Postgres(Program):
    """PostgreSQL, which refuses to run as root: then it runs as the user `postgres`."""

    def __init__(self):
        found = [shutil.which("postgres"), *Path("/usr/lib/postgresql").glob("*/bin/postgres")]
        binary = next((Path(each) for each in reversed(found) if each), None)
        if binary is None:
            pytest.skip("PostgreSQL is not installed")
        # pytest's own folders are their owner's only.
        folder = Path(tempfile.mkdtemp(prefix="catsdogs-postgres-"))
        self.port, user = free_port(), "postgres" if os.getuid() == 0 else None
        if user:
            try:
                shutil.chown(folder, user)
            except LookupError:
                folder.rmdir()
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        command = [binary.with_name("initdb"), "-D", "data", "-U", "team", "-A", "trust"]
        command += ["-E", "UTF8", "--no-sync"]
        made = subprocess.run(
            command, cwd=folder, user=user, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        options = ["-D", "data", "-h", "127.0.0.1", "-p", self.port, "-k", ""]
        super().__init__([binary, *options], folder, user=user)
        self.programs = binary.parent
        self.url = f"postgresql+psycopg2://team@127.0.0.1:{self.port}/postgres"

    def start(self):
        super().start()
        ready = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        self.wait_for(lambda: subprocess.run(ready, check=False).returncode == 0)

    def run(self, statements):
        command = [self.programs / "psql", "-q", "-v", "ON_ERROR_STOP=1"]
        command += ["-d", self.url.replace("+psycopg2", ""), "-c", statements]
        subprocess.run(command, check=True)


class Bucket(Program):
    """S3's server. It keeps objects in memory, so that a new start begins empty."""

    def __init__(self, folder, names):
        folder.mkdir()
        port = free_port()
        self.url, self.names = f"http://127.0.0.1:{port}", names
        super().__init__(
            [programs() / "python", "-c", MOTO, "-H", "127.0.0.1", "-p", port], folder
        )

    def start(self):
        super().start()
        self.wait_for(lambda: requests.get(self.url, timeout=5).ok)
        for name in self.names:
            requests.put(f"{self.url}/{name}", timeout=60).raise_for_status()

    @contextlib.contextmanager
    def fault(self, methods, status, code):
        """Let the server answer these methods so."""
        (self.folder / "fault.json").write_text(json.dumps([methods, status, code]))
        try:
            yield
        finally:
            (self.folder / "fault.json").unlink()


class Team:
    """The three servers, MLflow's as the page for a team has it."""

    def __init__(self, folder):
        binaries = programs()
        folder.mkdir()
        self.database = Postgres()
        self.bucket = Bucket(folder / "bucket", ["runs"])
        (folder / "mlflow").mkdir()
        self.port = free_port()

        def filled(text):
            for shown, here in {
                "5000": str(self.port),
                "0.0.0.0": "127.0.0.1",
                "mlflow.example.org": "127.0.0.1",
                "postgresql+psycopg2://mlflow:PASSWORD@127.0.0.1/mlflow": self.database.url,
                "s3://BUCKET/mlflow": "s3://runs/mlflow",
            }.items():
                text = text.replace(shown, here)
            return text

        auth = folder / "mlflow" / "team.ini"
        auth.write_text(filled(on_page("[mlflow]")))
        program, *options = shlex.split(filled(on_page("server/bin/mlflow server")))
        assert program == "server/bin/mlflow"
        variables = {
            **KEYS,
            "MLFLOW_S3_ENDPOINT_URL": self.bucket.url,
            "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a long secret",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "AWS_MAX_ATTEMPTS": "1",  # a fault of the test's does not go away by itself
        }
        command = [binaries / "python", "-m", "mlflow", *options]
        self.mlflow = Program(command, folder / "mlflow", variables)
        self.servers = [self.database, self.bucket, self.mlflow]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def variables(self, name="admin", password=PASSWORD):
        """What the page has a colleague set."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": password,
        }

    def add(self, name):
        """Add a colleague, and return the variables for them."""
        said = requests.post(
            f"{self.url}/api/2.0/mlflow/users/create",
            json={"username": name, "password": PASSWORD},
            auth=("admin", PASSWORD),
            timeout=60,
        )
        said.raise_for_status()
        return self.variables(name)

    def start(self):
        self.database.start()
        self.bucket.start()
        self.start_mlflow()

    def start_mlflow(self):
        self.mlflow.start()
        health = f"{self.url}/health"
        self.mlflow.wait_for(lambda: requests.get(health, timeout=5).ok)

    def kill(self):
        """End MLflow and the database, as a machine that loses its power does."""
        self.mlflow.stop(signal.SIGKILL)
        self.database.stop(signal.SIGQUIT)  # at once, so that it has to recover

    def stop(self):
        for server in reversed(self.servers):
            server.stop(signal.SIGINT if server is self.database else signal.SIGTERM)
        shutil.rmtree(self.database.folder)


@contextlib.contextmanager
def started(server):
    """Start a server, or a team's, and end it."""
    try:
        server.start()
        yield server
    finally:
        server.stop()
