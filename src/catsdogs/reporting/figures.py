"""Charts as PNG files, with the same bytes for the same numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout
from catsdogs.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "legend.frameon": False,
}
PALETTE = (  # also that of .dvc/plots/models.json
    "#4c72b0",
    "#dd8452",
    "#55a868",
    "#c44e52",
    "#8172b3",
    "#937860",
    "#da8bc3",
    "#8c8c8c",
    "#ccb974",
    "#64b5cd",
)


def colours(models: Iterable[str]) -> dict[str, str]:
    """Give each model its colour, by its position."""
    return dict(zip(models, cycle(PALETTE), strict=False))


def blank(width: float, height: float) -> Figure:
    """Make an empty figure in the project's style; width and height in inches."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's is one that matplotlib may not have here
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcdefaults()  # a user's own matplotlibrc must not change an output
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def new(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 4.2) -> Figure:
    """Make a figure with `rows` × `columns` axes."""
    figure = blank(width, height)
    figure.subplots(rows, columns, squeeze=False)
    return figure


def save(figure: Figure, path: Path, **options: Any) -> None:
    """Write a PNG that names neither a date nor a program's version."""
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None}, **options)


def curve(curves: pd.DataFrame, quantity: str, stage: str, path: Path) -> None:
    """Draw a quantity of the training and the validation images against the epoch.

    Args:
        curves: one row per epoch, with columns `epoch`, `quantity` and `val_` + `quantity`.
        quantity: `accuracy` or `loss`.
        stage: the training stage.
        path: the PNG to write.
    """
    figure = new()
    (axes,) = figure.axes
    columns = {"training": quantity, "validation": f"val_{quantity}"}
    for (label, column), colour in zip(columns.items(), PALETTE, strict=False):
        axes.plot(curves["epoch"], curves[column], "o-", color=colour, label=label)
    title = f"{layout.title(stage)}: training and validation {quantity}"
    axes.set(title=title, xlabel="epoch", ylabel=quantity)
    axes.locator_params("x", integer=True)
    axes.legend()
    save(figure, path)
