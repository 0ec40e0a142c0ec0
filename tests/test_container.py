"""The image: the unchanged Dockerfile, built and run by Buildah, which needs no service.

Docker Hub's Python need not be reached: Debian's, which is the same version, stands in for it.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY, TINY, Checkout

pytestmark = pytest.mark.slow

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
(BASE,) = re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
DEBIAN = BASE.rpartition("-")[2]
NEEDED = 9e9  # bytes of disk, or of memory, which is several times as quick
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
JUNK = [".venv/x", ".cache/x", "models/x.keras", "data/x", "mlflow.db", ".dvc/cache/x"]


def tell(*command: object) -> str:
    """What a program prints; its failure is the test's."""
    result = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


class Buildah:
    """Images and containers in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        storage = ["buildah", "--root", str(folder / "root"), "--runroot", str(folder / "run")]
        overlay = [*storage, "--storage-driver", "overlay"]  # copies nothing
        works = subprocess.run([*overlay, "info"], capture_output=True, check=False)
        self.command = [*storage, "--storage-driver", "vfs"] if works.returncode else overlay

    def __call__(self, *arguments: object) -> str:
        return tell(*self.command, *arguments)

    def run(self, *options: object, command: tuple[str, ...] = ()) -> str:
        """Run a command, or the image's own, in a new container."""
        container = self("from", "--pull-never", "catsdogs").strip()
        config = json.loads(self("inspect", "--type", "image", "catsdogs"))["OCIv1"]["config"]
        command = command or tuple(config["Cmd"])
        try:
            return self("run", "--isolation", "chroot", *options, container, "--", *command)
        finally:
            self("rm", container)


def registry() -> str:
    """What pip is told of its registry here, as the text of a `pip.conf`."""
    told = tell(sys.executable, "-m", "pip", "config", "list")
    names = "index-url|extra-index-url|trusted-host|proxy"
    settings = re.findall(rf"^\S+\.({names})='(\w+:/+[^/'].*)'$", told, re.MULTILINE)
    lines = [f"{name} = {value}" for name, value in settings if not value.startswith("file:")]
    return "\n".join(["[global]", f"cert = /{CERTIFICATES}", *lines, ""])


def make_base(storage: Buildah, root: Path) -> None:
    """Make the image that the Dockerfile begins with, with pip's settings of this machine."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", f"{root}-pip", "click"]
    packages = "ca-certificates,python3,python3-venv"
    debootstrap = ["debootstrap", "--variant=minbase", f"--include={packages}", DEBIAN, str(root)]
    for command in (pip, debootstrap):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"{command[0]}: {(result.stdout + result.stderr)[-300:]}")
    (root / "etc/pip.conf").write_text(registry())
    if Path("/", CERTIFICATES).exists():
        shutil.copy(Path("/", CERTIFICATES), root / CERTIFICATES)
    (root / "etc/dpkg/dpkg.cfg.d").mkdir(exist_ok=True)
    (root / "etc/dpkg/dpkg.cfg.d/fast").write_text("force-unsafe-io\n")
    scratch = storage("from", "scratch").strip()
    storage("copy", scratch, root, "/")
    storage("commit", "--rm", scratch, BASE)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory) -> Iterator[Buildah]:
    """The image, built from a copy of the working tree with what belongs to no image."""
    for program in ("buildah", "debootstrap"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    if os.geteuid():
        pytest.skip("debootstrap needs root")
    folder = tmp_path_factory.mktemp("container")
    in_memory = psutil.virtual_memory().available > 1.3 * NEEDED
    if in_memory:
        tell("mount", "-t", "tmpfs", "-o", f"size={NEEDED:.0f}", "tmpfs", folder)
    elif shutil.disk_usage(folder).free < NEEDED:
        pytest.skip(f"an image needs {NEEDED / 1e9:.0f} GB of disk")
    storage = Buildah(folder)
    try:
        make_base(storage, folder / "debian")
        context = Checkout(folder / "context")
        for name in JUNK:
            (context.path / name).parent.mkdir(parents=True, exist_ok=True)
            (context.path / name).write_text("not for the image")
        build = ("build", "--isolation", "chroot", "--pull-never", "--tag", "catsdogs")
        storage(*build, context.path)
        yield storage
    finally:
        storage("rm", "--all")
        storage("rmi", "--all", "--force")
        subprocess.run(["umount", folder / "root/overlay"], check=False)
        if in_memory:
            tell("umount", folder)
        shutil.rmtree(folder)


def test_an_image_runs_the_pipeline_and_volumes_keep_what_it_makes(buildah, tmp_path):
    checkout = Checkout(tmp_path / "repository")
    checkout.change_params(TINY)
    volumes = []
    for name in (".dvc/cache", ".cache", "mlflow"):
        (tmp_path / name).mkdir(parents=True)
        os.chown(tmp_path / name, 1000, 1000)
        volumes += ["--volume", f"{tmp_path / name}:/catsdogs/{name}"]
    params = f"{checkout.path / 'params.yaml'}:/catsdogs/params.yaml:ro"
    options = [*volumes, "--volume", params]
    options += ["--env", "MLFLOW_TRACKING_URI=sqlite:///mlflow/mlflow.db"]

    said = buildah.run(*options)
    assert "Running stage 'train_inception'" in said and "Running stage 'compare'" in said
    with closing(sqlite3.connect(tmp_path / "mlflow/mlflow.db")) as store:
        runs = store.execute("select name, status from runs").fetchall()
    models = {f"{name} · workspace" for name in ("basic", "augmented", "inception")}
    assert set(runs) == {(name, "FINISHED") for name in {"workspace", *models}}
    kept = [tmp_path, *(tmp_path / ".dvc/cache").rglob("*"), *(tmp_path / "mlflow").rglob("*")]
    assert len(kept) > 50 and {path.stat().st_uid for path in kept[1:]} == {1000}

    again = buildah.run(*options)
    assert again.count("is cached - skipping run") == 6 and "Running stage 'compare'" in again


def test_an_image_has_only_what_a_fresh_clone_has(buildah):
    listed = buildah.run(command=("find", ".", "-type", "f", "-not", "-path", "./src/*"))
    assert "./dvc.yaml" in listed.splitlines()
    assert not {f"./{name}" for name in JUNK} & set(listed.splitlines())
    assert "./.git/" not in listed


def test_a_mounted_checkout_belongs_to_whoever_runs_the_image(buildah, tmp_path):
    checkout = Checkout(tmp_path / "repository")
    checkout.change_params(TINY)
    checkout.commit()
    tell("chown", "-R", "4321:4321", checkout.path)
    mounted = ("--user", "4321:4321", "--volume", f"{checkout.path}:/catsdogs")
    command = ("dvc", "exp", "run", "--name", "mine", "train_basic")
    assert "Running stage 'train_basic'" in buildah.run(*mounted, command=command)
    made = list(checkout.path.rglob("*"))
    assert checkout.path / "models/train_basic.keras" in made
    assert {path.lstat().st_uid for path in made} == {4321}
    with closing(sqlite3.connect(checkout.path / "mlflow.db")) as store:
        assert store.execute("select name from runs").fetchall() == [("basic · mine",)]
