"""Stage `compare`: the three models side by side, and beside the notebook's published figures.

In: what all stages before measured and drew. Out: `metrics/compare.json`; `metrics/compare.md`,
the table for people; `plots/compare.csv` and `plots/compare.png`, all learning curves;
`plots/compare_scores.png`, ROC and calibration; `plots/report.html`, one page with all of it.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from catsdogs import figures, layout, params, recording, report, stage
from catsdogs.files import write_csv, write_json, write_text
from catsdogs.report import Comparison
from catsdogs.significance import mcnemar_tests

import pandas as pd
from pydantic import Field

BEFORE = ("download", "split", *layout.TRAININGS, "evaluate")
# Validation accuracy and loss after the last epoch, as the original notebook printed them.
NOTEBOOK = {
    "train_basic": {"val_accuracy": 0.8100, "val_loss": 0.3999},
    "train_augmented": {"val_accuracy": 0.7786, "val_loss": 0.4764},
    "train_inception": {"val_accuracy": 0.9669, "val_loss": 0.0788},
}


class Compare(params.Section):
    significance: Annotated[params.Real, Field(gt=0, lt=1)]


class Evaluated(params.Section, extra="ignore"):
    confidence: Annotated[params.Real, Field(gt=0, lt=1)]


def main() -> None:
    settings = params.load("compare", Compare)
    tests = mcnemar_tests(pd.read_csv(layout.PREDICTIONS), settings.significance)
    comparison = Comparison(
        drawn=params.load_text("data.source") == "sample",
        runs={
            "train_basic": params.load("train_basic", report.Run),
            "train_augmented": params.load("train_augmented", report.Run),
            "train_inception": params.load("train_inception", report.Run),
        },
        measured={name: read_json(layout.metrics(name)) for name in BEFORE},
        notebook=NOTEBOOK,
        tests=tests,
        confidence=params.load("evaluate", Evaluated).confidence,
        significance=settings.significance,
    )
    write_json(layout.metrics("compare"), {"models": models(comparison), "mcnemar": tests})
    curves = read_curves()
    write_csv(layout.curves("compare"), list(curves), curves.itertuples(index=False))
    draw_curves(curves, layout.figure("compare"))
    draw_scores(layout.figure("compare_scores"))
    table = report.table(comparison)
    write_text(layout.COMPARISON, table)
    write_text(layout.REPORT, report.page(comparison))
    print(table)
    recording.record_workspace()


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


def models(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """The figures that compare with the notebook's, by training stage."""
    scores, measured = comparison.measured["evaluate"], comparison.measured
    return {
        name: {
            "accuracy": scores[name]["accuracy"],
            "val_accuracy": measured[name]["val_accuracy"],
            "val_loss": measured[name]["val_loss"],
            "notebook": comparison.notebook[name],
        }
        for name in layout.TRAININGS
    }


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


def draw_scores(path: Path) -> None:
    figure = figures.new(columns=2, width=11)
    kinds = ("ROC (dog is positive)", "roc"), ("calibration of P(dog)", "calibration")
    for axes, (heading, kind) in zip(figure.axes, kinds, strict=True):
        axes.plot([0, 1], [0, 1], ":", color="grey")
        for name in layout.TRAININGS:
            table = pd.read_csv(layout.SCORE_CURVES / f"{name}_{kind}.csv")
            x, y = table.columns[:2]
            colour, label = figures.COLOURS[name], figures.title(name)
            axes.plot(table[x], table[y], ".-", color=colour, label=label)
            axes.set(title=heading, xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    figure.axes[0].legend()
    figures.save(figure, path)


if __name__ == "__main__":
    stage.run(main)
