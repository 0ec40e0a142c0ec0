"""Feed batches with other libraries.

    libraries.py keras|pytorch plain|augmented FOLDERS

FOLDERS/train has the folders `cat` and `dog`. PyTorch has an environment of its own, so each
library is imported where it is used.
"""

import sys
from collections.abc import Callable

from probe import Probe

SIZE, BATCH = 150, 32


def keras_feed(kind: str, folders: str) -> Callable[[int], int]:
    """Feed with `image_dataset_from_directory`, and with Keras' layers for augmentation."""
    import keras
    import tensorflow as tf
    from probe import feeder

    batches = keras.utils.image_dataset_from_directory(
        f"{folders}/train", label_mode="binary", image_size=(SIZE, SIZE), batch_size=BATCH
    )
    layers, edge = keras.layers, {"fill_mode": "nearest"}
    zoom = layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), **edge)
    others = [layers.RandomTranslation(0.2, 0.2, **edge), layers.RandomShear(0.2, 0.2, **edge)]
    move = keras.Sequential([*others, zoom])
    if kind == "augmented":
        batches = batches.map(
            lambda images, labels: (move(images, training=True), labels), tf.data.AUTOTUNE
        )
    return feeder(batches.prefetch(tf.data.AUTOTUNE))


def torch_feed(kind: str, folders: str) -> Callable[[int], int]:
    """Feed with `DataLoader` and torchvision."""
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    ranges = {"translate": (0.2, 0.2), "scale": (0.8, 1.2), "shear": 0.2}
    move = v2.RandomAffine(degrees=0, interpolation=v2.InterpolationMode.BILINEAR, **ranges)
    steps = [v2.Resize((SIZE, SIZE)), *([move] if kind == "augmented" else []), v2.PILToTensor()]
    files = ImageFolder(f"{folders}/train", v2.Compose(steps))

    def feed(count: int) -> int:
        # The loader's processes end with its batches, so that their CPU time is known.
        sampler = RandomSampler(files, num_samples=count * BATCH)
        loader = DataLoader(files, BATCH, sampler=sampler, num_workers=2)
        return sum(len(labels) for _, labels in loader)

    return feed


if __name__ == "__main__":
    library, *arguments = sys.argv[1:]
    Probe().rounds({"feed": {"keras": keras_feed, "pytorch": torch_feed}[library](*arguments)})
