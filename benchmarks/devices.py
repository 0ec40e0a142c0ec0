"""Share the same steps out to one worker, two devices and two processes, and print two tables.

    python benchmarks/devices.py

A narrow network of `train_augmented` learns from drawn images on JAX, with augmentation. A worker
is a process, or one of two devices that JAX makes of the processor. The second table says why
TensorFlow's own strategy does not serve.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from measure import Cost
from table import seconds
from workplace import BENCHMARKS, Bench, Clone

STAGE = "train_augmented"
PLAN = {"rounds": 8, "fit": 11}
STEPS = 1 + PLAN["fit"] * (1 + PLAN["rounds"])  # 100
CHANGES = {
    "data": {"source": "sample", "sample_images": 600},
    "split": {"image_size": 75},
    STAGE: {"filters": [8, 16, 32], "dense": [64], "batch_size": 64}
    | {"epochs": 1, "steps_per_epoch": STEPS, "validation_steps": 1},
}
WORKERS = {
    "one": {"devices": 1, "processes": 1},
    "two devices": {"devices": 2, "processes": 1},
    "two processes": {"devices": 1, "processes": 2},
}
RATES = {"sgd": 0.01, "adam": 0.001}
MIRRORED = """
import sys, keras, numpy as np, tensorflow as tf
count, rate = int(sys.argv[1]), float(sys.argv[2])
cpu, logical = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [logical] * count)
tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(1)
inputs = np.random.default_rng(1).normal(size=(6400, 50)).astype("float32")
labels = (inputs.sum(axis=1) > 0).astype("float32")
names = [device.name for device in tf.config.list_logical_devices("CPU")]
with tf.distribute.MirroredStrategy(names).scope():
    model = keras.Sequential([
        keras.Input((50,)), keras.layers.Dense(64, activation="relu"),
        keras.layers.Dropout(rate), keras.layers.Dense(1, activation="sigmoid"),
    ])
    model.compile(keras.optimizers.SGD(0.1), loss="binary_crossentropy")
model.fit(inputs, labels, batch_size=64, shuffle=False, verbose=0)
np.savez(sys.argv[3], *model.get_weights())
"""


def main() -> None:
    """Print the tables."""
    bench = Bench(photographs="sample", weights="random", torch=False, quick=False)
    clone = Clone("devices", bench, CHANGES | {"runtime": {"backend": "jax"}})
    for stage in ("download", "split"):
        clone.stage(stage)
    print("| optimizer | workers | a step, CPU / wall | largest difference of a weight |")
    print("|---|---|---|---|")
    for optimizer, rate in RATES.items():
        weights: dict[str, list[np.ndarray]] = {}
        for name, workers in WORKERS.items():
            settings = {"optimizer": optimizer, "learning_rate": rate}
            clone.change_params({"runtime": workers, STAGE: settings})
            cost = train(clone, workers["processes"])
            weights[name] = read(clone.path / f"models/{STAGE}.keras")
            apart = difference(weights["one"], weights[name])
            print(f"| {optimizer} | {name} | {seconds(cost)} | {apart:.1e} |", flush=True)
    print("\n| MirroredStrategy, two devices | largest difference of a weight |\n|---|---|")
    for dropout in (0.0, 0.5):
        apart = difference(*(mirrored(clone.path, count, dropout) for count in (1, 2)))
        print(f"| dropout {dropout} | {apart:.1e} |", flush=True)


def train(clone: Clone, processes: int) -> Cost:
    """Train, and return what a step took: CPU seconds of all processes, and wall time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def start(number: int) -> Cost:
        where = {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
            "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
        }
        probe = (sys.executable, str(BENCHMARKS / "probe.py"), f"src/{STAGE}.py", str(number))
        return clone.run(*probe, plan=PLAN, **where).each("fit")

    with ThreadPoolExecutor(processes) as pool:
        costs = np.array(list(pool.map(start, range(processes))))
    return np.array([costs[:, 0].sum(), costs[:, 1].max()])


def mirrored(folder: Path, count: int, dropout: float) -> list[np.ndarray]:
    """Return the weights after 100 steps of a small network on so many devices of TensorFlow."""
    path = folder / "mirrored.npz"
    command = [sys.executable, "-c", MIRRORED, str(count), str(dropout), str(path)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    with np.load(path) as saved:
        return [saved[name] for name in saved.files]


def read(path: Path) -> list[np.ndarray]:
    """Return the weights of a model."""
    import keras

    return keras.models.load_model(path, compile=False).get_weights()


def difference(weights: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Return the largest difference between two models' weights."""
    return max(float(abs(one - other).max()) for one, other in zip(weights, others, strict=True))


if __name__ == "__main__":
    main()
