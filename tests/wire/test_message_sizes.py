"""Messages are as small as promised, and as large as expected."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.wire.coding import (
    INDEX_CHOICES,
    INDEX_ENCODINGS,
    WIRE_DTYPES,
    IndexChoice,
    WireCoding,
    WireDtype,
    encodings_of,
)
from dgc_topo.wire.encoding import encode, encoded_bytes
from dgc_topo.wire.limits import HEADER_BYTES
from dgc_topo.wire.rice_choice import MOST_GAMMA_ENTRIES
from dgc_topo.zoo import load_model
from tests.wire.runs import clusters, distinct, runs


@settings(max_examples=100)
@given(runs(), st.sampled_from(WIRE_DTYPES))
def test_auto_is_the_smallest(run: tuple[int, int, list[int]], dtype: WireDtype):
    start, length, relative = run
    indices = torch.tensor(relative, dtype=torch.int64) + start
    told = [
        encoded_bytes(indices, start, length, WireCoding(each, dtype))
        for each in encodings_of(dtype)
    ]
    assert encoded_bytes(indices, start, length, WireCoding(wire_dtype=dtype)) == min(told)


@settings(max_examples=60)
@given(clusters())
def test_no_other_rice_code_is_clearly_shorter(gaps: np.ndarray):
    """Gamma quotients are best to the bit; unary ones nearly so, as for gaps at random places."""
    count, indices = len(gaps), torch.from_numpy(np.cumsum(gaps + 1) - 1)
    if count > MOST_GAMMA_ENTRIES:  # unary, which is coded faster
        message = encode(indices, torch.ones(count), 0, int(indices[-1]) + 1, WireCoding("rice"))
        assert not int(message[3]) >> 7
        return
    sizes, tried = np.array([gap.bit_length() for gap in gaps.tolist()]), []
    for low_bits in range(25):
        above = (sizes - low_bits).clip(0)
        gamma_bits = above + (above - 1).clip(0)
        coded = (gamma_bits, gaps >> low_bits)
        tried += [count * (low_bits + 1) + int(quotients.sum()) for quotients in coded]
    took = encoded_bytes(indices, 0, int(indices[-1]) + 1, WireCoding("rice"))
    around = HEADER_BYTES + 4 * count + 1 + (count >= 2**8) + (count >= 2**16)
    assert 8 * (took - around) <= min(tried) + 16 + 0.1 * count


@pytest.mark.parametrize("count", [100, 150, 400, 3000])
@pytest.mark.parametrize("mean", [30, 45, 1000, 1400])
def test_random_places_take_at_most_0_3_bit_more_than_the_bound(count: int, mean: int):
    """Everything counts but header and values: the number of entries, and rounding to bytes."""
    rng, length, found = np.random.default_rng(count + mean), count * mean, []
    logs = (math.lgamma(each + 1) for each in (length, count, length - count))
    whole, chosen, others = logs
    for _ in range(10):
        picked = torch.from_numpy(distinct(rng, length, count))
        found.append(8 * (encoded_bytes(picked, 0, length) - HEADER_BYTES - 4 * count))
    assert np.mean(found) <= (whole - chosen - others) / math.log(2) + 0.3 * count


def test_what_the_last_place_of_the_longest_run_takes():
    last = torch.tensor([2**31 - 1])
    sizes = {e: encoded_bytes(last, 0, 2**31, WireCoding(e, "float32")) for e in INDEX_ENCODINGS}
    codes = (2**31 - 1) // 65_535
    assert sizes == {
        "dense": 12 + 4 * 2**31,
        "run-length": 12 + 4 + 2 * (1 + codes) + 4,
        "bit-packed": 12 + 4 + 4,
        "bitmap": 12 + 4 + 2**28,
        "int32": 12 + 4 + 4,
        "rice": 12
        + 4
        + 4
        + 1
        + 1,  # 30 low bits, a quotient of 1 in two, and the number of entries
    }


@pytest.mark.parametrize(
    ("name", "mebibytes", "ratio"),
    [("resnet50", 0.352, 276.7), ("alexnet", 0.389, 597.7), ("ptb-lstm", 0.4215, 461.8)],
)
def test_the_papers_golden_sizes_byte_for_byte(name: str, mebibytes: float, ratio: float):
    """6 bytes for each of a thousandth of the elements, 4 for each that stays dense."""
    model = load_model(name)
    length, dense = model.compressible_elements, model.dense_elements
    count = round(0.001 * length)
    indices = torch.tensor(sorted(random.Random(0).sample(range(length), count)))
    message = encode(indices, torch.ones(count), 0, length, WireCoding("run-length"))
    assert message.numel() == HEADER_BYTES + 6 * count
    total = message.numel() - HEADER_BYTES + 4 * dense
    assert abs(total - model.dgc_bytes(0.001)) <= 3  # half an entry
    assert total / 2**20 == pytest.approx(mebibytes, abs=5e-4)
    assert model.gradient_bytes / total == pytest.approx(ratio, abs=0.1)


@pytest.mark.parametrize(
    ("choice", "dtype"),
    [
        *((choice, "float32") for choice in INDEX_CHOICES),
        ("auto", "bfloat16"),
        ("int32", "float16"),
        ("auto", "int8"),
        ("rice", "int2"),
        ("run-length", "int4"),
    ],
)
def test_the_expected_size_is_that_of_random_messages(choice: IndexChoice, dtype: WireDtype):
    generator = np.random.default_rng(0)
    coding = WireCoding(choice, dtype)
    for length, sections in zip(
        (1, 10, 1000, 100_000, 3_000_000, 2**31), (1, 2, 9, 50, 1, 30), strict=True
    ):
        for count in (0, 1, 2, 10, 100, 1000, 30_000):
            if count > length:
                continue
            tries = 30 if count <= 1000 else 4
            sizes = []
            for _ in range(tries):
                picked = torch.from_numpy(distinct(generator, length, count))
                sizes.append(encoded_bytes(picked, 0, length, WireCoding(choice, dtype), sections))
            expected = coding.expected_bytes(np.array([length]), np.array([count]), sections)[0]
            # Small messages: the width of the widest gap varies by a bit, escapes by some.
            tolerance = 0.02 * np.mean(sizes) + 4 * np.std(sizes) / tries**0.5 + 1
            assert abs(expected - np.mean(sizes)) <= tolerance, (length, count, np.mean(sizes))


def test_expected_sizes_are_vectorised():
    lengths, counts = np.array([1000, 1000, 50]), np.array([10, 900, 50])
    together = WireCoding().expected_bytes(lengths, counts)
    for length, count, size in zip(lengths, counts, together, strict=True):
        alone = WireCoding().expected_bytes(np.array([length]), np.array([count]))
        assert alone.tolist() == [size]
