"""Other libraries at the pipeline's tasks.

    libraries.py keras|pytorch plain|augmented FOLDERS

feeds from FOLDERS/train, which has the folders `cat` and `dog`; PyTorch also trains the small
network on one batch in memory. PyTorch has an environment of its own, so each library is imported
where it is used.
"""

import sys

from probe import Probe, Tasks

SIZE, BATCH = 150, 32


def keras_tasks(kind: str, folders: str) -> Tasks:
    """Feed with `image_dataset_from_directory`, and with Keras' layers for augmentation."""
    import keras
    import tensorflow as tf
    from probe import feeder

    batches = keras.utils.image_dataset_from_directory(
        f"{folders}/train", label_mode="binary", image_size=(SIZE, SIZE), batch_size=BATCH
    )
    move = keras.Sequential(
        [
            keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
            keras.layers.RandomShear(0.2, 0.2, fill_mode="nearest"),
            keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), fill_mode="nearest"),
        ]
    )
    if kind == "augmented":
        batches = batches.map(
            lambda images, labels: (move(images, training=True), labels), tf.data.AUTOTUNE
        )
    return {"feed": feeder(batches.prefetch(tf.data.AUTOTUNE))}


def torch_tasks(kind: str, folders: str) -> Tasks:
    """Feed with `DataLoader` and torchvision; train the small network."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    ranges = {"translate": (0.2, 0.2), "scale": (0.8, 1.2), "shear": 0.2}
    move = v2.RandomAffine(degrees=0, interpolation=v2.InterpolationMode.BILINEAR, **ranges)
    moves = [move] if kind == "augmented" else []
    files = ImageFolder(
        f"{folders}/train", v2.Compose([v2.Resize((SIZE, SIZE)), *moves, v2.PILToTensor()])
    )

    def feed(count: int) -> int:
        # The loader's processes end with its batches, so that their CPU time is known.
        sampler = RandomSampler(files, num_samples=count * BATCH)
        loader = DataLoader(files, BATCH, sampler=sampler, num_workers=2)
        return sum(len(labels) for _, labels in loader)

    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128 * 17 * 17, 128), nn.ReLU()),
        *(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 1), nn.Sigmoid()),
    )
    network.to(memory_format=torch.channels_last)  # which is faster on a CPU
    optimizer, loss = torch.optim.Adam(network.parameters()), nn.BCELoss()
    images = torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(2, (BATCH, 1)).float()

    def bare(count: int) -> int:
        for _ in range(count):
            optimizer.zero_grad()
            loss(network(images), labels).backward()
            optimizer.step()
        return count

    return {"feed": feed, "bare": bare}


if __name__ == "__main__":
    library, *arguments = sys.argv[1:]
    Probe().rounds({"keras": keras_tasks, "pytorch": torch_tasks}[library](*arguments))
