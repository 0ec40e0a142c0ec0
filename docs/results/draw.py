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
LONG = {"train_basic": "sheared-long-1", "train_augmented": "long-3"}  # whose curve is drawn
# The training accuracy that the notebook prints for its augmented network's first epoch.
PUBLISHED_START = 0.692
WINDOW = 5  # epochs of the moving mean


def main() -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument("--folder", type=Path, default=HERE.parent, help="where to write them")
    folder = parser.parse_args().folder
    curves = pd.read_csv(HERE / "curves.csv")
    draw_curves(curves[curves["experiment"] == "notebook-1"], folder / "learning_curves.png")
    long = curves["model"].map(LONG) == curves["experiment"]
    draw_long(curves[long], folder / "augmentation.png")


def draw_long(curves: pd.DataFrame, path: Path) -> None:
    """Draw accuracy and loss of both small networks against the steps, with moving means."""
    figure = figures.new(columns=2, width=11, height=4.8)
    colours = figures.colours(LONG)
    for axes, quantity in zip(figure.axes, ("accuracy", "loss"), strict=True):
        axes.axvline(BUDGET, color="grey", linestyle=":", label="the notebook's last step")
        for name, colour in colours.items():
            table, title = curves[curves["model"] == name], layout.title(name)
            steps = table["epoch"] * EPOCH
            for images, column, line in (
                ("validation", f"val_{quantity}", "-"),
                ("training", quantity, "--"),
            ):
                mean = table[column].rolling(WINDOW, center=True, min_periods=1).mean()
                axes.plot(steps, table[column], line, color=colour, linewidth=0.6, alpha=0.4)
                axes.plot(steps, mean, line, color=colour, linewidth=2, label=f"{title}, {images}")
            published = NOTEBOOK[name][f"val_{quantity}"]
            label = f"{title}, validation, the notebook's"
            axes.plot(BUDGET, published, "D", color=colour, mec="black", label=label)
        axes.set(title=quantity, xlabel="steps of 32 images")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    accuracy, colour = figure.axes[0], colours["train_augmented"]
    label = "augmented, training, the notebook's first epoch"
    accuracy.plot(EPOCH, PUBLISHED_START, "^", color=colour, mec="black", label=label)
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    figures.save(figure, path)


if __name__ == "__main__":
    main()
