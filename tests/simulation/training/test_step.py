"""The training step equals what can be worked out by hand, and its parts add up."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dgc_topo.network import EndCosts, Fabric, load_cluster, load_fabric, star
from dgc_topo.schedule import Schedule, reduce
from dgc_topo.simulation import load_workload
from dgc_topo.simulation.training import (
    Codec,
    ComputeFactors,
    DenseEncoding,
    LognormalJitter,
    ReadyLayer,
    SparseEncoding,
    TailJitter,
    TrainingStep,
    Workload,
    fill_buckets,
    power_rule,
    recorded_rule,
    simulate_training_step,
)
from dgc_topo.simulation.training.periods import average_steps
from dgc_topo.simulation.workload_sources import of_model, whole
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import FlatCoding
from dgc_topo.zoo import load_model
from tests.simulation.placed import placed
from tests.strategies import ALL_REDUCE, GOSSIP, smallest_world, topologies

MB = 250_000  # elements whose float32 take 1 MB
WIRE = Fabric("wire", 1e6, 0.0, "1 MB/s: a bucket of 1 MB takes a ring of two 1 s")


def two_layers(last_s: float = 1.0, first_s: float = 3.0) -> Workload:
    """Two layers of 1 MB each; the last one is ready first."""
    times = {"last": last_s, "first": first_s}
    return Workload(0.5, tuple(ReadyLayer(name, at, (MB,), 0) for name, at in times.items()))


def ring(world_size: int):
    return load_topology("ring").schedule(world_size)


def test_without_overlap_a_step_is_compute_plus_communication_plus_update():
    step = TrainingStep(workload=replace(two_layers(), update_s=0.125), codec=Codec(fixed_s=0.25))
    result = simulate_training_step(step, ring(4), WIRE)
    communication_s = 2 * 3 / 4 * 2.0
    assert result.step_time_s == pytest.approx(3.5 + 0.25 + communication_s + 0.125, rel=1e-12)
    assert result.phases == pytest.approx((3.5, 0.25, communication_s, 0.0, 0.125))
    assert result.communication_s == pytest.approx(communication_s)
    found = average_steps(step, ring(4), load_cluster(WIRE, 4), density=1.0)
    assert found.exposed_share == pytest.approx(1)
    assert found.speedup == pytest.approx(4 * 3.625 / result.step_time_s)


@pytest.mark.parametrize(
    ("last_s", "first_s", "ends_s"),
    [
        (1.0, 3.0, (2.5, 4.5)),  # the first bucket is through before the second is ready
        (1.0, 1.5, (2.5, 3.5)),  # the second one waits for the first
        (1.0, 1.0, (2.5, 3.5)),
    ],
)
def test_two_buckets_by_hand(last_s, first_s, ends_s):
    """Forward 0.5 s; each bucket takes a ring of two ranks 1 s."""
    step = TrainingStep(workload=two_layers(last_s, first_s), bucket_bytes=1e6)
    for network in (WIRE, WIRE.star(2)):
        result = simulate_training_step(step, ring(2), network)
        assert result.traffic.end_s[:, 0] == pytest.approx(ends_s)
        assert result.step_time_s == pytest.approx(ends_s[-1])
        assert result.phases.exposed_s == pytest.approx(ends_s[-1] - 0.5 - first_s)
        assert result.communication_s == pytest.approx(2)


@pytest.mark.parametrize("topology", ["tree", "ring", "butterfly", "sharded-parameter-server"])
def test_what_merging_costs_is_that_of_the_buckets_own_entries(topology):
    """Of two sparse buckets far apart, the second takes as long as it does alone."""
    small, large = (ReadyLayer(n, s, (m * MB,), 0) for n, s, m in (("a", 1.0, 1), ("b", 50.0, 8)))
    encoding = SparseEncoding(0.01, FlatCoding(8), 4, power_rule(1.0))
    costs = EndCosts(code_s_per_byte=1e-7, merge_s_per_byte=2e-7, sort_s_per_byte=3e-7)
    network = star(5, 1e6, costs=costs)
    schedule = load_topology(topology).schedule(5)

    def last_bucket_s(*layers: ReadyLayer) -> float:
        step = TrainingStep(workload=Workload(0.0, layers), encoding=encoding, bucket_bytes=1)
        return simulate_training_step(step, schedule, network).step_time_s - layers[-1].ready_s

    assert last_bucket_s(small, large) == pytest.approx(last_bucket_s(large))
    assert last_bucket_s(large) > last_bucket_s(small) > 0


def test_communication_hides_behind_compute_but_for_the_last_bucket():
    layers = tuple(ReadyLayer(f"l{i}", 10.0 * (i + 1), (MB,) if i < 4 else (), 1) for i in range(5))
    step = TrainingStep(workload=Workload(0.0, layers), bucket_bytes=1e6)
    result = simulate_training_step(step, ring(2), WIRE)
    assert result.step_time_s == pytest.approx(50, rel=1e-6)
    assert result.phases.exposed_s < 1e-5 * result.communication_s
    assert result.bound_by == "compute"


def test_compressing_holds_up_the_backward_pass_and_decompressing_follows_it():
    codec = Codec(encode_s_per_element=1 / MB, decode_s_per_element=0.5 / MB)
    step = TrainingStep(workload=two_layers(), bucket_bytes=1e6, codec=codec)
    result = simulate_training_step(step, ring(2), WIRE)
    assert result.timeline.ready_s[:, 0] == pytest.approx([2.5, 5.5])
    assert result.traffic.end_s[:, 0] == pytest.approx([3.5, 6.5])
    assert result.decode_start_s[:, 0] == pytest.approx(
        [5.5, 6.5]
    )  # the processor is busy till 5.5
    assert result.decode_end_s[:, 0] == pytest.approx([6.0, 7.0])
    assert result.phases == pytest.approx((3.5, 3.0, 0.5, 0.0, 0.0))


def test_accumulation_computes_more_and_sends_once():
    one, three = (
        average_steps(
            TrainingStep(workload=two_layers(), accumulation_steps=passes),
            ring(2),
            load_cluster(WIRE, 2),
            density=1.0,
        )
        for passes in (1, 3)
    )
    assert three.step_time_s - one.step_time_s == pytest.approx(2 * 3.5)
    assert three.scaling_efficiency > one.scaling_efficiency


@pytest.mark.parametrize("bucket_bytes", [None, 25 * 2**20])
@pytest.mark.parametrize(
    "encoding", [DenseEncoding(2), SparseEncoding(0.01)], ids=["dense", "sparse"]
)
@pytest.mark.parametrize("topology", topologies([*ALL_REDUCE, *GOSSIP]), ids=lambda t: t.label)
def test_the_sum_over_lock_steps_is_what_the_events_say(topology, encoding, bucket_bytes):
    fabric = load_fabric("10gbe")
    workload = load_workload("resnet50")
    codec = Codec(fixed_s=0.02, decode_s_per_element=1e-10)
    step = TrainingStep(
        workload=workload, encoding=encoding, codec=codec, bucket_bytes=bucket_bytes
    )
    for world_size in (1, 2, 3, 6, 8):
        if world_size < smallest_world(topology):
            continue
        schedule = topology.schedule(world_size)
        summed = simulate_training_step(step, schedule, fabric)
        events = simulate_training_step(step, schedule, fabric.star(world_size))
        assert summed.step_time_s == pytest.approx(events.step_time_s, rel=1e-12)
        np.testing.assert_allclose(summed.traffic.start_s, events.traffic.start_s, rtol=1e-12)
        np.testing.assert_allclose(summed.traffic.end_s, events.traffic.end_s, rtol=1e-12)
        np.testing.assert_allclose(summed.traffic.bytes_sent, events.traffic.bytes_sent)
        np.testing.assert_array_equal(summed.traffic.messages_sent, events.traffic.messages_sent)
        assert summed.bound_by == events.bound_by
        assert sum(summed.phases) == pytest.approx(summed.step_time_s)


def test_all_wait_for_the_slow_host_of_an_all_reduce():
    step = TrainingStep(workload=two_layers(), compute_factors=ComputeFactors({1: 2.0}))
    result = simulate_training_step(step, ring(4), WIRE)
    assert result.step_time_s == pytest.approx(2 * 3.5 + 3.0)
    assert result.phases.wait_s == pytest.approx(3 / 4 * 3.5)
    assert result.phases.exposed_s == pytest.approx(3.0)
    assert sum(result.phases) == pytest.approx(result.step_time_s)
    assert result.bound_by == "rank 1 compute"


@pytest.mark.parametrize("update_s", [0.1, 0.7, 1 / 3])
def test_ranks_that_compute_alike_are_told_as_one_whenever_their_gradients_arrive(update_s):
    """Their times differ by rounding, because they decompress at different times."""
    network = star(5, 1e6 * np.linspace(1, 3, 10), 1e-3)
    codec = Codec(encode_s_per_element=1e-5, decode_s_per_element=1e-5)
    workload = replace(two_layers(), update_s=update_s)
    step = TrainingStep(workload=workload, codec=codec, bucket_bytes=1e6)
    for topology in ("tree", "ring", "parameter-server"):
        schedule = load_topology(topology).schedule(5)
        for engine in ("bulk", "events"):
            result = simulate_training_step(step, schedule, network, engine=engine)
            assert result.bound_by == "compute"


def test_gossip_waits_for_a_slow_neighbour_only():
    schedule = load_topology("gossip", {"graph": "ring"}).schedule(8)
    result = simulate_training_step(
        TrainingStep(workload=two_layers(), compute_factors=ComputeFactors({0: 2.0})),
        schedule,
        WIRE,
    )
    late = np.flatnonzero(result.traffic.end_s[-1] > 9)
    assert set(late.tolist()) == {7, 0, 1}


@pytest.mark.parametrize("jitter", [LognormalJitter(0.2), TailJitter(0.3, 1.0)])
def test_jitter_is_drawn_from_the_seed_and_differs_from_step_to_step(jitter):
    def times(seed):
        step = TrainingStep(
            workload=two_layers(), compute_factors=ComputeFactors(jitter=jitter, seed=seed)
        )
        return [
            simulate_training_step(step, ring(4), WIRE, iteration=i).step_time_s for i in range(4)
        ]

    assert times(1) == times(1)
    assert times(1) != times(2)
    assert len(set(times(1))) > 1


def test_jitter_keeps_its_mean():
    assert ComputeFactors(jitter=LognormalJitter(0.3)).of_ranks(100_000).mean() == pytest.approx(
        1, rel=0.01
    )
    tail = ComputeFactors(jitter=TailJitter(0.1, 2.0)).of_ranks(100_000)
    assert tail.mean() == pytest.approx(1.2, rel=0.02)
    assert (tail == 1).mean() == pytest.approx(0.9, rel=0.01)


def test_buckets_of_different_ranks_share_links():
    """Ranks 0 and 2 on one host send to 1 and 3 on another; 2 and 3 are ready half a second late.

    0 alone until 1.5; its first bucket shares until 2.5, its second until 4.5; 2's second bucket
    has the last half second for itself.
    """
    pairs = Schedule(4, 1, lambda _: iter([reduce(np.array([0, 2]), np.array([1, 3]))]), "part")
    workload = Workload(0.0, two_layers(1.0, 1.0).layers)
    step = TrainingStep(
        workload=workload, bucket_bytes=1e6, compute_factors=ComputeFactors({2: 1.5, 3: 1.5})
    )
    result = simulate_training_step(step, pairs, placed(star(2, 1e6), 4, np.array([0, 1, 0, 1])))
    assert pytest.approx(np.array([[2.5, 4.5], [3.5, 5.0]])) == result.traffic.end_s[:, [0, 2]].T


def test_buckets_fill_in_backward_order_and_close_when_full():
    layers = [ReadyLayer(str(i), float(i), (n,), 0) for i, n in enumerate((100, 200, 900, 10, 10))]
    names = [[each.name for each in bucket.layers] for bucket in fill_buckets(layers, 1200)]
    assert names == [["0", "1"], ["2"], ["3", "4"]]
    assert len(fill_buckets(layers, None)) == 1


@pytest.mark.parametrize("name", ["alexnet", "resnet50", "ptb-lstm"])
def test_a_model_of_the_zoo_keeps_its_time_and_elements(name):
    model = load_model(name)
    workload = of_model(model)
    assert workload.compute_s == pytest.approx(model.compute_s)
    assert workload.num_elements == model.num_elements
    assert all(a.ready_s <= b.ready_s for a, b in pairwise(workload.layers))


def test_unions_grow_as_recorded():
    [bucket] = fill_buckets(two_layers().layers, None)
    ranks = np.array([1, 2, 4, 8])
    pairs = SparseEncoding(0.001, FlatCoding(), union=recorded_rule([(2, 1.5), (4, 2.0)]))
    entries = 0.001 * 2 * MB
    one = np.ones(4, np.int64)
    grown = pairs.message_bytes(bucket, 1, ranks, one) / (8 * entries)
    slope = np.log(2 / 1.5) / np.log(2)
    assert grown == pytest.approx([1, 1.5, 2, 2 * 2**slope])
    half = SparseEncoding(0.001, FlatCoding(), union=power_rule(0.5))
    found = half.message_bytes(bucket, 1, ranks, one) / (8 * entries)
    assert found == pytest.approx(ranks**0.5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: replace(two_layers(), update_s=-1), "update_s -1"),
        (lambda: TrainingStep(workload=two_layers(), accumulation_steps=0), "accumulation_steps 0"),
        (lambda: TrainingStep(workload=two_layers(), bucket_bytes=0), "bucket_bytes 0"),
        (lambda: two_layers(2.0, 1.0), "times that do not fall"),
        (lambda: Workload(0, ()), "no layers"),
        (lambda: Workload(-1, two_layers().layers), "forward_s -1"),
        (lambda: whole(1, -1, 0), "no fewer than 0"),
        (lambda: Codec(fixed_s=-1), "fixed_s -1"),
        (lambda: ComputeFactors({0: 0.0}), "rank 0 takes 0.0"),
        (lambda: LognormalJitter(-0.1), "sigma -0.1"),
        (lambda: TailJitter(2, 1), "probability 2"),
        (lambda: TailJitter(0.5, -1), "mean_delay -1"),
        (lambda: DenseEncoding(0), "bytes_per_element 0"),
        (lambda: SparseEncoding(0), "density 0"),
        (lambda: SparseEncoding(0.1, FlatCoding(0)), "bytes_per_entry 0"),
        (lambda: SparseEncoding(0.1, dense_element_bytes=0), "dense_element_bytes 0"),
        (lambda: recorded_rule([(4, 8.0)])(10, 1), r"points \(\(4, 8.0"),
        (lambda: recorded_rule([(4, 2.0), (2, 1.0)])(10, 1), "rising contributors"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_buckets_must_agree_on_the_ranks():
    sizes = iter((2, 4))
    step = TrainingStep(workload=two_layers(), bucket_bytes=1e6)
    with pytest.raises(ValueError, match="buckets of 2 and 4 ranks"):
        simulate_training_step(step, lambda _: ring(next(sizes)), WIRE)


def test_more_ranks_than_hosts_are_refused():
    with pytest.raises(ValueError, match="4 ranks on 2 hosts"):
        simulate_training_step(TrainingStep(workload=two_layers()), ring(4), star(2, 1e6))


def test_cold_caches_cost_where_only_a_later_bucket_is_sparse():
    biases, weights = ReadyLayer("biases", 1.0, (), 10), ReadyLayer("weights", 2.0, (MB,), 0)
    step = TrainingStep(
        workload=Workload(0.5, (biases, weights)), encoding=SparseEncoding(0.01), bucket_bytes=1
    )

    def step_time_s(cold_code_s: float) -> float:
        costs = EndCosts(code_s_per_byte=1e-9, cold_code_s=cold_code_s, cooling_s=1e-6)
        return simulate_training_step(step, ring(2), star(2, 1e9, costs=costs)).step_time_s

    # Each of the two steps of a ring of two makes and reads a message.
    assert step_time_s(0.1) - step_time_s(0.0) == pytest.approx(4 * 0.1, rel=1e-3)


@pytest.mark.parametrize("engine", ["bulk", "events"])
def test_a_rank_with_nothing_to_send_begins_a_bucket_when_it_is_ready(engine):
    """Rank 1 does not wait for rank 0, which computes half as fast again."""
    nothing = Schedule(2, 1, lambda _: iter([]), "part")
    step = TrainingStep(
        workload=Workload(0.0, two_layers(1.75, 2.5).layers),
        bucket_bytes=1e6,
        compute_factors=ComputeFactors({0: 1.5}),
    )
    traffic = simulate_training_step(step, nothing, WIRE, engine=engine).traffic
    np.testing.assert_allclose(traffic.start_s, traffic.end_s)
    np.testing.assert_allclose(traffic.start_s[:, 0], 1.5 * traffic.start_s[:, 1])
