"""The lines of the result: figures and bounds go in, a table with a verdict per line comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from measure import Cost

HEADER = ("", "this pipeline", "compared with", "ratio", "in wall time", "asked", "verdict")


@dataclass(frozen=True)
class Bound:
    """What is asked of a ratio or a figure."""

    sign: str  # ≤ or ≥
    value: float
    unit: str = ""  # of a figure that is no ratio
    also_wall: bool = False  # asked of the wall time, too

    def holds(self, measured: float) -> bool:
        """Whether a figure is within the bound."""
        return measured <= self.value if self.sign == "≤" else measured >= self.value

    def __str__(self) -> str:
        both = " (both)" if self.also_wall else ""
        return f"{self.sign} {self.value:g}{self.unit}{both}"


@dataclass(frozen=True)
class Line:
    """A line of the table: what was compared with what, and what was asked of it."""

    part: str
    what: str
    ours: str = ""
    other: str = ""
    ratio: float | None = None  # in CPU seconds, or the figure itself where nothing is compared
    wall: float | None = None
    bound: Bound | None = None
    why_not: str = ""  # measured

    @property
    def verdict(self) -> str:
        """`pass` or `FAIL`, or nothing where nothing is asked, or why there is no figure."""
        if self.why_not:
            return f"not measured: {self.why_not}"
        if self.bound is None:
            return ""
        judged = [self.ratio, *([self.wall] if self.bound.also_wall else [])]
        return "pass" if all(self.bound.holds(each) for each in judged) else "FAIL"

    def cells(self) -> list[str]:
        """The line as texts, in the order of the header."""
        unit = self.bound.unit if self.bound else ""
        ratio = "" if self.ratio is None else f"{figure(self.ratio)}{unit}"
        wall = "" if self.wall is None else figure(self.wall)
        asked = "" if self.bound is None else str(self.bound)
        return [self.what, self.ours, self.other, ratio, wall, asked, self.verdict]


def figure(value: float) -> str:
    """A number with as many digits as are worth reading."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.3f}"


def milliseconds(cost: Cost) -> str:
    """A cost in milliseconds: CPU / wall."""
    return f"{figure(1e3 * cost.cpu)} / {figure(1e3 * cost.wall)} ms"


def seconds(cost: Cost) -> str:
    """A cost in seconds: CPU / wall."""
    return f"{figure(cost.cpu)} / {figure(cost.wall)} s"


def markdown(lines: Sequence[Line], notes: dict[str, str]) -> str:
    """Write one table for each part, each followed by what is to be known about it."""
    parts = list(dict.fromkeys(line.part for line in lines))
    return "\n".join(
        _part(part, [line for line in lines if line.part == part], notes.get(part, ""))
        for part in parts
    )


def _part(part: str, lines: Sequence[Line], note: str) -> str:
    rows = [HEADER, ("---",) * len(HEADER), *(line.cells() for line in lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"## {part}\n\n{table}\n" + (f"\n{note}\n" if note else "")


def verdicts(lines: Sequence[Line]) -> str:
    """Count the verdicts: one line."""
    counts = [
        f"{sum(line.verdict.startswith(kind) for line in lines)} {name}"
        for kind, name in (("pass", "pass"), ("FAIL", "fail"), ("not measured", "not measured"))
    ]
    return ", ".join(counts)
