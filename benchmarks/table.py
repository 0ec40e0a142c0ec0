"""The table: what was compared with what, what is asked of it, and what fails."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from measure import Cost, Usage

HEADER = ("", "this pipeline", "compared with", "ratio: CPU", "wall", "asked", "verdict")


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    what: str
    ours: str = ""
    other: str = ""
    ratios: tuple[float, ...] = ()  # in CPU time and in wall time, or one figure
    asked: str = ""  # of all ratios: `≤ 0.6` or `≥ 3`, with a unit if it is no ratio
    why_not: str = ""  # measured

    @property
    def verdict(self) -> str:
        """PASS or FAIL, nothing where nothing is asked, or why there is no figure."""
        if self.why_not or not self.asked:
            return self.why_not and f"not measured: {self.why_not}"
        sign, bound, *_ = self.asked.split()
        holds = {"≤": operator.le, "≥": operator.ge}[sign]
        return "PASS" if all(holds(ratio, float(bound)) for ratio in self.ratios) else "FAIL"

    def cells(self) -> list[str]:
        """Return the line as texts, in the order of the header."""
        cpu, wall = [*map(figure, self.ratios), "", ""][:2]
        return [self.what, self.ours, self.other, cpu, wall, self.asked, self.verdict]


def figure(value: float) -> str:
    """Write a number with as many digits as are worth reading."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.3f}"


def seconds(cost: Cost) -> str:
    """Write a cost in seconds, or in milliseconds if it is small: CPU / wall."""
    scale, unit = (1, "s") if cost[0] >= 2 else (1e3, "ms")
    return f"{' / '.join(map(figure, scale * cost))} {unit}"


def rate(cost: Cost) -> str:
    """Write what one unit costs as units per second: of CPU / of wall time."""
    return " / ".join(f"{each:,.0f}" for each in 1 / cost)


def compare(
    what: str, ours: Cost, other: Cost, asked: str = "", show: Callable[[Cost], str] = seconds
) -> Line:
    """Divide our cost by the other, or the other by ours if more is better (`≥`)."""
    ratios = other / ours if asked.startswith("≥") else ours / other
    return Line(what, show(ours), show(other), tuple(ratios), asked)


def peak(what: str, used: Usage) -> Line:
    """Say how much memory the largest process held."""
    return Line(f"{what}: peak memory", "", "", (used.peak / 1e9,), "≤ 2 GB")


def markdown(lines: Iterable[Line]) -> str:
    """Write lines as a table in Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *(line.cells() for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def verdicts(lines: Sequence[Line]) -> str:
    """Count the verdicts, and name the lines that fail or have no figure."""
    kinds = ("PASS", "FAIL", "not measured")
    counts = [f"{sum(x.verdict.startswith(kind) for x in lines)} {kind}" for kind in kinds]
    failing = [f"- {x.what}: {x.verdict}" for x in lines if x.verdict not in ("", "PASS")]
    return "\n".join([", ".join(counts), *failing])
