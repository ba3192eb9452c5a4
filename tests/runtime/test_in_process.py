"""A schedule on all ranks' payloads in one process."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.payload import DensePayload, equal_bounds
from dgc_topo.runtime import run_in_process
from dgc_topo.runtime.framing import LENGTH_BYTES
from dgc_topo.schedule import Schedule, copy, gather, mix, reduce
from dgc_topo.topology import Topology, load_topology
from dgc_topo.wire.limits import HEADER_BYTES
from tests.payload.reference import dense, sparse
from tests.runtime.jobs import Input, content, make
from tests.strategies import ALL_REDUCE, smallest_world, topologies


@pytest.mark.parametrize("topology", topologies(ALL_REDUCE), ids=lambda t: t.label)
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "sparse", "bundle"])
def test_every_rank_ends_with_the_sum(topology: Topology, kind: str):
    for world_size in range(smallest_world(topology), 10):
        schedule = topology.schedule(world_size)
        ranks = range(world_size)
        payloads = [
            make(Input(kind, 37), rank, contributes=rank not in schedule.servers) for rank in ranks
        ]
        expected = torch.stack([content(payload) for payload in payloads]).sum(0)
        run_in_process(schedule, payloads)
        results = [content(payload) for payload in payloads]
        assert all(torch.equal(result, results[0]) for result in results)
        tolerance = {"float16": 1e-2, "bfloat16": 8e-2}.get(kind, 1e-5)
        torch.testing.assert_close(results[0], expected, rtol=tolerance, atol=tolerance)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Draw any schedule, sensible or not, whose numbers float32 holds exactly."""
    world_size, num_chunks = draw(st.integers(2, 4)), draw(st.integers(1, 5))
    steps = []
    for _ in range(draw(st.integers(1, 4))):
        transfers = []
        for _ in range(draw(st.integers(0, 5))):
            src = draw(st.integers(0, world_size - 1))
            dst = (src + draw(st.integers(1, world_size - 1))) % world_size
            chunk = draw(st.integers(0, num_chunks - 1))
            count = draw(st.integers(1, num_chunks - chunk))
            halves = draw(st.sampled_from([None, reduce, copy]))
            if halves is None:
                transfers.append(mix(src, dst, chunk, count, weight=1, denominator=2))
            else:
                transfers.append(halves(src, dst, chunk, count))
        steps.append(gather(transfers))
    return Schedule.from_steps(world_size, num_chunks, steps, goal="part")


def apply(schedule: Schedule, buffers: list[Tensor]) -> list[Tensor]:
    """Run the schedule by its definition."""
    bounds = equal_bounds(len(buffers[0]), schedule.num_chunks)
    state = [buffer.double().numpy().copy() for buffer in buffers]
    for step in schedule.steps():
        before = [values.copy() for values in state]
        for t in step:
            run = slice(bounds[t.chunk], bounds[t.chunk_end])
            state[t.dst][run] = float(t.keep) * state[t.dst][run]
            state[t.dst][run] += float(t.weight) * before[t.src][run]
    return [torch.from_numpy(values.astype(np.float32)) for values in state]


@given(schedules(), st.integers(0, 9), st.integers(0, 99))
def test_any_schedule_means_what_it_says(schedule: Schedule, length: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    shape = (schedule.world_size, length)
    buffers = list(torch.randint(-2, 3, shape, generator=generator).float())
    expected = apply(schedule, buffers)
    as_dense = [dense(buffer) for buffer in buffers]
    as_sparse = [sparse(buffer) for buffer in buffers]
    run_in_process(schedule, as_dense)
    run_in_process(schedule, as_sparse)
    for rank, result in enumerate(expected):
        assert torch.equal(as_dense[rank].buffer, result)
        assert torch.equal(as_sparse[rank].to_dense(), result)


def test_traffic_counts_bytes_and_messages():
    """A ring moves 2(n-1)/n of the buffer in 2(n-1) messages, each way."""
    payloads = [DensePayload(torch.ones(100)) for _ in range(4)]
    for traffic in run_in_process(load_topology("ring").schedule(4), payloads):
        assert traffic.bytes_sent == traffic.bytes_received == 2 * 3 * 100
        assert traffic.messages_sent == len(traffic.steps) == 6
        assert [step.index for step in traffic.steps] == list(range(6))
        assert traffic.wait_s == 0 < traffic.communicate_s == traffic.duration_s


def test_traffic_counts_the_length_of_a_sparse_message():
    payloads = [make(Input("sparse", 10, density=0.0), rank) for rank in range(2)]
    traffic, _ = run_in_process(load_topology("mesh").schedule(2), payloads)
    assert (traffic.bytes_sent, traffic.messages_sent) == (LENGTH_BYTES + HEADER_BYTES, 1)


def test_a_chunk_without_elements_is_not_sent():
    payloads = [DensePayload(torch.ones(1)) for _ in range(4)]
    traffic = run_in_process(load_topology("ring").schedule(4), payloads)
    assert sum(rank.messages_sent for rank in traffic) == 2 * 3


def test_refuses_another_number_of_payloads():
    with pytest.raises(ValueError, match="1 payloads, expected 3, one per rank"):
        run_in_process(load_topology("ring").schedule(3), [DensePayload(torch.ones(1))])
