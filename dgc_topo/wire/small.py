"""Small messages in CPU memory: the same bytes with fewer and cheaper calls.

The cost of a message of some hundred entries is its function calls, and not its bytes; a call of
numpy costs a third of one of torch, or less.  This module handles the common small case: gaps below
65536, as run lengths, packed or Rice-coded.  Everything else takes the general way, which works on
any device.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgc_topo.arrays import IntArray
from dgc_topo.wire.body import GapFacts, RiceCode, packed_bytes
from dgc_topo.wire.coding import VALUE_BITS, WireCoding
from dgc_topo.wire.format import may_take_rice, plan_of
from dgc_topo.wire.gamma import GammaFacts, check, check_number
from dgc_topo.wire.header import seal_words
from dgc_topo.wire.indices import check_last
from dgc_topo.wire.limits import HEADER_BYTES, MAX_CODE, WORD_BYTES
from dgc_topo.wire.parts import Layout
from dgc_topo.wire.rice import check_ends
from dgc_topo.wire.rice_choice import code_bits, gamma_code, unary_low_bits
from dgc_topo.wire.tensors import TORCH_DTYPES

Bytes = npt.NDArray[np.uint8]

MAX_ENTRIES = 2048  #: above, eight numbers at a time are faster than bit after bit
_WRITTEN = {"run-length", "bit-packed", "rice"}
_CODE_BITS = 16
_PLACES = np.arange(_CODE_BITS + 1)
_NUMBERS = np.arange(MAX_ENTRIES)
#: Bits of each number of 16 bits.
_SIZES = np.repeat(_PLACES, np.maximum(1 << _PLACES >> 1, 1)).astype(np.uint8)
#: The places below the highest bit of numbers of 0 to 16 bits, and the value of that bit.
_BELOW = _PLACES[:-1] < (_PLACES - 1)[:, None]
_HIGHEST = 1 << _PLACES >> 1


def encode(
    entry_indices: Tensor, values: Tensor, start: int, length: int, coding: WireCoding
) -> Tensor | None:
    """Return the message that `message.encode` would make, or None if it takes the general way."""
    count = entry_indices.shape[0]
    if count > MAX_ENTRIES or entry_indices.device.type != "cpu" or coding.is_coarse:
        return None
    places = entry_indices.numpy()
    gaps = _gaps_of(places, start)
    facts = _facts_of(gaps, start, places, may_take_rice(coding))
    if facts is None:
        return None
    header, _, num_bytes = plan_of(facts, length, coding)
    if header.encoding not in _WRITTEN:
        return None
    words = np.empty(-(-num_bytes // WORD_BYTES), np.int32)
    words[-1] = 0
    raw = words.view(np.uint8)[:num_bytes]
    values_end = HEADER_BYTES + (VALUE_BITS[coding.wire_dtype] // 8) * count
    if coding.wire_dtype == "float32":
        raw[HEADER_BYTES:values_end].view(np.float32)[:] = values.numpy()
    else:
        held = torch.from_numpy(raw[HEADER_BYTES:values_end])
        held.view(TORCH_DTYPES[coding.wire_dtype]).copy_(values)
    into = raw[values_end : num_bytes - header.count_bytes]
    if header.encoding == "rice":
        _write_rice(gaps, header.parameter, into, is_gamma=header.is_gamma)
    elif header.encoding == "bit-packed":
        _write_packed(gaps, header.parameter, into)
    else:
        into.view(np.uint16)[:] = gaps
    if header.count_bytes:
        raw.data[-header.count_bytes :] = count.to_bytes(header.count_bytes, "little")
    seal_words(words, header, num_bytes, length)
    return torch.from_numpy(raw)


def decode(
    message: Tensor, layout: Layout, start: int, length: int
) -> tuple[Tensor, Tensor] | None:
    """Return the entries that `message.decode` reads, or None if it takes the general way.

    Raises:
        WireError: if an index is outside the run.
    """
    encoding, wire_dtype, parameter, _, is_gamma = layout.header
    if not 0 < layout.entries <= MAX_ENTRIES or message.device.type != "cpu":
        return None
    if wire_dtype not in TORCH_DTYPES:
        return None
    raw = message.numpy()
    coded = raw[layout.indices_start : layout.indices_end]
    if encoding == "rice" and parameter <= _CODE_BITS:
        read = _from_gamma if is_gamma else _from_unary
        found = read(coded, layout.entries, parameter, length)
    elif encoding == "run-length" and not parameter:
        found = coded.view(np.uint16).astype(np.int64)
    elif encoding == "bit-packed" and parameter <= _CODE_BITS:
        found = _unpacked(coded, layout.entries, parameter)
    else:
        return None
    if found is None:
        return None
    found += 1
    found.cumsum(out=found)
    found += start - 1
    check_last(encoding, int(found[-1]) - start, length)
    if wire_dtype == "float32":
        values = torch.from_numpy(raw[HEADER_BYTES : layout.values_end].view(np.float32))
    else:
        held = message[HEADER_BYTES : layout.values_end].view(TORCH_DTYPES[wire_dtype])
        values = held.to(torch.float32)
    return torch.from_numpy(found), values


def _gaps_of(indices: IntArray, start: int) -> IntArray:
    """Return the elements without an entry before each of *indices*."""
    gaps = np.empty_like(indices)
    gaps[:1] = indices[:1] - start
    np.subtract(indices[1:], indices[:-1], out=gaps[1:])
    gaps[1:] -= 1
    return gaps


def _facts_of(gaps: IntArray, start: int, places: IntArray, may_take_rice: bool) -> GapFacts | None:
    """Return what decides how gaps are coded; None if one of them is too large here."""
    count = len(gaps)
    if not count:
        return GapFacts(0, 0)
    if not may_take_rice:
        largest = int(gaps.max())
        return GapFacts(count, largest) if largest <= MAX_CODE else None
    try:
        sizes = _SIZES.take(gaps)
    except IndexError:
        return None
    counts = np.bincount(sizes).tolist()
    low_bits = unary_low_bits(count, int(places[-1]) - start + 1 - count)
    unary = RiceCode(low_bits, False, count + int((gaps >> low_bits).sum()))
    gamma = gamma_code(count, counts)
    rice = gamma if code_bits(gamma, count) < code_bits(unary, count) else unary
    largest = (1 << len(counts) - 1) - 1  # or another of so many bits
    return GapFacts(count, largest, rice=rice)


def _write_packed(gaps: IntArray, width: int, into: Bytes) -> None:
    if width:  # gaps of 0 bits are nothing to write
        into[:] = np.packbits(_bits_of(gaps)[:, :width], bitorder="little")


def _write_rice(gaps: IntArray, low_bits: int, into: Bytes, *, is_gamma: bool) -> None:
    count = len(gaps)
    bits, flags = _bits_of(gaps), np.zeros(8 * len(into), np.uint8)
    if low_bits:
        flags[: count * low_bits].reshape(count, low_bits)[:] = bits[:, :low_bits]
    quotients = gaps >> low_bits
    if is_gamma:
        sizes = _SIZES.take(quotients)
        below = _BELOW.take(sizes, 0)[:, : max(int(sizes.max()) - 1, 0)]
        ends = sizes.cumsum(dtype=np.int64)  # of bytes it would be unsigned
    else:
        ends = quotients.cumsum()
    ends += _NUMBERS[:count]
    ends += 8 * packed_bytes(count, low_bits)
    flags[ends] = 1
    if is_gamma:
        rest = bits[:, low_bits : low_bits + below.shape[1]][below]
        end = int(ends[-1]) + 1
        flags[end : end + len(rest)] = rest
    into[:] = np.packbits(flags, bitorder="little")


def _bits_of(gaps: IntArray) -> Bytes:
    """Return the bits of gaps below 65536, the lowest first, shape (n, 16)."""
    codes = gaps.astype(np.uint16).view(np.uint8)
    return np.unpackbits(codes, bitorder="little").reshape(-1, _CODE_BITS)


def _from_unary(coded: Bytes, count: int, low_bits: int, _: int) -> IntArray:
    """Return *count* gaps of Rice codes whose quotients are unary.

    Raises:
        WireError: if there are more or fewer quotients.
    """
    flags = np.unpackbits(coded, bitorder="little")
    (ends,) = flags[8 * packed_bytes(count, low_bits) :].view(np.bool_).nonzero()
    check_ends(len(ends), count, coded.item(-1))
    gaps = _numbers(_low_bits(flags, count, low_bits))
    ends[1:] -= ends[:-1] + 1
    ends <<= low_bits
    gaps += ends
    return gaps


def _from_gamma(coded: Bytes, count: int, low_bits: int, length: int) -> IntArray | None:
    """Return *count* gaps of Rice codes whose quotients are gamma codes; None if one is too large.

    Raises:
        WireError: as `rice.read_rice`.
    """
    flags, low_bytes = np.unpackbits(coded, bitorder="little"), packed_bytes(count, low_bits)
    plane = flags[8 * low_bytes :]
    (found,) = plane.view(np.bool_).nonzero()
    check_number(len(found), count)
    sizes = found[:count].copy()
    end, last = found.item(count - 1) + 1, found.item(-1)
    sizes[1:] -= found[: count - 1] + 1
    largest = int(sizes.max())
    facts = GammaFacts(count, int(np.count_nonzero(sizes)), largest, end, last)
    rest_end = check(facts, (length - count >> low_bits).bit_length(), len(coded) - low_bytes)
    if low_bits + largest > _CODE_BITS:
        return None
    bits = _low_bits(flags, count, low_bits)
    if largest > 1:
        above = bits[:, low_bits : low_bits + largest - 1]
        above[_BELOW.take(sizes, 0)[:, : largest - 1]] = plane[end:rest_end]
    gaps = _numbers(bits)
    gaps += (_HIGHEST << low_bits).take(sizes)
    return gaps


def _unpacked(packed: Bytes, count: int, width: int) -> IntArray:
    """Return *count* numbers of *width* bits each, 0 to 16."""
    return _numbers(_low_bits(np.unpackbits(packed, bitorder="little"), count, width))


def _low_bits(flags: Bytes, count: int, width: int) -> Bytes:
    """Return the bits of *count* numbers, of which *flags* begins with *width* each."""
    bits = np.zeros((count, _CODE_BITS), np.uint8)
    if width:
        bits[:, :width] = flags[: count * width].reshape(count, width)
    return bits


def _numbers(bits: Bytes) -> IntArray:
    """Return the numbers whose bits these are, shape (n,), from shape (n, 16)."""
    return np.packbits(bits, bitorder="little").view(np.uint16).astype(np.int64)
