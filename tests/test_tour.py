"""The notebook that shows the project around, executed as Jupyter does it."""

import re

import nbformat
import pytest
from conftest import REPOSITORY, Checkout

TOUR = REPOSITORY / "docs/tour.ipynb"


def output(cell) -> str:
    """All that a cell shows, as text."""
    shown = (each.get("text") or "".join(map(str, each["data"].values())) for each in cell.outputs)
    return "".join(shown)


def test_the_notebook_is_kept_without_outputs():
    tour = nbformat.read(TOUR, as_version=4)
    nbformat.validate(tour)
    code = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert len(code) > 4
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(made: Checkout, tmp_path):
    """In a clone of the tiny pipeline, whose stages DVC takes from the first one's cache."""
    from nbclient import NotebookClient

    tour = nbformat.read(TOUR, as_version=4)
    first = next(cell for cell in tour.cells if cell.cell_type == "code")
    first.source, count = re.subn(
        'REPOSITORY = "[^"]*"', f'REPOSITORY = "{made.path}"', first.source
    )
    assert count == 1
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "config").write_text(f"[cache]\n    dir = {made.path / '.dvc/cache'}\n")
    environment = made.environment(DVC_GLOBAL_CONFIG_DIR=str(settings))
    client = NotebookClient(
        tour,
        kernel_name="python3",
        timeout=600,
        skip_cells_with_tag="install",  # all of it is here
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env=environment)

    said = {cell.source: output(cell) for cell in tour.cells if cell.cell_type == "code"}
    everything = "".join(said.values())
    assert "Traceback" not in everything and "error:" not in everything.lower(), everything
    (repro,) = [text for code, text in said.items() if "dvc repro" in code]
    assert "up to date" in repro or "is cached" in repro
    (report,) = [text for code, text in said.items() if "report.html" in code]
    assert "Cat or dog: the models compared" in report
    (experiments,) = [text for code, text in said.items() if "catsdogs experiments" in code]
    assert re.search(r"dropout .* train_inception\.dropout=0\.5", experiments)
    (chart,) = [cell.outputs for cell in tour.cells if "Image(" in cell.source]
    assert "image/png" in chart[0].data
