"""The benchmarks' own arithmetic: what is reckoned from measurements, and what is said of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
sys.path.append(str(BENCHMARKS))

import machine  # noqa: E402
import measure  # noqa: E402
import photographs  # noqa: E402
import trainings  # noqa: E402
from measure import Contender, Cost, NotMeasured, Sample, Usage  # noqa: E402
from table import Bound, Line, figure, markdown, verdicts  # noqa: E402

# A contender whose answers are known, whatever it is asked.
ANSWERS = """
import sys
for task in sys.stdin:
    if task == "end\\n":
        break
    print('{"units": 4, "cpu": 2.0, "wall": 1.0}', flush=True)
"""


def samples(*costs):
    return [Sample(units, Cost(cpu, wall)) for units, cpu, wall in costs]


def contender(tmp_path, code):
    return Contender([sys.executable, "-c", code], tmp_path, os.environ, tmp_path / "log")


def test_a_cost_is_the_median_rounds_of_a_unit():
    assert measure.cost(samples((10, 20, 10), (10, 30, 90), (5, 500, 20))) == Cost(3, 4)


def test_a_ratio_is_the_median_of_those_measured_side_by_side():
    over, under = (
        samples((1, 8, 6), (2, 2, 6), (1, 9, 1)),
        samples((1, 2, 3), (1, 1, 1), (1, 3, 4)),
    )
    assert measure.ratio(over, under) == Cost(3, 2)


def test_samples_are_taken_together_so_many_at_a_time():
    assert measure.grouped(samples((1, 1, 2), (2, 3, 4), (3, 5, 6), (4, 7, 8)), 2) == samples(
        (3, 4, 6), (7, 12, 14)
    )


def test_a_whole_training_is_scaled_up_from_a_short_one(tmp_path):
    """Everything counts once: steps and validations as often as the notebook has them."""
    step, cold, found, rest = Cost(3, 2), Cost(5, 4), Cost(1, 0.5), Cost(70, 40)
    with contender(tmp_path, "") as short:
        short.samples["fit"] = [Sample(10, step * 10)] * 3
        short.samples["bare"] = samples((10, 11, 12))
        short.samples["validate"] = [Sample(20, cold * 20), Sample(20, found * 20)]
        spent = rest + step * (30 + trainings.WARM) + cold * 20 + found * (20 + 20) + Cost(11, 12)
        short.used = Usage(spent, 0)
        assert trainings.rest(short) == rest
        whole = rest + cold * 50 + found * 700
        assert trainings.whole(short) == whole + step * 1500
        assert trainings.whole(short, Cost(9, 9)) == whole + Cost(9, 9)


def test_a_contender_notes_what_its_tasks_take_and_it_all(tmp_path):
    with contender(tmp_path, ANSWERS) as asked:
        measure.in_turn([(asked, "one"), (asked, "other")], 2)
        asked.end()
    assert asked.samples == {"one": samples((4, 2, 1)) * 2, "other": samples((4, 2, 1)) * 2}
    assert asked.used.cost.cpu > 0


def test_a_contender_that_fails_says_why(tmp_path):
    with contender(tmp_path, "raise SystemExit('no such folder')") as failing:
        for action in (lambda: failing.do("anything"), failing.end):
            with pytest.raises(NotMeasured, match="no such folder"):
                action()


OF_A_COMMAND = "print(measure.run({}, '.', os.environ, Path('log')).peak)"
OF_A_CONTENDER = "it = measure.Contender({}, '.', os.environ, Path('log'))"
OF_A_CONTENDER += "; it.do('anything'); it.end(); print(it.used.peak)"


@pytest.mark.parametrize("ask", [OF_A_COMMAND, OF_A_CONTENDER])
def test_the_peak_is_that_of_the_command(tmp_path, ask):
    """From a small process: Linux counts what the caller held when it started the command."""
    command = [sys.executable, "-c", f"b'x' * 300_000_000\n{ANSWERS if 'do' in ask else ''}"]
    prepare = f"import os, sys; from pathlib import Path; sys.path.insert(0, {str(BENCHMARKS)!r})"
    run = [sys.executable, "-c", f"{prepare}; import measure; {ask.format(command)}"]
    asked = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert 3e8 < int(asked.stdout) < 4e8
    with pytest.raises(NotMeasured, match="ended with 3"):
        measure.run([sys.executable, "-c", "exit(3)"], tmp_path, os.environ, tmp_path / "log")


@pytest.mark.parametrize(
    ("bound", "ratio", "wall", "verdict"),
    [
        (Bound("≤", 1.03), 1.03, 9, "pass"),
        (Bound("≤", 1.03), 1.04, 1, "FAIL"),
        (Bound("≤", 1.03, also_wall=True), 1.0, 1.04, "FAIL"),
        (Bound("≥", 20), 20, 1, "pass"),
        (Bound("≥", 20), 19.9, 99, "FAIL"),
        (None, 5, 5, ""),
    ],
)
def test_verdicts(bound, ratio, wall, verdict):
    assert Line("part", "what", ratio=ratio, wall=wall, bound=bound).verdict == verdict


def test_the_table_has_a_verdict_on_every_line():
    lines = [
        Line("Feeding", "fast", "9 s", "90 s", 10.0, 8.0, Bound("≥", 3)),
        Line("Feeding", "PyTorch's", why_not="no network"),
        Line("Memory", "peak", "3 GB", ratio=3.0, bound=Bound("≤", 2, " GB")),
    ]
    text = markdown(lines, {"Memory": "The largest process."})
    assert "| fast | 9 s | 90 s | 10 | 8.000 | ≥ 3 | pass |" in text
    assert "| PyTorch's |  |  |  |  |  | not measured: no network |" in text
    assert "| peak | 3 GB |  | 3.000 GB |  | ≤ 2 GB | FAIL |" in text
    assert text.index("## Feeding") < text.index("## Memory") < text.index("The largest process.")
    assert verdicts(lines) == "1 pass, 1 fail, 1 not measured"


def test_figures_have_the_digits_worth_reading():
    assert [figure(value) for value in (0.1234, 9.8765, 12.345, 1234.5)] == [
        "0.123",
        "9.877",
        "12.3",
        "1,234",
    ]


def test_the_machine_is_described():
    runtime = {"threads": 2, "onednn": True, "cpu_isa": "AVX2"}
    text = machine.describe(runtime, Path("/no/such/python"))
    assert f"{os.cpu_count()} cores" in text
    assert "keras 3." in text
    assert "tensorflow" in text
    assert "threads 2, onednn True, cpu_isa AVX2" in text


@pytest.mark.parametrize("images", [24_000, 25_000])
def test_fewer_photographs_than_the_tables_speak_of_are_not_measured(
    monkeypatch, tmp_path, images
):
    class Split:
        path = tmp_path

        def __init__(self, *_):
            pass

        def repro(self, stage):
            (tmp_path / "metrics").mkdir()
            sides = {"train": images - 5_000, "validation": 5_000}
            (tmp_path / f"metrics/{stage}.json").write_text(json.dumps(sides))

    monkeypatch.setattr(photographs, "Checkout", Split)
    sources = photographs.Sources(f"{images}.zip", "random")
    if images == 25_000:
        assert photographs.prepare(sources).path == tmp_path
    else:
        with pytest.raises(NotMeasured, match=r"24000\.zip has 24,000 images: what"):
            photographs.prepare(sources)


def test_help_lists_the_parts():
    command = [sys.executable, "benchmarks/bench.py", "--help"]
    result = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for part in ("feeding", "steps", "inception", "evaluation", "overheads", "growth"):
        assert part in result.stdout
    command = [sys.executable, "benchmarks/bench.py", "--only", "feding"]
    result = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert "invalid choice: 'feding'" in result.stderr
