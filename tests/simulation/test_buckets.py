"""Token buckets: what a link saves up in a pause passes at once, and a stream gets its rate."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.network import EndCosts, Network, star
from dgc_topo.schedule import Schedule, copy
from dgc_topo.simulation import DenseSizes, simulate_schedule
from dgc_topo.topology import load_topology
from tests.simulation.placed import placed

MB = 1e6
LATENCY_S = 2e-3
BANDWIDTH = 10 * MB


def network(num_hosts: int, burst_bytes: float, reverse_share: float = 0.0) -> Network:
    costs = EndCosts(burst_bytes=burst_bytes, reverse_share=reverse_share)
    return star(num_hosts, BANDWIDTH, LATENCY_S / 2, costs=costs)


def one_after_the_other(num_messages: int) -> Schedule:
    """Return messages from rank 0 to rank 1 and back."""
    steps = [copy(number % 2, 1 - number % 2) for number in range(num_messages)]
    return Schedule.from_steps(2, 1, steps, goal="part")


@given(size=st.floats(1, 5e6), burst=st.floats(1, 2e6))
def test_a_message_after_a_pause_moves_only_what_exceeds_the_bucket(size: float, burst: float):
    result = simulate_schedule(one_after_the_other(1), network(2, burst), DenseSizes(size, 1))
    expected = LATENCY_S + max(size - burst, 0) / BANDWIDTH
    assert result.time_s == pytest.approx(expected, rel=1e-9)


def test_what_is_saved_grows_with_the_pause_up_to_the_depth():
    """Each direction rests while the other is used, and two latencies long."""
    size, burst = 100e3, 60e3
    times = [
        simulate_schedule(one_after_the_other(count), network(2, burst), DenseSizes(size, 1)).time_s
        for count in (1, 2, 3, 4)
    ]
    first = LATENCY_S + (size - burst) / BANDWIDTH
    saved = min(burst, BANDWIDTH * (2 * LATENCY_S + (size - burst) / BANDWIDTH))
    later = LATENCY_S + (size - saved) / BANDWIDTH
    assert np.diff([0, *times]) == pytest.approx([first, first, later, later])


def test_messages_of_one_link_share_what_it_saved():
    burst, size = 50e3, 40e3
    step = copy(np.array([1, 2]), np.array([0, 0]), np.array([0, 1]))
    schedule = Schedule.from_steps(3, 2, [step], goal="part")
    result = simulate_schedule(schedule, network(3, burst), DenseSizes(2 * size, 2))
    assert result.time_s == pytest.approx(LATENCY_S + (2 * size - burst) / BANDWIDTH)
    assert result.bounds.largest_s <= result.time_s


@pytest.mark.parametrize("topology", ["ring", "butterfly", "parameter-server", "tree", "mesh"])
@pytest.mark.parametrize("reverse_share", [0.0, 0.03])
def test_a_bucket_only_helps_and_never_more_than_it_holds(topology: str, reverse_share: float):
    schedule = load_topology(topology).schedule(6)
    sizes = DenseSizes(3e6, schedule.num_chunks)
    without = simulate_schedule(schedule, network(6, 0.0, reverse_share=reverse_share), sizes)
    burst = 20e3
    result = simulate_schedule(schedule, network(6, burst, reverse_share=reverse_share), sizes)
    num_steps = sum(1 for _ in schedule.steps())
    assert result.time_s < without.time_s
    assert result.time_s > without.time_s - 2 * num_steps * burst / BANDWIDTH
    assert result.bounds.largest_s <= result.time_s * (1 + 1e-9)


def test_pauses_that_the_bucket_covers_cost_a_stream_nothing():
    """With as much saved in each step's latency as the bucket holds, a ring runs at the rate."""
    schedule = load_topology("ring").schedule(4)
    burst = 2 * BANDWIDTH * LATENCY_S
    sizes = DenseSizes(4e6, 4)
    result = simulate_schedule(schedule, network(4, burst), sizes)
    assert result.time_s == pytest.approx((6e6 - burst) / BANDWIDTH + LATENCY_S, rel=1e-9)


def test_links_without_a_limit_save_up_nothing():
    """Beside them, what the others have saved up counts as if they were wide."""
    limited, schedule = network(3, 20e3), one_after_the_other(5)
    times_s = []
    for wide in (np.inf, 1e9 * BANDWIDTH):
        bandwidth = limited.bandwidth_bytes_per_s.copy()
        bandwidth[[1, 3, 5]] = wide
        mixed = replace(limited, bandwidth_bytes_per_s=bandwidth)
        times_s.append(simulate_schedule(schedule, placed(mixed, 2), 30e3).time_s)
    assert times_s[0] == pytest.approx(times_s[1], rel=1e-8)


@pytest.mark.parametrize("reverse_share", [0.0, 0.05])
def test_where_no_link_has_a_limit_messages_take_their_latency(reverse_share: float):
    limited = network(3, 20e3, reverse_share)
    endless = replace(limited, bandwidth_bytes_per_s=np.full(6, np.inf))
    result = simulate_schedule(one_after_the_other(5), placed(endless, 2), 30e3)
    assert result.time_s == pytest.approx(5 * LATENCY_S)
