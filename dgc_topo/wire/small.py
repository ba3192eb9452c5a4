"""Small messages in CPU memory: the same bytes with fewer and cheaper calls.

The cost of a message of some hundred entries is its function calls, and not its bytes; a call of
numpy costs a third of one of torch, or less.  This module handles the common small case: gaps below
65536, as run lengths, packed or Rice-coded.  Everything else takes the general way, which works on
any device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dgc_topo.arrays import IntArray
from dgc_topo.wire.body import GapFacts, packed_bytes, with_rice
from dgc_topo.wire.coding import VALUE_BITS, IndexEncoding, WireCoding
from dgc_topo.wire.format import may_take_rice, plan_of
from dgc_topo.wire.header import seal_words
from dgc_topo.wire.indices import check_last
from dgc_topo.wire.limits import HEADER_BYTES, MAX_CODE, WORD_BYTES
from dgc_topo.wire.parts import Layout
from dgc_topo.wire.rice import check_ends, few_quotient_sums
from dgc_topo.wire.tensors import TORCH_DTYPES

Bytes = npt.NDArray[np.uint8]

MAX_ENTRIES = 512  #: above, eight numbers at a time are faster than bit after bit
_CODE_BITS = 16


def encode(
    entry_indices: Tensor, values: Tensor, start: int, length: int, coding: WireCoding
) -> Tensor | None:
    """Return the message that `message.encode` would make, or None if it takes the general way."""
    count = len(entry_indices)
    if count > MAX_ENTRIES or entry_indices.device.type != "cpu" or coding.is_coarse:
        return None
    gaps = _gaps_of(entry_indices.numpy(), start)
    largest = int(gaps.max(initial=0))
    if largest > MAX_CODE:
        return None
    facts = GapFacts(count, largest)
    if may_take_rice(coding) and count:
        total = int(entry_indices[-1]) - start + 1 - count
        facts = with_rice(facts, total, partial(few_quotient_sums, gaps))
    header, _, num_bytes = plan_of(facts, length, coding)
    if header.encoding not in _CODED:
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
    _CODED[header.encoding](
        gaps, header.parameter, raw[values_end : num_bytes - header.count_bytes]
    )
    if header.count_bytes:
        raw[-header.count_bytes :] = list(count.to_bytes(header.count_bytes, "little"))
    seal_words(words, header, num_bytes, length)
    return torch.from_numpy(raw)


def decode(
    message: Tensor, layout: Layout, start: int, length: int
) -> tuple[Tensor, Tensor] | None:
    """Return the entries that `message.decode` reads, or None if it takes the general way.

    Raises:
        WireError: if an index is outside the run.
    """
    encoding, wire_dtype, parameter, _ = layout.header
    if not 0 < layout.entries <= MAX_ENTRIES or message.device.type != "cpu":
        return None
    if wire_dtype not in TORCH_DTYPES:
        return None
    raw = message.numpy()
    coded = raw[layout.indices_start : layout.indices_end]
    if encoding == "rice" and parameter <= _CODE_BITS:
        found = _from_rice(coded, layout.entries, parameter)
    elif encoding == "run-length" and not parameter:
        found = coded.view(np.uint16).astype(np.int64)
    elif encoding == "bit-packed" and parameter <= _CODE_BITS:
        found = _unpacked(coded, layout.entries, parameter)
    else:
        return None
    found += 1
    np.cumsum(found, out=found)
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


def _write_run_lengths(gaps: IntArray, _: int, into: Bytes) -> None:
    into.view(np.uint16)[:] = gaps.astype(np.uint16)


def _write_packed(gaps: IntArray, width: int, into: Bytes) -> None:
    if width:  # gaps of 0 bits are nothing to write
        into[:] = _packed(gaps.astype(np.uint16), width)


def _write_rice(gaps: IntArray, low_bits: int, into: Bytes) -> None:
    low_bytes = packed_bytes(len(gaps), low_bits)
    _write_packed(gaps, low_bits, into[:low_bytes])
    ends = (gaps >> low_bits) + 1
    np.cumsum(ends, out=ends)
    flags = np.zeros(8 * (len(into) - low_bytes), np.uint8)
    flags[ends - 1] = 1
    into[low_bytes:] = np.packbits(flags, bitorder="little")


_CODED: dict[IndexEncoding, Callable[[IntArray, int, Bytes], None]] = {
    "run-length": _write_run_lengths,
    "bit-packed": _write_packed,
    "rice": _write_rice,
}


def _from_rice(coded: Bytes, count: int, low_bits: int) -> IntArray:
    """Return *count* Rice-coded gaps.

    Raises:
        WireError: if there are more or fewer quotients.
    """
    low_bytes = packed_bytes(count, low_bits)
    ends = np.flatnonzero(np.unpackbits(coded[low_bytes:], bitorder="little"))
    check_ends(len(ends), count, int(coded[-1]))
    gaps = _unpacked(coded[:low_bytes], count, low_bits)
    ends[1:] -= ends[:-1] + 1
    ends <<= low_bits
    gaps += ends
    return gaps


def _packed(codes: npt.NDArray[np.uint16], width: int) -> Bytes:
    """Return numbers of *width* bits, 1 to 16, packed."""
    bits = np.unpackbits(codes.view(np.uint8), bitorder="little").reshape(-1, _CODE_BITS)
    return np.packbits(bits[:, :width], bitorder="little")


def _unpacked(packed: Bytes, count: int, width: int) -> IntArray:
    """Return *count* numbers of *width* bits each, 0 to 16."""
    bits = np.zeros((count, _CODE_BITS), np.uint8)
    if width:
        flags = np.unpackbits(packed, count=count * width, bitorder="little")
        bits[:, :width] = flags.reshape(count, width)
    return np.packbits(bits, bitorder="little").view(np.uint16).astype(np.int64)
