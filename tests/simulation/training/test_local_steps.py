"""Local steps: a period of computations and one exchange is what can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.network import Fabric
from dgc_topo.simulation.training import (
    Codec,
    ComputeFactors,
    DenseEncoding,
    LayerBucket,
    LognormalJitter,
    ReadyLayer,
    SparseEncoding,
    TailJitter,
    TrainingStep,
    Workload,
    simulate_training_step,
    spans_of,
)
from dgc_topo.topology import load_topology

MB = 250_000  # elements whose float32 take 1 MB
WIRE = Fabric("wire", 1e6, 0.0, "1 MB/s")
LAYERS = (ReadyLayer("last", 1.0, (MB,), 0), ReadyLayer("first", 3.0, (MB,), 0))
WORK = Workload(0.5, LAYERS, update_s=0.125)
RING_S = 2 * 3 / 4 * 2.0  # of four ranks and 2 MB


def run(every=1, topology="ring", world_size=4, *, iteration=0, **settings):
    step = TrainingStep(workload=WORK, every=every, **settings)
    schedule = load_topology(topology).schedule(world_size)
    return simulate_training_step(step, schedule, WIRE, iteration=iteration)


@pytest.mark.parametrize("moves_first", [False, True])
@pytest.mark.parametrize("every", [1, 2, 10])
def test_a_period_is_all_computing_and_one_exchange(every, moves_first):
    codec = Codec(fixed_s=0.25, decode_s_per_element=1e-6)
    result = run(every, codec=codec, moves_first=moves_first)
    assert result.period_s == pytest.approx(every * 3.625 + 0.25 + 0.5 + RING_S, rel=1e-12)
    assert result.step_time_s == pytest.approx(result.period_s / every)
    expected = np.array([every * 3.5, 0.75, RING_S, 0.0, every * 0.125]) / every
    assert result.phases == pytest.approx(tuple(expected))
    assert result.communication_s == pytest.approx(RING_S / every)


def test_what_people_ask_for_is_per_step():
    once, rare = (
        dt.simulate_step(WORK, "ring", WIRE, world_size=4, every=every) for every in (1, 20)
    )
    assert rare.every == rare.as_dict()["every"] == 20
    assert rare.utilisation == pytest.approx(3.625 / (3.625 + RING_S / 20))
    assert once.utilisation == pytest.approx(3.625 / (3.625 + RING_S))
    assert rare.scaling_efficiency == pytest.approx(rare.utilisation)
    assert rare.bytes_per_rank == pytest.approx(once.bytes_per_rank / 20)
    assert rare.messages_per_rank == pytest.approx(once.messages_per_rank / 20)
    assert rare.samples_per_s == pytest.approx(4 / rare.step_time_s)
    assert rare.exposed_share == pytest.approx(1)
    assert "every 20 steps" in repr(rare)


def test_changes_are_sent_after_the_update_and_parameters_before_it():
    """With equal ranks it makes no difference; a slow one updates late, too."""
    slow = ComputeFactors({0: 2.0})
    before, after = (
        run(3, "gossip:graph=ring", 8, compute_factors=slow, moves_first=moves_first)
        for moves_first in (True, False)
    )
    assert before.timeline.ready_s[0, 0] == pytest.approx(2 * 3 * 3.625)
    assert after.timeline.ready_s[0, 0] == pytest.approx(2 * 3 * 3.625 - 0.25)
    assert before.update_s.max() == 0
    for result in (before, after):
        late = np.flatnonzero(result.traffic.end_s[-1] > 2 * 3 * 3.5)
        assert set(late.tolist()) == {7, 0, 1}  # its neighbours wait, and nobody else
        assert sum(result.phases) == pytest.approx(result.step_time_s)
    assert before.step_time_s == pytest.approx(after.step_time_s)


@pytest.mark.parametrize("every", [1, 8])
def test_all_wait_once_a_period_for_a_slow_rank(every):
    result = run(every, compute_factors=ComputeFactors({1: 2.0}))
    assert result.period_s == pytest.approx(2 * every * 3.625 + RING_S)
    assert result.phases.wait_s == pytest.approx(3 / 4 * 3.625)
    assert result.bound_by == "rank 1 compute"


@given(seed=st.integers(0, 50), every=st.integers(1, 6), iteration=st.integers(0, 3))
def test_jitter_adds_up_between_meetings(seed, every, iteration):
    """A period takes as long as the rank whose steps take longest together, and its exchange."""
    factors = ComputeFactors({2: 1.5}, TailJitter(0.5, 1.0), seed)
    result = run(every, iteration=iteration, compute_factors=factors, moves_first=True)
    steps = range(iteration * every, (iteration + 1) * every)
    slowest = np.sum([factors.of_ranks(4, step) for step in steps], axis=0).max()
    assert result.period_s == pytest.approx(3.625 * slowest + RING_S)


def test_waiting_for_jitter_falls_as_the_root_of_the_local_steps():
    def wait_s(every):
        found = dt.simulate_step(
            WORK, "ring", WIRE, world_size=4, every=every, jitter=0.05, num_steps=300
        )
        return found.phases.wait_s

    assert wait_s(16) == pytest.approx(wait_s(1) / 4, rel=0.1)


def test_servers_compute_nothing_in_any_step():
    settings = {"topology": "parameter-server:server=dedicated", "moves_first": True}
    result = run(5, **settings, compute_factors=ComputeFactors(jitter=LognormalJitter(0.1)))
    assert result.timeline.ready_s[0].min() == 0
    assert len(result.workers) == 3


def test_sparse_gossip_sends_each_neighbour_ones_own_entries():
    sparse = dt.simulate_step(
        WORK, "gossip:graph=torus", WIRE, world_size=16, density=0.01, sends="changes"
    )
    (bucket,) = sparse.step.buckets
    one = SparseEncoding(0.01).own_bytes(bucket)
    assert sparse.bytes_per_rank == pytest.approx(4 * one)
    dense = dt.simulate_step(WORK, "gossip:graph=torus", WIRE, world_size=16)
    assert dense.bytes_per_rank == pytest.approx(4 * 2e6)
    assert sparse.communication_s / dense.communication_s == pytest.approx(one / 2e6)


def test_weights_and_momenta_travel_beside_parameters():
    bucket = LayerBucket(LAYERS)
    assert DenseEncoding(4.0, extra_elements=1).own_bytes(bucket) == 2e6 + 4
    assert DenseEncoding(2.0, vectors=2).own_bytes(bucket) == 2e6
    with pytest.raises(ValueError, match="vectors 0"):
        DenseEncoding(vectors=0)


def test_the_trace_of_a_period_is_whole():
    result = run(4, codec=Codec(fixed_s=0.5), moves_first=True)
    spans = spans_of(result, 0)
    assert spans[0].name == "3 local steps"
    assert max(span.end_s for span in spans) == pytest.approx(result.period_s)
    (update,) = [span for span in spans if span.kind == "update"]
    assert update.end_s - update.start_s == pytest.approx(0.125)


@given(
    every=st.integers(1, 5), moves_first=st.booleans(), density=st.sampled_from([None, 0.1, 0.001])
)
def test_no_period_is_below_its_bounds(every, moves_first, density):
    encoding = DenseEncoding() if density is None else SparseEncoding(density)
    for topology in ("ring", "tree", "gossip:graph=exponential"):
        result = run(every, topology, 5, encoding=encoding, moves_first=moves_first)
        assert result.period_s >= result.traffic.bounds.largest_s * (1 - 1e-12)
        assert result.period_s >= every * WORK.compute_s


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"every": 0}, "every 0, expected 1 or more"),
        ({"every": 2.5}, "every"),
        ({"every": 4, "overlap": True}, "overlap=True with every=4, sends='changes'"),
        ({"overlap": True, "sends": "changes"}, "overlap=True with every=1, sends='changes'"),
        ({"sends": "weights"}, "sends 'weights': expected one of gradients, parameters, changes"),
        ({"every": 2, "sends": "gradients"}, "every 2 with sends 'gradients'"),
        ({"sends": "parameters", "density": 0.1}, "travel dense; expected 1, or sends='changes'"),
        (
            {"topology": "gossip:graph=ring", "sends": "gradients"},
            "gossip averages parameters or changes",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused(settings, says):
    settings = {"topology": "ring", "world_size": 4} | settings
    with pytest.raises(ValueError, match=says):
        dt.simulate_step(WORK, cluster=WIRE, **settings)


def test_buckets_cannot_overlap_what_decides_them():
    with pytest.raises(ValueError, match="every 3, with buckets that overlap"):
        TrainingStep(workload=WORK, every=3, bucket_bytes=1e6)
    with pytest.raises(ValueError, match="expected no overlap"):
        TrainingStep(workload=WORK, moves_first=True, bucket_bytes=1e6)
