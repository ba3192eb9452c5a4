"""Fixtures that many tests share."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.forked import forked

os.environ.setdefault("OMP_NUM_THREADS", "1")  # worker processes share the cores

# How long an example takes says nothing where two tests share the cores.  Every run takes the same
# examples, so that a change is refused for its own faults only.  New ones are looked for by hand:
# pytest --hypothesis-profile deep
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("deep", deadline=None, max_examples=1500)
settings.load_profile("same")

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure():
    """Take interrupts even where a shell ignores them, as in jobs in the background.

    Commands that tests start inherit it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Skip what is marked ``gpu`` where there is none."""
    has_gpu = torch.cuda.is_available()
    for item in items:
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _forked_workers():
    """Have trainings fork their workers, which are the same and there at once.

    Tests of how workers start and end name a `Loopback`, or run a command.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgc_topo.training.launch._loopback", lambda **_: nullcontext(forked()))
        yield


@pytest.fixture
def wide(monkeypatch):
    """Make room for helps; what commands print has no width where there is no terminal."""
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def golden():
    """Compare text with a golden file; ``UPDATE_GOLDEN=1`` writes it instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        assert text == path.read_text()

    return compare
