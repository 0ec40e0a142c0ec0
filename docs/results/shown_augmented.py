"""Train a plain network on augmented photographs for one epoch.

    dvc exp apply notebook-1
    python docs/results/shown_augmented.py

The notebook's augmented network starts so well that it may be a trained plain one. This takes
`train_basic`'s model, a fresh optimizer and the first batches of `train_augmented`, and writes
what it reaches to `shown_augmented.json`.
"""

import tempfile
from pathlib import Path

from catsdogs import layout, params, runtime
from catsdogs.data.batches import feed
from catsdogs.files import digest, write_json
from catsdogs.models import saved
from catsdogs.training import loop
from catsdogs.training.checkpoints import Checkpoint
from train_augmented import TrainAugmented

RESULT = Path(__file__).with_suffix(".json")
STAGE = "train_augmented"


def main() -> None:
    """Train for an epoch and write the result."""
    settings = params.load(STAGE, TrainAugmented)
    pinned = runtime.load()
    runtime.pin(pinned, settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        # Not `loop.begin`: it takes up an interrupted training's checkpoint and clears it.
        empty = Checkpoint(STAGE, Path(folder))
        training = loop.Training(STAGE, settings, settings, pinned, empty)
        batches, validation = training.batches(settings.augmentation), training.validation()
    model = saved.load(layout.model("train_basic"))

    import keras

    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        feed(batches, 0, settings.steps_per_epoch),
        steps_per_epoch=settings.steps_per_epoch,
        validation_data=feed(validation, 0, len(validation)),
        shuffle=False,  # the batches come in their own order
        verbose=2,
    ).history
    measured = {name: round(values[0], 6) for name, values in history.items()}
    write_json(RESULT, {"model": digest(layout.model("train_basic"), "md5")} | measured)


if __name__ == "__main__":
    main()
