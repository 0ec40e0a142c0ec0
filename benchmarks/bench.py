"""Measure the pipeline against the notebook and against other libraries, and print a table.

    python benchmarks/bench.py                       # all of it, on the public photographs
    python benchmarks/bench.py --only feeding steps  # some parts

Every figure is a ratio of two things that were measured in turn, in CPU seconds, user and system,
of a process and all that it started. What is made for it stays in `.cache/bench`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import evaluation
import feeding
import growth
import inception
import machine
import overheads
import steps
import torch_environment
import yaml
from checkout import LOGS, REPOSITORY
from measure import NotMeasured
from photographs import Sources
from table import Line, markdown, verdicts

PARTS = {
    "feeding": feeding,
    "steps": steps,
    "inception": inception,
    "evaluation": evaluation,
    "overheads": overheads,
    "growth": growth,
}


def main() -> None:
    """Run the parts that are asked for; status 1 if a line fails."""
    arguments = _arguments()
    LOGS.mkdir(parents=True, exist_ok=True)
    sources = Sources(arguments.photographs, arguments.weights)
    lines: list[Line] = []
    for name in arguments.only or PARTS:
        began = time.perf_counter()
        measured = _part(name, sources)
        print(markdown(measured, {}), file=sys.stderr)  # now, should a later part be interrupted
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        lines += measured
    text = _page(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    sys.exit(any(line.verdict == "FAIL" for line in lines))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--photographs", type=_source, default="microsoft", help="a data.source")
    parser.add_argument(
        "--weights", type=_source, default="imagenet", help="a train_inception.weights"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write the table, too"
    )
    return parser.parse_args()


def _source(value: str) -> str:
    """A word or a URL as it is; a path so that it holds anywhere."""
    return str(Path(value).resolve()) if Path(value).exists() else value


def _part(name: str, sources: Sources) -> list[Line]:
    part = PARTS[name]
    try:
        return part.measure(sources)
    except NotMeasured as error:
        return [Line(part.PART, "everything", why_not=str(error))]


def _page(lines: list[Line]) -> str:
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    notes = {part.PART: part.NOTE for part in PARTS.values()}
    described = machine.describe(params["runtime"], torch_environment.PYTHON)
    return f"{markdown(lines, notes)}\n## Measured on\n\n{described}\n\n{verdicts(lines)}\n"


if __name__ == "__main__":
    main()
