"""The notebook as a contender, written afresh for today's Keras with TensorFlow's defaults.

    notebook.py feeding FOLDERS
    notebook.py training FOLDERS plain|augmented STEPS
    notebook.py inception FOLDERS WEIGHTS STEPS

FOLDERS has `train` and `validation`, each with the folders `cat` and `dog`; WEIGHTS is a value of
`train_inception.weights`.
"""

import sys
from pathlib import Path

import keras
import tensorflow as tf
from consume import consumer
from contender import Referee
from keras import layers
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from pauses import bare_steps, pauses
from trainings import VALIDATION

SIZE, BATCH = 150, 32
RANGES = ("width_shift_range", "height_shift_range", "shear_range", "zoom_range")
PLAIN, AUGMENTED = 50, 15  # batches of a round

Batches = tf.keras.preprocessing.image.Iterator


def generator(folder: Path, augmented: bool = False) -> Batches:
    """The notebook's batches of a folder: pixels of 0-1 and labels, in a random order."""
    ranges = dict.fromkeys(RANGES, 0.2) if augmented else {}
    images = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255, **ranges)
    return images.flow_from_directory(
        folder, target_size=(SIZE, SIZE), batch_size=BATCH, class_mode="binary"
    )


def feeding(referee: Referee, folders: str) -> None:
    """Give batches to nobody, from the dataset that `fit` makes of a generator."""
    train = Path(folders) / "train"
    tasks = {"plain": PLAIN, "augmented": AUGMENTED}
    referee.serve(
        {
            kind: consumer(fit_takes(generator(train, kind == "augmented")), count)
            for kind, count in tasks.items()
        }
    )


def fit_takes(batches: Batches) -> tf.data.Dataset:
    """Return what `fit` makes of the notebook's batches, pass after pass."""
    return PyDatasetAdapter(batches).get_tf_dataset().repeat()


def cnn() -> keras.Model:
    """The notebook's small network, compiled."""
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3))])
    for filters in (32, 64, 128):
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(
        optimizer=keras.optimizers.Adam(), loss="binary_crossentropy", metrics=["accuracy"]
    )
    return model


def inception(file: Path | None) -> keras.Model:
    """The notebook's frozen trunk and its head, compiled."""
    trunk = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    if file:
        trunk.load_weights(file)
    for layer in trunk.layers:
        layer.trainable = False
    signal = layers.Flatten()(trunk.get_layer("mixed7").output)
    signal = layers.Dense(1024, activation="relu")(signal)
    signal = layers.Dropout(0.2)(signal)
    model = keras.Model(trunk.input, layers.Dense(1, activation="sigmoid")(signal))
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=1e-4),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


def training(referee: Referee, folders: str, kind: str, steps: str) -> None:
    """Train the small network."""
    train = generator(Path(folders) / "train", augmented=kind == "augmented")
    fit_in_turns(referee, cnn(), train, generator(Path(folders) / "validation"), int(steps))


def transfer(referee: Referee, folders: str, weights: str, steps: str) -> None:
    """Train the head upon the trunk."""
    from catsdogs.weights import locate

    train = generator(Path(folders) / "train", augmented=True)
    model = inception(locate(weights))
    fit_in_turns(referee, model, train, generator(Path(folders) / "validation"), int(steps))


def fit_in_turns(
    referee: Referee, model: keras.Model, train: Batches, validation: Batches, steps: int
) -> None:
    """Train for one epoch of so many steps that stop now and then."""

    def validate() -> int:
        model.evaluate(validation, steps=VALIDATION, verbose=0)
        return VALIDATION

    # Of unknown length, as Keras declares what it takes from a generator: nothing is traced twice.
    signature = (tf.TensorSpec((None, SIZE, SIZE, 3)), tf.TensorSpec((None,)))
    batch = tf.data.Dataset.from_generator(lambda: train, output_signature=signature)
    tasks = {"bare": bare_steps(model, batch), "validate": validate}
    model.fit(
        train,
        steps_per_epoch=steps,
        validation_data=validation,
        validation_steps=VALIDATION,
        callbacks=[pauses(referee, tasks)],
        verbose=2,
    )


if __name__ == "__main__":
    commands = {"feeding": feeding, "training": training, "inception": transfer}
    commands[sys.argv[1]](Referee(), *sys.argv[2:])
