"""NumPy, for small messages on a CPU, and torch, for GPUs, code alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dgc_topo.wire import gamma, small, tensors
from dgc_topo.wire.coding import (
    COARSE_DTYPES,
    INDEX_CHOICES,
    WIRE_DTYPES,
    IndexChoice,
    WireCoding,
    WireDtype,
)
from dgc_topo.wire.decoding import decode, decode_scaled
from dgc_topo.wire.encoding import encode
from dgc_topo.wire.scales import rounded
from tests.wire import reference
from tests.wire.runs import clusters


@contextmanager
def by_torch() -> Iterator[None]:
    """Have torch do what it does on GPUs."""
    with (
        mock.patch.object(small, "MAX_ENTRIES", -1),
        mock.patch.object(tensors, "in_numpy", return_value=False),
    ):
        yield


@settings(max_examples=60)
@given(clusters(), st.integers(0, 40))
def test_clustered_gaps_are_coded_alike_by_numpy_and_torch(gaps: np.ndarray, behind: int):
    indices, values = torch.from_numpy(np.cumsum(gaps + 1) - 1), torch.ones(len(gaps))
    length = int(indices[-1]) + 1 + behind
    message = encode(indices, values, 0, length, WireCoding("rice"))
    assert torch.equal(decode(message, 0, length)[0], indices)
    with by_torch():
        assert torch.equal(encode(indices, values, 0, length, WireCoding("rice")), message)
        assert torch.equal(decode(message, 0, length)[0], indices)
    if len(gaps) < 3000:
        assert reference.decode(message.numpy().tobytes(), length)[0] == indices.tolist()


@settings(max_examples=100)
@given(
    count=st.sampled_from([0, 1, 2, 3, 7, 300, 4096, 4097, 9001]),
    dtype=st.sampled_from(WIRE_DTYPES),
    encoding=st.sampled_from(INDEX_CHOICES),
    spread=st.sampled_from([1, 3, 40, 5000]),
    bounds=st.sets(st.integers(1, 99), max_size=4),
    start=st.integers(0, 2**40),
    seed=st.integers(0, 2**31),
)
def test_all_codings_are_the_same_bytes_by_numpy_and_torch(
    count: int,
    dtype: WireDtype,
    encoding: IndexChoice,
    spread: int,
    bounds: set[int],
    start: int,
    seed: int,
):
    assume(encoding != "dense" or dtype not in COARSE_DTYPES)
    rng = np.random.default_rng(seed)
    gaps = rng.integers(0, spread, count)
    length = int(gaps.sum()) + count + int(rng.integers(0, 9))
    indices = torch.from_numpy(start + np.cumsum(gaps + 1) - 1)
    values = torch.from_numpy(rng.standard_normal(count).astype(np.float32) ** 3)
    if count > 3 and rng.random() < 0.2:
        values[2] = rng.choice([np.nan, np.inf, 0.0, 3e38])
    inside = tuple(sorted({start + length * bound // 100 for bound in bounds} - {start}))
    scales = None
    if dtype in COARSE_DTYPES:
        values, scales = rounded(indices, values, inside, dtype)
    else:
        inside = ()
    coding = WireCoding(encoding, dtype)
    message = encode(indices, values, start, length, coding, scales)
    found = decode_scaled(message, start, length, inside)
    with by_torch():
        other = encode(indices, values, start, length, coding, scales)
        if values.isfinite().all():
            assert torch.equal(other, message)
        same = decode_scaled(message, start, length, inside)
    assert torch.equal(found.indices, same.indices)
    assert torch.allclose(found.values, same.values, rtol=0, atol=0, equal_nan=True)
    if scales is not None:
        for read in (found.scales, same.scales):
            assert read is not None
            assert read.bounds == inside
            assert torch.allclose(read.low, scales.low, rtol=0, atol=0, equal_nan=True)
            assert torch.allclose(read.step, scales.step, rtol=0, atol=0, equal_nan=True)
        assert torch.allclose(found.values, values, rtol=0, atol=0, equal_nan=True)


def test_gamma_codes_are_the_same_with_and_without_levels():
    """A GPU has no way to take one level of bits after the other."""
    numbers = torch.tensor([0, 1, 2, 3, 1000, 2**31 - 1, 5, 0, 4])
    sizes = gamma.bit_lengths(numbers)
    assert sizes.tolist() == [number.bit_length() for number in numbers.tolist()]
    bits = gamma.bits_below(numbers, sizes)
    owners, places = gamma._owners((sizes - 1).clamp(min=0))
    assert torch.equal(bits, (numbers[owners] >> places & 1).to(torch.uint8))
    assert torch.equal(gamma.read(bits, sizes), numbers)
