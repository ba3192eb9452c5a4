"""Coarse values: all ranks end with the same bits, and what rounding loses comes back once."""

from itertools import accumulate
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.payload import Quotas, SparsePayload
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule.losses import losses_of
from dgc_topo.simulation import UnionSizes
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import COARSE_DTYPES, WIRE_DTYPES, WireCoding, WireDtype
from dgc_topo.wire.scales import rounded
from tests.strategies import ALL_REDUCE

LENGTH = 301
LAYERS = (40, 41, 190)


def buffers_of(num: int, seed: int, share: float = 0.3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(LENGTH, generator=generator) * (torch.rand(LENGTH, generator=generator) < share)
        for _ in range(num)
    ]


def payload_of(
    buffer: Tensor, wire_dtype: WireDtype, *, on_scale: bool, quotas: Quotas | None = None
) -> SparsePayload:
    indices = buffer.nonzero().view(-1)
    values, scales = buffer[indices], None
    if on_scale:
        values, scales = rounded(indices, values, LAYERS, wire_dtype)
    return SparsePayload(
        indices,
        values,
        LENGTH,
        coding=WireCoding(wire_dtype=wire_dtype),
        scales=scales,
        quotas=quotas,
    )


TOPOLOGIES = [case for case in ALL_REDUCE if case[1].get("server") != "dedicated"]


@settings(max_examples=60)
@given(
    st.sampled_from(TOPOLOGIES),
    st.integers(1, 9),
    st.sampled_from(COARSE_DTYPES),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_ranks_agree_and_no_mass_is_lost(
    case, num, wire_dtype: WireDtype, on_scale, reselects, seed
):
    """Also where complete chunks keep only their largest entries."""
    name, options = case
    schedule = load_topology(name, **options).schedule(num)
    quotas = Quotas((0, 90, LENGTH), (20, 50)) if reselects else None
    payloads = [
        payload_of(each, wire_dtype, on_scale=on_scale, quotas=quotas)
        for each in buffers_of(num, seed)
    ]
    total = torch.stack([each.to_dense().double() for each in payloads]).sum(0)
    run_in_process(schedule, payloads)
    result = payloads[0].to_dense()
    bits = result.view(torch.int32)  # of zeros, too, whose sign an addition may show
    assert all(torch.equal(each.to_dense().view(torch.int32), bits) for each in payloads)
    found = result.double()
    for each in payloads:
        taken = each.take_back()
        if taken is not None:
            found[taken.indices] += taken.values.double()
        assert each.take_back() is None
    assert torch.allclose(found, total, rtol=0, atol=2e-5)


@pytest.mark.parametrize("wire_dtype", COARSE_DTYPES)
@pytest.mark.parametrize("name", ["ring", "butterfly", "tree"])
def test_cancelled_entries_keep_their_sign_wherever_they_are_sent_on(name, wire_dtype):
    """A magnitude below half a step is 0 with a sign, if the smallest of its section is 0."""
    buffers = buffers_of(4, 0, share=1.0)
    buffers[1] = -buffers[0]
    buffers[2], buffers[3] = 1e-4 * buffers[2], torch.zeros(LENGTH)
    payloads = [payload_of(each, wire_dtype, on_scale=False) for each in buffers]
    run_in_process(load_topology(name).schedule(4), payloads)
    bits = payloads[0].to_dense().view(torch.int32)
    assert all(torch.equal(each.to_dense().view(torch.int32), bits) for each in payloads)


@pytest.mark.parametrize("name", ["butterfly", "ring", "tree", "mesh", "hierarchical:group_size=2"])
def test_the_result_is_all_the_shares_at_any_time(name: str):
    """Of what ranks lose before a step, the shares are those that the result lacks."""
    for num in (1, 2, 3, 6, 8):
        losses = losses_of(load_topology(name).schedule(num))
        first = [[chunk[0] for chunk in rank] for rank in losses]
        # What a rank rounds before anything has arrived, it alone holds.
        assert all(share in {0.0, 1.0} for rank in first for share in rank)
        assert all(0 <= share <= 1 for rank in losses for chunk in rank for share in chunk)


@pytest.mark.parametrize("wire_dtype", COARSE_DTYPES)
def test_the_size_of_everything_held_is_that_of_one_message(wire_dtype):
    """Also of values that take a wider type than was asked for."""
    payload = payload_of(10 ** (3 * buffers_of(1, 5, share=1.0)[0]), wire_dtype, on_scale=True)
    promised = payload.encoded_bytes()
    payload.cut(1)
    assert promised == payload.pack(0, 1).numel()


@settings(max_examples=40)
@given(
    st.sampled_from(TOPOLOGIES),
    st.integers(2, 9),
    st.sampled_from(WIRE_DTYPES),
    st.lists(st.integers(0, 40), min_size=1, max_size=9),
)
def test_predicted_bytes_are_those_on_the_wire(case, num: int, wire_dtype: WireDtype, tens):
    """With a scale for each layer in each chunk; entries lie where every chunk has its share."""
    name, options = case
    schedule = load_topology(name, **options).schedule(num)
    chunk = 10 * (1 + sum(tens) // schedule.num_chunks)
    length = chunk * schedule.num_chunks
    layers = [10 * each for each in tens if each]
    layers.append(length - sum(layers))
    places, values = torch.arange(3, length, 10), torch.ones(length // 10)
    bounds = tuple(accumulate(layers))[:-1]
    coding = WireCoding("int32", wire_dtype)
    payloads = []
    for _ in range(num):
        scales = rounded(places, values, bounds, wire_dtype)[1] if coding.is_coarse else None
        payloads.append(SparsePayload(places, values, length, coding=coding, scales=scales))
    sent = []
    pack = SparsePayload.pack

    def packed(payload: SparsePayload, first: int, count: int) -> Tensor:
        sent.append(pack(payload, first, count))
        return sent[-1]

    with mock.patch.object(SparsePayload, "pack", packed):
        run_in_process(schedule, payloads)
    sizes = UnionSizes(
        schedule,
        length=length,
        entries=len(places),
        coding=coding,
        union_exponent=0.0,
        layer_sizes=tuple(layers),
    )
    steps = [sizes.of_step(number, step).num_bytes for number, step in enumerate(schedule.steps())]
    predicted, transfers = sum(float(step.sum()) for step in steps), sum(map(len, steps))
    assert len(sent) == transfers
    # What aligns indices is 1.5 bytes on average, but here the same for many messages.
    assert abs(predicted - sum(map(len, sent))) <= 2.5 * transfers
