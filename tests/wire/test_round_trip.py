"""What is encoded comes back, in every encoding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

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
from dgc_topo.wire.decoding import decode
from dgc_topo.wire.encoding import encode, encoded_bytes
from dgc_topo.wire.format import DTYPE_CODES
from dgc_topo.wire.scales import rounded
from dgc_topo.wire.tensors import TORCH_DTYPES, to_wire
from tests.wire import reference
from tests.wire.runs import runs

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"
SMALL = 1 << 20  #: dense messages and bitmaps of longer runs take too much memory for a test


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


def test_neighbours_and_one_far_away_take_gamma_codes_without_low_bits():
    indices = torch.tensor([*range(9), 1000])
    message = encode(indices, torch.ones(10), 0, 1200, WireCoding("rice"))
    assert message[3] == 0x80
    assert torch.equal(decode(message, 0, 1200)[0], indices)


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
