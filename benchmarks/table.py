"""The table: what was compared with what, what is asked of it, and where it was measured."""

from __future__ import annotations

import operator
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from measure import Cost, Usage

HEADER = ("", "this pipeline", "compared with", "ratio: CPU", "wall", "asked", "verdict")
PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "opencv-python-headless", "dvc")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


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


def peak(stage: str, used: Usage) -> Line:
    """Say how much memory the largest process of a stage held."""
    return Line(f"`{stage}`: peak memory", "", "", (used.peak / 1e9,), "≤ 2 GB")


def markdown(lines: Iterable[Line]) -> str:
    """Write lines as a table in Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *(line.cells() for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def verdicts(lines: Sequence[Line]) -> str:
    """Count the verdicts."""
    kinds = ("PASS", "FAIL", "not measured")
    return ", ".join(f"{sum(x.verdict.startswith(kind) for x in lines)} {kind}" for kind in kinds)


def machine(runtime: Mapping[str, Any]) -> str:
    """Describe the machine and the packages, as a list in Markdown.

    Args:
        runtime: the section of `params.yaml`.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {
        package.name.lower().replace("_", "-"): package.version
        for package in metadata.distributions()
    }
    packages = [f"{name} {found[name]}" for name in PACKAGES if name in found]
    return (
        f"- {processor()}, {os.cpu_count()} cores, {memory:.1f} GiB\n"
        f"- {platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"{', '.join(packages)}\n"
        f"- `runtime`: {', '.join(f'{name} {value}' for name, value in runtime.items())}; "
        "the notebook has TensorFlow's defaults\n"
    )


def processor() -> str:
    """Name the processor, its family and model, and its vector instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # this is not Linux
        text = ""
    found = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in found:
        return platform.processor() or platform.machine()
    has = [name for name in INSTRUCTIONS if name in found.get("flags", "").split()]
    family, model = found.get("cpu family", "?"), found.get("model", "?")
    return f"{found['model name']} (family {family}, model {model}; {', '.join(has)})"
