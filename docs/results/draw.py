"""Draw the pictures of README.md and docs/augmentation.md from `curves.csv`.

python docs/results/draw.py
"""

import argparse
from pathlib import Path

from catsdogs import layout
from catsdogs.reporting import figures
from compare import NOTEBOOK, draw_curves

import pandas as pd

HERE = Path(__file__).resolve().parent
BUDGET = 1500  # steps that the notebook trains for
EPOCH = 100  # steps
NETWORKS = ("train_basic", "train_augmented")
PRESETS = {"notebook-1": "the notebook's numbers", "better-1": "better", "longer-1": "longer"}


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument("--folder", type=Path, default=HERE.parent, help="where to write them")
    folder = parser.parse_args().folder
    curves = pd.read_csv(HERE / "curves.csv")
    draw_curves(curves[curves["experiment"] == "notebook-1"], folder / "learning_curves.png")
    draw_presets(curves, folder / "longer.png")
    draw_augmentation(curves, folder / "augmentation.png")


def draw_presets(curves: pd.DataFrame, path: Path) -> None:
    """Draw the validation accuracy of both small networks against the steps, a line a preset."""
    figure = figures.new(columns=2, width=11)
    colours = figures.colours(PRESETS)
    for axes, model in zip(figure.axes, NETWORKS, strict=True):
        drawn: list[list[float]] = []
        for name, label in PRESETS.items():
            table = curves[(curves["experiment"] == name) & (curves["model"] == model)]
            values = table["val_accuracy"].tolist()
            if values not in drawn:  # a preset may leave a network as it is
                axes.plot(table["epoch"] * EPOCH, values, color=colours[name], label=label)
                drawn.append(values)
        published = NOTEBOOK[model]["val_accuracy"]
        axes.plot(BUDGET, published, "D", color="black", label="the notebook's own")
        axes.set(title=f"{layout.title(model)}: validation accuracy", xlabel="steps of 32 images")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.axes[1].legend()
    figures.save(figure, path)


def draw_augmentation(curves: pd.DataFrame, path: Path) -> None:
    """Draw the accuracy of both small networks side by side for two presets."""
    figure = figures.new(columns=2, width=11, height=4.8)
    colours = figures.colours(NETWORKS)
    for axes, name in zip(figure.axes, list(PRESETS)[:2], strict=True):
        for model, colour in colours.items():
            table = curves[(curves["experiment"] == name) & (curves["model"] == model)]
            steps, title = table["epoch"] * EPOCH, layout.title(model)
            axes.plot(steps, table["val_accuracy"], color=colour, label=f"{title}, validation")
            axes.plot(steps, table["accuracy"], "--", color=colour, label=f"{title}, training")
        axes.set(title=f"{PRESETS[name]}: accuracy", xlabel="steps of 32 images", ylim=(0.5, 1))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.axes[0].legend()
    figures.save(figure, path)


if __name__ == "__main__":
    main()
