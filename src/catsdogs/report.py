"""The comparison for people: numbers and pictures go in, a table and a page of HTML come out.

The page is `report.html` beside this file, filled in. It is sent on its own, so its pictures are
inside it, and it names nothing of the machine that made it.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from catsdogs import figures, layout, params
from catsdogs.significance import difference_interval

from jinja2 import Environment, StrictUndefined
from PIL import Image
from pydantic import BeforeValidator

CNNS = ("train_basic", "train_augmented")
TEMPLATE = Path(__file__).with_suffix(".html")


Written = Annotated[bool | float | str, BeforeValidator(params.number)]


class FineTuning(params.Section, extra="ignore"):
    """What the page says of a second phase."""

    above: str
    epochs: params.Count
    learning_rate: params.Positive


class Run(params.Training, extra="ignore"):
    """What the page says of a training's section, which its own stage checks in full."""

    filters: params.Layers | None = None
    dense: params.Layers
    cut: str | None = None
    dropout: params.Share | None = None
    fine_tuning: FineTuning | None = None
    augmentation: dict[str, Written] | None = None

    @property
    def frozen(self) -> str:
        """The last block of a trunk that has not learned, or "" if none of it has."""
        above = self.fine_tuning.above if self.fine_tuning else "none"
        return "" if above == "none" else above

    @property
    def all_epochs(self) -> int:
        """Those of all phases."""
        return self.epochs + (self.fine_tuning.epochs if self.frozen else 0)

    @property
    def steps(self) -> int:
        """Those of all epochs, where nothing shortens them."""
        return self.all_epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Comparison:
    """What the page tells. The stages are those that train, the pairs `<stage>/<stage>`."""

    drawn: bool  # by the program, so that the images are no photographs
    runs: dict[str, Run]  # of each stage, what `params.yaml` has
    measured: dict[str, Any]  # of all stages before, what `metrics/<stage>.json` says
    notebook: dict[str, dict[str, float]]  # of each stage, `val_accuracy` and `val_loss`
    tests: dict[str, dict[str, Any]]  # of each pair, as from `significance.mcnemar_tests`
    confidence: float  # of the accuracies' intervals
    significance: float  # of the tests

    @property
    def judges(self) -> str:
        """Which images judge: `validation`, or `tuning` where parameters are being chosen."""
        return self.measured["split"]["judged_by"]

    @property
    def images(self) -> int:
        """How many images judge."""
        return self.measured["split"][self.judges]

    @property
    def untrained(self) -> bool:
        """Whether Inception's trunk has random weights."""
        return self.measured["train_inception"]["weights"] == "random"

    @property
    def shortened(self) -> bool:
        """Whether trainings took fewer steps than `params.yaml` has."""
        return any(self.measured[name]["steps"] < run.steps for name, run in self.runs.items())


class Gallery(NamedTuple):
    """Pictures of one kind: a heading, what to know before looking, and who has which."""

    title: str
    text: str
    pictures: dict[str, Path]


def _each(kind: str, stages: Sequence[str] = layout.TRAININGS) -> dict[str, Path]:
    return {figures.title(name): layout.PICTURES / f"{name}_{kind}.png" for name in stages}


GALLERIES = (
    Gallery(
        "Worst mistakes",
        "The validation images on which a model was surest and wrong, each beside what spoke for "
        "each model's answer: the brighter, the more (Grad-CAM).",
        _each("mistakes"),
    ),
    Gallery(
        "Best hits",
        "The validation images on which a model was surest and right, half of them cats.",
        _each("hits"),
    ),
    Gallery(
        "The same images in every experiment",
        "The first cats and dogs of the validation images, to lay two reports side by side.",
        {"all three": layout.PICTURES / "same_images.png"},
    ),
    Gallery(
        "What the small networks look for",
        "The first convolution's filters, as small pictures.",
        _each("filters", CNNS),
    ),
    Gallery(
        "What they find",
        "One cat and one dog, and what each convolution makes of them: bright where it answers.",
        _each("feature_maps", CNNS),
    ),
)


def table(comparison: Comparison) -> str:
    """The comparison in Markdown: a table of the models, and the tests in words."""
    measured = comparison.measured
    lines = []
    if comparison.drawn:
        lines += ["A rehearsal: the images here are drawn, the notebook's were photographs.", ""]
    lines += [
        f"On all {comparison.images:,} {comparison.judges} images, the interval of the "
        "accuracy in brackets; and, as",
        "the notebook has it, on those that a training looks at after its last epoch.",
        "",
        "| model | accuracy | loss | last epoch's accuracy | notebook's | last epoch's loss "
        "| notebook's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in layout.TRAININGS:
        score, last = measured["evaluate"][name], measured[name]
        notebook = comparison.notebook[name]
        lines.append(
            f"| {figures.title(name)} | {score['accuracy']:.4f} "
            f"({score['accuracy_low']:.4f} to {score['accuracy_high']:.4f}) "
            f"| {score['loss']:.4f} | {last['val_accuracy']:.4f} | {notebook['val_accuracy']:.4f} "
            f"| {last['val_loss']:.4f} | {notebook['val_loss']:.4f} |"
        )
    heading = f"McNemar's test on the same images, at {comparison.significance:g} after Holm"
    lines += ["", f"{heading}, of these trainings (other seeds may differ):"]
    lines += ["", *(f"- {verdict(pair, test)}" for pair, test in comparison.tests.items())]
    if comparison.untrained:
        lines += ["", "Inception's trunk is untrained (random weights): this was a rehearsal."]
    if comparison.judges == "tuning":
        lines += ["", "The images here are tuning images: no validation image has been looked at."]
    return "\n".join(lines) + "\n"


def verdict(pair: str, test: dict[str, Any]) -> str:
    """Say in words what McNemar's test found of a pair of models."""
    one, other, first, second = _ranked(pair, test)
    said = f"{one} beats {other}" if test["differ"] else f"{one} and {other} cannot be told apart"
    p = f"p = {test['p_holm']:.2g}" if test["p_holm"] >= 1e-4 else "p < 0.0001"
    return f"{said} ({first} to {second} images, {p})"


def _ranked(pair: str, test: dict[str, Any]) -> tuple[str, str, int, int]:
    """A pair's models, the better first if they differ, and the images only each gets right."""
    one, other = (figures.title(name) for name in pair.split("/"))
    first, second = test["only_first"], test["only_second"]
    if test["differ"] and second > first:
        return other, one, second, first
    return one, other, first, second


def summary(comparison: Comparison) -> str:
    """Say in a few sentences which model is best, by how much, and what cannot be told apart."""
    scores, images = comparison.measured["evaluate"], comparison.images
    stage = max(layout.TRAININGS, key=lambda name: scores[name]["accuracy"])
    leader, score = figures.title(stage), scores[stage]
    level = 1 - comparison.significance
    rivals, beats, alike = [], [], []
    for pair, test in comparison.tests.items():
        one, other, first, second = _ranked(pair, test)
        if test["differ"]:
            low, high = difference_interval(first, second, images, level)
            beats.append(
                f"{one} beats {other} by {100 * (first - second) / images:.1f} percentage points "
                f"({100 * level:g}% interval {100 * low:.1f} to {100 * high:.1f})"
            )
        elif leader in (one, other):
            rivals.append(other if one == leader else one)
        else:
            alike.append(f"{one} and {other} cannot be told apart")
    right = (
        f"{score['cats_right'] + score['dogs_right']:,} of {images:,} {comparison.judges} images "
        f"right, {score['accuracy']:.1%} ({100 * comparison.confidence:g}% interval "
        f"{100 * score['accuracy_low']:.1f} to {100 * score['accuracy_high']:.1f})"
    )
    best = f"The best of the three is {leader}: it gets {right}"
    if rivals:
        best = (
            f"No model is shown to be the best: {leader} gets {right}, and none gets more, but it "
            f"cannot be told apart from {' and '.join(rivals)}"
        )
    sentences = (best, "; ".join([*beats, *alike]))
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in sentences if text)


def page(comparison: Comparison) -> str:
    """Fill in the page, whose pictures must be there already.

    Whatever is in the comparison is escaped, for some of it is from archives and their names.

    Returns:
        HTML that loads nothing, equal for equal numbers and pictures.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        vars(comparison),
        judges=comparison.judges,
        judging=comparison.images,
        untrained=comparison.untrained,
        shortened=comparison.shortened,
        stages=layout.TRAININGS,
        title=figures.title,
        summary=summary(comparison),
        verdicts=[verdict(pair, test) for pair, test in comparison.tests.items()],
        galleries=GALLERIES,
        charts={name: layout.figure(f"compare{name}") for name in ("", "_scores")},
        embed=embed,
    )


def embed(path: Path, lossless: bool = False) -> dict[str, Any]:
    """A picture as the attributes of `img`: `src`, a data URI, `width` and `height`.

    Kept without loss or, as suits photographs, in about a seventh of the bytes.
    """
    content = BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(content, "WEBP", lossless=lossless, quality=85)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return {
        "src": f"data:image/webp;base64,{data}",
        "width": picture.width,
        "height": picture.height,
    }
