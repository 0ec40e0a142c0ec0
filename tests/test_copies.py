"""A stage of a copy of the repository runs the copy's own package, whatever is installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import REPOSITORY

# Where this process and one that it starts have the package from.
SHOW = """
import multiprocessing
from pathlib import Path

from catsdogs import layout, stage


def files():
    import catsdogs

    return [catsdogs.__file__, layout.__file__, stage.__file__]


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        Path("shown.txt").write_text("\\n".join(files() + pool.apply(files)))
"""
PIPELINE = """
stages:
  show:
    cmd: python src/show.py
    deps: [src]
    params: [seed]
    outs:
      - shown.txt:
          cache: false
"""


class Repository:
    def __init__(self, path, environment):
        self.path, self.environment = path, environment

    def run(self, *command):
        """Run a command and return what it printed; it may fail."""
        how = {"cwd": self.path, "env": self.environment, "capture_output": True, "text": True}
        return subprocess.run(command, check=False, **how).stdout

    def commit(self):
        self.run("git", "add", "--all")
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        self.run("git", *identity, "commit", "--quiet", "--message", "test")


@pytest.fixture(params=["", "1"], ids=["", "PYTHONSAFEPATH=1"])
def installed(request, tmp_path):
    """A repository, installed in editable mode in an environment of its own, which is active."""
    path = tmp_path / "installed"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src", path / "src", ignore=ignored)
    (path / "src/show.py").write_text(SHOW)
    (path / "dvc.yaml").write_text(PIPELINE)
    (path / "params.yaml").write_text("seed: 1\n")
    (path / ".gitignore").write_text("__pycache__\n")
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv").glob("**/site-packages")
    # As `pip install -e` does it; the other line has what the package itself imports.
    (packages / "editable.pth").write_text(f"{path / 'src'}\n{sysconfig.get_path('purelib')}\n")
    bin_folders = (tmp_path / "venv/bin", Path(sys.executable).parent)
    foreign = ("DVC", "PYTHON", "PYTEST", "GIT")
    environment = {name: each for name, each in os.environ.items() if not name.startswith(foreign)}
    environment |= {
        "PATH": os.pathsep.join([*map(str, bin_folders), environment["PATH"]]),
        "PYTHONSAFEPATH": request.param,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    repository = Repository(path, environment)
    (path / ".dvc").mkdir()
    (path / ".dvc/config").write_text("[core]\nanalytics = false\n")
    (path / ".dvc/.gitignore").write_text("/tmp\n/cache\n")
    repository.run("git", "init", "--quiet")
    repository.commit()
    return repository


def shown(repository, text=None):
    """The files that the package came from, relative to the repository."""
    text = text or (repository.path / "shown.txt").read_text()
    return {Path(line) for line in text.splitlines()}


def package(root):
    return {root / "src/catsdogs" / f"{name}.py" for name in ("__init__", "layout", "stage")}


def test_a_clone_runs_its_own_code(installed, tmp_path):
    installed.run("git", "clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone", installed.environment)
    where = "import catsdogs; print(catsdogs.__file__)"
    assert Path(clone.run("python", "-c", where).strip()).is_relative_to(installed.path)
    clone.run("python", "src/show.py")
    assert shown(clone) == package(clone.path)
    (clone.path / "shown.txt").unlink()
    clone.run("dvc", "repro")
    assert shown(clone) == package(clone.path)
    with (clone.path / "src/catsdogs/layout.py").open("a") as edited:
        edited.write('print("edited")\n')
    assert clone.run("python", "src/split.py").startswith("edited\n")


def test_an_experiment_in_a_temporary_folder_runs_its_own_code(installed):
    installed.run("dvc", "exp", "run", "--temp", "--name", "other", "-S", "seed=2")
    reference = installed.run("git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/other")
    files = shown(installed, installed.run("git", "show", f"{reference.strip()}:shown.txt"))
    assert len(files) == 3
    folder = installed.path / ".dvc/tmp/exps"
    assert all(file.is_relative_to(folder) for file in files), files
