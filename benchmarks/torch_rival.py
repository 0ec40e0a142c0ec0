"""PyTorch as a contender, in an environment of its own.

torch_rival.py feeding FOLDER
torch_rival.py training
"""

import sys
from functools import partial

import torch
from contender import Referee
from torch import nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

SIZE, BATCH = 150, 32
PLAIN, AUGMENTED = 150, 80  # batches of a round
STEPS = 5  # of a round


def feeding(referee: Referee, folder: str) -> None:
    """Give batches to nobody."""
    squash = v2.Resize((SIZE, SIZE))
    move = v2.RandomAffine(
        degrees=0,
        translate=(0.2, 0.2),
        scale=(0.8, 1.2),
        shear=0.2,
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    plain = v2.Compose([squash, v2.PILToTensor()])
    augmented = v2.Compose([squash, move, v2.PILToTensor()])
    referee.serve(
        {
            "plain": partial(give, ImageFolder(folder, plain), PLAIN),
            "augmented": partial(give, ImageFolder(folder, augmented), AUGMENTED),
        }
    )


def give(images: ImageFolder, count: int) -> int:
    """Take batches; return their number of images."""
    # So many and no more: the loader's processes end with a round, and their CPU time is known.
    sampler = RandomSampler(images, num_samples=count * BATCH)
    loader = DataLoader(images, BATCH, sampler=sampler, num_workers=2)
    return sum(len(labels) for _, labels in loader)


def training(referee: Referee) -> None:
    """Train the small network on one batch that is in memory."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128 * 17 * 17, 128), nn.ReLU()),
        *(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 1), nn.Sigmoid()),
    )
    network.to(memory_format=torch.channels_last)  # which is faster here
    optimizer, loss = torch.optim.Adam(network.parameters()), nn.BCELoss()
    images = torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(2, (BATCH, 1)).float()

    def step() -> int:
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(network(images), labels).backward()
            optimizer.step()
        return STEPS

    referee.serve({"bare": step})


if __name__ == "__main__":
    {"feeding": feeding, "training": training}[sys.argv[1]](Referee(), *sys.argv[2:])
