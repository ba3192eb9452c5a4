from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.payload import Arrival, DensePayload, SparsePayload
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import Transfer
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import DENSE_DTYPES, INDEX_CHOICES, WireCoding, WireDtype
from dgc_topo.wire.tensors import TORCH_DTYPES, to_wire
from tests.payload.reference import Case, cases, deliver, dense, in_rank_order, sparse


def check_form(payload: SparsePayload) -> None:
    assert payload.indices.dtype == torch.int64
    assert payload.values.dtype == torch.float32
    assert payload.num_entries == len(payload.indices) == len(payload.values)
    assert (payload.indices[1:] > payload.indices[:-1]).all()


@given(cases())
def test_merge_means_what_the_schedule_says(case: Case):
    payloads = [sparse(buffer) for buffer in case.buffers]
    deliver(case, payloads)
    assert torch.equal(payloads[case.rank].to_dense(), case.expected())
    check_form(payloads[case.rank])
    for rank, payload in enumerate(payloads):
        if rank != case.rank:
            assert torch.equal(payload.to_dense(), case.buffers[rank])


@given(cases(only_reduce=True), cases(), st.integers(1, 5))
def test_a_payload_runs_again_with_other_chunks(first: Case, second: Case, num_chunks: int):
    """What one run leaves is what the next one starts with, however it was cut before."""
    payloads = [sparse(buffer) for buffer in first.buffers]
    deliver(first, payloads)
    payload = payloads[first.rank]
    payload.cut(num_chunks)
    for chunk in range(num_chunks):
        payload.pack(chunk, 1)
    assert torch.equal(payload.to_dense(), first.expected())
    check_form(payload)
    if second.length == first.length:
        again = [sparse(buffer) for buffer in second.buffers]
        again[second.rank] = payload
        second.buffers[second.rank] = first.expected()
        deliver(second, again)
        assert torch.equal(payload.to_dense(), second.expected())


@given(world_size=st.integers(1, 9), seed=st.integers(0, 99), density=st.floats(0, 1))
def test_sums_are_taken_in_rank_order_on_every_rank(world_size: int, seed: int, density: float):
    generator = torch.Generator().manual_seed(seed)
    buffers = [
        torch.randn(33, generator=generator) * (torch.rand(33, generator=generator) < density)
        for _ in range(world_size)
    ]
    for rank in range(world_size):
        one = Fraction(1)
        transfers = [Transfer(s, rank, 0, 1, one, one) for s in range(world_size) if s != rank]
        payloads = [sparse(buffer) for buffer in buffers]
        deliver(Case(33, 1, rank, buffers, transfers), payloads)
        assert torch.equal(payloads[rank].to_dense(), in_rank_order(buffers))


@given(cases())
def test_sparse_and_dense_agree(case: Case):
    as_dense, as_sparse = map(dense, case.buffers), map(sparse, case.buffers)
    one, other = list(as_dense), list(as_sparse)
    deliver(case, one)
    deliver(case, other)
    assert torch.equal(one[case.rank].buffer, other[case.rank].to_dense())


def test_the_given_tensors_and_the_messages_are_left_alone():
    indices, values = torch.tensor([0, 3]), torch.tensor([1.0, 2.0])
    payload = SparsePayload(indices, values, 5)
    transfer = Transfer(1, 0, 0, 1, Fraction(1), Fraction(1))
    message = sparse(torch.tensor([1.0, 1, 1, 1, 1])).pack(0, 1)
    before = message.clone()
    payload.merge([Arrival(transfer, message)], 0)
    assert values.tolist() == [1, 2]
    assert torch.equal(message, before)


@pytest.mark.parametrize("wire_dtype", ["float32", "float16"])
def test_a_message_is_made_once_until_something_changes(wire_dtype: WireDtype):
    """A hub packs the same run for every peer; what it has merged since must not be missed."""

    def payload(index: int) -> SparsePayload:
        coding = WireCoding(wire_dtype=wire_dtype)
        made = SparsePayload(torch.tensor([index]), torch.ones(1), 8, coding=coding)
        made.cut(1)
        return made

    hub, peer = payload(2), payload(5)
    first = hub.pack(0, 1)
    assert hub.pack(0, 1) is first
    hub.merge([Arrival(Transfer(1, 0, 0, 1, Fraction(1), Fraction(1)), peer.pack(0, 1))], 0)
    merged = hub.pack(0, 1)
    assert merged is not first
    peer.merge([Arrival(Transfer(0, 1, 0, 1, Fraction(0), Fraction(1)), merged)], 1)
    assert peer.indices.tolist() == [2, 5]


def test_what_was_copied_outlives_its_message():
    """Executors receive the next message into the same memory."""
    payload = sparse(torch.zeros(4))
    message = sparse(torch.tensor([0.0, 5, 0, 6])).pack(0, 1)
    payload.merge([Arrival(Transfer(1, 0, 0, 1, Fraction(0), Fraction(1)), message)], 0)
    message.zero_()
    assert payload.to_dense().tolist() == [0, 5, 0, 6]


def test_an_entry_that_cancels_stays():
    payload = sparse(torch.tensor([1.0, 0.0]))
    transfer = Transfer(1, 0, 0, 1, Fraction(1), Fraction(1))
    payload.merge([Arrival(transfer, sparse(torch.tensor([-1.0, 0.0])).pack(0, 1))], 0)
    assert payload.num_entries == 1
    assert payload.to_dense().tolist() == [0, 0]


def test_chunks_may_follow_the_density():
    payload = SparsePayload(
        torch.tensor([0, 1, 2, 90]),
        torch.arange(4.0),
        100,
        bounds_of=lambda length, _: [0, 2, length],
    )
    payload.cut(2)
    # A header of 12 bytes; 2 of 2 elements take no indices, and gaps of 0 and 87 7 bits each.
    assert [payload.pack(chunk, 1).numel() for chunk in range(2)] == [12 + 8, 12 + 8 + 2]


def test_an_empty_message_is_a_message():
    payload = sparse(torch.ones(3))
    transfer = Transfer(1, 0, 0, 1, Fraction(0), Fraction(1))
    payload.merge([Arrival(transfer, sparse(torch.zeros(3)).pack(0, 1))], 0)
    assert payload.num_entries == 0
    assert payload.to_dense().tolist() == [0, 0, 0]


@pytest.mark.parametrize("wire_dtype", ["float16", "bfloat16"])
def test_packing_rounds_the_sender_too_where_ranks_are_to_agree(wire_dtype: WireDtype):
    coding = WireCoding(wire_dtype=wire_dtype)
    values = torch.tensor([1.0001, -2.0001, 3.0001])
    indices = torch.tensor([1, 5, 9])
    for agree in (True, False):
        payload = SparsePayload(indices, values, 10, coding=coding)
        payload.cut(2, agree=agree)
        received = sparse(torch.zeros(10))
        received.cut(2)
        message = payload.pack(1, 1)
        received.merge([Arrival(Transfer(1, 0, 1, 1, Fraction(0), Fraction(1)), message)], 0)
        rounded = values.to(TORCH_DTYPES[wire_dtype]).float()
        assert torch.equal(received.values, rounded[1:])
        assert torch.equal(payload.values[1:], rounded[1:] if agree else values[1:])
        assert torch.equal(payload.values[:1], values[:1])
        payload.finish()
        assert torch.equal(payload.values, rounded if agree else values)
    assert values.tolist() != rounded.tolist()


@pytest.mark.parametrize("wire_dtype", DENSE_DTYPES)
@pytest.mark.parametrize("encoding", INDEX_CHOICES)
@pytest.mark.parametrize("name", ["ring", "butterfly", "mesh", "tree", "parameter-server"])
def test_ranks_agree_to_the_bit_in_every_coding(name, encoding, wire_dtype):
    """At a density where unions fill up, so that some messages are dense and some are not."""
    dtype = TORCH_DTYPES[wire_dtype]
    generator = torch.Generator().manual_seed(5)
    buffers = [
        torch.randn(97, generator=generator) * (torch.rand(97, generator=generator) < 0.3)
        for _ in range(6)
    ]
    payloads = [
        SparsePayload(
            indices := buffer.nonzero().view(-1),
            to_wire(buffer[indices], dtype),
            97,
            coding=WireCoding(encoding, wire_dtype),
        )
        for buffer in buffers
    ]
    run_in_process(load_topology(name).schedule(6), payloads)
    result = payloads[0].to_dense()
    assert all(torch.equal(each.to_dense(), result) for each in payloads)
    assert torch.equal(result.to(dtype).float(), result)
    alike = [DensePayload(to_wire(buffer, dtype), wire_dtype) for buffer in buffers]
    run_in_process(load_topology(name).schedule(6), alike)
    assert torch.equal(result, alike[0].buffer)


def test_the_size_of_everything_held_is_that_of_one_message():
    indices, values = torch.arange(7, 500, 10), torch.ones(50)
    payload = SparsePayload(indices, values, 500)
    assert payload.encoded_bytes() == payload.pack(0, 1).numel() == 12 + 4 * 50 + 25
    told = SparsePayload(indices, values, 500, coding=WireCoding("int32"))
    assert told.encoded_bytes() == 12 + 8 * 50
    long = SparsePayload(torch.tensor([5, 2**31 + 7]), torch.ones(2), 2**32)
    assert long.encoded_bytes() == 2 * (12 + 4) + 1 + 1  # two runs, gaps of 5 and of 7


@pytest.mark.parametrize(
    ("indices", "values", "length"),
    [
        (torch.tensor([0]), torch.zeros(2), 5),
        (torch.tensor([0, 1]), torch.zeros(2), 1),
        (torch.tensor([0], dtype=torch.int32), torch.zeros(1), 5),
        (torch.tensor([0]), torch.zeros(1, dtype=torch.float64), 5),
        (torch.tensor([[0]]), torch.zeros(1, 1), 5),
    ],
    ids=["sizes", "too many", "index type", "value type", "2-D"],
)
def test_refuses_what_is_no_list_of_entries(
    indices: torch.Tensor, values: torch.Tensor, length: int
):
    with pytest.raises(ValueError, match=r"sparse payload: .*expected 1-D int64 and float32"):
        SparsePayload(indices, values, length)


def test_names_the_transfer_whose_message_is_nonsense():
    payload = sparse(torch.ones(3))
    transfer = Transfer(4, 0, 0, 1, Fraction(1), Fraction(1))
    with pytest.raises(ValueError, match=r"of 7 bytes.*\(rank 4 -> rank 0, chunks 0..0\)"):
        payload.merge([Arrival(transfer, torch.zeros(7, dtype=torch.uint8))], 0)
