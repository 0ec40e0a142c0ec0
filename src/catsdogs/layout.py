"""What everything is called and where it is: what passes between the stages, and what stays."""

import os
import re
import unicodedata
from pathlib import Path

# The classes of the sample, of the public archives, and of all that is older than `data.classes`.
CATS_AND_DOGS = ("cat", "dog")
# How words and their plurals end.
PLURALS = (
    ("", "s"),
    *((end, f"{end}es") for end in ("s", "x", "z", "ch", "sh", "o")),
    *(("y", "ies"), ("f", "ves"), ("fe", "ves"), ("man", "men")),
    *(("child", "children"), ("mouse", "mice"), ("person", "people")),
)

SAMPLE = "sample"  # the `data.source` of drawn images

ARCHIVE = Path("data/raw/images.zip")
PIXELS = Path("data/split/images")
TRAIN = Path("data/split/train.csv")
VALIDATION = Path("data/split/validation.csv")
REJECTED = Path("data/split/rejected.csv")
REHEARSAL = Path("data/split/rehearsal.json")
MODELS = Path("models")
TRAINING_PLOTS = Path("plots/training")
PREDICTIONS = Path("data/predictions.csv")
SCORE_CURVES = Path("plots/evaluate/curves")
PICTURES = Path("plots/evaluate/pictures")
SCORES = Path("metrics/scores.json")
COMPARISON = Path("metrics/compare.md")
ALL_CURVES = Path("plots/compare.csv")
ALL_CURVES_FIGURE = Path("plots/compare.png")
ALL_SCORES_FIGURE = Path("plots/compare_scores.png")
REPORT = Path("plots/report.html")

# DVC runs a queued experiment in a temporary copy of the repository; DVC_ROOT names the checkout
# that stays. What is not a stage's output belongs there.
ROOT = Path(os.environ.get("DVC_ROOT", ".")).absolute()
DOWNLOADS = ROOT / ".cache" / "downloads"
FEATURES = ROOT / (os.environ.get("CATSDOGS_FEATURES") or ".cache/features")
CHECKPOINTS = ROOT / (os.environ.get("CATSDOGS_CHECKPOINTS") or ".cache/checkpoints")
TRACKING_STORE = ROOT / "mlflow.db"


def resolve(path: str) -> Path:
    """A path that a parameter holds: relative to the checkout, or absolute, or below `~`."""
    return ROOT / os.path.expanduser(path)  # noqa: PTH111  Path's own raises for an unknown user


def plain(name: str) -> str:
    """A name in the form in which names are compared: `Hot_Dog` is `hot dog`."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name).casefold()).strip()


def spellings(name: str) -> set[str]:
    """Return a class's name, plain, in the singular and the plural, whichever it is in."""
    word = plain(name)
    found = {word}
    for singular, plural in PLURALS:
        for ending, other in ((singular, plural), (plural, singular)):
            if word.endswith(ending):
                found.add(word.removesuffix(ending) + other)
    return found - {""}


def title(stage: str) -> str:
    """`train_basic` as a person calls it: `basic`."""
    return stage.removeprefix("train_")


def shard_name(number: int) -> str:
    """The name of a file in `PIXELS`."""
    return f"{number:05}.npy"


def model(stage: str) -> Path:
    """The Keras model that a training stage writes."""
    return MODELS / f"{stage}.keras"


def facts(stage: str) -> Path:
    """What a model is and how it was trained: settings, steps, parameters, the last epoch."""
    return MODELS / f"{stage}.json"


def metrics(stage: str) -> Path:
    """The numbers that a stage writes."""
    return Path("metrics") / f"{stage}.json"


def curves(stage: str) -> Path:
    """A training's learning curves, one line per epoch."""
    return TRAINING_PLOTS / f"{stage}.csv"


def curve_figure(stage: str, quantity: str) -> Path:
    """A training's `accuracy` or `loss` against the epoch, as the notebook draws it."""
    return TRAINING_PLOTS / f"{stage}_{quantity}.png"
