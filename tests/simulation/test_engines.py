"""The choice of an engine, and what it must not depend on."""

from dataclasses import dataclass

import numpy as np
import pytest

import dgc_topo as dt
from dgc_topo.network import EndCosts, star
from dgc_topo.schedule import Schedule
from dgc_topo.simulation import simulate_schedule
from dgc_topo.topology import load_topology


@dataclass
class EveryStep:
    """A function that can be compared, and therefore has no hash."""

    count: int

    def __call__(self, ranks):
        for _ in range(self.count):
            yield dt.reduce(np.array([0, 1]), np.array([1, 0]))


def test_a_schedule_need_not_be_hashable():
    schedule = Schedule(2, 1, EveryStep(3), "part")
    assert simulate_schedule(schedule, star(2, 1e6), 1e6).time_s == pytest.approx(3.0)


def test_a_schedule_may_write_into_its_arrays_for_the_next_step():
    def steps_of(ranks):
        receivers = np.array([1])
        for receiver in (1, 2, 1, 2):
            receivers[0] = receiver
            yield dt.reduce(np.array([0]), receivers)

    schedule = Schedule(3, 1, steps_of, "part")
    for engine in ("bulk", "events"):
        run = simulate_schedule(
            schedule, star(3, [1e6, 1e6, 1e6, 1e6, 1e6, 5e5]), 1e6, engine=engine
        )
        np.testing.assert_allclose(run.finish_s, [6.0, 4.0, 6.0])


def test_flows_that_end_one_by_one_are_left_to_events_unless_bulk_is_demanded(monkeypatch):
    monkeypatch.setattr("dgc_topo.simulation.inside_step._AT_FIRST", 0.0)
    monkeypatch.setattr("dgc_topo.simulation.inside_step._PER_FLOW", 2.0)
    schedule = load_topology("mesh", {}).schedule(8)
    network = star(8, np.linspace(1e6, 2e6, 16))
    chosen, demanded = (
        simulate_schedule(schedule, network, 1e6, engine=engine) for engine in ("auto", "bulk")
    )
    assert (chosen.engine, demanded.engine) == ("events", "bulk")
    np.testing.assert_allclose(chosen.finish_s, demanded.finish_s, rtol=1e-12)


def test_an_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="engine 'fast': expected one of auto, bulk, events"):
        dt.simulate("ring", "1gbe", "1MB", world_size=4, engine="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("senders", [(1, 2), (2, 1)])
def test_messages_of_one_instant_take_what_a_link_has_saved_as_listed(senders):
    """2 MB each over a link of 1 MB/s that has saved 1 MB: the first has 1 MB to go, so 2 s."""
    step = dt.reduce(np.array(senders), np.array([0, 0]))
    schedule = Schedule(3, 1, lambda _: iter([step]), "part")
    network = star(3, 1e6, costs=EndCosts(burst_bytes=1e6))
    finish_s = simulate_schedule(schedule, network, 2e6).finish_s
    assert finish_s[senders[0]] == pytest.approx(2.0)
    assert finish_s[senders[1]] == pytest.approx(3.0)
