"""A topology is one value: compared, hashed, pickled, written as text or table and read again."""

import json
import pickle
import re
import subprocess
import sys
from enum import Enum, StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.jobs import Part, plan_jobs
from dgc_topo.experiments.scenario import ScenarioError, load_scenario, parse_scenario
from dgc_topo.schedule import Schedule
from dgc_topo.topology import Topology, TopologyError, load_topology
from dgc_topo.topology_options import checked_options, joined_text, split_text

MINE = """
'''Mine.'''
from dgc_topo.schedule import Schedule, copy

def schedule(world_size: int, width: int = 1, text: str = "", free="x") -> Schedule:
    steps = [copy(0, 1)] * width if world_size > 1 else []
    return Schedule.from_steps(world_size, 1, steps, goal="part")
"""


class Colour(StrEnum):
    RED = "1"


class Number(Enum):
    ONE = 1


def takes_everything(  # noqa: PLR0913, PLR0917  # one option of each type
    world_size: int,
    whole: int = 0,
    share: float = 0.0,
    text: str = "",
    yes: bool = False,
    choice: Literal[1, "1", "a,b"] = 1,
    colour: Colour = Colour.RED,
    number: Number = Number.ONE,
    path: Path = Path(),
    either: int | str = 0,
    free=None,  # of no declared type
) -> Schedule:
    return Schedule.from_steps(world_size, 1, [])


FREE = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.text()
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "whole": st.integers(),
        "share": st.floats(allow_nan=False),
        "text": st.text()
        | st.sampled_from(["1", "true", '"', "a,b=c", "x:y", "1e3", "null", " 1"]),
        "yes": st.booleans(),
        "choice": st.sampled_from([1, "1", "a,b"]),
        "colour": st.just("1"),
        "number": st.just(1),
        "path": st.text("ab/1,:", min_size=1),
        "either": st.integers() | st.text(),
        "free": FREE,
    },
)
NAMES = st.text(min_size=1) | st.builds("".join, st.lists(st.sampled_from([*':,="/\\ab', ".py"])))


@given(name=NAMES | NAMES.map("{}.py".format), options=OPTIONS)
def test_the_text_form_is_read_as_what_it_was(name, options):
    topology = Topology(name, takes_everything, checked_options("t", takes_everything, options))
    found, given_ = split_text(str(topology))
    assert found == name
    again = Topology(name, takes_everything, checked_options("t", takes_everything, given_))
    assert again == topology
    assert hash(again) == hash(topology)
    kinds = {key: type(value) for key, value in topology.options.items()}
    assert {key: type(value) for key, value in again.options.items()} == kinds


@given(name=NAMES, options=st.dictionaries(st.from_regex(r"\A[a-z_]\w*\Z"), FREE))
def test_whatever_is_written_is_one_text(name, options):
    found, given_ = split_text(joined_text(name, options))
    assert (found, list(given_)) == (name, list(options))


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("ring", "ring", {}),
        ("gossip:graph=ring", "gossip", {"graph": "ring"}),
        ("a:x=1,y=b:c", "a", {"x": "1", "y": "b:c"}),
        ('a:x="1,2",y="é"', "a", {"x": "1,2", "y": "é"}),
        ("a:x=", "a", {"x": ""}),
        ("a:x=b=c", "a", {"x": "b=c"}),
        ("leaders:of=mine.py", "leaders", {"of": "mine.py"}),
        ("mine.py", "mine.py", {}),
        ("mine.py:width=2", "mine.py", {"width": "2"}),
        ("./a:b=1/mine.py", "./a:b=1/mine.py", {}),
        ("/a:b=1/mine.py:width=2", "/a:b=1/mine.py", {"width": "2"}),
        (r"C:\a\mine.py:width=2", r"C:\a\mine.py", {"width": "2"}),
        ("a:b.py", "a:b.py", {}),
        ('"a:b=1.py":width=2', "a:b=1.py", {"width": "2"}),
        ("x.py/mine.py:a=b.py", "x.py/mine.py", {"a": "b.py"}),
    ],
)
def test_how_a_text_is_read(text, name, options):
    assert split_text(text) == (name, options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gossip:graph", "expected name or name:key=value,key=value"),
        ("gossip:", "expected name or name:key=value,key=value"),
        ("gossip:=ring", "expected name or name:key=value,key=value"),
        ("gossip:graph=ring,", "expected name or name:key=value,key=value"),
        ('gossip:graph="ring', "expected name or name:key=value,key=value"),
        ('gossip:graph="ri"ng', "expected name or name:key=value,key=value"),
        (r'gossip:graph="\q"', "expected name or name:key=value,key=value"),
        ('"gossip', "expected name or name:key=value,key=value"),
        ("gossip:graph=ring,graph=ring", "option graph is given twice"),
        ("rign:segments=2", "topology 'rign': unknown .did you mean 'ring'"),
        ("ring:segments=many", "option segments='many', expected int"),
        ("ring:segments=true", "option segments='true', expected int"),
        ('ring:size="2"', "unknown option 'size'; it takes: segments"),
    ],
)
def test_a_text_that_means_no_topology_is_refused(text, says):
    with pytest.raises(TopologyError, match=says):
        load_topology(text)


def test_a_topology_is_given_by_name_text_path_or_itself(tmp_path, monkeypatch):
    ring = load_topology("gossip", graph="ring")
    assert ring == load_topology("gossip:graph=ring") == load_topology("gossip", {"graph": "ring"})
    assert load_topology(ring) is ring
    assert load_topology(ring, graph="torus") == load_topology("gossip:graph=torus") != ring
    assert len({ring, load_topology("gossip:graph=ring"), load_topology("ring")}) == 2
    assert (repr(ring), str(ring)) == ("Topology('gossip', graph='ring')", "gossip:graph=ring")
    assert repr(load_topology("ring")) == "Topology('ring')"
    assert (ring.goal, ring.gossips) == ("doubly-stochastic", True)
    with pytest.raises(TypeError, match="does not support item assignment"):
        ring.options["graph"] = "torus"  # type: ignore[index]
    (tmp_path / "mine.py").write_text(MINE)
    mine = load_topology("mine.py:width=2", folder=tmp_path)
    assert (mine.name, mine.options, mine.folder) == ("mine.py", {"width": 2}, str(tmp_path))
    assert load_topology(tmp_path / "mine.py").folder == ""
    assert mine != load_topology("mine.py", folder=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_topology(Path("mine.py"), width=2).schedule(2) is not None


def test_an_option_of_no_declared_type_is_a_number_unless_it_is_in_quotes(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    for text, value in (("3", 3), ('"3"', "3"), ("true", True), ("yes", "yes"), ("2.5", 2.5)):
        found = load_topology(f"mine.py:free={text},text={text}", folder=tmp_path).options
        assert found == {"free": value, "text": text.strip('"')}


def test_an_edited_file_is_another_topology(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    first = load_topology(file)
    assert load_topology(file) == first
    file.write_text(MINE.replace('goal="part"', 'goal="all-reduce"'))
    second = load_topology(file)
    assert second != first
    assert (first.goal, second.goal) == ("part", "all-reduce")
    assert first.gossips
    assert not second.gossips


def test_a_pickled_topology_is_the_same_in_another_process(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    topologies = [
        load_topology("ring", segments=2),
        load_topology("mine.py:width=2", folder=tmp_path),
        Topology("own", takes_everything, {"whole": 1}),
    ]
    assert pickle.loads(pickle.dumps(topologies)) == topologies
    (tmp_path / "these").write_bytes(pickle.dumps(topologies[:2]))
    code = "import pickle, sys; print(*pickle.load(open(sys.argv[1], 'rb')))"
    words = [sys.executable, "-c", code, str(tmp_path / "these")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ring:segments=2", "mine.py:width=2"]


def test_the_goal_is_found_once(tmp_path):
    file = tmp_path / "counted.py"
    file.write_text(
        MINE.replace("    steps =", "    asked.append(world_size)\n    steps =") + "asked=[]"
    )
    topology = load_topology(file)
    assert [topology.gossips for _ in range(5)] == [True] * 5
    assert topology.builder.__globals__["asked"] == [2]


def test_a_table_or_a_text_is_read_and_a_table_is_written():
    adapter = TypeAdapter(tuple[Topology, ...])
    table = {"name": "ring", "options": {"segments": 2}}
    read = adapter.validate_python(["gossip:graph=ring", table, load_topology("mesh")])
    assert [str(each) for each in read] == ["gossip:graph=ring", "ring:segments=2", "mesh"]
    written = json.loads(adapter.dump_json(read))
    assert written[1] == table | {"folder": ""}
    assert adapter.validate_python(written) == read
    schema = adapter.json_schema()
    assert schema["items"]["anyOf"][0] == {"type": "string"}
    properties = schema["$defs"]["TopologyTable"]["properties"]
    assert set(properties) == {"name", "options"}


SCENARIO = """
name = "texts"
topologies = ["ring", "gossip:graph=torus", "mine.py:width=3", { name = "mesh" }]
[simulate]
networks = ["1gbe"]
world_sizes = [4]
[[simulate.workloads]]
model = "resnet50"
"""


def test_a_scenario_may_write_its_topologies_as_texts(tmp_path, monkeypatch):
    """A relative path begins beside the scenario there, and in the current folder elsewhere."""
    (tmp_path / "mine.py").write_text(MINE)
    path = tmp_path / "s.toml"
    path.write_text(SCENARIO)
    topologies = load_scenario(path).topologies
    assert [str(each) for each in topologies] == [
        "ring", "gossip:graph=torus", "mine.py:width=3", "mesh",
    ]  # fmt: skip
    assert topologies[2].folder == str(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(TopologyError, match=r"no such file in the current folder, '/.*'"):
        load_topology("mine.py")
    (tmp_path / "mine.py").unlink()
    says = f"topologies.2: topology 'mine.py': no such file in '{tmp_path}'"
    with pytest.raises(ScenarioError, match=re.escape(says)):
        load_scenario(path)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('["ring", 3]', "topologies.1: 3: expected a topology's name, or a table"),
        ('["ring", "ring"]', "topologies: ring is there twice, expected each once"),
        ('["ring", { name = "ring" }]', "topologies: ring is there twice, expected each once"),
        ('["ring:"]', "topologies.0: topology 'ring:': expected name or name:key=value"),
        ('[{ name = "ring", option = 1 }]', "topologies.0.option: unknown key; valid here: "),
        ("[{ options = {} }]", "topologies.0.name: missing, expected a value"),
        ('[{ name = "a\\nb" }]', "topologies.0.name: .*control characters"),
        ('["a\\nb"]', "topologies.0.name: .*control characters"),
    ],
)
def test_what_is_no_topology_in_a_scenario_is_named_with_its_key(written, says):
    text = re.sub(r"topologies = .*", lambda _: f"topologies = {written}", SCENARIO)
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(text, "s.toml")


def test_options_are_written_either_way_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)

    def out(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
        return done.output

    for command in (
        ("verify", "-n", "6"),
        ("show", "-n", "6"),
        ("simulate", "-n", "6", "--bytes", "1kB"),
    ):
        name, *rest = command
        text = "butterfly:algorithm=doubling,order=far"
        both = out(name, "butterfly:order=far", "--option", "algorithm=doubling", *rest)
        options = ("--option", "order=far", "--option", "algorithm=doubling")
        if name != "simulate":  # which prints how long it took
            assert both == out(name, "butterfly", *options, *rest)
            assert out(name, text, *rest).split("\n")[1:] == both.split("\n")[1:]
    stepped = ("step", "resnet50", "-n", "4", "--json", "--topology")
    assert out(*stepped, "ring:segments=2") == out(*stepped, "ring", "--option", "segments=2")
    assert out("show", "mine.py:width=3", "-n", "2").count("copy") == 3
    twice = ["verify", "ring:segments=2", "--option", "segments=2", "-n", "4"]
    done = CliRunner().invoke(app, twice)
    assert done.exit_code == 2
    assert "option segments is given twice" in done.output


def test_a_part_is_taken_again_by_its_options_from_any_folder(tmp_path, monkeypatch):
    folder = tmp_path / "a:b=1"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    monkeypatch.chdir(folder)
    topology = load_topology("mine.py", width=2, text="a,b")
    _, text = Part(topology).options
    monkeypatch.chdir(tmp_path)
    again = load_topology(text)
    assert (again.builder, again.options) == (topology.builder, topology.options)
    scenario = parse_scenario(SCENARIO.replace(', "mine.py:width=3"', ""))
    assert Part(again).of(scenario).topologies == (again,)


def test_a_job_is_the_same_after_its_way_to_a_worker(tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace('"part"', '"all-reduce"'))
    text = SCENARIO.partition("[simulate]")[0] + TRAIN
    for job in plan_jobs(parse_scenario(text, folder=tmp_path))[0]:
        again = type(job).model_validate_json(job.model_dump_json())
        assert again == job
        assert again.key == job.key
        assert again.topology.builder is job.topology.builder


TRAIN = """
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 4
batch_size_per_worker = 8
epochs = 1
learning_rate = 0.1
"""
