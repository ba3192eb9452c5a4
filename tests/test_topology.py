"""Topologies are found by name or file, and their options are checked."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.plugins import TopologyError, known_topologies
from dgc_topo.proof import prove
from dgc_topo.schedule.text import format_schedule
from dgc_topo.topology import load_topology, option_choices


def test_the_built_in_topologies_are_found_through_the_entry_points():
    assert set(known_topologies()) >= {
        "parameter-server", "sharded-parameter-server", "tree", "butterfly", "ring", "mesh",
        "hierarchical", "gossip",
    }  # fmt: skip


@pytest.fixture
def star_file(tmp_path):
    path = tmp_path / "my_star.py"
    path.write_text(
        textwrap.dedent(
            '''
            """A star around the last rank."""
            import numpy as np
            from dgc_topo.schedule import Schedule, copy, reduce

            def schedule(world_size: int, twist: int = 0) -> Schedule:
                hub, others = world_size - 1, np.arange(world_size - 1)
                to_hub, back = reduce(others, others * 0 + hub), copy(others * 0 + hub, others)
                return Schedule.from_steps(world_size, 1, [to_hub, back])
            '''
        )
    )
    return path


def test_a_new_topology_is_one_file_and_touches_no_other(star_file):
    topology = load_topology(str(star_file))
    assert topology.summary == "A star around the last rank."
    for world_size in (1, 2, 5, 9):
        assert "exactly once" in prove(topology, world_size).claim


def test_options_given_as_text_are_converted(star_file):
    assert load_topology(str(star_file), {"twist": "3"}).options == {"twist": 3}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("rign", {}, "did you mean 'ring'"),
        ("zzz", {}, "expected one of butterfly, gossip"),
        ("no/such/file.py", {}, "no such file"),
        ("butterfly", {"order": "sideways"}, r"order='sideways', expected near \| far"),
        ("butterfly", {"size": 3}, "unknown option 'size'; it takes: algorithm, order"),
        ("mesh", {"x": 1}, "it takes: none"),
        ("hierarchical", {"group_size": "many"}, "group_size='many', expected int"),
    ],
)
def test_unknown_names_and_bad_options_list_the_valid_ones(name, options, says):
    with pytest.raises(TopologyError, match=says):
        load_topology(name, options)


@pytest.mark.parametrize(
    ("name", "options", "world_size", "says"),
    [
        ("ring", {}, 0, "world_size 0, expected at least 1"),
        ("parameter-server", {"server": "dedicated"}, 1, "needs world_size >= 2"),
        ("ring", {"segments": 0}, 4, "segments=0, expected at least 1"),
        ("ring", {"segments": 10**9}, 4, "segments=1000000000, expected at most 65536"),
        ("hierarchical", {"group_size": 0}, 4, "group_size=0, expected at least 1"),
        ("hierarchical", {"leaders": "rign"}, 4, "did you mean 'ring'"),
        ("hierarchical", {"leaders": "gossip"}, 4, "all-reduces all its ranks"),
    ],
)
def test_an_impossible_world_is_refused_in_one_clear_sentence(name, options, world_size, says):
    with pytest.raises(TopologyError, match=says):
        load_topology(name, options).schedule(world_size)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1", r"no function schedule\(world_size"),
        ("import nothing_like_this", "cannot be loaded"),
        ("def schedule(world_size): return 3", "returned int, expected a Schedule"),
        (
            "from dgc_topo.schedule import Schedule\n"
            "def schedule(world_size): return Schedule.from_steps(world_size + 1, 1, [])",
            "has 4 ranks, expected 3",
        ),
    ],
)
def test_a_file_that_is_no_topology_says_what_is_missing(tmp_path, code, says):
    path = tmp_path / "broken.py"
    path.write_text(code)
    with pytest.raises(TopologyError, match=says):
        load_topology(str(path)).schedule(3)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "    return 1 / 0",
            r"its function raised ZeroDivisionError: division by zero at .*mine\.py:5",
        ),
        (
            "    return {}['x']",
            r"its function raised KeyError: 'x' at .*mine\.py:5, expected a Sched",
        ),
        ("    raise ValueError('too small')", r"mine\.py: too small \(line 5\)$"),
        ("    return np.empty(-1.5)", r"raised TypeError: .* at .*mine\.py:5"),
        (
            "    return Schedule.from_steps(world_size, 1, [(0, 1)])",
            r"mine\.py: step 0 is tuple, expected a Step such as reduce, copy or mix .* \(line 5\)",
        ),
        (
            "    def steps(ranks):\n        yield reduce(0, 1)\n        yield {}[2]\n"
            "    return Schedule(world_size, 1, steps)",
            r"its function raised KeyError: 2 at .*mine\.py:7",
        ),
        (
            "    def steps(ranks):\n        yield reduce(0, 0)\n"
            "    return Schedule(world_size, 1, steps)",
            r"mine\.py: transfer 0: rank 0 -> rank 0.* \(line 6\)$",
        ),
        (
            "    def steps(ranks):\n        yield reduce(0, 1)\n        yield None\n"
            "    return Schedule(world_size, 1, steps)",
            r"mine\.py: step 1 is NoneType, expected a Step",
        ),
        (
            "    return Schedule(world_size, 1, lambda _: None)",
            r"raised TypeError: 'NoneType' .*py:4",
        ),
        (
            "    return Schedule.from_steps(world_size, 1, [], goal='allreduce')",
            r"goal 'allreduce': unknown \(did you mean 'all-reduce'\?\), .* \(line 5\)",
        ),
        (
            "    return Schedule.from_steps(world_size, 10**12, [])",
            r"3 ranks and 1000000000000 chunks: .* at most 2147483647 chunks \(line 5\)",
        ),
        ("    import sys; sys.exit(3)", r"its function raised SystemExit: 3 at .*mine\.py:5, exp"),
        ("    return schedule(world_size)", r"raised RecursionError: .* at .*mine\.py:5"),
        ("    return np.empty(2**52)", r"raised MemoryError: Unable .* at .*mine\.py:5"),
        ("    raise MemoryError", r"raised MemoryError at .*mine\.py:5"),
        ("    raise BaseException('b\\ne\\x1b[0m')", r"BaseException: b\\ne\\x1b\[0m at .*py:5"),
        ("    yield reduce(0, 1)", "returned generator, expected a Schedule"),
    ],
)
def test_a_function_that_fails_is_named_with_its_line(tmp_path, code, says):
    path = tmp_path / "mine.py"
    head = "import numpy as np\nfrom dgc_topo.schedule import Schedule, reduce\n\n"
    path.write_text(f"{head}def schedule(world_size):\n{code}\n")
    with pytest.raises(ValueError, match=says) as failed:
        prove(load_topology(str(path)), 3)
    assert isinstance(failed.value, TopologyError)
    assert "\n" not in str(failed.value)
    if "raised" in says:
        assert failed.value.__cause__ is not None


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "def schedule(world_size, size): return 3",
            r"raised TypeError: .*missing 1 required positional argument: 'size' at .*mine\.py:1",
        ),
        (
            "def schedule(world_size, size: 'Gone' = 1): return 3",
            r"types cannot be read: NameError: name 'Gone' is not defined at .*mine\.py:1",
        ),
    ],
)
def test_a_function_that_cannot_be_called_is_named(tmp_path, code, says):
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(TopologyError, match=says):
        load_topology(str(path)).schedule(3)


def test_an_interrupt_is_no_fault_of_the_function(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def schedule(world_size): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_topology(str(path)).schedule(3)


#: The second asks while nothing can be imported, as where a first signal is being handled.
ASKED_TO_END = (
    """
import builtins, os, signal

def schedule(n):
    os.kill(os.getpid(), signal.SIGTERM)
""",
    """
import builtins, signal

def schedule(n):
    kept, builtins.__import__ = builtins.__import__, None
    try:
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
    finally:
        builtins.__import__ = kept
""",
)


@pytest.mark.parametrize("code", ASKED_TO_END)
def test_a_command_asked_to_end_inside_a_function_ends_without_blaming_it(tmp_path, code):
    path = tmp_path / "mine.py"
    path.write_text(code)
    command = [sys.executable, "-m", "dgc_topo", "verify", str(path), "--world-size", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "")
    assert ended.stderr == "asked to end; every worker process has been ended\n"


@pytest.mark.parametrize("inside", ["tree", "star"])
def test_a_group_larger_than_the_world_is_the_world(inside):
    options = {"inside": inside, "group_size": 5}
    whole = load_topology("hierarchical", options).schedule(5)
    larger = load_topology("hierarchical", options | {"group_size": 10**20}).schedule(5)
    assert format_schedule(larger) == format_schedule(whole)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys\nsys.exit('bye')", r"cannot be loaded: SystemExit: bye at .*mine\.py:2$"),
        ("\n\nx = (", r"cannot be loaded: SyntaxError: '\(' was never closed"),
        ("x = '\udc80'", r"cannot be loaded: SyntaxError"),
        ("schedule = 3", r"its 'schedule' is int, expected a function schedule\(world_size"),
        ("schedule = type('S', (), {'__signature__': 3})", "types cannot be read: "),
    ],
)
def test_a_module_that_fails_is_named_and_leaves_nothing_behind(tmp_path, code, says):
    path, before = tmp_path / "mine.py", set(sys.modules)
    path.write_bytes(code.encode("utf-8", "surrogateescape"))
    with pytest.raises(TopologyError, match=says):
        load_topology(str(path))
    if "cannot be loaded" in says:
        assert not {name for name in set(sys.modules) - before if "mine" in name}


CHUNKS = """
from dataclasses import dataclass
from dgc_topo.schedule import Schedule, reduce

@dataclass
class Size:
    chunks: int = {}

def schedule(world_size):
    return Schedule.from_steps(world_size, Size().chunks, [reduce(0, 1)])
"""


def chunks_of(name):
    return load_topology(name).schedule(3).num_chunks


def test_a_file_is_loaded_again_when_it_differs(tmp_path, monkeypatch):
    """Edits of one size within a clock tick, too, for which Python's own cache is too coarse."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text(CHUNKS.format(9))
    monkeypatch.chdir(tmp_path)
    kept = {}
    for chunks in (1, 4, 1, 7):
        Path("mine.py").write_text(CHUNKS.format(chunks))
        os.utime("mine.py", (1, 1))
        assert chunks_of("mine.py") == chunks
        assert chunks_of("other/mine.py") == 9
        kept[chunks] = load_topology("mine.py")
    # What was loaded stays what it was.
    assert {chunks: old.schedule(3).num_chunks for chunks, old in kept.items()} == {
        1: 1,
        4: 4,
        7: 7,
    }
    builder = load_topology("mine.py").builder
    assert load_topology("mine.py").builder is load_topology(str(tmp_path / "mine.py")).builder
    monkeypatch.chdir("other")
    assert chunks_of("mine.py") == 9
    assert load_topology("mine.py").builder is not builder
    Path("mine.py").unlink()
    with pytest.raises(TopologyError, match="no such file"):
        load_topology("mine.py")
    assert {path.name for path in tmp_path.rglob("*")} == {"other", "mine.py"}  # no __pycache__


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"world_size": 10**20}, f"ring: world_size {10**20}, expected at most 10000000"),
        ({"seed": -1}, "ring: seed -1, expected 0 or more"),
        ({"iteration": -2}, "ring: iteration -2, expected 0 or more"),
    ],
)
def test_numbers_that_no_run_has_are_named(given, says):
    with pytest.raises(TopologyError, match=says):
        load_topology("ring").schedule(**({"world_size": 4} | given))


@pytest.fixture
def broken_package(tmp_path, monkeypatch):
    """A package whose topologies cannot be loaded."""
    about = tmp_path / "their_topologies-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-topologies\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[dgc_topo.topologies]\nbroken = gone.away:schedule\nnumber = math:pi\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("broken_package")
def test_a_package_that_cannot_be_loaded_is_named():
    where = "topology 'broken' of their-topologies: cannot be loaded: "
    with pytest.raises(TopologyError, match=f"^{where}ModuleNotFoundError: No module named 'gone'"):
        load_topology("broken")
    with pytest.raises(TopologyError, match="cannot be loaded: math:pi is float, expected a func"):
        load_topology("number")


@pytest.mark.usefixtures("broken_package")
def test_a_broken_package_hides_no_other(wide):
    listed = CliRunner().invoke(app, ["topologies"])
    assert listed.exit_code == 0
    assert "near | far" in listed.output
    assert "cannot be loaded: ModuleNotFoundError: No module named 'gone'" in listed.output
    proved = CliRunner().invoke(app, ["verify", "broken", "-n", "5"])
    assert proved.exit_code == 2
    assert "topology 'broken' of their-topologies: cannot be loaded: Module" in proved.output


def test_options_are_described_with_their_choices():
    described = option_choices(load_topology("butterfly").builder)
    assert described["order"] == "near | far (default near)"
