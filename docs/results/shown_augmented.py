"""Show a trained `train_basic` augmented photographs, and see how it begins.

    dvc exp apply notebook-1
    PYTHONPATH=src python docs/results/shown_augmented.py

The notebook's augmented network begins so well that it may have been such a one. This one meets
the first batches of `train_augmented` with a fresh optimizer; what it reaches in one epoch goes to
`shown_augmented.json`.
"""

from pathlib import Path

from catsdogs import layout, models, runtime, training
from catsdogs.batches import dataset
from catsdogs.files import digest, write_json
from train_augmented import TrainAugmented

RESULT = Path(__file__).with_suffix(".json")


def main() -> None:
    """Train it for an epoch, and write what was measured."""
    settings, _ = runtime.begin_training("train_augmented", TrainAugmented)
    batches, validation = training.open_batches(settings, settings.augmentation)
    model = models.load(layout.model("train_basic"))

    import keras

    model.compile(
        optimizer=keras.optimizers.Adam(settings.learning_rate),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        dataset(batches, 0, settings.steps_per_epoch),
        steps_per_epoch=settings.steps_per_epoch,
        validation_data=dataset(validation, 0, len(validation)),
        verbose=2,
    ).history
    measured = {name: round(values[0], 6) for name, values in history.items()}
    write_json(RESULT, {"model": digest(layout.model("train_basic"), "md5")} | measured)


if __name__ == "__main__":
    main()
