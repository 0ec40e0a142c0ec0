"""Python code in a process of its own, which on Linux has TensorFlow and MLflow loaded already.

To import them takes longer than a stage on a very small sample. A fork server imports them once,
and each process is a copy of it, with signals, an exit status and an environment of its own.
Elsewhere Python starts from nothing: Windows knows no fork, and on macOS it is not safe.
"""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO
from unittest import mock

PRELOADED = ["pytest", "pandas", "matplotlib.pyplot", "sklearn.metrics", "scipy.stats"]
PRELOADED += ["pydantic", "requests", "tensorflow", "keras", "mlflow.pyfunc", "dvc.api"]
# What `catsdogs.runtime` sets before TensorFlow is imported, for the parameters of the tests.
PINNED = {"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2", "TF_CPP_MIN_LOG_LEVEL": "2"}
TESTS = Path(__file__).parent


class Python:
    """Python that runs some source text, as `python -c` does, in a folder and an environment."""

    def __init__(
        self, source: str, folder: Path, environment: Mapping[str, str], fresh: bool = False
    ) -> None:
        """Start it, `fresh` if what is loaded already would be in its way."""
        self.source = source
        start = self._start if fresh or sys.platform != "linux" else self._fork
        self._said: list[bytearray] = [bytearray(), bytearray()]
        pipes = start(folder, environment)
        self._readers = [
            threading.Thread(target=_collect, args=each, daemon=True)
            for each in zip(pipes, self._said, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    def _fork(self, folder: Path, environment: Mapping[str, str]) -> list[IO[bytes]]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with mock.patch.dict(os.environ, PINNED):
            forkserver.ensure_running()
        (out, to_out), (err, to_err) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        arguments = (self.source, folder, dict(environment), (to_out, to_err))
        process = context.Process(target=_run, args=arguments)
        process.start()
        to_out.close(), to_err.close()
        self.pid, self._join = process.pid, process.join
        self._status = lambda: process.exitcode
        return [os.fdopen(os.dup(each.fileno()), "rb", buffering=0) for each in (out, err)]

    def _start(self, folder: Path, environment: Mapping[str, str]) -> list[IO[bytes]]:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", self.source],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.pid, self._join, self._status = process.pid, process.wait, process.poll
        return [process.stdout, process.stderr]

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text."""
        while text.encode() not in self._said[0]:
            assert self._status() is None, f"ended without {text!r}:\n{self._said[1].decode()}"
            time.sleep(0.02)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        self._join()
        for reader in self._readers:
            reader.join()
        stdout, stderr = (said.decode() for said in self._said)
        return subprocess.CompletedProcess(self.source, self._status(), stdout, stderr)


def _collect(pipe: IO[bytes], said: bytearray) -> None:
    with pipe:
        while content := pipe.read(1 << 16):
            said += content


def _run(
    source: str, folder: Path, environment: dict[str, str], outputs: tuple[Connection, Connection]
) -> None:
    """Become, in a process that has just been forked, what `python -c` would have started."""
    for number, output in enumerate(outputs, 1):
        os.dup2(output.fileno(), number)
        output.close()
    # Line by line, for whoever waits for a line.
    sys.stdout, sys.stderr = (
        open(number, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    # The tests' own folders are on the path that the fork inherits.
    others = [path for path in sys.path if path not in (str(TESTS), str(TESTS.parent / "src"))]
    sys.path[:] = [*environment.get("PYTHONPATH", "").split(os.pathsep), *others]
    try:
        exec(source, {"__name__": "__main__"})
    finally:
        threading._shutdown()  # before multiprocessing ends, as Python has it when it ends
