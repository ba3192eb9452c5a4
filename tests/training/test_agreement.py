"""What ranks of a training have to agree on, before they begin."""

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.jobs import Part, compared_settings
from dgc_topo.experiments.scenario import load_scenario
from dgc_topo.payload import DensePayload
from dgc_topo.runtime.comparison import settings_of as settings_of_run
from dgc_topo.topology import Topology, load_topology
from tests.training.tiny import write_tiny

RING = """
from dgc_topo.topologies import ring
def schedule(world_size: int): return ring.schedule(world_size)
"""


TYPED = """
import enum, pathlib
from dgc_topo.topologies import ring
class Kind(enum.Enum):
    NEAR, FAR = "near", "far"
def schedule(world_size: int, kind: Kind = Kind.NEAR, file: pathlib.Path = pathlib.Path("x")):
    assert isinstance(kind, Kind) and isinstance(file, pathlib.Path)
    return ring.schedule(world_size)
"""


def settings_of(folder, **changes):
    folder.mkdir()
    return compared_settings(load_scenario(write_tiny(folder, "ring", **changes)))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"densities": (0.5,)}, "compression.densities"),
        ({"world_size": 2}, "train.world_size"),
        ({"epochs": 7}, "train.epochs"),
    ],
)
def test_what_decides_a_training_is_compared_by_its_key(tmp_path, change, key):
    usual = settings_of(tmp_path / "usual")
    other = settings_of(tmp_path / "other", **change)
    assert [name for name in usual if usual[name] != other[name]] == [key]


def test_where_data_and_topologies_lie_is_a_machines_own_business(tmp_path):
    """A topology's file is compared by its content."""
    found = []
    for name, text in (("here", RING), ("there", RING), ("else", f"{RING}\n")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.py").write_text(text)
        scenario = load_scenario(write_tiny(folder, str(folder / "mine.py"), densities=(1.0,)))
        assert scenario.train is not None
        train = scenario.train.model_copy(update={"data_path": folder})
        found.append(compared_settings(scenario.model_copy(update={"train": train})))
    assert found[0] == found[1]
    assert [key for key in found[0] if found[0][key] != found[2][key]] == ["topology"]


def test_topologies_that_differ_by_a_file_beside_them_are_told_apart(tmp_path):
    found = []
    for name in ("ring", "tree"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "kind.txt").write_text(name)
        (folder / "mine.py").write_text(
            "import pathlib\n"
            "from dgc_topo.topology import Topology, load_topology\n"
            "kind = pathlib.Path(__file__).with_name('kind.txt').read_text()\n"
            "def schedule(world_size: int): return load_topology(kind).schedule(world_size)\n"
        )
        path = write_tiny(folder, str(folder / "mine.py"), densities=(1.0,))
        found.append(compared_settings(load_scenario(path)))
    assert [key for key in found[0] if found[0][key] != found[1][key]] == ["topology's schedule"]


def test_options_of_any_type_are_compared_and_said_as_they_were_given(tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    topology = load_topology(str(file), {"kind": "far", "file": "y"})
    scenario = load_scenario(write_tiny(tmp_path, "ring", densities=(1.0,)))
    part = Part(topology, world_size=4)
    compared = compared_settings(part.of(scenario))
    assert json.loads(json.dumps(compared)) == compared
    assert compared["topology options"] == {"kind": "far", "file": "y"}
    assert compared["train.world_size"] == 4
    given = ("--topology", f"{file}:kind=far,file=y", "--world-size", "4")
    assert part.options == given
    seed: Any = np.int64(3)
    run = settings_of_run(topology, 4, seed, DensePayload(torch.zeros(8)))
    assert json.loads(json.dumps(run)) == run


def test_a_function_that_no_file_defines_is_compared_by_its_schedule():
    ring, payload = load_topology("ring").builder, DensePayload(torch.zeros(8))
    one, other = (
        settings_of_run(Topology("mine.py", functools.partial(ring, segments=n)), 4, 0, payload)
        for n in (1, 2)
    )
    assert [key for key in one if one[key] != other[key]] == ["topology's schedule"]


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"WORLD_SIZE": "3"}, "train.world_size 2, but the launcher started 3 processes"),
        ({"WORLD_SIZE": "two"}, "variable WORLD_SIZE is 'two', expected a whole number"),
        ({"RANK": "2"}, "RANK is 2, expected less than WORLD_SIZE, which is 2"),
        ({"LOCAL_RANK": ""}, "variable LOCAL_RANK is ''"),
        ({"MASTER_ADDR": " "}, "MASTER_ADDR is ' ', expected the address"),
    ],
)
def test_a_launchers_mistake_ends_at_once_in_one_line(tmp_path, monkeypatch, wide, variables, says):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    path = write_tiny(tmp_path, "ring", world_size=2, densities=(1.0,))
    result = CliRunner().invoke(app, ["train", str(path), "--topology", "ring"])
    assert result.exit_code == 2
    assert says in result.output
    assert len(result.output.strip().splitlines()) == 1
