"""Pictures that explain a model: images and what it makes of them go in, a PNG comes out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from catsdogs import figures
from catsdogs.layout import CLASSES

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches.
NARROWEST = 6  # that holds a heading
MARGIN = 0.15
GAP = 0.07  # between two pictures that belong together
SPACE = 0.35  # between two that do not
LINE = 0.13  # of PRINT
CAPTION = 0.12  # one line of SMALL
TITLE = 0.4

SMALL, PRINT, LARGE = 6.5, 8, 12  # points
LETTERS = 16.5  # of PRINT to an inch

HEAT = "inferno"
READ_HEAT = (
    "Beside each image, the same under each model's heat map (Grad-CAM). Bright is where a model "
    "found what speaks for its own answer, dog from P(dog) 0.5 on and cat below: ✓ is a right "
    "one, ✗ a wrong one. Dark is what hardly counted. Every map has a scale of its own, up to "
    "its brightest place; where all is dark, nothing speaks for the answer."
)


class Sheet:
    """A page: a heading, how to read it, and pictures below; all places in inches.

    Args:
        heading: above all.
        how_to_read: a paragraph below it, broken into lines here.
        width: of the page.
        height: of what comes below the paragraph.
    """

    def __init__(self, heading: str, how_to_read: str, width: float, height: float) -> None:
        lines = textwrap.wrap(how_to_read, int((width - 2 * MARGIN) * LETTERS))
        self.top = MARGIN + TITLE + (len(lines) + 1) * LINE
        self.width, self.height = width, self.top + height + MARGIN
        self.figure = figures.blank(self.width, self.height)
        self.figure.set_layout_engine("none")  # what is placed here stays there
        self._text(MARGIN, MARGIN, heading, LARGE, "bold")
        self._text(MARGIN, MARGIN + TITLE - GAP, "\n".join(lines), PRINT)

    def scale(self, colours: str, low: str, high: str) -> None:
        """Say beside the heading what a colour map's ends mean."""
        width, right = 1.2, self.width - MARGIN - len(high) / LETTERS
        axes = self._axes(right - width, MARGIN, width, LINE)
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto")
        self._text(right - width - len(low) / LETTERS, MARGIN, low, PRINT)
        self._text(right + GAP, MARGIN, high, PRINT)

    def subheading(self, top: float, words: str) -> None:
        """Write a line, so far below the paragraph."""
        self._text(MARGIN, self.top + top, words, PRINT, "bold")

    def picture(
        self,
        left: float,
        top: float,
        size: float,
        caption: str,
        *layers: dict[str, Any],
        marked: bool = False,
    ) -> None:
        """Place a square picture.

        Args:
            left: from the page's left.
            top: from the paragraph's end.
            size: of a side.
            caption: to write above it.
            layers: of one or more arrays, one over the other, the arguments of `imshow`.
            marked: whether the eye should go there first.
        """
        axes = self._axes(left, self.top + top, size, size)
        for layer in layers:
            axes.imshow(extent=(0, 1, 0, 1), **layer)
        weight = "bold" if marked else "normal"
        axes.set_title(caption, fontsize=SMALL, loc="left", pad=3, weight=weight, parse_math=False)
        axes.spines[:].set(visible=marked, linewidth=2)

    def save(self, path: Path) -> None:
        """Write the page as a PNG."""
        figures.save(self.figure, path)

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        x, y = left / self.width, 1 - (top + height) / self.height
        axes = self.figure.add_axes((x, y, width / self.width, height / self.height))
        axes.grid(False)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def _text(
        self, left: float, top: float, words: str, size: float, weight: str = "normal"
    ) -> None:
        x, y = left / self.width, 1 - top / self.height
        self.figure.text(x, y, words, fontsize=size, weight=weight, va="top", linespacing=1.25)


class Looks(NamedTuple):
    """Some images, and what each model makes of them."""

    images: np.ndarray  # uint8, N×size×size×3; N may be 0
    names: Sequence[str]
    labels: np.ndarray  # 0 cat, 1 dog, N
    maps: Mapping[str, np.ndarray]  # for each training stage Grad-CAM, 0…1, N×rows×columns
    probabilities: Mapping[str, np.ndarray]  # for each training stage P(dog), N


def draw_filters(stage: str, colours: np.ndarray, path: Path) -> None:
    """Draw a first convolution's kernels.

    Args:
        stage: whose they are.
        colours: 0…1, grey is zero, N×height×width×3.
        path: the PNG to write.
    """
    columns, size = 8, 0.7
    rows = -(-len(colours) // columns)
    sheet = Sheet(
        f"{figures.title(stage)}: the {len(colours)} filters of the first convolution",
        "Each tile is a filter, laid over every place of an image in turn. Its colours are its "
        "weights for red, green and blue: grey is zero, brighter looks for light, darker for its "
        "absence, each filter on a scale of its own. So one that is bright on one side and dark "
        "on the other answers to edges, one of a single colour to that colour. Filters begin as "
        "noise, and a short training leaves much of it. The number is the channel's in the "
        "feature maps.",
        2 * MARGIN + columns * (size + GAP) - GAP,
        rows * (CAPTION + size + GAP),
    )
    for number, tile in enumerate(colours):
        row, column = divmod(number, columns)
        top = CAPTION + row * (CAPTION + size + GAP)
        weights = {"X": tile, "interpolation": "nearest"}
        sheet.picture(MARGIN + column * (size + GAP), top, size, str(number), weights)
    sheet.save(path)


def draw_feature_maps(
    stage: str,
    images: np.ndarray,
    labels: np.ndarray,
    maps: Sequence[np.ndarray],
    channels: Sequence[np.ndarray],
    path: Path,
) -> None:
    """Draw what each convolution finds in the same images.

    Args:
        stage: whose convolutions they are.
        images: uint8, N×size×size×3.
        labels: 0 cat, 1 dog, N.
        maps: for each convolution what comes out of its ReLU, N×rows×columns×channels.
        channels: for each convolution those to draw.
        path: the PNG to write.
    """
    size = 0.85
    row = CAPTION + size + GAP
    block = 2 * LINE + len(images) * row + LINE
    columns = 1 + max(len(chosen) for chosen in channels)
    sheet = Sheet(
        f"{figures.title(stage)}: what its convolutions find in a cat and a dog",
        "A channel is what one filter answers at every place: black where it finds nothing, the "
        "brighter the more, on one scale for both images, so those can be compared. Each "
        "convolution looks for patterns in all channels of the one before, at half the "
        "resolution: first for edges and colours, then for shapes made of them. Shown are "
        "channels that are active here and unlike one another.",
        max(NARROWEST, 2 * MARGIN + columns * (size + GAP) + SPACE - 2 * GAP),
        len(maps) * block - LINE,
    )
    for place, (found, chosen) in enumerate(zip(maps, channels, strict=True)):
        top = place * block
        _, height, width, count = found.shape
        words = f"convolution {place + 1} of {len(maps)}: {count} channels of {height}×{width}"
        sheet.subheading(top, words)
        top += 2 * LINE + CAPTION
        for image, label, answers in zip(images, labels, found, strict=True):
            sheet.picture(MARGIN, top, size, f"a {CLASSES[int(label)]}", {"X": image})
            for column, channel in enumerate(chosen):
                left = MARGIN + size + SPACE + column * (size + GAP)
                white = _white(found[..., channel])
                shades = {"X": answers[..., channel], "cmap": "gray", "vmin": 0, "vmax": white}
                sheet.picture(left, top, size, f"channel {channel}", shades)
            top += row
    sheet.save(path)


def _white(answers: np.ndarray) -> float:
    """What only one in twenty of a channel's answers exceeds, where it has any."""
    active = answers[answers > 0]
    return float(np.quantile(active, 0.95)) if active.size else 1.0


def draw_looks(heading: str, looks: Looks, path: Path, subject: str = "") -> None:
    """Draw images, each beside what speaks for every model's answer.

    Args:
        heading: above all.
        looks: the images and what the models make of them.
        path: the PNG to write.
        subject: the training stage that the picture is about, which comes first; none by default.
    """
    size, per_row = 0.85, 2
    row = 2 * CAPTION + size + 2 * GAP
    across = (1 + len(looks.maps)) * (size + GAP) - GAP
    stages = sorted(looks.maps, key=lambda stage: stage != subject)
    sheet = Sheet(
        heading if len(looks.images) else f"{heading}: none",
        READ_HEAT,
        2 * MARGIN + per_row * across + SPACE,
        -(-len(looks.images) // per_row) * row,
    )
    sheet.scale(HEAT, "hardly counted ", "spoke for the answer")
    for place, (image, name, label) in enumerate(
        zip(looks.images, looks.names, looks.labels, strict=True)
    ):
        left = MARGIN + place % per_row * (across + SPACE)
        top = 2 * CAPTION + place // per_row * row
        kind = CLASSES[int(label)]
        sheet.picture(left, top, size, f"{name.rpartition('/')[2][-20:]}\na {kind}", {"X": image})
        for stage in stages:
            left += size + GAP
            dog = looks.probabilities[stage][place]
            mark = "✓" if (dog >= 0.5) == label else "✗"
            heat = {"X": looks.maps[stage][place], "cmap": HEAT, "vmin": 0, "vmax": 1}
            sheet.picture(
                left,
                top,
                size,
                f"{figures.title(stage)}\nP(dog) {dog:.3f} {mark}",
                {"X": image},
                heat | {"alpha": 0.55, "interpolation": "bicubic"},
                marked=stage == subject,
            )
    sheet.save(path)
