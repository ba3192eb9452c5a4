import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.payload.wire import ENTRY_BYTES, MAX_RUN, decode, encode


@settings(deadline=None)
@given(st.sets(st.integers(0, 2**31 - 1), max_size=20), st.integers(0, 2**40))
def test_decode_inverts_encode(relative: set[int], start: int):
    indices = torch.tensor(sorted(relative), dtype=torch.int64) + start
    values = torch.randn(len(indices))
    message = encode(indices, values, start, MAX_RUN)
    assert message.dtype == torch.uint8
    assert message.numel() == ENTRY_BYTES * len(indices)
    decoded = decode(message, start, MAX_RUN)
    assert torch.equal(decoded[0], indices)
    assert torch.equal(decoded[1], values)


def raw(*relative: int) -> torch.Tensor:
    indices = torch.tensor(relative, dtype=torch.int32).view(torch.uint8)
    return torch.cat([indices, torch.zeros(len(relative)).view(torch.uint8)])


@pytest.mark.parametrize("relative", [(-1,), (10,), (3, 3), (4, 2), (0, 5, 10)])
def test_refuses_indices_out_of_range_or_order(relative: tuple[int, ...]):
    with pytest.raises(ValueError, match="expected ascending indices from 0 to 9"):
        decode(raw(*relative), 100, 10)


def test_refuses_what_is_no_number_of_entries():
    with pytest.raises(ValueError, match="message of 12 bytes, expected a multiple of 8"):
        decode(torch.zeros(12, dtype=torch.uint8), 0, 10)


def test_refuses_more_entries_than_elements():
    with pytest.raises(ValueError, match="at most 2 entries"):
        decode(raw(0, 1, 2), 0, 2)


@pytest.mark.parametrize("length", [MAX_RUN + 1, 2**40])
def test_refuses_runs_whose_indices_do_not_fit(length: int):
    empty = torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="cuts the buffer into more chunks"):
        encode(empty, torch.empty(0), 0, length)
    with pytest.raises(ValueError, match="cuts the buffer into more chunks"):
        decode(torch.empty(0, dtype=torch.uint8), 0, length)
