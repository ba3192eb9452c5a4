"""Winners, losses and the break-even, against closed forms."""

from math import isnan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.report.sweep.axes import fabric_near, network_classes, spread
from dgc_topo.report.sweep.break_even import break_even, compression_gains
from dgc_topo.report.sweep.choices import fastest, topology_losses
from dgc_topo.report.sweep.swept import Swept
from tests.report.sweep.frames import BANDWIDTHS, row, step_time_s, swept


@pytest.fixture(scope="module")
def frame():
    return swept()


def names(axes):
    return [axis.column for axis in axes]


def test_the_winner_of_every_setting_is_that_of_the_closed_form(frame):
    table = fastest(frame)
    assert len(table) == 3 * len(BANDWIDTHS)
    for found in table.to_dict("records"):
        times = {
            f"{topology}, {name}": step_time_s(
                topology, found["world_size"], density, found["bandwidth_bytes_per_s"]
            )
            for topology in ("ring", "butterfly", "parameter-server")
            for density, name in ((1.0, "dense"), (0.01, "1 %"), (0.001, "0.1 %"))
        }
        best = min(times.values())
        assert times[found["fastest"]] == pytest.approx(best)
        tied = {way for way, time in times.items() if time <= 1.01 * best}
        assert set(found["tied"]) == tied
        rest = [time for way, time in times.items() if way not in tied]
        assert found["gain"] == pytest.approx(min(rest, default=best) / best)
        assert found["step_time_s"] == pytest.approx(best)


def test_ties_are_all_named_and_in_the_order_of_the_frame():
    """However far below a hundredth they differ, and whoever is first by it."""
    for ring, butterfly in ((1.0, 1.009), (1.009, 1.0), (1.0, 1.0)):
        table = fastest(
            pd.DataFrame(
                [
                    row(topology="ring", step_time_s=ring),
                    row(topology="butterfly", step_time_s=butterfly),
                    row(topology="tree", step_time_s=1.5),
                ]
            )
        )
        (found,) = table.to_dict("records")
        assert found["tied"] == ("ring, dense", "butterfly, dense")
        assert (found["runner_up"], found["gain"]) == ("tree, dense", 1.5)


def test_what_is_slower_by_more_than_a_hundredth_is_no_tie():
    table = fastest(pd.DataFrame([row(step_time_s=1.0), row(topology="tree", step_time_s=1.011)]))
    assert table["tied"].tolist() == [("ring, dense",)]
    assert table["gain"].tolist() == pytest.approx([1.011])


def test_throughput_decides_where_workers_differ():
    """A dedicated server trains nothing: its shorter step may be the slower way."""
    server = "parameter-server:server=dedicated"
    table = fastest(
        pd.DataFrame(
            [
                row(step_time_s=1.0, samples_per_s=100.0),
                row(topology=server, step_time_s=0.9, samples_per_s=80.0),
            ]
        )
    )
    assert table["fastest"].tolist() == ["ring, dense"]


def test_gossip_is_not_called_the_fastest_all_reduce():
    rows = [row(step_time_s=1.0), row(topology="gossip:graph=ring", step_time_s=0.5)]
    assert fastest(pd.DataFrame(rows))["fastest"].tolist() == ["ring, dense"]
    assert fastest(pd.DataFrame(rows[1:]))["fastest"].tolist() == ["gossip:graph=ring, dense"]


def test_topologies_are_compared_at_each_density(frame):
    table = fastest(frame, each_density=True)
    assert len(table) == 9 * len(BANDWIDTHS)
    for found in table.to_dict("records"):
        times = {
            topology: step_time_s(
                topology, found["world_size"], found["density"], found["bandwidth_bytes_per_s"]
            )
            for topology in ("ring", "butterfly", "parameter-server")
        }
        assert times[found["fastest"]] == pytest.approx(min(times.values()))


def test_the_loss_by_the_wrong_topology_is_that_of_the_closed_form(frame):
    table = topology_losses(frame)
    worst = max(table.to_dict("records"), key=lambda found: found["loss"])
    assert (worst["fastest"], worst["slowest"]) == ("butterfly", "parameter-server")
    assert (worst["world_size"], worst["bandwidth_bytes_per_s"]) == (64, BANDWIDTHS[0])
    times = [step_time_s(t, 64, 1.0, BANDWIDTHS[0]) for t in ("parameter-server", "butterfly")]
    assert worst["loss"] == pytest.approx(times[0] / times[1])


def falling(power, gain, bandwidths):
    """Return dense and compressed rows whose gain is ``gain * (first / bandwidth) ** power``."""
    return pd.DataFrame(
        [
            row(bandwidth_bytes_per_s=bandwidth, density=density, step_time_s=time)
            for bandwidth in bandwidths
            for density, time in (
                (1.0, gain * (bandwidths[0] / bandwidth) ** power),
                (0.001, 1.0),
            )
        ]
    )


@given(
    st.floats(0.2, 2.0),
    st.floats(1.05, 50.0),
    st.lists(st.floats(1e7, 1e11), min_size=2, max_size=12, unique=True),
)
@settings(max_examples=60)
def test_the_break_even_is_where_a_straight_line_crosses(power, gain, bandwidths):
    """A power law is straight on logarithmic axes: interpolation is exact, wherever points lie."""
    bandwidths = sorted(bandwidths)
    for least in (0.0, 0.01):
        (found,) = break_even(falling(power, gain, bandwidths), least).to_dict("records")
        expected = bandwidths[0] * (gain / (1 + least)) ** (1 / power)
        assert found["largest_gain"] == pytest.approx(gain)
        assert found["largest_gain_at_bytes_per_s"] == bandwidths[0]
        if expected < bandwidths[-1] * (1 - 1e-9):
            assert found["place"] == "inside"
            assert found["break_even_bytes_per_s"] == pytest.approx(expected)
        elif expected > bandwidths[-1] * (1 + 1e-9):
            assert found["place"] == "above the swept range"
            assert isnan(found["break_even_bytes_per_s"])


def test_the_break_even_of_a_finer_grid_is_that_of_the_closed_form():
    """Dense sends D, compressed S and codes for k: they are equal at (D - S) / k."""
    bandwidths = tuple(np.geomspace(12.5e6, 1.25e11, 200))
    table = break_even(swept(bandwidth_bytes_per_s=bandwidths, topology=("ring",)), least_gain=0)
    for found in table.to_dict("records"):
        density = {"1 %": 0.01, "0.1 %": 0.001}[found["sending"]]
        factor = 2 * (found["world_size"] - 1) / found["world_size"]
        expected = factor * 100e6 * (1 - 2 * density) / 0.02
        assert found["break_even_bytes_per_s"] == pytest.approx(expected, rel=1e-3)


def test_a_corner_between_swept_bandwidths_lies_in_the_bracket():
    """With overlap a step takes the longer of two times: where one ends, the gain has a corner."""
    corner = 2.8e9

    def step_s(bandwidth, sent):
        return max(0.1, sent / bandwidth)

    rows = [
        row(bandwidth_bytes_per_s=each, density=density, step_time_s=step_s(each, sent) + codec_s)
        for each in BANDWIDTHS
        for density, sent, codec_s in ((1.0, 0.1 * corner, 0.0), (0.001, 1e5, 0.002))
    ]
    (found,) = break_even(pd.DataFrame(rows)).to_dict("records")
    assert found["pays_at_bytes_per_s"] < corner < found["not_at_bytes_per_s"]
    assert found["pays_at_bytes_per_s"] < found["break_even_bytes_per_s"]
    assert found["break_even_bytes_per_s"] < found["not_at_bytes_per_s"]
    assert {found["pays_at_bytes_per_s"], found["not_at_bytes_per_s"]} <= set(BANDWIDTHS)


def test_compression_that_never_pays_breaks_even_below_the_range():
    frame = falling(0.5, 1.005, BANDWIDTHS)
    (found,) = break_even(frame).to_dict("records")
    assert found["place"] == "below the swept range"
    assert isnan(found["break_even_bytes_per_s"])


def test_the_last_of_several_crossings_counts():
    gains = (2.0, 0.5, 2.0, 0.5)
    rows = [
        row(bandwidth_bytes_per_s=10.0 ** (8 + place), density=density, step_time_s=time)
        for place, gain in enumerate(gains)
        for density, time in ((1.0, gain), (0.01, 1.0))
    ]
    (found,) = break_even(pd.DataFrame(rows), 0).to_dict("records")
    assert found["break_even_bytes_per_s"] == pytest.approx(10**10.5)


def test_any_topology_compares_the_best_dense_with_the_best_compressed(frame):
    gains = compression_gains(frame)
    here = gains[
        (gains["world_size"] == 64)
        & (gains["bandwidth_bytes_per_s"] == BANDWIDTHS[0])
        & (gains["topology"] == "any")
        & (gains["sending"] == "0.1 %")
    ]
    topologies = ("ring", "butterfly", "parameter-server")
    dense = min(step_time_s(t, 64, 1.0, BANDWIDTHS[0]) for t in topologies)
    compressed = min(step_time_s(t, 64, 0.001, BANDWIDTHS[0]) for t in topologies)
    assert here["gain"].tolist() == pytest.approx([dense / compressed])


def test_without_dense_rows_or_bandwidths_there_is_no_break_even(frame):
    assert break_even(frame[frame["density"] < 1]).empty
    one = frame[frame["bandwidth_bytes_per_s"] == BANDWIDTHS[0]]
    assert break_even(one).empty
    assert "place" in break_even(one)


def test_skipped_rows_are_kept_apart(frame):
    said = pd.DataFrame([row(topology="tree", skipped="mesh of 1024 ranks: too many messages")])
    found = Swept.of(pd.concat([frame, said]))
    assert found.skipped["skipped"].tolist() == ["mesh of 1024 ranks: too many messages"]
    assert "tree" not in set(found.rows["topology"])
    assert len(found.rows) == len(frame)


def test_names_of_networks_that_repeat_their_numbers_are_no_axis(frame):
    named = frame.assign(network=frame["bandwidth_bytes_per_s"].map("{:g}".format))
    assert names(Swept.of(named).axes) == ["bandwidth_bytes_per_s", "world_size"]


def test_numbers_that_belong_to_networks_are_no_axes():
    """InfiniBand has a bandwidth and a latency of its own, not every latency."""
    fabrics = (("1gbe", 116e6, 25e-6), ("10gbe", 1.2e9, 25e-6), ("ib-edr", 10e9, 1e-6))
    rows = [
        row(network=name, bandwidth_bytes_per_s=bandwidth, latency_s=latency, topology=topology)
        for name, bandwidth, latency in fabrics
        for topology in ("ring", "butterfly")
    ]
    assert names(Swept.of(pd.DataFrame(rows)).axes) == ["network"]


def test_a_row_that_says_the_same_again_counts_once_and_a_contradiction_is_refused(frame):
    assert len(Swept.of(pd.concat([frame, frame])).rows) == len(frame)
    with pytest.raises(ValueError, match=r"frame: several times for ring, dense on 8 ranks"):
        fastest(pd.DataFrame([row(), row(step_time_s=7.0)]))


def test_a_frame_of_something_else_is_refused(frame):
    for wrong, said in (
        (frame.drop(columns="topology"), "no column 'topology'"),
        (frame.drop(columns="step_time_s"), "no column 'step_time_s' or 'time_s'"),
    ):
        with pytest.raises(ValueError, match=f"frame: {said}, expected the frame of a sweep"):
            fastest(wrong)


def test_a_circumstance_is_held_where_most_rows_are(frame):
    """Rows that vary something else at one bandwidth do not move what the others hold."""
    more = swept(latency_s=(1e-6, 50e-6), bandwidth_bytes_per_s=BANDWIDTHS[4:5])
    found = Swept.of(pd.concat([frame, more]))
    rows, said = found.held({"bandwidth_bytes_per_s", "world_size"})
    assert set(rows.rows["latency_s"]) == {25e-6}
    assert said == "25 µs latency"
    rows, said = found.held({"latency_s"})
    assert said == "1 Gbit/s, 64 ranks"
    assert set(rows.rows["latency_s"]) == {1e-6, 25e-6, 50e-6}


def test_network_classes_are_the_ends_and_ethernets():
    classes = network_classes(BANDWIDTHS)  # four by default
    assert [round(8 * each / 1e6) for each in classes] == [100, 1000, 10_000, 100_000]
    assert [fabric_near(each) for each in classes] == ["", "1gbe", "10gbe", "100gbe"]
    assert network_classes([3.0, 1.0, 2.0]) == [1.0, 2.0, 3.0]
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(10), 1) == [9]


def test_without_room_for_the_ends_ethernets_are_left():
    """At the ends little is decided: all wait for the wire, or for nothing."""
    assert [round(8 * each / 1e9) for each in network_classes(BANDWIDTHS, 2)] == [1, 10]
