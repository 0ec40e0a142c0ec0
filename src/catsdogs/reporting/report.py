"""The comparison for people: a table in Markdown, and a page of HTML.

The page is `report.html` beside this file, filled in. People send it on by itself, so its pictures
are inside it, and it names nothing of the machine that made it.
"""

import base64
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from catsdogs import layout, params
from catsdogs.evaluation.significance import difference_interval

from jinja2 import Environment, StrictUndefined
from PIL import Image

TEMPLATE = Path(__file__).with_suffix(".html")
NONE = "–"  # in a cell of a table
ALWAYS_SHOWN = ("steps", "parameters", "trainable parameters")


@dataclass(frozen=True)
class Comparison:
    """What the page tells. Models go by their training stages, pairs by `<stage>/<stage>`."""

    classes: tuple[str, str]  # their names; the second is positive
    drawn: bool  # the program drew the images; they are no photographs
    download: dict[str, Any]  # metrics/download.json
    split: dict[str, Any]  # metrics/split.json
    facts: dict[str, dict[str, Any]]  # of each model, models/<stage>.json
    last_epoch: dict[str, dict[str, float]]  # of each model, `val_accuracy` and `val_loss`
    scores: dict[str, dict[str, float]]  # metrics/scores.json
    notebook: dict[str, dict[str, float]]  # of its models, `val_accuracy` and `val_loss`
    tests: dict[str, dict[str, Any]]  # of each pair, as from `significance.mcnemar_tests`
    confidence: float  # of the accuracies' intervals
    significance: float  # of the tests

    @property
    def models(self) -> list[str]:
        """The models in the order of the tables."""
        return list(self.facts)

    @property
    def judges(self) -> str:
        """Which images judge: `validation`, or `tuning` while somebody chooses parameters."""
        return self.split["judged_by"]

    @property
    def images(self) -> int:
        """How many images judge."""
        return self.split[self.judges]

    @property
    def untrained(self) -> str:
        """The titles of models whose pretrained part has random weights."""
        names = [name for name, facts in self.facts.items() if facts.get("weights") == "random"]
        return " and ".join(map(layout.title, names))

    @property
    def shortened(self) -> bool:
        """Whether trainings took fewer steps than planned."""
        return any(facts["steps"] < facts["planned_steps"] for facts in self.facts.values())


# How the files of a gallery's pictures end; its title, and what to know before looking.
GALLERIES = {
    "mistakes": (
        "Worst mistakes",
        "The validation images where a model was surest and wrong. Beside each is what spoke for "
        "each model's answer: the brighter, the more (Grad-CAM).",
    ),
    "hits": (
        "Best hits",
        "The validation images where a model was surest and right, half of each class.",
    ),
    "same_images": (
        "The same images in every experiment",
        "The first validation images of each class, to lay two reports side by side.",
    ),
    "filters": (
        "What the small networks look for",
        "The filters of the first convolution, as small pictures.",
    ),
    "feature_maps": (
        "What they find",
        "An image of each class, and what each convolution makes of it: bright where it responds.",
    ),
}


def table(comparison: Comparison) -> str:
    """Write the comparison in Markdown: a table of the models, and the tests in words."""
    lines = []
    if comparison.drawn:
        lines += ["A rehearsal: the images here are drawn, the notebook's were photographs.", ""]
    lines += [
        f"Accuracy (with its interval) and loss are of all {comparison.images:,} "
        f"{comparison.judges} images. Those of the last",
        "epoch are of the images that a training looks at after each epoch, as in the notebook.",
        "",
        "| model | accuracy | loss | last epoch's accuracy | notebook's | last epoch's loss "
        "| notebook's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in comparison.models:
        score, last = comparison.scores[name], comparison.last_epoch[name]
        notebook = comparison.notebook.get(name, {})
        lines.append(
            f"| {layout.title(name)} | {score['accuracy']:.4f} "
            f"({score['accuracy_low']:.4f} to {score['accuracy_high']:.4f}) "
            f"| {score['loss']:.4f} "
            f"| {last['val_accuracy']:.4f} | {four(notebook.get('val_accuracy'))} "
            f"| {last['val_loss']:.4f} | {four(notebook.get('val_loss'))} |"
        )
    if comparison.tests:
        heading = f"McNemar's test on the same images, at {comparison.significance:g} after Holm"
        lines += ["", f"{heading}, of these trainings (other seeds may differ):"]
        lines += ["", *(f"- {verdict(pair, test)}" for pair, test in comparison.tests.items())]
    if comparison.untrained:
        trunk = f"The pretrained part of {comparison.untrained}"
        lines += ["", f"{trunk} has random weights: this was a rehearsal."]
    if comparison.judges == "tuning":
        lines += ["", "The images here are tuning images: no validation image has been looked at."]
    return "\n".join(lines) + "\n"


def four(number: float | None) -> str:
    """Show a number with four decimals, or that there is none."""
    return NONE if number is None else f"{number:.4f}"


def verdict(pair: str, test: dict[str, Any]) -> str:
    """Say in words what McNemar's test found of a pair of models."""
    one, other, first, second = _ranked(pair, test)
    said = f"{one} beats {other}" if test["differ"] else f"{one} and {other} cannot be told apart"
    p = f"p = {test['p_holm']:.2g}" if test["p_holm"] >= 1e-4 else "p < 0.0001"
    return f"{said} ({first} to {second} images, {p})"


def _ranked(pair: str, test: dict[str, Any]) -> tuple[str, str, int, int]:
    """A pair's models, the better first if they differ, and the images only each gets right."""
    one, other = map(layout.title, pair.split("/"))
    first, second = test["only_first"], test["only_second"]
    if test["differ"] and second > first:
        return other, one, second, first
    return one, other, first, second


def summary(comparison: Comparison) -> str:
    """Say in a few sentences which model is best, by how much, and what cannot be told apart."""
    scores, images = comparison.scores, comparison.images
    stage = max(comparison.models, key=lambda name: scores[name]["accuracy"])
    leader, score = layout.title(stage), scores[stage]
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
    hits = sum(score[f"{name}_right"] for name in comparison.classes)
    right = (
        f"{hits:,} of {images:,} {comparison.judges} images "
        f"right, {score['accuracy']:.1%} ({100 * comparison.confidence:g}% interval "
        f"{100 * score['accuracy_low']:.1f} to {100 * score['accuracy_high']:.1f})"
    )
    best = f"The best model is {leader}: it gets {right}"
    if rivals:
        best = (
            f"No model is shown to be the best: {leader} gets {right}, and none gets more, but it "
            f"cannot be told apart from {' and '.join(rivals)}"
        )
    sentences = (best, "; ".join([*beats, *alike]))
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in sentences if text)


def settings(comparison: Comparison) -> dict[str, list[str]]:
    """List what was run: for each fact or key of `params.yaml`, each model's value as text."""
    columns = []
    for facts in comparison.facts.values():
        steps, planned = facts["steps"], facts["planned_steps"]
        weights = {"weights": facts["weights"]} if "weights" in facts else {}  # no whole path
        column = {
            "steps": f"{steps:,}" + (f" (in earnest: {planned:,})" if steps < planned else ""),
            "parameters": facts["parameters"],
            "trainable parameters": facts["trainable_parameters"],
            "computed with": facts["runtime"],
            **dict(params.flatten(facts["settings"])),
            **weights,
        }
        columns.append({key: _show(value) for key, value in column.items()})
    keys = dict.fromkeys(key for column in columns for key in column)
    return {key: [column.get(key, NONE) for column in columns] for key in keys}


def _show(value: Any) -> str:
    value = params.number(value)
    if isinstance(value, list):
        return ", ".join(map(_show, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def page(comparison: Comparison) -> str:
    """Fill in the page. Both charts must be there already; a gallery shows the pictures there are.

    Everything is escaped, for some of it comes from archives and their names.

    Returns:
        HTML that loads nothing, equal for equal numbers and pictures.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"four": four, "count": "{:,}".format, "title": layout.title}
    rows = settings(comparison)
    same = {
        key: row[0]
        for key, row in rows.items()
        if key not in ALWAYS_SHOWN and len(row) > 1 and len(set(row)) == 1
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        it=comparison,
        summary=summary(comparison),
        verdicts=[verdict(pair, test) for pair, test in comparison.tests.items()],
        settings={key: row for key, row in rows.items() if key not in same},
        same=same,
        galleries=[
            (*gallery, _pictures(k, comparison.models)) for k, gallery in GALLERIES.items()
        ],
        curves=embed(layout.ALL_CURVES_FIGURE, lossless=True),
        scores=embed(layout.ALL_SCORES_FIGURE, lossless=True),
    )


def _pictures(kind: str, models: list[str]) -> dict[str, dict[str, Any]]:
    """The pictures of a gallery, by whose they are."""
    paths = {"all models": layout.PICTURES / f"{kind}.png"}
    paths |= {layout.title(n): layout.PICTURES / f"{n}_{kind}.png" for n in models}
    return {whose: embed(path) for whose, path in paths.items() if path.exists()}


def embed(path: Path, lossless: bool = False) -> dict[str, Any]:
    """Turn a picture into the attributes of `img`: `src`, a data URI, `width` and `height`.

    Without loss for charts. With loss for photographs, in about a seventh of the bytes.
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
