"""The calls for people: `simulate` and `simulate_step`, from texts and from values."""

import numpy as np
import pytest

from dgc_topo.network import Background, load_cluster, load_fabric, star
from dgc_topo.schedule import Schedule, reduce
from dgc_topo.simulation import DenseSizes, UnionSizes, load_workload, simulate, simulate_schedule
from dgc_topo.simulation.training import (
    DenseEncoding,
    SparseEncoding,
    TailJitter,
    TrainingStep,
    simulate_step,
    simulate_training_step,
)
from dgc_topo.sizes import entries_of
from dgc_topo.topology import load_topology

RING = load_topology("ring")


def test_texts_and_values_give_what_the_engine_gives():
    schedule = RING.schedule(8)
    engine = simulate_schedule(schedule, "1gbe", DenseSizes(100e6, schedule.num_chunks))
    for topology, cluster in (
        ("ring", "1gbe"),
        (RING, load_fabric("1gbe")),
        (schedule, load_cluster("1gbe", 8)),
        ("ring", load_fabric("1gbe").star(8)),
    ):
        found = simulate(topology, cluster, "100MB", world_size=8)
        assert found.time_s == pytest.approx(engine.time_s, rel=1e-12)
        assert found.bound_s == pytest.approx(engine.bounds.largest_s)
        assert found.lower_bound_s <= found.time_s * (1 + 1e-12)
        assert found.busbw_bytes_per_s == pytest.approx(engine.busbw_bytes_per_s(100e6))
        np.testing.assert_allclose(found.bytes_sent, engine.bytes_sent)
    assert simulate("ring", load_cluster("1gbe", 8), 100e6).world_size == 8


def test_a_density_is_a_number_or_a_percentage():
    tree = load_topology("tree").schedule(8)
    sizes = UnionSizes(tree, length=250_000, entries=entries_of(250_000, 0.001))
    engine = simulate_schedule(tree, "1gbe", sizes)
    for density in (0.001, "0.001", "0.1%"):
        found = simulate("tree", "1gbe", "1MB", density=density, world_size=8)
        assert found.time_s == pytest.approx(engine.time_s, rel=1e-12)
    half = simulate("ring", "1gbe", "1MB", wire_dtype="float16", world_size=4)
    assert half.bytes_per_rank == pytest.approx(2 * 3 / 4 * 0.5e6)


def test_what_else_a_cluster_has_counts():
    src, dst, start_s = np.array([0]), np.array([1]), np.array([0.0])
    cluster = load_cluster(star(2, 1e6), 2)
    others = type(cluster)(
        "busy", cluster.network, cluster.placement, Background(src, dst, np.array([1e6]), start_s)
    )
    pair = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    assert simulate(pair, others, 1e6).time_s == pytest.approx(
        2 * simulate(pair, cluster, 1e6).time_s
    )


def test_a_step_of_texts_is_the_engines():
    workload = load_workload("resnet50")
    engine = simulate_training_step(
        TrainingStep(workload=workload, encoding=SparseEncoding(0.01), bucket_bytes=25 * 2**20),
        RING.schedule(8),
        "1gbe",
    )
    found = simulate_step("resnet50", "ring", "1gbe", density="1%", overlap=True, world_size=8)
    assert found.step_time_s == engine.step_time_s
    assert found.phases == engine.phases
    assert found.speedup == pytest.approx(8 * workload.compute_s / engine.step_time_s)
    assert found.exposed_share == engine.phases.exposed_s / engine.communication_s
    assert found.samples_per_s == pytest.approx(8 * workload.batch_size / engine.step_time_s)
    mine = simulate_step(load_workload("resnet50", compute_s=1.0), "ring", "1gbe", world_size=2)
    assert mine.phases.compute_s == pytest.approx(1.0)


def test_steps_that_differ_are_averaged():
    drawn = simulate_step("alexnet", "ring", "10gbe", jitter=0.2, seed=3, world_size=4)
    assert len(drawn.runs) == 8
    assert len({run.step_time_s for run in drawn.runs}) == 8
    mean = np.mean([run.step_time_s for run in drawn.runs])
    assert drawn.step_time_s == pytest.approx(mean)
    assert sum(drawn.phases) == pytest.approx(drawn.step_time_s)
    gossip = simulate_step("alexnet", "gossip:graph=random-matching", "10gbe", world_size=4)
    assert len(gossip.runs) == 8
    one = simulate_step(
        "alexnet", "ring", "10gbe", jitter=TailJitter(0.5, 1.0), num_steps=1, world_size=4
    )
    assert len(one.runs) == 1
    slow = simulate_step("alexnet", "ring", "10gbe", slow_ranks={1: 2.0}, world_size=4)
    assert slow.bound_by == "rank 1 compute" or slow.phases.wait_s > 0


def test_results_show_themselves():
    found = simulate("ring", "1gbe", "100MB", density=0.01, world_size=4)
    step = simulate_step("resnet50", "ring", "1gbe", world_size=4)
    for result, words in (
        (found, ("ring", "1gbe", "100 MB", "0.01")),
        (step, ("resnet50", "ring")),
    ):
        assert len(repr(result)) < 160
        assert all(word in repr(result) for word in words)
        assert result._repr_html_().startswith("<table>")
        frame = result.to_frame()
        assert frame.loc[0].to_dict().keys() == result.as_dict().keys()
        assert {"topology", "world_size", "network", "num_bytes", "density"} <= set(frame.columns)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: simulate("ring", "1gbe", 1e6), "world_size: missing"),
        (
            lambda: simulate(RING.schedule(4), "1gbe", 1e6, world_size=8),
            "world_size has 8 ranks, the schedule has 4 ranks; expected the same",
        ),
        (lambda: simulate("rign", "1gbe", 1e6, world_size=4), "did you mean 'ring'"),
        (lambda: simulate("ring", "1gb", 1e6, world_size=4), "network '1gb': unknown"),
        (lambda: simulate("ring", "1gbe", "many", world_size=4), "nbytes 'many'"),
        (lambda: simulate("ring", "1gbe", 1e6, density=0, world_size=4), "density 0"),
        (lambda: simulate("ring", "1gbe", 1e6, union_exponent=1, world_size=4), "is for sparse"),
        (
            lambda: simulate("ring", "1gbe", 1e6, density=0.1, union_exponent=2, world_size=4),
            "union_exponent 2.0: expected 0 to 1",
        ),
        (
            lambda: simulate_step("resnet50", "gossip", "1gbe", density=0.1, world_size=4),
            "density 0.1: gossip averages parameters",
        ),
        (
            lambda: simulate_step("resnet50", "ring", "1gbe", bucket_bytes=1, world_size=4),
            "expected overlap=True",
        ),
        (lambda: simulate_step("resnet5", "ring", "1gbe", world_size=4), "did you mean"),
    ],
)
def test_a_mistake_is_one_clear_line(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_the_dense_encoding_follows_the_type_on_the_wire():
    found = simulate_step("alexnet", "ring", "1gbe", wire_dtype="float16", world_size=2)
    assert found.step.encoding == DenseEncoding(2)
