"""Sweeps over several named networks and over bandwidth tell them apart."""

import pytest

import dgc_topo as dt
from dgc_topo.report.sweep.findings import findings
from dgc_topo.report.sweep.swept import Swept


@pytest.fixture(scope="module")
def frame():
    racks = dt.sweep(
        ["ring", "butterfly"],
        [4, 8],
        ["1gbe", "networks/gpus-in-two-racks.toml"],
        "resnet50",
        bandwidth=["100Mbit/s", "1Gbit/s", "10Gbit/s"],
        density=[1, 0.01],
        processes=0,
    )
    return racks.to_frame()


def test_a_network_that_was_swept_by_name_is_an_axis(frame):
    """Its latency and its racks belong to it."""
    axes = [axis.column for axis in Swept.of(frame).axes]
    assert axes == ["network", "bandwidth_bytes_per_s", "world_size"]


def test_each_network_is_told_of_at_each_bandwidth(frame):
    said = findings(frame)
    for network in ("1gbe", "networks/gpus-in-two-racks.toml"):
        best = [line for line in said if f"8 ranks on {network} at " in line]
        assert len(best) == 3
        assert sum(f"on {network}, 1 % against the best dense way" in line for line in said) == 1


def test_fabrics_of_one_bandwidth_axis_are_told_apart():
    swept = dt.sweep(
        ["ring", "tree"],
        4,
        ["1gbe", "10gbe"],
        "resnet50",
        bandwidth=["100Mbit/s", "10Gbit/s"],
        processes=0,
    )
    said = swept.findings()
    assert sum("on 1gbe at" in line for line in said) == 2
    assert sum("on 10gbe at" in line for line in said) == 2


def test_that_accuracy_is_not_predicted_is_said_where_something_is_compressed(frame):
    note = "Predicted are times only: what compression costs in accuracy has to be measured."
    assert note in findings(frame)
    assert note not in findings(frame[frame["density"] == 1])
