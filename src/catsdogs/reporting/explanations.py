"""Pictures that explain a model: its filters, its feature maps, its Grad-CAM heat maps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from catsdogs import layout
from catsdogs.reporting import figures

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches.
GAP = 0.07  # between pictures of a row
CAPTION = 0.19  # above a picture: one line of SMALL
LINE = 0.14  # of PRINT
NARROWEST = 6  # that a paragraph is broken to

SMALL, PRINT, LARGE = 6.5, 8, 12  # points
LETTERS = 16.5  # of PRINT to an inch

HEAT = "inferno"
READ_FILTERS = (
    "Each tile is one filter. The convolution lays it over every place of an image. The colours "
    "are its weights for red, green and blue: grey is zero, brighter responds to light, darker to "
    "its absence. Each filter has its own scale. A filter that is bright on one side and dark on "
    "the other responds to edges; one of a single colour responds to that colour. Filters start "
    "as noise, and a short training leaves much of it. The number is that of the channel in the "
    "feature maps."
)
READ_FEATURE_MAPS = (
    "A channel is the response of one filter at every place: black where it finds nothing, "
    "brighter where it finds more. Both images share one scale, so you can compare them. Each "
    "convolution looks for patterns in all channels of the one before, first edges and colours, "
    "then shapes made of them. Shown are channels that are active here and differ from one "
    "another."
)
READ_HEAT_MAPS = (
    "Right of each image is the same image under each model's heat map (Grad-CAM). Bright places "
    "speak for the model's own answer: {1} if P({1}) is at least 0.5, {0} if it is below. ✓ is a "
    "right answer, ✗ a wrong one. Dark places hardly count. Each map has its own scale, up to its "
    "brightest place. If all is dark, nothing speaks for the answer."
)


class HeatMaps(NamedTuple):
    """Some images, and what each model makes of them."""

    images: np.ndarray  # uint8, N×size×size×3; N may be 0
    names: Sequence[str]
    labels: np.ndarray  # 0 or 1, N
    classes: tuple[str, str]  # the names of 0 and 1
    maps: Mapping[str, np.ndarray]  # of each model, Grad-CAM, 0…1, N×rows×columns
    probabilities: Mapping[str, np.ndarray]  # of each model, P(1), N


def draw_filters(stage: str, kernels: np.ndarray, path: Path) -> None:
    """Draw a first convolution's kernels.

    Args:
        stage: whose they are.
        kernels: as colours, 0…1, grey is zero, N×height×width×3.
        path: the PNG to write.
    """
    columns = 8
    figure, axes = _grid(0.7, columns=[1] * columns, rows=[1] * -(-len(kernels) // columns))
    for number, (place, kernel) in enumerate(zip(axes.flat, kernels, strict=False)):
        _show(place, str(number), {"X": kernel, "interpolation": "nearest"})
    title = f"{layout.title(stage)}: the {len(kernels)} filters of the first convolution"
    _save(figure, title, READ_FILTERS, path)


def draw_feature_maps(
    stage: str,
    images: np.ndarray,
    classes: Sequence[str],
    maps: Sequence[np.ndarray],
    channels: Sequence[np.ndarray],
    path: Path,
) -> None:
    """Draw what each convolution finds in the same images.

    Args:
        stage: whose convolutions they are.
        images: uint8, N×size×size×3.
        classes: the name of each image's class, N.
        maps: for each convolution its output, N×rows×columns×channels.
        channels: for each convolution the channels to draw.
        path: the PNG to write.
    """
    most = max(map(len, channels))
    # A low row for each heading, and a narrow column between the images and the channels.
    figure, axes = _grid(
        0.85, columns=[1, 0.1] + [1] * most, rows=([0.15] + [1] * len(images)) * len(maps)
    )
    blocks = axes.reshape(len(maps), 1 + len(images), -1)
    for number, (block, found, chosen) in enumerate(zip(blocks, maps, channels, strict=True), 1):
        _, height, width, count = found.shape
        words = f"convolution {number} of {len(maps)}: {count} channels of {height}×{width}"
        block[0, 0].set(visible=True, frame_on=False)
        block[0, 0].text(0, 0.6, words, fontsize=PRINT, weight="bold")
        for row, image, kind, responses in zip(block[1:], images, classes, found, strict=True):
            _show(row[0], _shorten(kind, 20), {"X": image})
            for place, channel in zip(row[2:], chosen, strict=False):
                shades = {"X": responses[..., channel], "cmap": "gray", "vmin": 0}
                _show(place, f"channel {channel}", shades | {"vmax": _white(found[..., channel])})
    title = f"{layout.title(stage)}: what its convolutions find in each class"
    _save(figure, title, READ_FEATURE_MAPS, path)


def _white(responses: np.ndarray) -> float:
    """The response that only one in twenty of a channel's positive ones exceeds."""
    active = responses[responses > 0]
    return float(np.quantile(active, 0.95)) if active.size else 1.0


def draw_heat_maps(heading: str, shown: HeatMaps, path: Path, subject: str = "") -> None:
    """Draw images, each beside what speaks for every model's answer.

    Args:
        heading: above all.
        shown: the images and what the models make of them.
        path: the PNG to write.
        subject: the model that the picture is about; it comes first, in a frame.
    """
    models = sorted(shown.maps, key=lambda model: model != subject)
    group = 1 + len(models)
    per_row = max(1, 10 // group)
    positive = _shorten(shown.classes[1], 12)
    # A long name takes a line of its own.
    space, lines = (" ", 2) if len(positive) <= 5 else ("\n", 3)
    columns = ([1] * group + [0.25]) * per_row
    figure, axes = _grid(
        0.85, columns[:-1], [1] * -(-len(shown.images) // per_row), caption=lines * CAPTION
    )
    groups = (
        row[start : start + group] for row in axes for start in range(0, len(row), group + 1)
    )
    for number, (places, image) in enumerate(zip(groups, shown.images, strict=False)):
        label, name = int(shown.labels[number]), shown.names[number].rpartition("/")[2]
        _show(places[0], f"{name[-20:]}\n{_shorten(shown.classes[label], 20)}", {"X": image})
        for place, model in zip(places[1:], models, strict=True):
            p = shown.probabilities[model][number]
            sign = "✓" if (p >= 0.5) == label else "✗"
            caption = f"{layout.title(model)}\nP({positive}){space}{p:.3f} {sign}"
            heat = {"X": shown.maps[model][number], "cmap": HEAT, "vmin": 0, "vmax": 1}
            heat |= {"alpha": 0.55, "interpolation": "bicubic"}
            _show(place, caption, {"X": image}, heat, marked=model == subject)
    title = heading if len(shown.images) else f"{heading}: none"
    _save(figure, title, READ_HEAT_MAPS.format(*shown.classes), path, scale=True)


def _shorten(name: str, most: int) -> str:
    """Cut what a name has beyond so many characters: there is no room above a picture."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _grid(
    size: float, columns: Sequence[float], rows: Sequence[float], caption: float = CAPTION
) -> tuple[Figure, np.ndarray]:
    """Make a figure that is all axes, rows×columns, none of them visible yet.

    A picture's side (`size`) and the room above a row (`caption`) are in inches; `columns` and
    `rows` are widths and heights in sizes.
    """
    rows = rows or [1]
    width, height = size * sum(columns), size * sum(rows)
    figure = figures.blank(width + GAP * (len(columns) - 1), height + caption * (len(rows) - 1))
    figure.set_layout_engine("none")
    spaces = {"wspace": GAP * len(columns) / width, "hspace": caption * len(rows) / height}
    axes = figure.subplots(
        len(rows),
        len(columns),
        squeeze=False,
        width_ratios=columns,
        height_ratios=rows,
        subplot_kw={"visible": False, "xticks": [], "yticks": []},
        gridspec_kw={"left": 0, "bottom": 0, "right": 1, "top": 1, **spaces},
    )
    return figure, axes


def _show(axes: Axes, caption: str, *layers: dict[str, Any], marked: bool = False) -> None:
    """Draw a picture: one or more layers, each given by the arguments of `imshow`."""
    axes.set_visible(True)
    axes.grid(False)
    for layer in layers:
        axes.imshow(extent=(0, 1, 0, 1), **layer)
    weight = "bold" if marked else "normal"
    axes.set_title(caption, fontsize=SMALL, loc="left", pad=3, weight=weight, parse_math=False)
    axes.spines[:].set(visible=marked, linewidth=2)


def _save(figure: Figure, heading: str, how_to_read: str, path: Path, scale: bool = False) -> None:
    """Write a figure, with a heading, a paragraph and the scale of HEAT above its upper edge."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(how_to_read, int(max(width, NARROWEST) * LETTERS))
    bottom = 1 + (5 if scale else 2) * LINE / height
    top = bottom + (len(lines) + 1) * LINE / height
    figure.text(0, bottom, "\n".join(lines), fontsize=PRINT, linespacing=1.25)
    figure.text(0, top, heading, fontsize=LARGE, weight="bold")
    if scale:
        bar = figure.add_axes((0, bottom - 1.7 * LINE / height, 2.4 / width, LINE / height))
        bar.imshow(np.linspace(0, 1, 256)[None], cmap=HEAT, aspect="auto", extent=(0, 1, 0, 1))
        bar.axis("off")
        bar.text(0.02, 0.45, "hardly counts", color="white", fontsize=SMALL, va="center")
        bar.text(0.98, 0.45, "speaks for the answer", fontsize=SMALL, va="center", ha="right")
    figures.save(figure, path, bbox_inches="tight", pad_inches=0.15)
