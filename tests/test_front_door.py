"""`import dgc_topo as dt` is the whole product, loaded when used, documented where it is."""

import ast
import doctest
import inspect
import pydoc
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import dgc_topo as dt

SOURCE = Path(dt.__file__).read_text(encoding="utf-8")
HEAVY = ("torch", "matplotlib", "pandas", "scipy", "networkx", "pydantic", "simpy", "numpy")


def typed_names() -> dict[str, str]:
    """Return the names that type checkers see, each with its module."""
    [block] = [
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_type_checkers_and_the_interpreter_see_the_same_names():
    assert typed_names() == dt._HOMES
    assert set(dt._HOMES) == set(dt.__all__)
    assert set(dir(dt)) == {*dt.__all__, "__version__"}


@pytest.mark.parametrize("name", dt.__all__)
def test_every_name_is_there_and_listed_in_the_table_of_contents(name):
    assert getattr(dt, name) is not None
    assert name in dt.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        dt.simulat  # noqa: B018


def test_importing_loads_nothing_heavy():
    code = f"import sys, dgc_topo; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_predictions_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import dgc_topo as dt\n"
        "print(dt.prove('ring', 5))\n"
        "print(dt.simulate('ring', '1gbe', '1MB', world_size=4))\n"
        "print(dt.simulate_step('resnet50', 'ring', '1gbe', world_size=4, density='0.1%'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


FUNCTIONS = [n for n in dt.__all__ if inspect.isfunction(getattr(dt, n))]
CLASSES = [n for n in dt.__all__ if inspect.isclass(getattr(dt, n))]


def examples_of(name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(recurse=False)
    return [t for t in finder.find(getattr(dt, name), name, globs={"dt": dt}) if t.examples]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_shows_an_example(name):
    assert examples_of(name), f"{name} has no example"


@pytest.mark.parametrize("name", dt.__all__)
def test_examples_give_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in examples_of(name):
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


@pytest.mark.parametrize("name", dt.__all__)
def test_every_name_explains_its_arguments(name):
    found = getattr(dt, name)
    text = pydoc.plain(pydoc.render_doc(found))
    first = str(inspect.getdoc(found)).split()[0]
    assert first not in {"What", "Whether", "Who", "How", "When", "Where", "Which", "As"}, first
    if inspect.isfunction(found) and len(inspect.signature(found).parameters) > 1:
        assert "Args:" in text


def test_help_begins_with_a_table_of_contents():
    text = pydoc.plain(pydoc.render_doc(dt))
    assert text.index("load_topology") < text.index("PACKAGE CONTENTS")


def test_a_step_says_that_compressing_is_free_or_counts_it():
    step = partial(dt.simulate_step, "resnet50", "ring", "1gbe", world_size=8, density=0.001)
    free, paid, number = step(), step(codec="4ms"), step(codec=4e-3)
    dense = dt.simulate_step("resnet50", "ring", "1gbe", world_size=8)
    assert "compressing assumed free" in repr(free)
    assert "compressing assumed free" in free._repr_html_()
    assert "free" not in repr(paid) + repr(dense)
    assert paid.step_time_s == pytest.approx(free.step_time_s + 4e-3)
    assert number.step_time_s == paid.step_time_s
    with pytest.raises(ValueError, match="codec"):
        step(codec=-1.0)


def test_a_network_file_says_how_many_ranks_there_are():
    file = Path(__file__).parents[1] / "networks" / "gpus-in-two-racks.toml"
    assert dt.simulate("ring", str(file), "1MB").world_size == 8
    with pytest.raises(ValueError, match="world_size: missing"):
        dt.simulate("ring", "1gbe", "1MB")
