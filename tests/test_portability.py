"""Stages do without what only Linux has."""

import os
import shutil
import subprocess
import sys

from catsdogs import layout

import pytest
from conftest import REPOSITORY

# What a stage imports from elsewhere comes first; it has its own ways on other systems. filelock
# is imported again, to find out what there is.
ELSEWHERE = """
import runpy, sys
import cv2, h5py, keras, matplotlib.figure, mlflow, numpy, pandas, psutil, pydantic, yaml
import ctypes, multiprocessing, os, signal

for name in [name for name in sys.modules if name.partition(".")[0] == "filelock"]:
    del sys.modules[name]
for module, names in {
    os: ["fork", "killpg", "posix_fadvise", "pread", "preadv", "sched_getaffinity", "setsid"],
    signal: ["SIGKILL", "SIGHUP", "setitimer"],
}.items():
    for name in names:
        delattr(module, name)
sys.modules |= {"fcntl": None, "resource": None, "termios": None}
multiprocessing.set_start_method("spawn", force=True)  # as on Windows and macOS


def project_asks():
    frame = sys._getframe(2)
    while frame.f_globals["__name__"].startswith("pathlib"):
        frame = frame.f_back
    return frame.f_globals["__name__"].startswith("catsdogs")


def without_proc(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc") and project_asks():
        raise FileNotFoundError(2, "there is no /proc")


class CDLL(ctypes.CDLL):
    def __init__(self, name, *arguments, **options):
        if name is None and project_asks():
            raise TypeError("the process is no library")
        super().__init__(name, *arguments, **options)


sys.addaudithook(without_proc)
ctypes.CDLL = CDLL
sys.platform = "elsewhere"
"""


LATIN = """
from catsdogs import stage
from catsdogs.commands import programs
from catsdogs.git import git
stage.run(lambda: print(git("show", "HEAD:./a"), programs.output("git", "show", "HEAD:./a")))
"""


def test_a_locale_without_accents_ends_nothing(tmp_path):
    (tmp_path / "a").write_text("train · hündin", encoding="utf-8")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "a"], [*identity, "commit", "-qm", "test"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = os.environ | ascii_only | {"PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-c", LATIN]
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert said == "train \\xb7 h\\xfcndin train \\xb7 h\\xfcndin\n"


@pytest.mark.skipif(sys.platform != "linux", reason="there is nothing to take away")
def test_stages_need_nothing_that_only_linux_has(copy):
    pixels = layout.PIXELS / layout.shard_name(0)
    paths = [layout.ARCHIVE, pixels, layout.TRAIN, layout.model("train_basic")]
    made = {path: (copy.path / path).read_bytes() for path in paths}
    for path in paths:
        (copy.path / path).unlink()
    shutil.rmtree(copy.path / ".cache")  # a lock file of Linux means a held lock elsewhere
    for stage in ("download", "split", "train_basic"):
        run = f"runpy.run_path('src/{stage}.py', run_name='__main__')"
        result = copy.run(sys.executable, "-c", f"{ELSEWHERE}\n{run}")
        assert "warning" not in result.stderr
    assert {path: (copy.path / path).read_bytes() for path in paths} == made


@pytest.mark.parametrize("stage", ["download", "train_basic", "compare"])
def test_a_python_without_the_environment_is_one_line(stage):
    """As where `.venv/bin/dvc repro` is run, and the environment is not activated."""
    command = [sys.executable, "-S", f"src/{stage}.py"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ") and "activate the environment (`. .venv/bin/activ" in line
