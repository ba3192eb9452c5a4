"""Every topology on real processes, against torch's all-reduce and against one process."""

import numpy as np
import pytest

from dgc_topo.plugins import known_topologies
from dgc_topo.runtime import Traffic, run_in_process
from dgc_topo.topology import Topology, load_topology
from tests.runtime.cluster import Cluster
from tests.runtime.conftest import WORLD_SIZES
from tests.runtime.jobs import DOUBLE_MESH, Input, Outcome, content, differing, make, run_all
from tests.strategies import ALL_REDUCE, GOSSIP, Case, smallest_world, topologies

#: No element, one, fewer than ranks, not divisible, and more than one message can hold at once.
INPUTS = [
    *(Input("float32", length) for length in (0, 1, 3, 13, 1001)),
    *(Input("sparse", length) for length in (0, 1, 3, 13, 1001)),
    *(Input(kind, length) for kind in ("float16", "bfloat16", "bundle") for length in (3, 101)),
    Input("sparse", 101, density=0.0),
    Input("sparse", 101, density=1.0),
    Input("float16", 101),  # of a layout that came before: its program has been kept
    Input("float32", 13),
]
#: Relative error of a sum of 8 numbers, each rounded on the wire and every few additions.
TOLERANCE = {"float32": 1e-6, "sparse": 1e-6, "bundle": 1e-6, "float16": 5e-3, "bfloat16": 4e-2}

#: A topology that no list of cases names is tested with its defaults.
OTHERS = [
    load_topology(name)
    for name in known_topologies()
    if name not in {name for name, _ in ALL_REDUCE + GOSSIP}
]


def with_goal(cases: list[Case], goals: tuple[str, ...]) -> list[Topology]:
    return topologies(cases) + [t for t in OTHERS if t.schedule(2).goal in goals]


SUMS = with_goal(ALL_REDUCE, ("all-reduce",))
MIXES = with_goal(GOSSIP, ("doubly-stochastic",))


def in_one_process(
    topology: Topology, world_size: int, given: Input, iterations: int = 1
) -> list[tuple[bytes, Traffic]]:
    schedules = [topology.schedule(world_size, iteration=i, seed=5) for i in range(iterations)]
    servers = schedules[0].servers
    payloads = [make(given, rank, contributes=rank not in servers) for rank in range(world_size)]
    for schedule in schedules:
        traffics = run_in_process(schedule, payloads)
    return [(content(p).numpy().tobytes(), t) for p, t in zip(payloads, traffics, strict=True)]


def moved(traffic: Traffic) -> list[tuple[int, int, int, int]]:
    return [(s.index, s.bytes_sent, s.bytes_received, s.messages_sent) for s in traffic.steps]


def check_as_in_one_process(
    topology: Topology, given: Input, outcomes: list[Outcome], iterations: int = 1
) -> None:
    expected = in_one_process(topology, len(outcomes), given, iterations)
    for outcome, (result, traffic) in zip(outcomes, expected, strict=True):
        assert outcome.result.tobytes() == result, given
        assert moved(outcome.traffic) == moved(traffic), given


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("topology", SUMS, ids=lambda t: t.label)
def test_all_reduce_on_real_processes(cluster: Cluster, topology: Topology, world_size: int):
    if world_size < smallest_world(topology):
        pytest.skip("a dedicated server needs somebody to serve")
    per_rank = cluster.run(world_size, run_all, topology, INPUTS)
    for given, *outcomes in zip(INPUTS, *per_rank, strict=True):
        first, tolerance = outcomes[0], TOLERANCE[given.kind]
        scale = np.abs(first.reference).max(initial=1)
        np.testing.assert_allclose(
            first.result, first.reference, rtol=tolerance, atol=tolerance * scale
        )
        for outcome in outcomes:
            assert outcome.result.tobytes() == first.result.tobytes(), given
        check_as_in_one_process(topology, given, outcomes)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("topology", MIXES, ids=lambda t: t.label)
def test_gossip_on_real_processes(cluster: Cluster, topology: Topology, world_size: int):
    """Gossip keeps the sum, and means the same on real processes as in one."""
    inputs = [Input(kind, 13) for kind in ("float32", "float16", "sparse", "bundle")]
    per_rank = cluster.run(world_size, run_all, topology, inputs, False, 4)
    for given, *outcomes in zip(inputs, *per_rank, strict=True):
        total = sum(outcome.result.astype(np.float64) for outcome in outcomes)
        tolerance = TOLERANCE[given.kind] * 10  # four rounds
        np.testing.assert_allclose(total, outcomes[0].reference, rtol=tolerance, atol=tolerance)
        check_as_in_one_process(topology, given, outcomes, iterations=4)


@pytest.mark.parametrize("topology", SUMS, ids=lambda t: t.label)
def test_batches_carry_the_same(cluster: Cluster, topology: Topology):
    """The way that NCCL takes, here over Gloo."""
    per_rank = cluster.run(5, run_all, topology, INPUTS, True)
    for given, *outcomes in zip(INPUTS, *per_rank, strict=True):
        check_as_in_one_process(topology, given, outcomes)


@pytest.mark.parametrize("batched", [False, True])
def test_several_messages_between_two_ranks_in_one_step(cluster: Cluster, batched: bool):
    """They are matched by their order, in one piece or two."""
    inputs = [Input("sparse", length) for length in (5, 101, 1001)] + [Input("float32", 13)]
    per_rank = cluster.run(3, run_all, DOUBLE_MESH, inputs, batched)
    for given, *outcomes in zip(inputs, *per_rank, strict=True):
        check_as_in_one_process(DOUBLE_MESH, given, outcomes)
        for outcome in outcomes:
            np.testing.assert_allclose(outcome.result, outcome.reference, rtol=1e-5, atol=1e-6)


def test_ranks_that_differ_are_named_on_every_rank_at_the_first_run(cluster: Cluster):
    ring, butterfly = load_topology("ring"), load_topology("butterfly", {"order": "far"})
    same, other = (cluster.run(2, differing, [ring, each], [1, 1]) for each in (ring, butterfly))
    assert same[0] == same[1]
    assert other[0] == other[1]
    fine, length, dtype, density, part = same[0]
    assert fine == "fine"
    assert "payload's elements is 9 on rank 1, 8 on rank 0; expected the same" in length
    assert "payload's wire dtype" in dtype
    assert "dgc's density is 0.1 on rank 1, 0.2 on rank 0" in density
    assert "payload part 0's elements is 8 on rank 1, 4 on rank 0" in part
    assert all('topology is "butterfly" on rank 1, "ring" on rank 0' in text for text in other[0])
    seeds = cluster.run(2, differing, [ring, ring], [1, 2])
    assert all("seed is 2 on rank 1, 1 on rank 0" in text for text in seeds[0])
