"""Stages do without what only Linux has."""

import shutil
import sys

from catsdogs import layout

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="there is nothing to take away")
def test_stages_need_nothing_that_only_linux_has(copy):
    paths = [layout.ARCHIVE, layout.PIXELS, layout.TRAIN, layout.model("train_basic")]
    made = {path: (copy.path / path).read_bytes() for path in paths}
    for path in paths:
        (copy.path / path).unlink()
    shutil.rmtree(copy.path / ".cache")  # a lock file of Linux means a held lock elsewhere
    for stage in ("download", "split", "train_basic"):
        run = f"runpy.run_path('src/{stage}.py', run_name='__main__')"
        result = copy.run(sys.executable, "-c", f"{ELSEWHERE}\n{run}")
        assert "warning" not in result.stderr
    assert {path: (copy.path / path).read_bytes() for path in paths} == made
