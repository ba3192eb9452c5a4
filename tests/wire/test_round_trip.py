"""What is encoded comes back, in every encoding, as small as promised."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.wire import gamma, small, tensors
from dgc_topo.wire.coding import (
    COARSE_DTYPES,
    INDEX_CHOICES,
    INDEX_ENCODINGS,
    WIRE_DTYPES,
    IndexChoice,
    IndexEncoding,
    WireCoding,
    WireDtype,
    check_dtype,
    encodings_of,
)
from dgc_topo.wire.decoding import decode, decode_scaled
from dgc_topo.wire.encoding import encode, encoded_bytes
from dgc_topo.wire.format import DTYPE_CODES
from dgc_topo.wire.limits import HEADER_BYTES, MAX_RUN
from dgc_topo.wire.rice_choice import MOST_GAMMA_ENTRIES
from dgc_topo.wire.scales import rounded
from dgc_topo.wire.tensors import TORCH_DTYPES, to_wire
from dgc_topo.zoo import load_model
from tests.wire import reference

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"
#: Where 16-bit codes, whole bytes, packed groups and int32 have their edges.
EDGES = [0, 1, 2, 7, 8, 9, 63, 64, 65, 65_534, 65_535, 65_536, 131_071, 2**20, 2**31 - 1, 2**31]
SMALL = 1 << 20  #: dense messages and bitmaps of longer runs take too much memory for a test


@st.composite
def runs(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """Return start and length of a run, and relative indices of entries in it."""
    length = draw(st.sampled_from(EDGES) | st.integers(0, 300))
    if not length:
        return draw(st.integers(0, 2**40)), 0, []
    near_edges = [edge - back for edge in EDGES for back in (1, 2) if 0 <= edge - back < length]
    places = st.integers(0, length - 1) | st.sampled_from(near_edges)
    indices = draw(st.sets(places, max_size=40))
    if draw(st.booleans()):  # side by side
        first = draw(st.integers(0, length - 1))
        indices |= set(range(first, min(length, first + draw(st.integers(0, 70)))))
    return draw(st.integers(0, 2**40)), length, sorted(indices)


@settings(max_examples=300)
@given(
    runs(), st.sampled_from(INDEX_CHOICES), st.sampled_from(WIRE_DTYPES), st.integers(0, 2**32 - 1)
)
def test_decode_inverts_encode(
    run: tuple[int, int, list[int]], choice: IndexChoice, dtype: WireDtype, seed: int
):
    start, length, relative = run
    assume(choice != "dense" or dtype not in COARSE_DTYPES)
    if length > SMALL and choice in {"dense", "bitmap"}:
        length, relative = SMALL, [index for index in relative if index < SMALL]
    indices = torch.tensor(relative, dtype=torch.int64) + start
    values = torch.randn(len(relative), generator=torch.Generator().manual_seed(seed))
    message = encode(indices, values, start, length, WireCoding(choice, dtype))
    assert message.dtype == torch.uint8
    assert message.is_contiguous()
    took = next(name for name, code in DTYPE_CODES.items() if code == message[2] >> 4)
    assert took == dtype or dtype in COARSE_DTYPES  # of which a wider one may miss less
    assert message.numel() == encoded_bytes(indices, start, length, WireCoding(choice, took))
    found, found_values = decode(message, start, length)
    if dtype in COARSE_DTYPES:
        values, _ = rounded(indices, values, (), dtype)
    else:
        values = values.to(TORCH_DTYPES[dtype]).to(torch.float32)
    if message[2] & 15 == 0:  # dense
        whole = torch.zeros(length)
        whole[indices - start] = values
        indices, values = torch.arange(start, start + length), whole
    assert found.dtype == torch.int64
    assert torch.equal(found, indices)
    assert torch.equal(found_values, values)
    if length <= SMALL:
        places, wanted = reference.decode(message.numpy().tobytes(), length)
        assert places == (found - start).tolist()
        assert np.array_equal(wanted, found_values.numpy())


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


@pytest.mark.parametrize("encoding", INDEX_ENCODINGS)
@pytest.mark.parametrize("count", [511, 4096, 4097, 5000, 70_001])
def test_many_entries_take_the_other_way_to_the_same_bytes(encoding: IndexEncoding, count: int):
    """Small messages are coded bit by bit, larger ones eight numbers at a time."""
    length = 20 * count
    generator = torch.Generator().manual_seed(count)
    indices = torch.randperm(length, generator=generator)[:count].sort().values
    values = torch.randn(count, generator=generator)
    message = encode(indices, values, 0, length, WireCoding(encoding, "float32"))
    found, found_values = decode(message, 0, length)
    assert torch.equal(found[found_values != 0], indices)
    assert torch.equal(found_values[found_values != 0], values)
    raw = message.numpy().tobytes()
    assert raw[4:12] == reference.checksum(raw, length)
    if count < 6000:
        assert reference.decode(raw, length)[0] == found.tolist()


@st.composite
def clusters(draw: st.DrawFn) -> np.ndarray:
    """Return gaps over several decades, as between entries of real gradients; up to 2**24."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    count = draw(st.sampled_from([1, 2, 30, 200, 2047, 2049, 20_000]))
    largest = draw(st.sampled_from([0, 1, 4, 12, 16, 17, 24] if count < 3000 else [0, 4, 16]))
    gaps = (2 ** (largest * rng.random(count) ** draw(st.integers(1, 4)))).astype(np.int64) - 1
    return gaps[np.cumsum(gaps + 1) <= MAX_RUN - 40]


@settings(max_examples=60, deadline=None)
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


@contextmanager
def by_torch() -> Iterator[None]:
    """Have torch do what it does on GPUs."""
    with (
        mock.patch.object(small, "MAX_ENTRIES", -1),
        mock.patch.object(tensors, "in_numpy", return_value=False),
    ):
        yield


@settings(max_examples=100, deadline=None)
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


def test_neighbours_and_one_far_away_take_gamma_codes_without_low_bits():
    indices = torch.tensor([*range(9), 1000])
    message = encode(indices, torch.ones(10), 0, 1200, WireCoding("rice"))
    assert message[3] == 0x80
    assert torch.equal(decode(message, 0, 1200)[0], indices)


@settings(max_examples=60, deadline=None)
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


def test_gaps_at_the_edges_of_16_bits_and_of_the_longest_run():
    for gap in (65_534, 65_535, 65_536, 131_070, 131_071, 2**31 - 3):
        for count in (2, 600):  # numpy's way, torch's way
            indices = torch.arange(count - 1).add(gap + 1)
            indices = torch.cat([torch.zeros(1, dtype=torch.int64), indices])
            if gap + count > 2**31:
                continue
            for encoding in ("run-length", "bit-packed", "int32"):
                message = encode(
                    indices, torch.ones(count), 0, 2**31, WireCoding(encoding, "float16")
                )
                assert torch.equal(decode(message, 0, 2**31)[0], indices)


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


def example(encoding: IndexEncoding, dtype: WireDtype) -> Tensor:
    length = 20 if encoding in {"dense", "bitmap"} else 200_000
    places = [0, 1, 7, 19] if length == 20 else [0, 1, 7, 19, 300, 66_000, 199_999]
    values = torch.tensor([1.0, -2.0, 0.5, -0.25, 3.0, 65_504.0, 0.1][: len(places)])
    return encode(torch.tensor(places) + 5, values, 5, length, WireCoding(encoding, dtype))


CODINGS = [(encoding, dtype) for dtype in WIRE_DTYPES for encoding in encodings_of(dtype)]


@pytest.mark.parametrize(("encoding", "dtype"), CODINGS)
def test_bytes_are_what_they_were(encoding: IndexEncoding, dtype: WireDtype):
    """A change of these files is a new version of the format."""
    golden = bytes.fromhex((GOLDEN / f"{encoding}-{dtype}.hex").read_text())
    assert example(encoding, dtype).numpy().tobytes() == golden


def test_other_senders_may_take_unary_quotients_where_gamma_codes_are_shorter():
    raw = bytes.fromhex((GOLDEN / "rice-unary-float32.hex").read_text())
    ours = example("rice", "float32")
    assert len(ours) < len(raw)
    assert [raw[3] >> 7, int(ours[3]) >> 7] == [0, 1]
    message = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    for read, wanted in zip(decode(message, 5, 200_000), decode(ours, 5, 200_000), strict=True):
        assert torch.equal(read, wanted)


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


def distinct(generator: np.random.Generator, length: int, count: int) -> np.ndarray:
    """Return *count* ascending numbers below *length*, every set of them alike."""
    if 4 * count > length:
        return np.sort(generator.permutation(length)[:count])
    found = np.empty(0, np.int64)
    while len(found) < count:
        found = np.unique(np.append(found, generator.integers(0, length, 2 * count)))
    return np.sort(generator.choice(found, count, replace=False, shuffle=False))


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


def test_rounding_leaves_a_difference_that_float32_holds():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(10_000, generator=generator) * torch.logspace(-9, 8, 10_000)
    for dtype in (torch.float16, torch.bfloat16):
        sent = to_wire(values, dtype)
        assert sent.isfinite().all()
        assert torch.equal(sent.to(dtype).float(), sent)
        assert torch.equal((values - sent).double(), values.double() - sent.double())
        assert torch.equal(sent + (values - sent), values)
    assert to_wire(values, torch.float32) is values


def test_gamma_codes_are_the_same_with_and_without_levels():
    """A GPU has no way to take one level of bits after the other."""
    numbers = torch.tensor([0, 1, 2, 3, 1000, 2**31 - 1, 5, 0, 4])
    sizes = gamma.bit_lengths(numbers)
    assert sizes.tolist() == [number.bit_length() for number in numbers.tolist()]
    bits = gamma.bits_below(numbers, sizes)
    owners, places = gamma._owners((sizes - 1).clamp(min=0))
    assert torch.equal(bits, (numbers[owners] >> places & 1).to(torch.uint8))
    assert torch.equal(gamma.read(bits, sizes), numbers)


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"index_encoding 'huffman', expected one of auto, dense"):
        WireCoding("huffman")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wire_dtype 'int7', expected one of float32, float16"):
        WireCoding("auto", "int7")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"here: wire_dtype torch.float16, expected one of float"):
        check_dtype("here", torch.float16)  # type: ignore[arg-type]


def test_a_misaligned_message_is_read_all_the_same():
    indices, values = torch.tensor([3, 80]), torch.tensor([1.0, 2.0])
    message = encode(indices, values, 0, 100)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), message])[1:]
    assert torch.equal(decode(shifted, 0, 100)[0], indices)
    every_second = torch.stack([message, message], 1).flatten()[::2]
    assert torch.equal(decode(every_second, 0, 100)[1], values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("count", [0, 3, 600, 70_001])
@pytest.mark.parametrize(("encoding", "dtype"), CODINGS)
def test_a_gpu_makes_the_same_bytes(encoding: IndexEncoding, dtype: WireDtype, count: int):
    length = 50 * count + 70_000
    indices, values = torch.randperm(length)[:count].sort().values, torch.randn(count)
    message = encode(indices, values, 0, length, WireCoding(encoding, dtype))
    on_gpu = encode(indices.cuda(), values.cuda(), 0, length, WireCoding(encoding, dtype))
    assert torch.equal(on_gpu.cpu(), message)
    for found, expected in zip(decode(on_gpu, 0, length), decode(message, 0, length), strict=True):
        assert found.is_cuda
        assert torch.equal(found.cpu(), expected)
