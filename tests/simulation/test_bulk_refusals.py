"""The bulk engine refuses what can meet, says where and who, and refuses nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.network import (
    Background,
    Cluster,
    EndCosts,
    LinkChange,
    add_gpus,
    draw_racks,
    from_graph,
    place_round_robin,
    star,
)
from dgc_topo.schedule import Schedule, gather, reduce
from dgc_topo.simulation import UnreachableError, simulate_schedule
from dgc_topo.simulation.training import TrainingStep, simulate_training_step
from dgc_topo.simulation.workload_sources import whole
from tests.simulation.placed import placed
from tests.simulation.random_clusters import end_costs, stars
from tests.simulation.random_schedules import SCHEDULES, schedules_and_sizes
from tests.strategies import examples

ANY_SCHEDULE = schedules_and_sizes(st.one_of(*SCHEDULES.values()))


def narrow_racks(oversubscription=4.0):
    return from_graph(draw_racks(2, 4, 100.0, oversubscription=oversubscription))


def sends(*steps, world_size=8):
    """Return a schedule of steps, each with pairs of ranks."""
    return Schedule.from_steps(
        world_size, 1, [gather([reduce(*pair) for pair in pairs]) for pairs in steps], goal="part"
    )


def at_once(schedule, cluster):
    return simulate_schedule(schedule, cluster, 1000.0, engine="bulk")


TOGETHER, LATER = [[(0, 4), (1, 5)]], [[(0, 4)], [(1, 5)]]
ON_ONE_HOST = placed(star(4, 100.0), 8, np.arange(8) // 2)
LAB = star(8, 100.0, costs=EndCosts(send_s_per_byte=1e-3, cores_per_machine=1, hosts_per_machine=4))
GPUS = add_gpus(star(4, 100.0), 2, 900.0)


@pytest.mark.parametrize("steps", [TOGETHER, LATER], ids=["in one step", "in two steps"])
@pytest.mark.parametrize(
    ("network", "where"),
    [
        (narrow_racks(), "rack 0 -> core"),
        (ON_ONE_HOST, "host 0 up"),
        (GPUS, "host 0 up"),
        (LAB, "machine 0 CPU"),
    ],
    ids=["racks", "one host", "GPUs", "one machine"],
)
def test_what_can_meet_is_refused_with_the_place_and_the_ranks(network, where, steps):
    cluster = network if isinstance(network, Cluster) else placed(network, 8)
    message = "rank (0 -> rank 4|1 -> rank 5)"
    says = rf"^engine bulk: messages {message} and {message} can meet on {where}; expected engine"
    with pytest.raises(ValueError, match=says):
        at_once(sends(*steps), cluster)
    assert simulate_schedule(sends(*steps), cluster, 1000.0).engine == "events"


def test_work_of_two_ranks_on_one_machine_is_refused():
    """Ranks 0 and 1 are on a machine, ranks 4 and 5 on another, and each only adds what it got."""
    costs = EndCosts(reduce_s_per_byte=1e-3, cores_per_machine=1, hosts_per_machine=4)
    with pytest.raises(ValueError, match=r"rank 4 .* rank 5 .* machine 1 CPU"):
        at_once(sends([(0, 4)], [(1, 5)]), placed(star(8, 100.0, costs=costs), 8))


OTHERS = {
    "other jobs' traffic": lambda cluster: replace(
        cluster, background=Background(*np.ones((4, 1), np.int64))
    ),
    "links that change": lambda cluster: replace(cluster, changes=(LinkChange(9.0, (0,), 2.0),)),
    "burst_bytes": lambda cluster: placed(star(8, 100.0, costs=EndCosts(burst_bytes=1.0)), 8),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_only_events_model_is_refused(what):
    cluster = OTHERS[what](placed(star(8, 100.0), 8))
    with pytest.raises(
        ValueError, match=f"^engine bulk: .*{what}.*expected engine events, or auto"
    ):
        at_once(sends([(0, 4)]), cluster)
    assert simulate_schedule(sends([(0, 4)]), cluster, 1000.0).engine == "events"


def test_every_door_refuses():
    cluster, step = placed(narrow_racks(), 8), TrainingStep(workload=whole(1.0, 100, 0))
    doors = (
        lambda engine: simulate_training_step(step, sends(*TOGETHER), cluster, engine=engine),
        lambda engine: dt.simulate("mesh", cluster, 1e3, engine=engine),
        lambda engine: dt.simulate_step("resnet50", "mesh", cluster, engine=engine),
    )
    for door in doors:
        with pytest.raises(ValueError, match=r"engine bulk: messages rank .* can meet on rack"):
            door("bulk")
        with pytest.raises(ValueError, match=r"engine 'bulky': expected one of auto, bulk, events"):
            door("bulky")
        door("events")


def test_failures_for_good_are_found_by_auto():
    cluster = placed(star(2, 100.0), 2, changes=[LinkChange(1.0, (0,), 0.0)])
    with pytest.raises(UnreachableError, match="rank 1 by rank 0"):
        simulate_schedule(sends([(0, 1)], world_size=2), cluster, 1000.0)


@examples(150)
@given(ANY_SCHEDULE, st.data())
def test_nothing_is_refused_on_a_star_of_lone_ranks(case, data):
    """A host's rank is an end of all that crosses its links or keeps its processor busy."""
    schedule, sizes = case
    network = data.draw(stars(schedule.world_size))
    update = {"hosts_per_machine": 1}
    network = replace(network, costs=data.draw(end_costs()).model_copy(update=update))
    hosts = np.array(data.draw(st.permutations(range(schedule.world_size))))
    cluster = placed(network, schedule.world_size, hosts)
    assert simulate_schedule(schedule, cluster, sizes, engine="bulk").engine == "bulk"


@examples(80)
@given(ANY_SCHEDULE, st.sampled_from([1.0, 0.5]), st.integers(2, 3), st.data())
def test_nothing_is_refused_where_the_core_carries_all(case, oversubscription, num_racks, data):
    schedule, sizes = case
    hosts = -(-schedule.world_size // num_racks)
    drawn = draw_racks(num_racks, hosts, 100.0 / 3, oversubscription=oversubscription)
    network = from_graph(drawn, costs=EndCosts(overhead_s=0.01, reduce_s_per_byte=1e-3))
    places = np.array(data.draw(st.permutations(range(num_racks * hosts))))
    cluster = placed(network, schedule.world_size, places[: schedule.world_size])
    assert simulate_schedule(schedule, cluster, sizes, engine="bulk").engine == "bulk"


def test_one_rank_may_have_a_narrow_uplink_to_itself():
    """In a ring in order only a rack's last rank sends out of it; of GPUs, only the leaders do."""
    cases = (
        ("ring", placed(narrow_racks(), 8)),
        ("ring:segments=3", placed(narrow_racks(16.0), 8)),
        ("hierarchical:group_size=2", placed(GPUS, 8)),
    )
    for topology, cluster in cases:
        assert dt.simulate(topology, cluster, 1e4, engine="bulk").run.engine == "bulk"
    in_turn = placed(narrow_racks(), 8, place_round_robin(8, 2, 4))
    with pytest.raises(ValueError, match="can meet on"):
        dt.simulate("ring", in_turn, 1e4, engine="bulk")
