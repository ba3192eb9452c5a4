"""Flows that have their links for themselves, until another flow or a change meets them."""

import numpy as np
import pytest

from dgc_topo.network import Cluster, LinkChange, star
from dgc_topo.schedule import Schedule, copy, gather
from dgc_topo.simulation import DenseSizes, simulate_flows, simulate_schedule

LATENCY, LONG, SHORT = 1.0, 10.0, 4.0  # of a route; bytes, over links of 1 byte per second


def ends_of_two(start_s: float) -> list[float]:
    """A long flow from 0 on, and a short one to the same host."""
    network = star(3, 1.0, LATENCY / 2)
    src, dst = np.array([0, 1]), np.array([2, 2])
    starts = np.array([0.0, start_s])
    return list(simulate_flows(network, src, dst, np.array([LONG, SHORT]), starts))


@pytest.mark.parametrize("start_s", [0.0, 1e-9, 0.25, 0.999, 1.0, 3.5, 5.999])
def test_the_second_flow_is_done_while_the_first_goes_on(start_s):
    """Both get half a link from the time at which the second is past its latency."""
    assert ends_of_two(start_s) == pytest.approx(
        [LATENCY + LONG + SHORT, start_s + LATENCY + 2 * SHORT], rel=1e-12
    )


@pytest.mark.parametrize("start_s", [6.0, 8.25, 9.999, 10.0])
def test_the_first_flow_is_done_while_the_second_goes_on(start_s):
    first_s = LATENCY + LONG + (LONG - start_s)
    assert ends_of_two(start_s) == pytest.approx([first_s, LATENCY + LONG + SHORT], rel=1e-12)


@pytest.mark.parametrize("start_s", [10.0, 10.5, 300.0])
def test_flows_that_follow_each_other_do_not_meet(start_s):
    assert ends_of_two(start_s) == [LATENCY + LONG, start_s + LATENCY + SHORT]


def test_an_empty_flow_disturbs_nobody():
    network = star(3, 1.0, LATENCY / 2)
    ends = simulate_flows(
        network, np.array([0, 1]), np.array([2, 2]), np.array([LONG, 0.0]), np.array([0.0, 3.0])
    )
    assert ends.tolist() == [LATENCY + LONG, 3.0 + LATENCY]


#: Times of a change from 1 byte per second to a factor of that, and when 10 bytes are over then.
CHANGES = [
    ([(0.5, 0.5)], LATENCY + 2 * LONG),  # before the flow is active
    ([(LATENCY + 4, 0.5)], LATENCY + 4 + 12),
    ([(LATENCY + 4, 2.0)], LATENCY + 4 + 3),
    ([(0.5, 0.0), (3.0, 1.0)], 3 + LONG),
    ([(LATENCY + 4, 0.0), (9.0, 1.0)], 9 + 6),
    ([(LATENCY + LONG, 0.5)], LATENCY + LONG),  # just over
    ([(LATENCY + LONG + 1, 0.0)], LATENCY + LONG),
]


@pytest.mark.parametrize(("changes", "expected_s"), CHANGES)
def test_a_change_of_the_link_meets_a_flow(changes, expected_s):
    network = star(2, np.array([1.0, 9.0, 9.0, 9.0]), LATENCY / 2)
    changes = tuple(LinkChange(at_s, (0,), factor) for at_s, factor in changes)
    schedule = Schedule.from_steps(2, 1, [gather([copy(0, 1, 0)])], goal="part")
    cluster = Cluster("changing", network, np.arange(2), None, changes)
    run = simulate_schedule(schedule, cluster, DenseSizes(LONG, 1))
    assert run.time_s == pytest.approx(expected_s, rel=1e-12)
