"""The benchmarks' arithmetic, and that each comparison runs. No timing decides a test."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
sys.path.append(str(BENCHMARKS))

import feeding  # noqa: E402
import machine  # noqa: E402
import measure  # noqa: E402
import table  # noqa: E402
import trainings  # noqa: E402
import workplace  # noqa: E402
from bench import COMPARISONS  # noqa: E402
from measure import NotMeasured, Usage  # noqa: E402
from table import Line, compare  # noqa: E402


def cost(cpu, wall):
    return np.array([cpu, wall], float)


def test_what_one_unit_takes_is_the_mean_over_all_samples():
    samples = np.array([[10, 20, 10], [30, 20, 50]], float)
    assert measure.each(samples).tolist() == [1, 1.5]


def test_a_whole_training_is_scaled_up_from_a_short_one():
    """Everything counts once: steps and validations as often as the notebook has them."""
    step, cold, found, once = cost(3, 2), cost(5, 4), cost(1, 0.5), cost(70, 40)
    samples = {
        "fit, first": [[10, *(step * 10 + cost(6, 5))]],
        "fit": [[10, *step * 10]] * 3,
        "bare": [[10, 11, 12]],
        "validate, first": [[20, *cold * 20]],
        "validate": [[20, *found * 20]] * 2,
        "pauses": [[1, 0, 0.5]],
    }
    # One step and one validation are not sampled; what is slow in the first steps counts once.
    spent = once + step * (1 + 40) + cost(11, 12) + cold * 20 + found * 60 + cost(0, 0.5)
    used = Usage(spent + cost(6, 5), 0, {task: np.array(rows) for task, rows in samples.items()})
    rest = once + cost(6, 5) + found * 700
    assert trainings.whole(used) == pytest.approx(rest + cold * 50 + step * 1500)
    assert trainings.whole(used, cost(9, 8)) == pytest.approx(rest + cold * 50 + cost(9, 8))
    assert trainings.whole(used, cost(9, 8), cached=True) == pytest.approx(
        rest + found * 50 + cost(9, 8)
    )


SAMPLES = """
import json, os, pathlib
plan = json.loads(os.environ["PROBE"])
pathlib.Path(plan["result"]).write_text(json.dumps({"fit": [[plan["fit"], 2.0, 1.0]]}))
"""


def run(tmp_path, code, plan=None):
    command = [sys.executable, "-c", code]
    return measure.run(command, tmp_path, os.environ, tmp_path / "log", plan)


def test_a_process_is_measured_and_its_samples_are_read(tmp_path):
    used = run(tmp_path, SAMPLES, {"fit": 4})
    assert used.each("fit").tolist() == [0.5, 0.25]
    assert used.unprobed == pytest.approx(used.cost - cost(2, 1))
    with pytest.raises(NotMeasured, match="ended with 1: no such folder"):
        run(tmp_path, "raise SystemExit('no such folder')")
    with pytest.raises(NotMeasured, match="ended with 0"):
        run(tmp_path, "", {"fit": 4})  # which has measured nothing


def test_the_peak_is_that_of_the_command(tmp_path):
    """From a small process: Linux counts what the caller held when it started the command."""
    code = f"""
import os, sys, pathlib
sys.path.insert(0, {str(BENCHMARKS)!r})
import measure
command = [sys.executable, "-c", "b'x' * 300_000_000"]
print(measure.run(command, ".", os.environ, pathlib.Path("log")).peak)
"""
    command = [sys.executable, "-c", code]
    asked = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert 3e8 < int(asked.stdout) < 4e8


@pytest.mark.parametrize(
    ("asked", "ratios", "verdict"),
    [
        ("≤ 1.03", (1.03, 1.0), "PASS"),
        ("≤ 1.03", (1.04, 1.0), "FAIL"),
        ("≤ 1.03", (1.0, 1.04), "FAIL"),
        ("≥ 20", (20, 21), "PASS"),
        ("≥ 20", (99, 19.9), "FAIL"),
        ("≤ 2 GB", (3.0,), "FAIL"),
        ("", (5, 5), ""),
    ],
)
def test_verdicts(asked, ratios, verdict):
    assert Line("what", ratios=ratios, asked=asked).verdict == verdict


def test_ratios_are_ours_over_the_other_or_the_reverse_where_more_is_better():
    assert compare("", cost(1, 3), cost(2, 2), "≤ 1").ratios == (0.5, 1.5)
    line = compare("", cost(0.5, 0.1), cost(1, 1), "≥ 3", table.rate)
    assert line.ratios == (2, 10)
    assert (line.ours, line.other, line.verdict) == ("2 / 10", "1 / 1", "FAIL")


def test_the_table_has_a_verdict_on_every_line():
    lines = [
        compare("fast", cost(9, 8), cost(90, 1234.5), "≤ 0.3"),
        Line("PyTorch", why_not="no network"),
        Line("peak", ratios=(3.0,), asked="≤ 2 GB"),
    ]
    text = table.markdown(lines)
    assert "| fast | 9.000 / 8.000 s | 90 / 1,234 s | 0.100 | 0.006 | ≤ 0.3 | PASS |" in text
    assert "| PyTorch |  |  |  |  |  | not measured: no network |" in text
    assert "| peak |  |  | 3.000 |  | ≤ 2 GB | FAIL |" in text
    assert table.verdicts(lines).splitlines() == [
        "1 PASS, 1 FAIL, 1 not measured",
        "- PyTorch: not measured: no network",
        "- peak: FAIL",
    ]


def test_the_machine_is_described():
    runtime = {"threads": 2, "cpu_isa": "native"}
    text = machine.describe(runtime, "AVX2")
    assert f"{machine.processor()}, {joblib.cpu_count()} cores" in text
    assert "tensorflow" in text
    assert "`runtime`: threads 2, cpu_isa AVX2, precision as the table says; " in text
    assert "TensorFlow's defaults, with ONEDNN_MAX_CPU_ISA=AVX2\n" in text
    assert "ONEDNN_MAX_CPU_ISA" not in machine.describe(runtime, "native")


@pytest.mark.parametrize(
    ("flags", "cpu_isa", "is_narrow", "precisions"),
    [
        ("avx2", "native", True, ["float32"]),
        ("avx2 avx512f", "native", False, ["float32"]),
        ("avx2 avx512f avx512_bf16", "native", False, ["bfloat16", "float32"]),
        ("avx2 avx512f amx_bf16", "AVX512_CORE_AMX", False, ["bfloat16", "float32"]),
        ("avx2 avx512f avx512_bf16", "AVX512_CORE_BF16", False, ["bfloat16", "float32"]),
        ("avx2 avx512f avx512_bf16", "AVX512_CORE", False, ["float32"]),
        ("avx2 avx512f avx512_bf16", "AVX2", True, ["float32"]),
    ],
)
def test_bounds_and_precisions_follow_the_instructions(
    monkeypatch, flags, cpu_isa, is_narrow, precisions
):
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": f"fpu {flags} amx_tile"})
    assert machine.is_narrow(cpu_isa) is is_narrow
    assert machine.precisions(cpu_isa) == precisions


def test_the_pipeline_and_its_rivals_get_the_same_instructions(monkeypatch, tmp_path):
    """And nothing that a person has set."""
    monkeypatch.setattr(workplace, "WORK", tmp_path)
    monkeypatch.setattr(workplace, "BENCHMARKS", tmp_path)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    code = "import os; print(os.environ.get('ONEDNN_MAX_CPU_ISA'))\n"
    (tmp_path / "isa.py").write_text(code)
    for cpu_isa, found in (("AVX2", "AVX2"), ("native", "None")):
        bench = workplace.Bench("sample", "random", False, True, cpu_isa)
        clone = workplace.Clone("clone", bench)
        clone.rival("isa.py", plan=None)
        assert (tmp_path / "clone-isa-folders.log").read_text() == f"{found}\n"
        params = yaml.safe_load((clone.path / "params.yaml").read_text())
        assert params["runtime"]["cpu_isa"] == params["rehearsal"]["cpu_isa"] == cpu_isa
        assert params["rehearsal"]["steps"] == 1


def test_fewer_photographs_than_the_bounds_were_set_for_are_not_measured(monkeypatch, tmp_path):
    class Clone(workplace.Clone):
        def __init__(self, *_):
            self.path = tmp_path
            shutil.copy(REPOSITORY / "params.yaml", tmp_path)

        def stage(self, name, plan=None):
            (tmp_path / "data/split").mkdir(parents=True, exist_ok=True)
            (tmp_path / "data/raw").mkdir(exist_ok=True)
            for side in ("train", "validation"):
                (tmp_path / f"data/split/{side}.csv").write_text("row,name,label\n0,cat/0.jpg,0\n")
            with workplace.zipfile.ZipFile(tmp_path / "data/raw/images.zip", "w") as archive:
                archive.writestr("cat/0.jpg", "")

    monkeypatch.setattr(workplace, "Clone", Clone)
    with pytest.raises(NotMeasured, match=r"some\.zip has 2 images instead of 25,000"):
        workplace.photographs(workplace.Bench("some.zip", "random", torch=False, quick=False))
    assert not (tmp_path / "folders/train/dog").exists()
    workplace.photographs(workplace.Bench("some.zip", "random", torch=False, quick=True))
    assert (tmp_path / "folders/validation/cat/0.jpg").exists()


def test_help_lists_the_comparisons():
    command = [sys.executable, str(BENCHMARKS / "bench.py")]
    shown = subprocess.run([*command, "--help"], check=True, capture_output=True, text=True)
    wrong = subprocess.run([*command, "--only", "dcv"], capture_output=True, text=True)
    assert "small-cnns, inception, evaluation, dvc, memory" in shown.stdout
    assert wrong.returncode == 2
    assert "invalid choice: 'dcv'" in wrong.stderr


@pytest.mark.slow
def test_all_comparisons_run(tmp_path):
    """In few steps, on few drawn images; whether a line passes is left to a run that counts.

    The parts run side by side. Each trains what it needs of the other.
    """
    parts = (("small-cnns", "evaluation"), ("inception", "dvc", "memory"))
    assert {name for names in parts for name in names} == set(COMPARISONS)
    command = [sys.executable, str(BENCHMARKS / "bench.py"), "--quick", "--only"]

    def run_part(names):
        (tmp_path / names[0]).mkdir()
        work = os.environ | {"CATSDOGS_BENCH": str(tmp_path / names[0])}
        return subprocess.run([*command, *names], env=work, capture_output=True, text=True)

    with ThreadPoolExecutor() as pool:
        for names, result in zip(parts, pool.map(run_part, parts), strict=True):
            assert ", 0 not measured\n" in result.stdout, result.stdout + result.stderr
            assert result.stdout.endswith("\nA quick run: the figures mean nothing.\n")
            for name in names:
                assert f"{name}: " in result.stderr


def test_feeding_has_a_row_for_each_number_of_threads(monkeypatch, capsys):
    for name, value in {"IMAGES": 40, "STEPS": 2, "ROUNDS": 1, "SIZE": 20}.items():
        monkeypatch.setattr(feeding, name, value)
    feeding.main()
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[4:]]
    assert rows == [[f"| {kind}", str(n)] for kind in ("plain", "augmented") for n in (1, 2, 4, 8)]


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_a_cpu():
    pytest.importorskip("jax")
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick", "--steps", "1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert not result.returncode, result.stdout + result.stderr
    for stage in ("train_basic", "train_augmented", "train_inception"):
        assert f"| {stage} | JAX, float32, " in result.stdout
    assert "train_augmented: killed and resumed, the same bytes" in result.stdout
