"""Feeding: images per CPU second out of the input pipeline, with no model behind it."""

from __future__ import annotations

from contextlib import ExitStack

import photographs
import torch_environment
from measure import Contender, NotMeasured, Sample, cost, in_turn, ratio
from photographs import Sources
from table import Bound, Line

PART = "Feeding"
NOTE = (
    "Images per CPU second / per second of wall time, of the training images. Each library "
    "gives batches of 32 at 150×150, decodes JPEG files from a folder and draws "
    "shifts, shear and zoom of 0.2; this pipeline reads the array that `split` has decoded."
)
ROUNDS = 3
KINDS = ("plain", "augmented")
NOTEBOOK = "the notebook's generator"
LIBRARIES = ("Keras' image_dataset_from_directory", "PyTorch's DataLoader with torchvision")


def measure(sources: Sources) -> list[Line]:
    """Feed from everyone in turn."""
    checkout = photographs.prepare(sources)
    folders = photographs.folders(checkout)
    train = str(folders / "train")
    lines = []
    with ExitStack() as stack:
        rivals = {
            "ours": stack.enter_context(checkout.contender("ours.py", "feeding")),
            NOTEBOOK: stack.enter_context(
                checkout.contender("notebook.py", "feeding", str(folders))
            ),
            LIBRARIES[0]: stack.enter_context(checkout.contender("libraries.py", train)),
        }
        try:
            rivals[LIBRARIES[1]] = stack.enter_context(
                torch_environment.contender("feeding", train)
            )
        except NotMeasured as error:
            lines.append(Line(PART, LIBRARIES[1], why_not=str(error)))
        for kind in KINDS:
            lines += _compare(kind, rivals)
    return lines


def _compare(kind: str, rivals: dict[str, Contender]) -> list[Line]:
    in_turn([(rival, kind) for rival in rivals.values()], 1 + ROUNDS)  # the first is slower
    samples = {name: rival.samples[kind][1:] for name, rival in rivals.items()}
    ours = samples.pop("ours")
    return [
        Line(
            PART,
            f"{kind}: {name}",
            _rate(ours),
            _rate(theirs),
            *ratio(theirs, ours),
            Bound("≥", 20 if name == NOTEBOOK else 3),
        )
        for name, theirs in samples.items()
    ]


def _rate(samples: list[Sample]) -> str:
    return " / ".join(f"{1 / each:,.0f}" for each in cost(samples))
