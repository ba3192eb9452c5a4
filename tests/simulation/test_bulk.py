"""The bulk engine says what the event engine says, or refuses; ``auto`` always says it.

Worlds are small and odd, see `random_schedules` and `random_clusters`.  A deeper run, by hand:
``pytest --hypothesis-profile=deep -n auto tests/simulation/test_bulk.py``.
"""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.network import load_cluster
from dgc_topo.simulation import simulate_schedule
from dgc_topo.simulation.training import simulate_training_step
from tests.simulation.random_clusters import NETWORKS, clusters, disturbed
from tests.simulation.random_schedules import SCHEDULES, schedules_and_sizes
from tests.simulation.random_steps import steps_on
from tests.simulation.same_runs import assert_same_run, assert_same_step
from tests.strategies import examples

ROUNDING = 1 + 1e-9


def assert_refused(error, auto):
    """Check that the bulk engine has refused, and that ``auto`` did not use it."""
    assert re.fullmatch(r"engine bulk: .+; expected engine events, or auto", str(error))
    assert auto == "events"


def compare(schedule, cluster, sizes):
    """Compare the engines; return the fastest that can be used."""
    events = simulate_schedule(schedule, cluster, sizes, engine="events")
    assert events.engine == "events"
    assert events.bounds.largest_s <= events.time_s * ROUNDING
    auto = simulate_schedule(schedule, cluster, sizes)
    assert_same_run(auto, events)
    try:
        bulk = simulate_schedule(schedule, cluster, sizes, engine="bulk")
    except ValueError as error:
        assert_refused(error, auto.engine)
        return "events"
    assert bulk.engine == "bulk"
    assert_same_run(bulk, events)
    return bulk.engine


def compare_steps(case, cluster, iteration):
    """Compare the engines on a training step; return the fastest that can be used."""

    def run(engine):
        return simulate_training_step(case.step, case, cluster, iteration=iteration, engine=engine)

    events, auto = run("events"), run("auto")
    assert_same_step(auto, events)
    try:
        assert_same_step(run("bulk"), events)
    except ValueError as error:
        assert_refused(error, auto.engine)
        return "events"
    return "bulk"


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("schedules", SCHEDULES)
def test_schedules_end_as_the_events_say(schedules, networks):
    used: Counter[str] = Counter()

    @examples(50)
    @given(schedules_and_sizes(SCHEDULES[schedules]), st.data())
    def each(case, data):
        schedule, sizes = case
        cluster = data.draw(clusters(schedule.world_size, NETWORKS[networks]))
        used[compare(schedule, cluster, sizes)] += 1

    each()
    assert used["bulk"] > used.total() / 20, used  # the engine is not idle here


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("schedules", SCHEDULES)
def test_training_steps_end_as_the_events_say(schedules, networks):
    used: Counter[str] = Counter()

    @examples(15)
    @given(steps_on(SCHEDULES[schedules]), st.integers(0, 2), st.data())
    def each(case, iteration, data):
        cluster = data.draw(clusters(case.schedules[0].world_size, NETWORKS[networks]))
        used[compare_steps(case, cluster, iteration)] += 1

    each()
    assert used["bulk"], used


@examples(100)
@given(steps_on(SCHEDULES["shipped"]), st.sampled_from(["1gbe", "ib-edr"]))
def test_steps_on_a_fabric_need_no_events(case, fabric):
    cluster = load_cluster(fabric, case.schedules[0].world_size)
    assert compare_steps(case, cluster, 0) == "bulk"


@examples(100)
@given(schedules_and_sizes(st.one_of(*SCHEDULES.values())), st.data())
def test_other_jobs_changes_and_bursts_are_left_to_the_events(case, data):
    schedule, sizes = case
    cluster = data.draw(clusters(schedule.world_size, NETWORKS["star"]))
    assert compare(schedule, data.draw(disturbed(cluster)), sizes) == "events"
