"""Draw the curves of `dvc plots diff base HEAD --show-vega` as GitHub can show them.

GitHub shows no picture that a workflow makes, but draws Mermaid in comments and summaries.
"""

import json
import sys

COLOURS = {"base": "#999999", "HEAD": "#0072b2"}
CHART = """
```mermaid
---
config:
  themeVariables:
    xyChart:
      plotColorPalette: "{colours}"
---
xychart-beta
  title "{model}: validation accuracy, before (grey) and after (blue)"
  x-axis epoch {epochs}
  y-axis accuracy
{lines}
```"""


def main() -> None:
    """Read the chart's Vega from the standard input; print a chart in Mermaid for each model."""
    curves: dict[str, dict[str, list[float]]] = {}
    for row in json.load(sys.stdin)["data"]["values"]:
        points = curves.setdefault(row["model"], {}).setdefault(row["rev"], [])
        points.append(float(row["val_accuracy"]))
    for model, revisions in curves.items():
        chart = CHART.format(
            model=model,
            colours=", ".join(COLOURS[revision] for revision in revisions),
            epochs=[*range(1, 1 + max(map(len, revisions.values())))],
            lines="\n".join(f"  line {points}" for points in revisions.values()),
        )
        print(chart)


if __name__ == "__main__":
    main()
