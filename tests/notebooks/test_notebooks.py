import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
MAX_BYTES = 500_000
TEXTS = ("text/markdown", "text/plain")
#: Where files lie on somebody's machine.
ABSOLUTE_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|work|usr|opt|var|Users)/")


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    """Return the texts that a cell shows: tables, findings and whatever it prints."""
    # How prints are cut into outputs is a matter of timing.
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    data = [output.get("data", {}) for output in cell.outputs]
    return [printed, *(some[kind] for some in data for kind in TEXTS if kind in some)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the notebook machinery, not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_shows_what_is_saved(path, monkeypatch):
    """A table or a claim of the code as it was would mislead: execute the notebook and save it."""
    monkeypatch.delenv("DGC_TOPO_RESULTS", raising=False)
    saved, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}
    ).execute()  # raises at the first cell that fails
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    for before, now in zip(code(saved), code(notebook), strict=True):
        assert shown(before) == shown(now), f"stale output of:\n{now.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_executed_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size <= MAX_BYTES
    assert [cell.execution_count for cell in code(notebook)] == list(
        range(1, len(code(notebook)) + 1)
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_texts_name_no_place_of_a_machine_and_no_warning(path):
    for cell in code(nbformat.read(path, as_version=4)):
        for text in shown(cell):
            assert not ABSOLUTE_PATH.search(text)
            assert "Warning" not in text


def test_there_are_notebooks():
    assert NOTEBOOKS
