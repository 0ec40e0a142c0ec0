"""What the pipeline costs besides computing: DVC, and memory as the number of images grows."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml
from measure import Usage
from table import Line, compare, figure, peak
from trainings import INCEPTION, KINDS
from workplace import Bench, Clone, photographs

ROUNDS = 5
STAGES = 7
FILES, SIZE = 25_000, 4_096  # files, and bytes of each
IMAGES = (5_000, 25_000, 100_000)
DVC = (sys.executable, "-m", "dvc")


def dvc(bench: Bench) -> list[Line]:
    """Compare `dvc repro` with a trivial pipeline's, and one file with one for each image."""
    epoch = {"epochs": 1, "steps_per_epoch": 2, "validation_steps": 1}
    data = {"data": {"sample_images": 60}}
    ours = Clone("rehearsal", data | dict.fromkeys((*KINDS, INCEPTION), epoch))
    trivial = Clone("trivial", {})
    files = [f"file{number}" for number in range(1 + STAGES)]
    stages = {
        f"make_{made}": {"cmd": f"cp {given} {made}", "deps": [given], "outs": [made]}
        for given, made in pairwise(files)
    }
    (trivial.path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (trivial.path / files[0]).write_text("content\n")
    clones = (ours, trivial)
    count = 1 + bench.few(ROUNDS)
    rounds = [[clone.run(*DVC, "repro").cost for clone in clones] for _ in range(count)]
    costs = np.mean(rounds[1:], axis=0)  # the first had something to do
    what = "`dvc repro` with nothing to do / in a trivial pipeline"
    line = compare(what, costs[0], costs[1], "≤ 1.3")
    return [line, *_one_or_many(trivial, bench.few(FILES))]


def _one_or_many(clone: Clone, files: int) -> list[Line]:
    one, many = clone.path / "one", clone.path / "many"
    many.mkdir()
    for number in range(files):
        (many / str(number)).write_bytes(os.urandom(SIZE))
    one.write_bytes(os.urandom(SIZE * files))
    lines = []
    for command in ("add", "checkout"):
        costs = [clone.run(*DVC, command, f"{path.name}").cost for path in (one, many)]
        lines.append(compare(f"`dvc {command}` of one file / of {files:,}", costs[0], costs[1]))
        one.unlink()
        shutil.rmtree(many)
    return lines


def memory(bench: Bench) -> list[Line]:
    """Measure `download` and `split` on the photographs, and as the number of images grows."""
    sizes = [bench.few(images) for images in IMAGES]
    used: dict[str, list[Usage]] = {"download": [], "split": []}
    for size in sizes:
        clone = Clone("growth", {})
        archive = clone.path / "noise.zip"
        with ProcessPoolExecutor(1) as pool:  # this process stays small: a child begins as large
            pool.submit(write_noise, archive, size).result()
        counts = {"train": size * 4 // 5, "validation": size // 5, "image_size": 16}
        clone.change_params({"data": {"source": str(archive)}, "split": counts})
        for stage, usages in used.items():
            usages.append(clone.stage(stage))
        shutil.rmtree(clone.path)
    lines = [peak(stage, usage) for stage, usage in zip(used, photographs(bench)[1], strict=True)]
    for stage, usages in used.items():
        fewer, more = (usage.peak / 1e9 for usage in usages[1:])
        what = f"`{stage}`: peak memory, {sizes[2]:,} images / {sizes[1]:,}"
        texts = [f"{figure(size)} GB" for size in (more, fewer)]
        lines.append(Line(what, texts[0], texts[1], (more / fewer,), "≤ 1.2"))
        lower, upper = 1e3 * np.diff([usage.cost[0] for usage in usages]) / np.diff(sizes)
        what = f"`{stage}`: CPU of a further image, up to {sizes[2]:,} / up to {sizes[1]:,}"
        texts = [f"{figure(each)} ms" for each in (upper, lower)]
        lines.append(Line(what, texts[0], texts[1], (upper / lower,), "≤ 1.1"))
    return lines


def write_noise(archive: Path, images: int) -> None:
    """Write an archive in Kaggle's layout, of small images of noise."""
    from PIL import Image

    rng = np.random.default_rng(1)
    with zipfile.ZipFile(archive, "w") as opened:
        for number in range(images):
            content = BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(content, "JPEG")
            opened.writestr(f"train/{('cat', 'dog')[number % 2]}.{number}.jpg", content.getvalue())
