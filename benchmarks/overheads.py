"""What the pipeline costs besides computing: DVC, and memory as the number of images grows."""

from __future__ import annotations

import shutil
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import yaml
from measure import Usage
from table import Line, compare, figure, peak
from workplace import Bench, Clone, photographs

ROUNDS = 10
FOLDER = 12  # files in a folder of outputs, about as many as `evaluate` writes
IMAGES = (2_500, 10_000, 40_000)
DVC = (sys.executable, "-m", "dvc")


def dvc(bench: Bench) -> list[Line]:
    """Compare `dvc repro` with a trivial pipeline's, where neither has anything to do.

    DVC looks at files, whatever is in them, so the outputs are written here and committed. The
    difference has no bound: DVC itself takes it for some 160 dependencies and outputs.
    """
    clones = _, trivial = Clone("placeholders", bench), Clone("trivial", bench)
    files = [f"file{number}.txt" for number in range(8)]
    stages = {
        f"make_{made[:-4]}": {"cmd": f"cp {given} {made}", "deps": [given], "outs": [made]}
        for given, made in pairwise(files)
    }
    (trivial.path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (trivial.path / files[0]).write_text("content\n")
    for clone in clones:
        _commit(clone)
    rounds = range(bench.few(ROUNDS))
    costs = np.mean([[clone.run(*DVC, "repro").cost for clone in clones] for _ in rounds], axis=0)
    what = "`dvc repro` with nothing to do / in a trivial pipeline"
    return [compare(what, costs[0], costs[1])]


def _commit(clone: Clone) -> None:
    """Write something as the outputs of all stages, and let DVC record them."""
    pipeline = yaml.safe_load((clone.path / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in pipeline["stages"].values():
        for out in chain(*(stage.get(kind, []) for kind in ("outs", "metrics", "plots"))):
            path = clone.path / (out if isinstance(out, str) else next(iter(out)))
            for file in [path] if path.suffix else [path / str(each) for each in range(FOLDER)]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(str(file))
    clone.run(*DVC, "commit", "--force")
    clone.run(*DVC, "repro")  # the first time takes longer


def memory(bench: Bench) -> list[Line]:
    """Measure `download` and `split` on the photographs, and as the number of images grows.

    Their memory grows with the archive's directory, of which `zipfile` keeps 0.6 KB for each file.
    No bound is set on that: a million images take less than what is allowed for the peak.
    """
    sizes = [bench.few(images) for images in IMAGES]
    used: dict[str, list[Usage]] = {"download": [], "split": []}
    for size in sizes:
        clone = Clone("growth", bench)
        archive = clone.path / "noise.zip"
        with ProcessPoolExecutor(1) as pool:  # this process stays small: a child begins as large
            pool.submit(write_noise, archive, size).result()
        counts = {"train": size * 4 // 5, "validation": size // 5, "image_size": 75}
        clone.change_params({"data": {"source": str(archive)}, "split": counts})
        for stage, usages in used.items():
            usages.append(clone.stage(stage))
        shutil.rmtree(clone.path)
    lines = [
        peak(f"`{stage}`", usage) for stage, usage in zip(used, photographs(bench)[1], strict=True)
    ]
    for stage, usages in used.items():
        grown = (usages[2].peak - usages[1].peak) / (sizes[2] - sizes[1]) / 1e3
        lines.append(Line(f"`{stage}`: memory of 1,000 further images", f"{figure(grown)} MB"))
        lower, upper = 1e3 * np.diff([usage.cost[0] for usage in usages]) / np.diff(sizes)
        what = f"`{stage}`: CPU of a further image, up to {sizes[2]:,} / up to {sizes[1]:,}"
        texts = (f"{figure(upper)} ms", f"{figure(lower)} ms")
        lines.append(Line(what, *texts, (upper / lower,), "≤ 1.1"))
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
