"""Arguments of the front door that make no sense: one ValueError that names each, at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dgc_topo as dt
from dgc_topo.cli.console import clear_errors, naming_options
from dgc_topo.tables.table import OldKeyWarning

NOT_WHOLE = ["4", 4.0, 2.5, True, float("nan"), [4]]
NOT_REAL = [None, True, b"1", [0.1]]


@pytest.mark.parametrize("number", NOT_WHOLE)
def test_a_number_of_ranks_is_a_whole_number_everywhere(number):
    for call in (
        lambda: dt.load_topology("ring").schedule(number),
        lambda: dt.prove("ring", number),
        lambda: dt.load_cluster("1gbe", number),
        lambda: dt.simulate("ring", "1gbe", "1MB", world_size=number),
        lambda: dt.simulate_step("resnet50", "ring", "1gbe", world_size=number),
        lambda: dt.run("quickstart", topology="ring", world_size=number),
    ):
        with pytest.raises(ValueError, match=r"expected a whole number"):
            call()


@pytest.mark.parametrize("seed", [1.5, None, "a", -1])
def test_seeds_that_are_none_are_refused_also_where_nothing_is_drawn(seed):
    for call in (
        lambda: dt.prove("ring", 4, seed=seed),
        lambda: dt.simulate("ring", "1gbe", "1MB", world_size=4, seed=seed),
        lambda: dt.simulate_step("resnet50", "ring", "1gbe", world_size=4, seed=seed),
    ):
        with pytest.raises(ValueError, match=r"seed .*, expected"):
            call()


def test_numpy_numbers_reach_a_topology_as_plain_ones():
    seen = []
    eight: Any = np.int64(8)

    def build(world_size, seed):
        seen.append((type(world_size), type(seed)))
        return dt.load_topology("ring").schedule(world_size)

    topology = dt.Topology("mine", build)
    topology.schedule(eight, seed=eight)
    assert seen == [(int, int)]


@pytest.mark.parametrize("source", [None, 3, b"ring", ["ring"], len])
def test_what_is_no_topology_is_refused_as_such(source):
    for call in (
        lambda: dt.load_topology(source),
        lambda: dt.Topology.parse(source),
        lambda: dt.prove(source, 4),
        lambda: dt.simulate(source, "1gbe", "1MB", world_size=4),
        lambda: dt.simulate_step("resnet50", source, "1gbe", world_size=4),
    ):
        with pytest.raises(ValueError, match=r"^topology .*expected"):
            call()


def test_a_path_is_a_topology_wherever_a_name_is():
    once = dt.simulate(Path("ring"), "1gbe", "1MB", world_size=4)
    assert once.time_s == dt.simulate("ring", "1gbe", "1MB", world_size=4).time_s


@pytest.mark.parametrize("nbytes", [-1, float("nan"), float("inf"), 10**400, *NOT_REAL])
@pytest.mark.parametrize("density", [1, 0.01])
def test_sizes_that_are_none_are_refused_dense_and_sparse(nbytes, density):
    with pytest.raises(ValueError, match=r"^nbytes .*expected"):
        dt.simulate("ring", "1gbe", nbytes, density=density, world_size=4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("density", value) for value in NOT_REAL),
        ("union_exponent", "0.5"),
        ("jitter", "a"),
        ("codec", [3]),
        ("overlap", "no"),
        ("slow_ranks", [1, 2]),
        ("slow_ranks", {4: 2.0}),  # there are ranks 0 to 3
        ("slow_ranks", {0.5: 2.0}),
        ("slow_ranks", {0: "2"}),
        ("accumulation_steps", 1.5),
        ("num_steps", 0),
        ("num_steps", "2"),
    ],
)
def test_arguments_of_a_step_are_refused_by_name(key, value):
    sparse = {"density": 0.1} if key == "union_exponent" else {}
    given: dict[str, Any] = {"world_size": 4, **sparse, key: value}
    with pytest.raises(ValueError, match=key):
        dt.simulate_step("resnet50", "ring", "1gbe", **given)


def test_a_spread_of_numpy_is_a_spread():
    given: dict[str, Any] = {"world_size": 4, "num_steps": 1}
    half: Any = np.float32(0.5)
    step = dt.simulate_step("resnet50", "ring", "1gbe", jitter=half, **given)
    plain = dt.simulate_step("resnet50", "ring", "1gbe", jitter=0.5, **given)
    assert step.step_time_s == plain.step_time_s


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("batch_size", {"elements": 9, "compute_s": 1, "batch_size": 0}),
        ("batch_size", {"source": "resnet50", "batch_size": 1.5}),
        ("compute_s", {"source": "resnet50", "compute_s": float("inf")}),
        ("compute_s", {"source": "resnet50", "compute_s": [1]}),
        ("elements", {"elements": 1.5, "compute_s": 1}),
        ("elements", {"elements": float("nan"), "compute_s": 1}),
        ("elements", {"elements": -1, "compute_s": 1}),
        ("dense_elements", {"elements": 9, "dense_elements": -1, "compute_s": 1}),
        ("dense_elements", {"source": "resnet50", "dense_elements": 5}),
        ("example", {"source": "resnet50", "example": 5}),
        ("name", {"source": "resnet50", "name": 3}),
    ],
)
def test_arguments_of_a_workload_are_refused_by_name(key, given):
    with pytest.raises(ValueError, match=rf"^{key}\b.*expected"):
        dt.load_workload(**given)


def test_a_module_without_shapes_is_refused_by_name():
    with pytest.raises(ValueError, match=r"module LazyLinear: .*weight.* has no shape yet"):
        dt.load_workload(torch.nn.LazyLinear(4), compute_s=0.1)


def test_a_network_that_says_how_large_it_is_needs_no_world_size():
    file = Path(__file__).parent.parent / "networks" / "gpus-in-two-racks.toml"
    assert dt.simulate("ring", file, "1MB").world_size == 8
    with pytest.raises(ValueError, match=r"^world_size: missing"):
        dt.simulate("ring", "1gbe", "1MB")


def test_a_number_of_ranks_that_no_machine_holds_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match=r"num_ranks 1000000000: expected at most"):
        dt.load_cluster("1gbe", 10**9)


def test_a_platform_of_simgrid_has_no_networks_to_name(tmp_path):
    (tmp_path / "p.xml").write_text("<platform/>")
    with pytest.raises(ValueError, match=r"p\.xml: a SimGrid platform is one network"):
        dt.load_cluster(f"{tmp_path}/p.xml:lab", 4)


def test_an_old_rate_of_zero_is_refused_as_it_was(tmp_path):
    file = tmp_path / "lab.toml"
    file.write_text('kind = "star"\nbase = "1gbe"\nreduce_gb_per_s = 0\n')
    with pytest.warns(OldKeyWarning), pytest.raises(ValueError, match=r"reduce_s_per_byte"):
        dt.load_cluster(file, 4)


def test_commands_print_a_warning_in_one_line_and_once(tmp_path, capfd):
    file = tmp_path / "lab.toml"
    file.write_text('kind = "star"\nbandwidth_mb_per_s = 125\n')
    with clear_errors():
        for _ in range(2):
            dt.load_cluster(file, 4)
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: {file}: bandwidth_mb_per_s has a new name")


def test_errors_of_commands_name_the_option_that_was_given():
    with (
        pytest.raises(ValueError, match=r"^--density 0.0: expected above 0"),
        naming_options({"density": "--density"}),
    ):
        dt.simulate("ring", "1gbe", "1MB", world_size=4, density=0)
    with pytest.raises(ValueError, match=r"^densely"), naming_options({"dense": "--dense"}):
        raise ValueError("densely")
