"""Keras' own input pipeline as a contender: `libraries.py FOLDER`, with `cat` and `dog` in it."""

import sys

import keras
import tensorflow as tf
from consume import consumer
from contender import Referee

SIZE, BATCH = 150, 32
PLAIN, AUGMENTED = 100, 30  # batches of a round


def main() -> None:
    """Give batches to nobody, one endless pass for each kind."""
    referee = Referee()
    plain = keras.utils.image_dataset_from_directory(
        sys.argv[1], label_mode="binary", image_size=(SIZE, SIZE), batch_size=BATCH
    )
    layers = [
        keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomShear(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), fill_mode="nearest"),
    ]

    def augment(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for layer in layers:
            images = layer(images, training=True)
        return images, labels

    augmented = plain.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    tasks = {"plain": (plain, PLAIN), "augmented": (augmented, AUGMENTED)}
    referee.serve(
        {
            name: consumer(images.repeat().prefetch(tf.data.AUTOTUNE), count)
            for name, (images, count) in tasks.items()
        }
    )


if __name__ == "__main__":
    main()
