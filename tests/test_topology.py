"""Topologies are found by name or file, and their options are checked."""

import textwrap

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.topology import TopologyError, known_topologies, load_topology, option_choices
from dgc_topo.verify import verify


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
        assert "exactly once" in verify(topology, world_size).claim


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
        ("    raise ValueError('too small')", r"mine\.py: too small$"),
        ("    return np.empty(-1.5)", r"raised TypeError: .* at .*mine\.py:5"),
        (
            "    return Schedule.from_steps(world_size, 1, [(0, 1)])",
            r"raised AttributeError: .*'src' at .*mine\.py:5",
        ),
        (
            "    def steps(ranks):\n        yield reduce(0, 1)\n        yield {}[2]\n"
            "    return Schedule(world_size, 1, steps)",
            r"its function raised KeyError: 2 at .*mine\.py:7",
        ),
        (
            "    def steps(ranks):\n        yield reduce(0, 0)\n"
            "    return Schedule(world_size, 1, steps)",
            r"^transfer 0: rank 0 -> rank 0",
        ),
    ],
)
def test_a_function_that_fails_is_named_with_its_line(tmp_path, code, says):
    path = tmp_path / "mine.py"
    head = "import numpy as np\nfrom dgc_topo.schedule import Schedule, reduce\n\n"
    path.write_text(f"{head}def schedule(world_size):\n{code}\n")
    with pytest.raises(ValueError, match=says) as failed:
        verify(load_topology(str(path)), 3)
    if "raised" in says:
        assert isinstance(failed.value, TopologyError)
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
