"""Links that fail while a schedule runs: for a while, and for good."""

import numpy as np
import pytest

from dgc_topo.schedule import Schedule, reduce
from dgc_topo.simulate import (
    Background,
    DenseSizes,
    HostCosts,
    LinkChange,
    UnreachableError,
    links_of_host,
    simulate,
    star,
)
from dgc_topo.topology import load_topology


@pytest.mark.parametrize("num_other", [0, 40])
def test_a_failed_link_holds_its_flows_until_it_is_back(num_other):
    """The same whether it is solved together with all others or alone."""
    src = np.arange(2, 2 + num_other)
    others = Background(src, src + 50, 1000.0 + src, 0.01 * src)
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    result = simulate(
        schedule,
        star(100, 100.0),
        DenseSizes(100, 1),
        background=others,
        changes=[LinkChange(0.5, (0,), 0.0), LinkChange(2.5, (0,), 1.0)],
    )
    assert result.time_s == pytest.approx(3.0)


def test_a_link_that_fails_for_good_names_it_and_who_waits_for_whom():
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    with pytest.raises(UnreachableError) as stuck:
        simulate(schedule, star(2, 1.0), DenseSizes(1, 1), changes=[LinkChange(0.5, (0,), 0.0)])
    assert str(stuck.value) == (
        "simulate: failed for good: host 0 up (at 0.5 s); no longer reached: rank 1 by rank 0; "
        "expected a later change that brings the links back"
    )


@pytest.mark.parametrize("world_size", [3, 40])
@pytest.mark.parametrize("latency_s", [0.0, 1.0])
@pytest.mark.parametrize("costs", [HostCosts(), HostCosts(overhead_s=0.1)])
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
    with pytest.raises(UnreachableError) as stuck:
        simulate(schedule, network, sizes, background=other, changes=changes)
    text = str(stuck.value)
    assert "host 0 up (at 2 s)" in text
    assert "rank 1 by rank 0" in text
    assert f"host {world_size} up" not in text
