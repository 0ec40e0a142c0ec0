"""Pictures for people: numbers go in, PNG files come out, the same bytes for the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from catsdogs.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STYLE = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "legend.frameon": False,
}
COLOURS = {
    "train_basic": "#4c72b0",
    "train_augmented": "#dd8452",
    "train_inception": "#55a868",
}


def title(stage: str) -> str:
    """`train_basic` as a person calls it: `basic`."""
    return stage.removeprefix("train_")


def blank(width: float, height: float) -> Figure:
    """A figure in the project's style, in inches, with nothing on it yet."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcdefaults()  # a user's own matplotlibrc must not change an output
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def new(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 4.2) -> Figure:
    """The same with `rows` × `columns` axes."""
    figure = blank(width, height)
    figure.subplots(rows, columns, squeeze=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that names neither a date nor a program's version."""
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})


def curve(curves: pd.DataFrame, quantity: str, stage: str, path: Path) -> None:
    """Draw a quantity of the training and the validation images against the epoch.

    Args:
        curves: one row per epoch, with columns `epoch`, `quantity` and `val_` + `quantity`.
        quantity: `accuracy` or `loss`.
        stage: whose it is.
        path: the PNG to write.
    """
    figure = new()
    (axes,) = figure.axes
    axes.plot(curves["epoch"], curves[quantity], "o-", color="#4c72b0", label="training")
    axes.plot(
        curves["epoch"], curves[f"val_{quantity}"], "o-", color="#dd8452", label="validation"
    )
    axes.set(
        title=f"{title(stage)}: training and validation {quantity}",
        xlabel="epoch",
        ylabel=quantity,
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    save(figure, path)
