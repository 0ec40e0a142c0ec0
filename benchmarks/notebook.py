"""The notebook, written afresh for today's Keras, with TensorFlow as it comes.

    notebook.py plain|augmented FOLDERS
    notebook.py inception WEIGHTS FOLDERS

trains for one epoch, as long as the plan of `probe.py` says. FOLDERS has `train` and `validation`,
each with the folders `cat` and `dog`. WEIGHTS is `imagenet`, `random` or a file.
"""

import sys

import keras
import tensorflow as tf
from keras import layers
from probe import Probe, measure_keras

SIZE, BATCH = 150, 32
RANGES = ("width_shift_range", "height_shift_range", "shear_range", "zoom_range")


def generator(folder: str, augmented: bool = False) -> keras.utils.PyDataset:
    """Return the notebook's batches of a folder: pixels from 0 to 1, and labels."""
    ranges = dict.fromkeys(RANGES, 0.2) if augmented else {}
    images = tf.keras.preprocessing.image.ImageDataGenerator(rescale=1 / 255, **ranges)
    return images.flow_from_directory(
        folder, target_size=(SIZE, SIZE), batch_size=BATCH, class_mode="binary"
    )


def cnn() -> keras.Model:
    """Return the small network."""
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3))])
    for filters in (32, 64, 128):
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D(2))
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    return model


def inception(weights: str) -> keras.Model:
    """Return the frozen trunk with its head."""
    known = None if weights == "random" else weights
    trunk = keras.applications.InceptionV3(
        include_top=False, weights=known, input_shape=(SIZE, SIZE, 3)
    )
    trunk.trainable = False
    signal = layers.Flatten()(trunk.get_layer("mixed7").output)
    signal = layers.Dense(1024, activation="relu")(signal)
    signal = layers.Dropout(0.2)(signal)
    return keras.Model(trunk.input, layers.Dense(1, activation="sigmoid")(signal))


def main(kind: str, folders: str, weights: str) -> None:
    """Train for one epoch."""
    probe = Probe()
    measure_keras(probe)
    model = inception(weights) if kind == "inception" else cnn()
    rmsprop = keras.optimizers.RMSprop(learning_rate=1e-4)
    model.compile(
        optimizer=rmsprop if kind == "inception" else keras.optimizers.Adam(),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        generator(f"{folders}/train", augmented=kind != "plain"),
        steps_per_epoch=1 + probe.plan["fit"] * (1 + probe.plan["rounds"]),
        validation_data=generator(f"{folders}/validation"),
        validation_steps=probe.plan["validate"],
        verbose=2,
    )


if __name__ == "__main__":
    kind, *weights, folders = sys.argv[1:]
    main(kind, folders, *weights or ["random"])
