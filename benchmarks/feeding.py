"""How fast batches come where several threads ask at once, as a table in Markdown.

The images are noise, and few enough to stay in the system's cache of files.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from catsdogs.data.augmentation import Augmentation
from catsdogs.data.batches import PixelReader, Subset, TrainingBatches
from catsdogs.layout import shard_name
from catsdogs.runtime import keep_memory

import joblib
import numpy as np

SIZE, BATCH = 150, 32
IMAGES, SHARDS, STEPS, ROUNDS = 4_000, 40, 300, 5
THREADS = (1, 2, 4, 8)
AUGMENTATION = Augmentation(
    width_shift=0.2,
    height_shift=0.2,
    shear=0.2,
    zoom=0.2,
    rotation=0,
    horizontal_flip=False,
    fill_mode="nearest",
)


def cost(batches: TrainingBatches, threads: int) -> np.ndarray:
    """Return the seconds that the batches take: of wall time, and of CPU."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter(), time.process_time()
        for _ in pool.map(lambda step: len(batches(step)[0]), range(STEPS)):
            pass
        return np.subtract((time.perf_counter(), time.process_time()), start)


def main() -> None:
    """Print how many images a second come, plain and augmented: the best of some rounds."""
    keep_memory()  # as the pipeline's feed does
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SHARDS):
            images = rng.integers(0, 256, (IMAGES // SHARDS, SIZE, SIZE, 3), np.uint8)
            np.save(Path(folder, shard_name(number)), images)
        subset = Subset(np.arange(IMAGES), [], np.zeros(IMAGES, np.float32))
        kinds = {
            kind: TrainingBatches(PixelReader(Path(folder)), subset, BATCH, 0, augmentation)
            for kind, augmentation in (("plain", None), ("augmented", AUGMENTATION))
        }
        cases = [(kind, threads) for kind in kinds for threads in THREADS]
        rounds = [[cost(kinds[kind], threads) for kind, threads in cases] for _ in range(ROUNDS)]
    print(f"{joblib.cpu_count()} cores, {SIZE}×{SIZE} pixels, batches of {BATCH}\n")
    print("| batches | threads | images per second | images per CPU second |\n|---|---|---|---|")
    for (kind, threads), rates in zip(cases, BATCH * STEPS / np.min(rounds, axis=0), strict=True):
        print(f"| {kind} | {threads} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |")


if __name__ == "__main__":
    main()
