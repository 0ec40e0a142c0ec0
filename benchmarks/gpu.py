"""Measure the trainings on a GPU, by Keras on JAX, in a few minutes.

    python benchmarks/gpu.py photographs-1.zip photographs-2.zip --weights inception_v3.h5

The photographs may come in several archives. Neither TensorFlow, MLflow nor DVC is needed; what
the stages' scripts import is: JAX, Keras, pydantic, NumPy, pandas, OpenCV, Pillow, matplotlib,
h5py, filelock, joblib, psutil, requests, tqdm and PyYAML.

It prints, as tables in Markdown, how fast batches come, what a step of `fit` takes beside the bare
compiled step, whether a killed training ends with the bytes of one that was not, and accuracies.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from itertools import repeat
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
TRAININGS = ("train_basic", "train_augmented", "train_inception")
PRECISIONS = ("float32", "tf32", "bfloat16")
WARM_UP = 5  # steps


def main() -> None:
    """Split the photographs, then measure; the status is 1 if a killed training ends otherwise."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copytree(REPOSITORY / "src", work / "src")
        shutil.copy(REPOSITORY / "params.yaml", work)
        photographs = work / "photographs"
        for archive in arguments.photographs:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(photographs)
        is_file = arguments.weights != "random"
        weights = Path(arguments.weights).resolve() if is_file else arguments.weights
        settings: dict[str, Any] = {
            "data": {"source": str(photographs) if arguments.photographs else "sample"},
            "runtime": {"backend": "jax"},
            "rehearsal": {"steps": 1, "threads": "native"},
            "train_inception": {"weights": str(weights), "views": 1},
        }
        if arguments.quick:
            settings["data"]["sample_images"] = 100
            settings["split"] = {"image_size": 76}
            for stage in TRAININGS[:2]:
                settings[stage] = {"filters": [4, 4], "dense": [8]}
            settings["train_inception"] |= {"cut": "mixed0", "dense": [8]}
        change_params(work, settings)
        for stage in ("download", "split"):
            run(work, f"src/{stage}.py")
        if not arguments.quick:
            run(work, str(REPOSITORY / "benchmarks/feeding.py"))
        print("\n| training | precision | fit, ms a step | bare, ms a step | ratio | images/s |")
        print("|---|---|---|---|---|---|", flush=True)
        for precision in PRECISIONS[: 1 if arguments.quick else None]:
            change_params(work, {"runtime": {"precision": precision}})
            for stage in TRAININGS:
                run(work, __file__, "--measure", stage, "--steps", str(arguments.steps))
        change_params(
            work, {"runtime": {"precision": "float32"}, "local": {"checkpoint_steps": 5}}
        )
        same = [
            killed_goes_on(work, stage) for stage in TRAININGS[1 : 2 if arguments.quick else 3]
        ]
        if not arguments.quick:
            accuracies(work)
    sys.exit(not all(same))


def change_params(work: Path, changes: dict[str, Any]) -> None:
    """Change values of `params.yaml`."""
    path = work / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, some in changes.items():
        for name, value in some.items():
            nested = isinstance(value, dict)
            values[section][name] = values[section][name] | value if nested else value
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def run(work: Path, script: str, *arguments: str) -> None:
    """Run a script to its end; what it prints is printed."""
    variables = os.environ | {"PYTHONPATH": f"{work / 'src'}{os.pathsep}{_path()}"}
    subprocess.run([sys.executable, script, *arguments], cwd=work, env=variables, check=True)


def measure(stage: str, steps: int) -> None:
    """Print a row: a step of `fit` and a bare step of a training, in the working directory."""
    from catsdogs import params, runtime
    from catsdogs.data.batches import feed
    from catsdogs.training import loop
    from catsdogs.training.checkpoints import Checkpoint

    script = importlib.import_module(stage)
    settings = params.load(stage, getattr(script, stage.title().replace("_", "")))
    pinned = runtime.load()
    runtime.pin(pinned, settings.seed)
    import jax

    with tempfile.TemporaryDirectory() as folder:
        empty = Checkpoint(stage, Path(folder))
        training = loop.Training(stage, settings, settings, pinned, empty)
    model, batches = build(stage, training)
    loop.compile_model(model, settings, settings)

    def fit(first: int, count: int) -> float:
        fed = feed(batches, first, first + count, pinned.readers)
        began = time.perf_counter()
        model.fit(fed, steps_per_epoch=count, verbose=0)
        jax.block_until_ready([variable.value for variable in model.variables])
        return (time.perf_counter() - began) / count

    fit(0, WARM_UP + steps)  # compiles, and fills the cache of features
    fitted = min(fit(WARM_UP, steps) for _ in range(3))
    images, labels = batches(0)
    batch = repeat((jax.device_put(images), jax.device_put(labels)))
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    times = []
    for _ in range(4):
        began = time.perf_counter()
        for _ in range(steps):
            _, state = model.train_function(state, batch)
        jax.block_until_ready(state)
        times.append((time.perf_counter() - began) / steps)
    bare = min(times)
    rate = len(labels) / fitted
    print(
        f"| {stage} | {pinned.describe()} | {fitted * 1e3:.2f} | {bare * 1e3:.2f} | "
        f"{fitted / bare:.2f} | {rate:,.0f} |",
        flush=True,
    )


def build(stage: str, training: Any) -> tuple[Any, Any]:
    """Return the model that a training fits, and its batches: the head, for Inception."""
    settings = training.settings
    batches = training.batches(getattr(settings, "augmentation", None))
    if stage != "train_inception":
        from catsdogs.models import cnn

        filters, dense = settings.filters, settings.dense
        return cnn.build(batches.shape[0], filters, dense, settings.initializer), batches
    import train_inception
    from catsdogs.models import inception, weights
    from catsdogs.models.features import BoundedViews, FeatureCache

    trunk = inception.build_trunk(batches.shape[0], settings.cut, weights.locate(settings.weights))
    head = train_inception.build_head(trunk.output_shape[1:], settings)
    features = inception.with_scaling(inception.fold(trunk))
    cache = FeatureCache(features, training.runtime, training.runtime.cache_gb)
    return head, BoundedViews(batches, cache, settings.views)


def killed_goes_on(work: Path, stage: str) -> bool:
    """Train, undisturbed and with a kill after a checkpoint; say whether the bytes are equal."""
    short = {"epochs": 2, "steps_per_epoch": 20, "validation_steps": 4}
    change_params(work, {stage: short})
    models = []
    for is_killed in (False, True):
        saved = work / f".cache/{is_killed}"
        variables = os.environ | {
            "PYTHONPATH": str(work / "src"),
            "CATSDOGS_CHECKPOINTS": str(saved),
        }
        command = [sys.executable, f"src/{stage}.py"]
        if is_killed:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, cwd=work, env=variables, **quiet)  # type: ignore[call-overload]
            while process.poll() is None and not list(saved.glob("*/state.npz")):
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = subprocess.run(
            command, cwd=work, env=variables, check=True, capture_output=True, text=True
        )
        models.append((work / f"models/{stage}.keras").read_bytes())
    went_on = "goes on after step" in done.stdout
    same = models[0] == models[1]
    print(f"\n{stage}: killed{' and resumed' * went_on}, {'the same' * same or 'OTHER'} bytes")
    return same and went_on


def accuracies(work: Path) -> None:
    """Train with the notebook's numbers on the GPU; print accuracies beside those of a CPU."""
    known = json.loads((REPOSITORY / "docs/results/runs.json").read_text(encoding="utf-8"))
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    print("\n| training | accuracy on the GPU | on a CPU, notebook-1 to 3 |\n|---|---|---|")
    for stage in TRAININGS[:2]:
        change_params(
            work,
            {stage: params[stage] | {"validation_steps": 0}, "local": {"checkpoint_steps": 500}},
        )
        run(work, f"src/{stage}.py")
        facts = json.loads((work / f"models/{stage}.json").read_text(encoding="utf-8"))
        others = [known[f"notebook-{seed}"]["models"][stage]["evaluated"] for seed in (1, 2, 3)]
        print(
            f"| {stage} | {facts['last_epoch']['val_accuracy']:.4f} | "
            f"{', '.join(str(each['accuracy']) for each in others)} |"
        )


def _path() -> str:
    return os.environ.get("PYTHONPATH", "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", nargs="*", help="archives; without, images are drawn")
    parser.add_argument("--weights", default="random", help="a file for InceptionV3")
    parser.add_argument("--steps", type=int, default=300, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    parser.add_argument("--measure", choices=TRAININGS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    if (arguments := _arguments()).measure:
        measure(arguments.measure, arguments.steps)
    else:
        main()
