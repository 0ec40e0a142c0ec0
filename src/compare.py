"""Stage `compare`: the three models side by side, and beside the notebook's published figures.

In: the curves, the predictions and their scores. Out: `metrics/compare.json`;
`metrics/compare.md`, the table for people; `plots/compare.csv` and `plots/compare.png`, all
learning curves.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from catsdogs import figures, layout, params, stage
from catsdogs.files import write_csv, write_json, write_text
from catsdogs.significance import mcnemar_tests

import pandas as pd
from pydantic import Field

# Validation accuracy and loss after the last epoch, as the original notebook printed them.
NOTEBOOK = {
    "train_basic": {"val_accuracy": 0.8100, "val_loss": 0.3999},
    "train_augmented": {"val_accuracy": 0.7786, "val_loss": 0.4764},
    "train_inception": {"val_accuracy": 0.9669, "val_loss": 0.0788},
}


class Compare(params.Section):
    significance: Annotated[params.Real, Field(gt=0, lt=1)]


def main() -> None:
    settings = params.load("compare", Compare)
    scores = read_json(layout.metrics("evaluate"))
    trainings = {name: read_json(layout.metrics(name)) for name in layout.TRAININGS}
    predictions = pd.read_csv(layout.PREDICTIONS)
    curves = read_curves()
    tests = mcnemar_tests(predictions, settings.significance)
    models = {
        name: {
            "accuracy": scores[name]["accuracy"],
            "val_accuracy": trainings[name]["val_accuracy"],
            "val_loss": trainings[name]["val_loss"],
            "notebook": NOTEBOOK[name],
        }
        for name in layout.TRAININGS
    }
    write_json(layout.metrics("compare"), {"models": models, "mcnemar": tests})
    write_csv(layout.curves("compare"), list(curves), curves.itertuples(index=False))
    draw_curves(curves, layout.figure("compare"))
    page = describe(scores, trainings, tests, len(predictions), settings.significance)
    write_text(layout.COMPARISON, page)
    print(page)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_curves() -> pd.DataFrame:
    """All learning curves in one table, with the training stage's name in `model`."""
    tables = []
    for name in layout.TRAININGS:
        table = pd.read_csv(layout.curves(name))
        table.insert(0, "model", name)
        tables.append(table)
    return pd.concat(tables)


def describe(
    scores: dict[str, dict[str, float]],
    trainings: dict[str, dict[str, Any]],
    tests: dict[str, dict[str, Any]],
    images: int,
    significance: float,
) -> str:
    """The page for people: a table of the models, and the tests in words."""
    lines = [
        f"On all {images:,} validation images, the interval of the accuracy in brackets; and, as",
        "the notebook has it, on those that a training looks at after its last epoch.",
        "",
        "| model | accuracy | loss | last epoch's accuracy | notebook's | last epoch's loss "
        "| notebook's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in layout.TRAININGS:
        score, last, notebook = scores[name], trainings[name], NOTEBOOK[name]
        lines.append(
            f"| {figures.title(name)} | {score['accuracy']:.4f} "
            f"({score['accuracy_low']:.4f} to {score['accuracy_high']:.4f}) "
            f"| {score['loss']:.4f} | {last['val_accuracy']:.4f} | {notebook['val_accuracy']:.4f} "
            f"| {last['val_loss']:.4f} | {notebook['val_loss']:.4f} |"
        )
    lines += ["", f"McNemar's test on the same images, at {significance:g} after Holm:", ""]
    lines += [f"- {verdict(pair, test)}" for pair, test in tests.items()]
    if trainings["train_inception"]["weights"] == "random":
        lines += ["", "Inception's trunk is untrained (random weights): this was a rehearsal."]
    return "\n".join(lines) + "\n"


def verdict(pair: str, test: dict[str, Any]) -> str:
    one, other = (figures.title(name) for name in pair.split("/"))
    p = f"p = {test['p_holm']:.2g}" if test["p_holm"] >= 1e-4 else "p < 0.0001"
    counts = f"{test['only_first']} to {test['only_second']} images, {p}"
    if not test["differ"]:
        return f"{one} and {other} cannot be told apart ({counts})"
    if test["only_second"] > test["only_first"]:
        one, other = other, one
    return f"{one} beats {other} ({counts})"


def draw_curves(curves: pd.DataFrame, path: Path) -> None:
    figure = figures.new(columns=2, width=11)
    for axes, quantity in zip(figure.axes, ("accuracy", "loss"), strict=True):
        for name, table in curves.groupby("model", sort=False):
            colour, label = figures.COLOURS[name], figures.title(name)
            axes.plot(table["epoch"], table[f"val_{quantity}"], "o-", color=colour, label=label)
            axes.plot(table["epoch"], table[quantity], "--", color=colour, alpha=0.6)
        axes.set(title=f"{quantity} (solid: validation, dashed: training)", xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].legend()
    figures.save(figure, path)


if __name__ == "__main__":
    stage.run(main)
