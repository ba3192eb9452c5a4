"""The section ``[sweep]`` of a scenario: what it takes from the others, and what is refused."""

from pathlib import Path

import pytest

import dgc_topo as dt
from dgc_topo.experiments.scenario import ScenarioError, parse_scenario
from dgc_topo.experiments.scenario.sweep import SweepSection
from dgc_topo.experiments.sweep.prediction import Predictor
from dgc_topo.experiments.sweep.scenarios import grid_of, sweep_scenario
from dgc_topo.simulation.training import Codec

HEAD = 'name = "tiny"\n'
SWEEP = """
[sweep]
workload = "resnet50"
world_size = [2, 4]
network = "1gbe"
"""
STAR = """
import numpy as np
from dgc_topo import Schedule, copy, reduce

def schedule(world_size):
    others = np.arange(1, world_size)
    hub = np.zeros_like(others)
    return Schedule.from_steps(world_size, 1, [reduce(others, hub), copy(hub, others)])
"""


def scenario_of(text):
    return parse_scenario(HEAD + text)


def jobs_of(grid):
    return [Predictor(grid).job(point) for point in grid.points]


def test_topologies_are_those_of_the_scenario_or_its_own():
    shared = grid_of(scenario_of('topologies = ["ring", "tree"]' + SWEEP))
    own = grid_of(scenario_of(SWEEP + 'topology = ["ring", "tree"]'))
    assert [str(each) for each in shared.axes.topology] == ["ring", "tree"]
    assert jobs_of(shared) == jobs_of(own)


EVERY = """
[sweep]
topology = ["ring", { name = "hierarchical", options = { group_size = [2, 4] } }]
world_size = { from = 2, to = 4, count = 2 }
workload = ["resnet50", { model = "vgg16", compute_s = 0.3, name = "fast-vgg" }]
network = "10gbe"
bandwidth = { from = "1Gbit/s", to = "10Gbit/s", count = 2 }
latency = ["1us", 1e-5]
density = [1.0, "1%"]
overlap = [false, true]
bucket_bytes = "4MiB"
wire_dtype = "float16"
accumulation_steps = 2
hosts_per_rack = 2
oversubscription = { from = 1, to = 2, count = 2, scale = "linear" }
slow_host_bandwidth_factor = 0.5
slow_rank_compute_time_factor = 2
codec = { encode_s_per_element = 1e-10 }
jitter = { kind = "lognormal", sigma = 0.1 }
union_exponent = 0.5
index_encoding = "int32"
num_steps = 1
every = [1, 3]
"""


def test_a_scenario_and_the_library_say_the_same_with_every_key():
    grid = grid_of(scenario_of(EVERY))
    assert grid.axes.model_fields_set == SweepSection.model_fields.keys() - {
        "num_bytes",
        "averaging",  # in the place of every
        "folder_of_files",
    }
    made = dt.sweep(
        ["ring", {"name": "hierarchical", "options": {"group_size": [2, 4]}}],
        dt.spread(2, 4, 2),
        "10gbe",
        ["resnet50", dt.load_workload("vgg16", compute_s=0.3, name="fast-vgg")],
        bandwidth=dt.spread("1Gbit/s", "10Gbit/s", 2),
        latency=["1us", 1e-5],
        density=[1, 0.01],
        overlap=[False, True],
        bucket_bytes="4MiB",
        wire_dtype="float16",
        accumulation_steps=2,
        hosts_per_rack=2,
        oversubscription=dt.spread(1, 2, 2, scale="linear"),
        slow_host_bandwidth_factor=0.5,
        slow_rank_compute_time_factor=2,
        codec=Codec(encode_s_per_element=1e-10),
        jitter=0.1,
        union_exponent=0.5,
        index_encoding="int32",
        num_steps=1,
        every=[1, 3],
    )
    assert jobs_of(grid) == [row.job for row in made]
    assert len(made) == 3 * 2 * 2 * 2 * 2 * 2 * 2 * 2 * 2


def test_averaging_rules_are_read_in_the_scenarios_folder(tmp_path):
    rule = Path(__file__).parents[1] / "examples" / "own_rule" / "elastic.py"
    (tmp_path / "mine.py").write_text(rule.read_text())
    text = 'averaging = ["mine.py:every=5", { rule = "diloco", every = 7 }]\n'
    scenario = parse_scenario(HEAD + 'topologies = ["ring"]' + SWEEP + text, "tiny.toml", tmp_path)
    assert [str(each) for each in grid_of(scenario).axes.averaging] == [
        "mine.py:every=5",
        "diloco:every=7",
    ]
    assert tmp_path / "mine.py" in scenario.files
    with pytest.raises(ScenarioError, match="averaging"):
        scenario_of('topologies = ["ring"]' + SWEEP + text)


def test_topologies_that_nobody_uses_are_refused():
    with pytest.raises(ScenarioError, match=r"sweep\.topology: .*expected one of both"):
        scenario_of('topologies = ["ring"]' + SWEEP + 'topology = "tree"')


def test_a_scenario_without_topologies_is_refused():
    with pytest.raises(ScenarioError, match="topologies: missing"):
        scenario_of(SWEEP)


def test_a_section_that_a_sweep_does_not_read_is_refused():
    text = 'topologies = ["ring"]' + SWEEP + "[compression]\ndensities = [0.1]\n"
    with pytest.raises(ScenarioError, match=r"compression: .*\[sweep\] has density"):
        scenario_of(text)


def test_networks_of_the_scenario_are_there_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (
        HEAD
        + 'topologies = ["ring"]'
        + SWEEP.replace('"1gbe"', '["1gbe", "slow"]')
        + '[[networks]]\nname = "slow"\nkind = "star"\nbandwidth_gbit_per_s = 0.1\n'
    )
    Path("tiny.toml").write_text(text)
    swept = sweep_scenario("tiny.toml", processes=0).to_frame()
    table = dt.load_cluster("tiny.toml:slow", 4)
    step = dt.simulate_step("resnet50", "ring", table)
    [row] = swept[(swept.network == "slow") & (swept.world_size == 4)].to_dict("records")
    assert row["step_time_s"] == step.step_time_s
    assert row["bandwidth_bytes_per_s"] == pytest.approx(12.5e6)


def test_an_unknown_network_is_refused_when_the_scenario_is_read():
    text = 'topologies = ["ring"]' + SWEEP.replace("1gbe", "1gbee")
    with pytest.raises(ScenarioError, match=r"sweep\.network\[0\]: network '1gbee'.*did you mean"):
        scenario_of(text)


def test_an_axis_that_a_network_does_not_take_is_named_with_the_file():
    text = 'topologies = ["ring"]' + SWEEP + "oversubscription = 4\n"
    with pytest.raises(ScenarioError, match=r"^scenario: sweep\.oversubscription: "):
        grid_of(scenario_of(text))


def test_files_begin_in_the_folder_of_the_scenario_and_are_kept(tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    (there / "star.py").write_text(STAR)
    (there / "net.toml").write_text('kind = "star"\nbase = "10gbe"\n')
    text = SWEEP.replace('"1gbe"', '"net.toml"') + 'topology = ["star.py", "ring"]\n'
    (there / "tiny.toml").write_text(HEAD + text)
    monkeypatch.chdir(tmp_path)
    swept = sweep_scenario(there / "tiny.toml", "out", processes=0)
    assert [row.topology for row in swept] == ["star.py", "star.py", "ring", "ring"]
    assert {file.name for file in Path("out/files").iterdir()} == {"star.py", "net.toml"}
    again = sweep_scenario("out/scenario.toml", "again", processes=0)
    assert again.to_frame().equals(swept.to_frame())


def test_a_scenario_without_a_sweep_has_no_grid():
    with pytest.raises(ScenarioError, match=r"has no \[sweep\]"):
        grid_of(dt.load_scenario("quickstart"))
