"""Stage `compare`: the models side by side, and beside the notebook's published figures.

In: what all stages before measured and drew. Out: `metrics/compare.json`; `metrics/compare.md`,
the table for people; `plots/compare.csv` and `plots/compare.png`, all learning curves;
`plots/compare_scores.png`, ROC and calibration; `plots/report.html`, one page with all of it.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from catsdogs import layout, params, stage
from catsdogs.evaluation.significance import mcnemar_tests
from catsdogs.files import write_csv, write_json, write_text
from catsdogs.reporting import figures, report
from catsdogs.reporting.report import Comparison
from catsdogs.tracking import recording

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


class Evaluated(params.Section, extra="ignore"):
    confidence: Annotated[params.Real, Field(gt=0, lt=1)]


def main() -> None:
    names, classes = params.load_models(), params.load_classes()
    settings = params.load("compare", Compare)
    curves, scores = read_curves(names), read_json(layout.SCORES)
    tests = mcnemar_tests(pd.read_csv(layout.PREDICTIONS), names, settings.significance)
    comparable = set(classes) == set(layout.CATS_AND_DOGS)
    comparison = Comparison(
        classes=classes,
        drawn=params.load_text("data.source") == layout.SAMPLE,
        download=read_json(layout.metrics("download")),
        split=read_json(layout.metrics("split")),
        facts={name: read_json(layout.facts(name)) for name in names},
        last_epoch={name: last_epoch(curves[curves["model"] == name]) for name in names},
        scores={name: scores[name] for name in names},
        notebook={name: NOTEBOOK[name] for name in names if name in NOTEBOOK and comparable},
        tests=tests,
        confidence=params.load("evaluate", Evaluated).confidence,
        significance=settings.significance,
    )
    compared = {"models": summarize(comparison), "mcnemar": tests}
    # Git has this file, and not those that these two come from.
    used = {"download": comparison.download, "split": comparison.split}
    write_json(layout.metrics("compare"), compared | used)
    write_csv(layout.ALL_CURVES, curves.columns.tolist(), curves.itertuples(index=False))
    draw_curves(curves, layout.ALL_CURVES_FIGURE)
    draw_scores(classes[1], layout.ALL_SCORES_FIGURE)
    table = report.table(comparison)
    write_text(layout.COMPARISON, table)
    write_text(layout.REPORT, report.page(comparison))
    print(table)
    recording.record_workspace()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_curves(names: list[str]) -> pd.DataFrame:
    """All learning curves in one table, with the training stage's name in `model`."""
    tables = {name: pd.read_csv(layout.curves(name)) for name in names}
    return pd.concat(tables, names=["model"]).reset_index("model")


def last_epoch(curves: pd.DataFrame) -> dict[str, float]:
    last = curves.iloc[-1]
    return {name: float(last[name]) for name in ("val_accuracy", "val_loss")}


def summarize(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """The accuracy and last epoch of each model, and the notebook's figures where it has any."""
    return {
        name: {
            "accuracy": comparison.scores[name]["accuracy"],
            **comparison.last_epoch[name],
            **({"notebook": theirs} if (theirs := comparison.notebook.get(name)) else {}),
        }
        for name in comparison.models
    }


def draw_curves(curves: pd.DataFrame, path: Path) -> None:
    figure = figures.new(columns=2, width=11)
    colours = figures.colours(curves["model"].unique())
    for axes, quantity in zip(figure.axes, ("accuracy", "loss"), strict=True):
        for name, table in curves.groupby("model", sort=False):
            colour, label = colours[str(name)], layout.title(str(name))
            axes.plot(table["epoch"], table[f"val_{quantity}"], "o-", color=colour, label=label)
            axes.plot(table["epoch"], table[quantity], "--", color=colour, alpha=0.6)
        axes.set(title=f"{quantity} (solid: validation, dashed: training)", xlabel="epoch")
        axes.locator_params("x", integer=True)
    figure.axes[0].legend()
    figures.save(figure, path)


def draw_scores(positive: str, path: Path) -> None:
    figure = figures.new(columns=2, width=11)
    kinds = (
        (f"ROC ({positive} is positive)", "roc"),
        (f"calibration of P({positive})", "calibration"),
    )
    for axes, (heading, kind) in zip(figure.axes, kinds, strict=True):
        axes.plot([0, 1], [0, 1], ":", color="grey")
        curves = pd.read_csv(layout.SCORE_CURVES / f"{kind}.csv")
        colours = figures.colours(curves["model"].unique())
        x, y = curves.columns[1:3]
        for name, table in curves.groupby("model", sort=False):
            colour, label = colours[str(name)], layout.title(str(name))
            axes.plot(table[x], table[y], ".-", color=colour, label=label)
        axes.set(title=heading, xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    figure.axes[0].legend()
    figures.save(figure, path)


if __name__ == "__main__":
    stage.run(main)
