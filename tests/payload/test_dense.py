from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.payload import Arrival, DensePayload, equal_bounds
from dgc_topo.schedule import Transfer
from dgc_topo.wire.coding import WireDtype
from dgc_topo.wire.tensors import TORCH_DTYPES
from tests.payload.reference import Case, cases, deliver, dense, in_rank_order


@given(cases())
def test_merge_means_what_the_schedule_says(case: Case):
    payloads = [dense(buffer) for buffer in case.buffers]
    deliver(case, payloads)
    assert torch.equal(payloads[case.rank].buffer, case.expected())
    for rank, payload in enumerate(payloads):
        if rank != case.rank:
            assert torch.equal(payload.buffer, case.buffers[rank])


@given(world_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_sums_are_taken_in_rank_order_on_every_rank(world_size: int, seed: int):
    """However the own value stands among the arrivals, all ranks get the same bits."""
    generator = torch.Generator().manual_seed(seed)
    buffers = [torch.randn(33, generator=generator) for _ in range(world_size)]
    for rank in range(world_size):
        one = Fraction(1)
        transfers = [Transfer(s, rank, 0, 1, one, one) for s in range(world_size) if s != rank]
        payloads = [dense(buffer) for buffer in buffers]
        deliver(Case(33, 1, rank, buffers, transfers), payloads)
        assert torch.equal(payloads[rank].buffer, in_rank_order(buffers))


@pytest.mark.parametrize("wire_dtype", ["float16", "bfloat16"])
def test_packing_rounds_the_sender_too(wire_dtype: WireDtype):
    dtype = TORCH_DTYPES[wire_dtype]
    values = torch.randn(11, generator=torch.Generator().manual_seed(1))
    payload = DensePayload(values.clone(), wire_dtype)
    payload.cut(3)
    message = payload.pack(1, 2)
    assert message.numel() == payload.message_bytes(1, 2) == 2 * 8
    assert torch.equal(message.view(dtype).float(), payload.buffer[3:])
    assert torch.equal(payload.buffer[3:], values[3:].to(dtype).float())
    assert torch.equal(payload.buffer[:3], values[:3])


def test_gossip_keeps_the_own_value_unrounded():
    values = torch.randn(11, generator=torch.Generator().manual_seed(1))
    payload = DensePayload(values.clone(), "bfloat16")
    payload.cut(1, agree=False)
    message = payload.pack(0, 1)
    payload.finish()
    assert torch.equal(message.view(torch.bfloat16), values.to(torch.bfloat16))
    assert torch.equal(payload.buffer, values)


def test_the_result_is_what_a_message_can_say():
    """A rank that received the result as a copy holds it rounded; so must one that computed it."""
    values = torch.randn(11, generator=torch.Generator().manual_seed(1))
    payload = DensePayload(values.clone(), "bfloat16")
    payload.cut(1)
    payload.finish()
    assert torch.equal(payload.buffer, values.to(torch.bfloat16).float())


def test_half_precision_overflow_shows_on_both_ends():
    sender = DensePayload(torch.tensor([1e5, 1.0]), "float16")
    receiver = DensePayload(torch.zeros(2), "float16")
    transfer = Transfer(0, 1, 0, 1, Fraction(1), Fraction(1))
    receiver.merge([Arrival(transfer, sender.pack(0, 1))], 1)
    assert torch.equal(sender.buffer, torch.tensor([torch.inf, 1.0]))
    assert torch.equal(receiver.buffer, sender.buffer)


@pytest.mark.parametrize("wire_dtype", ["float32", "float16"])
def test_messages_are_never_written_to(wire_dtype: WireDtype):
    dtype = TORCH_DTYPES[wire_dtype]
    payload = DensePayload(torch.ones(4), wire_dtype)
    one = Fraction(1)
    messages = [torch.full((4,), float(s)).to(dtype).view(torch.uint8) for s in range(4)]
    before = [message.clone() for message in messages]
    arrivals = [
        Arrival(Transfer(s, 3, 0, 1, one, one), m)
        for s, m in zip((0, 1, 2, 4), messages, strict=True)
    ]
    payload.merge(arrivals, 3)
    assert torch.equal(payload.buffer, torch.full((4,), 7.0))
    assert all(torch.equal(a, b) for a, b in zip(before, messages, strict=True))


def test_a_copy_overwrites_even_what_is_not_a_number():
    payload = dense(torch.tensor([torch.nan, torch.inf]))
    transfer = Transfer(1, 0, 0, 1, Fraction(0), Fraction(1))
    payload.merge([Arrival(transfer, dense(torch.tensor([1.0, 2.0])).pack(0, 1))], 0)
    assert torch.equal(payload.buffer, torch.tensor([1.0, 2.0]))


def test_packing_float32_copies_nothing():
    payload = dense(torch.arange(10.0))
    payload.cut(5)
    assert payload.pack(1, 2).data_ptr() == payload.buffer[2:].data_ptr()


def test_a_single_element_may_come_with_any_stride():
    payload = DensePayload(torch.arange(3.0)[1::3])
    assert payload.pack(0, 1).view(torch.float32).tolist() == [1]


def test_a_buffer_in_a_graph_is_merged_outside_it():
    payload = DensePayload(torch.ones(3, requires_grad=True))
    transfer = Transfer(1, 0, 0, 1, Fraction(1), Fraction(1))
    payload.merge([Arrival(transfer, dense(torch.ones(3)).pack(0, 1))], 0)
    assert payload.buffer.tolist() == [2, 2, 2]


def test_chunks_may_begin_anywhere():
    payload = DensePayload(torch.arange(6.0), bounds_of=lambda length, _: [0, 1, 1, length])
    payload.cut(3)
    assert [payload.message_bytes(chunk, 1) for chunk in range(3)] == [4, 0, 20]
    assert payload.pack(1, 2).view(torch.float32).tolist() == [1, 2, 3, 4, 5]


@given(length=st.integers(0, 50), num_chunks=st.integers(1, 60))
def test_equal_slices_differ_by_one_element_at_most(length: int, num_chunks: int):
    bounds = equal_bounds(length, num_chunks)
    sizes = {end - start for start, end in pairwise(bounds)}
    assert bounds[0] == 0
    assert bounds[-1] == length
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "buffer",
    [torch.zeros(2, 2), torch.zeros(2, dtype=torch.float64), torch.zeros(4)[::2]],
    ids=["2-D", "float64", "strided"],
)
def test_refuses_other_buffers(buffer: torch.Tensor):
    with pytest.raises(ValueError, match="expected a contiguous 1-D float32 tensor"):
        DensePayload(buffer)


def test_refuses_other_wire_types():
    with pytest.raises(
        ValueError, match=r"dense payload: wire_dtype torch.int8, expected one of float32"
    ):
        DensePayload(torch.zeros(2), torch.int8)  # type: ignore[arg-type]


def test_refuses_to_be_cut_into_nothing():
    with pytest.raises(ValueError, match="cut into 0 chunks"):
        dense(torch.zeros(2)).cut(0)


def test_refuses_a_message_of_another_size():
    transfer = Transfer(1, 0, 0, 1, Fraction(1), Fraction(1))
    with pytest.raises(ValueError, match=r"message of 8 bytes \(rank 1 -> rank 0, .*expected 12"):
        dense(torch.zeros(3)).merge([Arrival(transfer, dense(torch.zeros(2)).pack(0, 1))], 0)
