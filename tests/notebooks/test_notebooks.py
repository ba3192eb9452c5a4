from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from dgc_topo.cli.progress import ProgressBars
from dgc_topo.experiment import run_scenario
from tests.train.tiny import write_tiny

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
MAX_BYTES = 500_000


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return the results folder of a real, tiny run."""
    place = tmp_path_factory.mktemp("results")
    scenario = write_tiny(place, "ring", "tree", "gossip", world_size=2, epochs=1)
    with ProgressBars(Console(quiet=True)) as bars:
        return run_scenario(scenario, place / "tiny", bars)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the notebook machinery, not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, results, monkeypatch):
    monkeypatch.setenv("DGC_TOPO_RESULTS", str(results.path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=60, resources={"metadata": {"path": str(path.parent)}}
    ).execute()  # raises at the first cell that fails
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_executed_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size <= MAX_BYTES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_there_are_notebooks():
    assert NOTEBOOKS
