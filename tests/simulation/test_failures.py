"""Links that fail while a schedule runs: for a while, and for good."""

import numpy as np
import pytest

from dgc_topo.network import Background, EndCosts, LinkChange, links_of_host, load_fabric, star
from dgc_topo.schedule import Schedule, reduce
from dgc_topo.simulation import DenseSizes, UnreachableError, simulate_schedule
from dgc_topo.simulation.training import TrainingStep, simulate_training_step
from dgc_topo.simulation.workload_sources import whole
from dgc_topo.topology import load_topology
from tests.simulation.placed import placed


@pytest.mark.parametrize("num_other", [0, 40])
def test_a_failed_link_holds_its_flows_until_it_is_back(num_other):
    """The same whether it is solved together with all others or alone."""
    src = np.arange(2, 2 + num_other)
    others = Background(src, src + 50, 1000.0 + src, 0.01 * src)
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    changes = [LinkChange(0.5, (0,), 0.0), LinkChange(2.5, (0,), 1.0)]
    cluster = placed(star(100, 100.0), 2, background=others, changes=changes)
    result = simulate_schedule(schedule, cluster, DenseSizes(100, 1))
    assert result.time_s == pytest.approx(3.0)


def test_a_link_that_fails_for_good_names_it_and_who_waits_for_whom():
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    with pytest.raises(UnreachableError) as stuck:
        simulate_schedule(
            schedule,
            placed(star(2, 1.0), 2, changes=[LinkChange(0.5, (0,), 0.0)]),
            DenseSizes(1, 1),
        )
    assert str(stuck.value) == (
        "simulate: failed for good: host 0 up (at 0.5 s); no longer reached: rank 1 by rank 0; "
        "expected a later change that brings the links back"
    )


@pytest.mark.parametrize("world_size", [3, 40])
@pytest.mark.parametrize("latency_s", [0.0, 1.0])
@pytest.mark.parametrize("costs", [EndCosts(), EndCosts(overhead_s=0.1)])
def test_a_host_that_fails_for_good_in_a_ring(world_size, latency_s, costs):
    """Those that talk with it stop first; other jobs go on, and links that are back don't count."""
    network = star(world_size + 2, 100.0, latency_s, costs=costs)
    ends = np.array([world_size]), np.array([world_size + 1])
    changes = [
        LinkChange(2.0, (0, world_size), 0.0),
        LinkChange(3.0, (world_size,), 1.0),
        LinkChange(3.5, links_of_host(network, 1), 0.0),
    ]
    schedule = load_topology("ring").schedule(world_size)
    sizes = DenseSizes(1e3 * world_size, schedule.num_chunks)
    other = Background(*ends, np.array([1e4]), np.array([0.0]))
    cluster = placed(network, world_size, background=other, changes=changes)
    with pytest.raises(UnreachableError) as stuck:
        simulate_schedule(schedule, cluster, sizes)
    text = str(stuck.value)
    assert "host 0 up (at 2 s)" in text
    assert "rank 1 by rank 0" in text
    assert f"host {world_size} up" not in text


def arrives_s(num_bytes, changes, *, burst_bytes=0.0, latency_s=0.0, num_other=0):
    """Return when rank 1 has a message of rank 0, beside flows that share nothing with it."""
    src_hosts = np.arange(2, 2 + num_other)
    others = Background(src_hosts, src_hosts + 50, 1000.0 + src_hosts, 0.01 * src_hosts)
    network = star(100, 100.0, latency_s / 2, costs=EndCosts(burst_bytes=burst_bytes))
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    cluster = placed(network, 2, background=others, changes=changes)
    return simulate_schedule(schedule, cluster, num_bytes).time_s


@pytest.mark.parametrize(("num_bytes", "burst_bytes"), [(0, 0), (0, 50), (30, 50), (150, 50)])
@pytest.mark.parametrize("latency_s", [0.0, 1.0])
@pytest.mark.parametrize("num_other", [0, 40])
@pytest.mark.parametrize("link", [0, 101])
def test_what_needs_no_bandwidth_waits_for_a_dead_link_too(
    num_bytes, burst_bytes, latency_s, num_other, link
):
    """Empty messages, and what the link had saved up: they pass when it is back."""
    how = {"burst_bytes": burst_bytes, "latency_s": latency_s, "num_other": num_other}
    for failed_at_s in (0.0, 0.5 * latency_s):  # before, or on the way
        dead = LinkChange(failed_at_s, (link,), 0.0)
        with pytest.raises(UnreachableError, match="no longer reached: rank 1 by rank 0"):
            arrives_s(num_bytes, [dead], **how)
        back = LinkChange(2.5, (link,), 1.0)
        expected = 2.5 + max(num_bytes - burst_bytes, 0) / 100
        assert arrives_s(num_bytes, [dead, back], **how) == pytest.approx(expected)


def test_a_link_that_is_back_before_a_message_gets_there_delays_nothing():
    changes = [LinkChange(0.2, (0,), 0.0), LinkChange(0.8, (0,), 1.0)]
    assert arrives_s(0, changes, latency_s=1.0) == pytest.approx(1.0)
    assert arrives_s(30, changes, latency_s=1.0, burst_bytes=50) == pytest.approx(1.0)


def test_nothing_crosses_a_dead_link_in_a_training_step_or_of_another_job():
    step = TrainingStep(workload=whole(1.0, 0, 0))
    ring, dead = load_topology("ring").schedule(3), LinkChange(0.0, (0,), 0.0)
    with pytest.raises(UnreachableError, match="host 0 up"):
        simulate_training_step(step, ring, placed("1gbe", 3, changes=[dead]))
    back = LinkChange(4.0, (0,), 1.0)
    latency_s = load_fabric("1gbe").latency_s
    cluster = placed("1gbe", 3, changes=[dead, back])
    took = simulate_training_step(step, ring, cluster).step_time_s
    # Its first message waits; the ring's other steps follow.
    assert took == pytest.approx(4.0 + (2 * (3 - 1) - 1) * latency_s)
    # Empty flows of another job end when they can, and hold nobody up.
    other = Background(np.array([0]), np.array([2]), np.array([0.0]), np.array([0.0]))
    part = Schedule.from_steps(2, 1, [reduce(1, 0)], goal="part")
    cluster = placed(star(3, 100.0), 2, background=other, changes=[dead])
    result = simulate_schedule(part, cluster, 100.0)
    assert result.time_s == pytest.approx(1.0)
