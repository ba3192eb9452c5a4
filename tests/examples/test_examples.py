"""Every example is a script that works, and the same script with at most three lines more."""

import re
from difflib import SequenceMatcher
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.examples.scripts import Scripts

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example(NamedTuple):
    """How an example is run, and how close its losses have to be.

    Both scripts end with a line "loss NUMBER".
    """

    folder: str
    arguments: tuple[str, ...] = ()
    processes: int = 2
    worst: float = 1.25  #: loss with dgc-topo over the plain one's
    needs: tuple[str, ...] = ()  #: packages besides torch


#: One line for each folder of examples/ with a plain script.
ALL = [
    Example("ddp"),
    Example("plain_loop"),
    Example("fsdp2", ("--shards", "1")),  # as if each process had a machine to itself
    Example("accelerate", needs=("accelerate",)),
    Example("lightning", needs=("lightning",)),
    Example("transformers", needs=("transformers", "accelerate")),
]
every_example = pytest.mark.parametrize("example", ALL, ids=lambda example: example.folder)


def changed_lines(before: str, after: str) -> int:
    """Return the number of lines added or changed, imports and empty lines apart."""
    old, new = (
        [line for line in text.splitlines() if line.strip() and not is_import(line)]
        for text in (before, after)
    )
    operations = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in operations if kind != "equal")


def is_import(line: str) -> bool:
    return re.match(r"\s*(import|from) ", line) is not None


def test_changed_lines_are_counted():
    before = "import torch\n\nmodel = 1\noptimizer = 2\nstep()\n"
    after = "import torch\nimport dgc_topo as dt\nmodel = 1\nhook()\noptimizer = 3\n\nstep()\n"
    assert changed_lines(before, before) == 0
    assert changed_lines(before, after) == 2
    assert changed_lines(after, before) == 2  # what is left out counts as well


def test_every_folder_is_tested_and_described():
    folders = {path.parent.name for path in EXAMPLES.glob("*/plain.py")}
    assert folders == {example.folder for example in ALL}
    described = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for folder in folders:
        assert f"examples/{folder}/with_dgc.py" in described


SCRIPTS = ("plain.py", "with_dgc.py")


@every_example
def test_at_most_three_lines_differ(example):
    folder = EXAMPLES / example.folder
    plain, ours = ((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    assert "dgc_topo" not in plain
    assert "dgc_topo" in ours
    assert 1 <= changed_lines(plain, ours) <= 3


@pytest.fixture(scope="module")
def scripts():
    with Scripts() as started:
        yield started


@pytest.mark.slow
@every_example
def test_both_scripts_learn_the_same(example, scripts):
    skip_without(*example.needs)
    plain, ours = (
        scripts.loss(
            EXAMPLES / example.folder / script, *example.arguments, processes=example.processes
        )
        for script in SCRIPTS
    )
    assert ours < example.worst * plain


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("library", ["accelerate", "lightning", "transformers"])
def test_a_checkpoint_of_a_library_holds_what_waits_on_each_rank(
    library, optimizer, scripts, tmp_path
):
    skip_without(library)
    text = scripts.run(Path(__file__).with_name("resumed.py"), library, str(tmp_path), optimizer)
    found = re.findall(r"moved (\S+) differ (\S+)", text)
    assert len(found) == 2, text
    assert all(float(moved) > 0.01 and float(differ) == 0 for moved, differ in found)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["accelerate", "lightning", "transformers"])
def test_what_a_library_allows_may_be_done_again(library, scripts, tmp_path):
    """Two optimizers, accumulation, bf16, evaluation in between, another training afterwards."""
    skip_without(library)
    text = scripts.run(Path(__file__).with_name("repeated.py"), library, str(tmp_path))
    found = re.findall(r"^([a-z ]+\d?): (True|False)$", text, re.MULTILINE)
    assert len(found) >= 10, text
    assert [what for what, holds in found if holds == "False"] == [], text


@pytest.mark.slow
def test_what_a_wrapped_model_cannot_do_is_refused(scripts, tmp_path):
    text = scripts.run(Path(__file__).with_name("refused.py"), str(tmp_path), processes=2)
    for expected in (
        "model is Linear, expected DistributedDataParallel",
        "topology gossip(graph=ring) leaves each rank its own parameters",
        "of-three-2.pt is missing, expected a file of each of 3 ranks",
        ".pt: is no state of one rank, expected one",
        ".pt: is broken (",
        "of 3 ranks True",
        "no error, and all residuals begin at zero",
        "has what one rank had not sent, expected the files that each rank wrote beside it",
    ):
        assert text.count(expected) == 2, text


def skip_without(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
