"""Measure the pipeline against the notebook, other libraries and bare DVC, and print a table.

    python benchmarks/bench.py                           # all of it, on the public photographs
    python benchmarks/bench.py --only inception memory   # some comparisons
    python benchmarks/bench.py --cpu-isa AVX2            # as on a processor without AVX-512

What is compared runs in turn, in one run, on one machine. Costs are CPU seconds, user and system,
and wall time of whole processes. Working files are kept in `.cache/bench` until the next run.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import machine
import overheads
import table
import trainings
import yaml
from measure import NotMeasured
from table import Line
from workplace import REPOSITORY, Bench

COMPARISONS = {
    "small-cnns": trainings.small_cnns,
    "inception": trainings.inception,
    "evaluation": trainings.evaluation,
    "dvc": overheads.dvc,
    "memory": overheads.memory,
}


def main() -> None:
    """Run the comparisons that are asked for; the status is 1 if a line fails or has no figure."""
    arguments = _arguments()
    bench = Bench(
        _absolute(arguments.photographs or ("sample" if arguments.quick else "microsoft")),
        _absolute(arguments.weights or ("random" if arguments.quick else "imagenet")),
        arguments.torch,
        arguments.quick,
        arguments.cpu_isa,
    )
    lines: list[Line] = []
    for name in arguments.only or COMPARISONS:
        began = time.perf_counter()
        try:
            lines += COMPARISONS[name](bench)
        except NotMeasured as error:
            lines.append(Line(name, why_not=str(error)))
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    where = machine.describe(params["runtime"], bench.cpu_isa)
    page = [table.markdown(lines), where, table.verdicts(lines)]
    if bench.quick:
        page.append("A quick run: the figures mean nothing.")
    print("\n".join(page))
    sys.exit(any(line.verdict not in ("", "PASS") for line in lines))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=COMPARISONS, metavar="NAME", help=", ".join(COMPARISONS)
    )
    parser.add_argument("--photographs", help="a value of data.source (default: microsoft)")
    parser.add_argument("--weights", help="of train_inception.weights (default: imagenet)")
    parser.add_argument("--cpu-isa", default="native", help="oneDNN's in everything, like AVX2")
    parser.add_argument("--torch", action="store_true", help="PyTorch, too: installs 5.5 GB")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    return parser.parse_args()


def _absolute(source: str) -> str:
    """Return a word or a URL as it is, and a path so that it holds anywhere."""
    return str(Path(source).resolve()) if Path(source).exists() else source


if __name__ == "__main__":
    main()
