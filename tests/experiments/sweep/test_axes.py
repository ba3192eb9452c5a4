"""Axes of a sweep: one value, a list or a range, and errors that name the axis."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.experiments.scenario.axes import number, values_of, whole_number
from dgc_topo.experiments.scenario.sweep import SweepSection
from dgc_topo.experiments.sweep.running import SilentSweep

PLAIN: dict[str, Any] = {
    "topology": "ring",
    "world_size": 4,
    "network": "1gbe",
    "workload": "resnet50",
}
positive = st.floats(1e-9, 1e15)


@given(positive, positive, st.integers(2, 50))
def test_a_range_goes_from_end_to_end_in_equal_ratios(first, last, count):
    if abs(np.log(last / first)) < 1e-3:
        return
    found = values_of(dt.spread(first, last, count), number())
    assert len(found) == count
    assert (found[0], found[-1]) == (first, last)
    ratios = np.diff(np.log(found))
    assert np.allclose(ratios, np.log(last / first) / (count - 1), rtol=1e-3, atol=1e-10)


@given(st.floats(-1e6, 1e6), st.floats(1.0, 1e9), st.integers(2, 50))
def test_a_linear_range_goes_in_equal_steps(first, length, count):
    found = values_of(
        dt.spread(first, first + length, count, scale="linear"), number(least=-np.inf)
    )
    assert (found[0], found[-1]) == (first, first + length)
    assert np.allclose(np.diff(found), length / (count - 1), rtol=1e-2)


def test_ranges_of_whole_numbers_are_whole():
    sizes = values_of(dt.spread(2, 256, 8), whole_number(1000))
    assert sizes == (2, 4, 8, 16, 32, 64, 128, 256)
    assert all(type(size) is int for size in sizes)


def test_a_range_hits_the_round_numbers_on_its_way():
    rates = SweepSection.model_validate(
        PLAIN | {"bandwidth": {"from": "100Mbit/s", "to": "100Gbit/s", "count": 13}}
    ).bandwidth
    assert {12.5e6, 125e6, 1.25e9, 12.5e9} <= set(rates)


@pytest.mark.parametrize(
    "sizes",
    [[2, 4, 8], (2, 4, 8), np.array([2, 4, 8]), dt.spread(2, 8, 3), [2, dt.spread(4, 8, 2)]],
    ids=["list", "tuple", "array", "range", "list with a range"],
)
def test_values_mean_the_same_in_whatever_they_come(sizes):
    found = dt.sweep("ring", sizes, "1gbe", num_bytes="1MB")
    assert [row.world_size for row in found] == [2, 4, 8]


def test_pythons_ranges_are_lists():
    found = dt.sweep("ring", range(2, 5), "1gbe", num_bytes=1e6)
    assert [row.world_size for row in found] == [2, 3, 4]


def test_a_table_stands_for_a_topology_with_each_of_its_options_values():
    table = {"name": "butterfly", "options": {"order": ["near", "far"], "algorithm": "doubling"}}
    found = dt.sweep([table, dt.load_topology("ring")], 4, "1gbe", num_bytes="1MB")
    assert [row.topology for row in found] == [
        "butterfly:order=near,algorithm=doubling",
        "butterfly:order=far,algorithm=doubling",
        "ring",
    ]


def test_a_step_that_does_not_overlap_has_one_bucket_and_one_row():
    found = dt.sweep(**PLAIN, overlap=[False, True], bucket_bytes=["1MiB", "25MiB"])
    assert [(row.overlap, row.bucket_bytes) for row in found] == [
        (False, None),
        (True, 2**20),
        (True, 25 * 2**20),
    ]


def test_the_arguments_and_the_keys_of_a_scenario_are_the_same():
    arguments = inspect.signature(dt.sweep).parameters.keys()
    keys = SweepSection.model_fields.keys() - {"folder_of_files"}
    assert arguments - keys == {"seed", "output", "processes", "observer"}
    assert keys <= arguments


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"density": [0.1, 1.5]}, r"density: 1\.5, expected above 0, at most 1"),
        ({"density": []}, "density: an empty list, expected at least one"),
        ({"density": [0.1, 0.1]}, r"density: 0\.1 is there twice"),
        ({"density": "much"}, "density: value 'much': expected a fraction"),
        ({"world_size": 0}, "world_size: 0, expected 1 to"),
        ({"world_size": [2, 2.5]}, r"world_size: value 2\.5, expected a whole number"),
        ({"world_size": dt.spread(2, 4, 8)}, "world_size: spread.*expected fewer"),
        ({"bandwidth": "1Gbot/s"}, "bandwidth: value '1Gbot/s': unknown unit"),
        ({"bandwidth": 0}, "bandwidth: 0, expected above 0"),
        ({"bandwidth": dt.spread(0, 1, 3)}, "bandwidth: 0, expected above 0"),
        ({"latency": dt.spread(0, 1e-6, 3)}, "latency: spread.*expected scale = 'linear'"),
        ({"latency": -1e-6}, "latency: -1e-06, expected 0 or more"),
        ({"bandwidth": {"from": 1, "too": 2, "count": 2}}, "bandwidth: range.to: missing"),
        ({"bandwidth": {"from": 1, "to": 2, "count": 1}}, "bandwidth: range.count"),
        ({"overlap": [True, "no"]}, "overlap: value 'no', expected True or False"),
        ({"wire_dtype": "float61"}, "wire_dtype: 'float61'.*did you mean 'float16'"),
        ({"accumulation_steps": 0}, "accumulation_steps: 0, expected 1"),
        ({"every": [1, 0]}, "every: 0, expected 1"),
        ({"every": [2, 5], "overlap": [True, False]}, "overlap: true with every 2"),
        ({"every": [1, 5], "overlap": True}, "every: 5 with overlap"),
        ({"averaging": "dilocco"}, "averaging: .*did you mean .diloco"),
        ({"averaging": "diloco", "every": 2}, "every: with averaging = .diloco:every=50"),
        ({"averaging": ["d-psgd", "diloco"]}, "averaging: d-psgd over ring"),
        ({"averaging": "diloco", "overlap": True}, "averaging: diloco.* with overlap"),
        ({"averaging": "d-psgd", "topology": "gossip", "density": 0.1}, "density: 0.1: d-psgd"),
        ({"bucket_bytes": "1MiB"}, "sweep: bucket_bytes: without overlap"),
        ({"codec": "4ms"}, "sweep: codec: nothing is compressed"),
        ({"codec": {"encode_s": 1}, "density": 0.1}, "codec: table.encode_s: unknown key"),
        ({"jitter": "a lot"}, "jitter.*expected a number"),
        ({"union_exponent": 0.5}, "sweep: union_exponent: nothing is compressed"),
        ({"index_encoding": "int31", "density": 0.1}, "index_encoding = 'int31'"),
        ({"oversubscription": 4}, "oversubscription: 1gbe has no racks"),
        ({"topology": "rign"}, "topology: topology 'rign'"),
        ({"topology": "gossip", "density": [1, 0.01]}, r"density: 0\.01 over gossip"),
        (
            {"topology": ["ring", "gossip"], "density": 0.01},
            "topology: gossip averages.*expected density 1 as well",
        ),
        ({"workload": "resnet"}, "workload: model 'resnet': unknown"),
        ({"workload": {"model": "resnet50", "compute": 1}}, "workload: table.compute: unknown key"),
        (
            {"workload": ["resnet50", {"model": "resnet50", "compute_s": 1}]},
            "sweep: workload: two are called 'resnet50'",
        ),
        ({"num_bytes": "1MB"}, "sweep: workload or num_bytes, expected one"),
        ({"workload": None}, "sweep: workload or num_bytes, expected one"),
        ({"network": "2gbe"}, "network '2gbe': unknown"),
        ({"network": ["1gbe", "1 GbE"]}, "network: two are called '1gbe'"),
        ({"network": 5}, "network: 5, expected a fabric"),
        ({"network": "ideal"}, "bandwidth: missing, expected one for network 'ideal'"),
        ({"slow_host_bandwidth_factor": 0}, "slow_host_bandwidth_factor: 0, expected above 0"),
        ({"hosts_per_rack": 0}, "hosts_per_rack: 0, expected 1"),
        ({"seed": -1}, "seed -1, expected 0 or more"),
        ({"processes": -1}, "processes -1, expected 0 or more"),
        ({"world_size": range(1, 1001), "density": dt.spread(1e-6, 1, 1001)}, "1,001,000 comb"),
    ],
    ids=lambda each: str(each)[:50],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(wrong, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        dt.sweep(**PLAIN | wrong, output=tmp_path / "sweep", observer=Untouched())
    assert not (tmp_path / "sweep").exists()


class Untouched(SilentSweep):
    def begin(self, total: int, done: int) -> None:
        pytest.fail(f"began {total} predictions")


@pytest.mark.parametrize(
    "axis",
    [
        "overlap",
        "accumulation_steps",
        "every",
        "averaging",
        "slow_rank_compute_time_factor",
        "num_steps",
    ],
)
def test_a_collective_has_no_axis_of_a_step(axis):
    given: dict[str, Any] = {axis: {"overlap": True, "averaging": "diloco"}.get(axis, 2)}
    with pytest.raises(ValueError, match=f"{axis}: is for training steps"):
        dt.sweep("ring", 4, "1gbe", num_bytes="1MB", **given)


@pytest.mark.parametrize("axis", ["bandwidth", "latency", "hosts_per_rack", "oversubscription"])
def test_a_network_with_links_of_its_own_takes_no_others(axis):
    cluster = dt.load_cluster("1gbe", 4)
    given: dict[str, Any] = {axis: 2}
    with pytest.raises(ValueError, match=f"{axis}: network 1gbe has its own"):
        dt.sweep("ring", 4, cluster, "resnet50", **given)


def test_a_networks_kind_decides_which_axes_it_takes(tmp_path: Path):
    file = tmp_path / "star.toml"
    file.write_text('kind = "star"\nbase = "1gbe"\n')
    with pytest.raises(ValueError, match=r"hosts_per_rack: network star\.toml has no such key"):
        dt.sweep("ring", 4, str(file), "resnet50", hosts_per_rack=2)
