"""Small messages in CPU memory: the same bytes with fewer and cheaper calls.

The cost of a message of some hundred entries is its function calls, and not its bytes; a call of
numpy costs a third of one of torch, or less.  This module handles the common small case: gaps below
65536, as run lengths, packed or Rice-coded.  Everything else takes the general way, which works on
any device.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgc_topo.arrays import IntArray
from dgc_topo.wire import bits, coarse
from dgc_topo.wire.bits import CODE_BITS, Bytes
from dgc_topo.wire.body import GapFacts, RiceCode, padding_bytes
from dgc_topo.wire.coarse import Float32Array
from dgc_topo.wire.coding import VALUE_BITS, IndexChoice, WireCoding, WireDtype
from dgc_topo.wire.format import Plan, may_take_rice, plan_of
from dgc_topo.wire.header import seal_words
from dgc_topo.wire.indices import check_last
from dgc_topo.wire.limits import HEADER_BYTES, MAX_CODE, SCALE_BYTES, WORD_BYTES
from dgc_topo.wire.packing import gaps_of
from dgc_topo.wire.parts import Layout
from dgc_topo.wire.rice_choice import code_bits, gamma_code, least_unary_bits, unary_low_bits
from dgc_topo.wire.scales import Scales
from dgc_topo.wire.tensors import TORCH_DTYPES

MAX_ENTRIES = bits.MOST  #: above, eight numbers at a time are faster than bit after bit
_WRITTEN = {"run-length", "bit-packed", "rice"}


class _Gaps(NamedTuple):
    """Gaps of a message, what decides how they are coded, and the bits of each, if they do."""

    gaps: IntArray
    facts: GapFacts
    sizes: Bytes | None = None


def encode(  # as `encoding.encode`
    entry_indices: Tensor,
    values: Tensor,
    start: int,
    length: int,
    coding: WireCoding,
    scales: Scales | None,
) -> Tensor | None:
    """Return the message that `encoding.encode` would make, or None if it takes the general way.

    Coarse values need their *scales* for it.
    """
    count = entry_indices.shape[0]
    if count > MAX_ENTRIES or not entry_indices.is_cpu:
        return None
    places, packed = entry_indices.numpy(), None
    if coding.is_coarse:
        if scales is None:
            return None
        table, own = coarse.table_of(scales), values.numpy()
        packed, wire_dtype = coarse.steps_of(places, own, table, scales.bounds, coding.wire_dtype)
        coding = _coding(coding.index_encoding, wire_dtype)
    found = _gaps_of(places, start, may_take_rice=may_take_rice(coding))
    if found is None:
        return None
    facts = found.facts if scales is None else found.facts._replace(sections=len(scales.low))
    plan = plan_of(facts, length, coding)
    if plan.header.encoding not in _WRITTEN:
        return None
    words = np.empty(-(-plan.num_bytes // WORD_BYTES), np.int32)
    words[-1] = 0
    raw = words.view(np.uint8)[: plan.num_bytes]
    if packed is None:
        end = HEADER_BYTES + (VALUE_BITS[coding.wire_dtype] // 8) * count
        _write_values(values, coding.wire_dtype, raw[HEADER_BYTES:end])
    else:
        end = _write_coarse(packed, table, plan, raw)
    count_bytes = plan.header.count_bytes
    _write_gaps(found, plan, raw[end : plan.num_bytes - count_bytes])
    if count_bytes:
        raw.data[-count_bytes:] = count.to_bytes(count_bytes, "little")
    seal_words(words, plan.header, plan.num_bytes, length)
    return torch.from_numpy(raw)


def decode(
    message: Tensor, layout: Layout, start: int, length: int, bounds: tuple[int, ...]
) -> tuple[Tensor, Tensor, Scales | None] | None:
    """Return the entries that `decoding.decode_scaled` reads, or None if it takes the general way.

    Raises:
        WireError: if an index is outside the run.
    """
    if not 0 < layout.entries <= MAX_ENTRIES or not message.is_cpu:
        return None
    raw = message.numpy()
    found = _read_indices(raw[layout.indices_start : layout.indices_end], layout, start, length)
    if found is None:
        return None
    check_last(layout.header.encoding, int(found[-1]) - start, length)
    wire_dtype, scales = layout.header.wire_dtype, None
    packed = raw[layout.values_start : layout.values_end]
    if wire_dtype == "float32":
        values = torch.from_numpy(packed.view(np.float32))
    elif wire_dtype in TORCH_DTYPES:
        held = message[HEADER_BYTES : layout.values_end].view(TORCH_DTYPES[wire_dtype])
        values = held.to(torch.float32)
    else:
        scaled = coarse.values_in(
            packed, found, raw[HEADER_BYTES : layout.values_start], bounds, wire_dtype
        )
        if scaled is None:
            return None
        values, scales = torch.from_numpy(scaled[0]), scaled[1]
    return torch.from_numpy(found), values, scales


@lru_cache(maxsize=64)
def _coding(index_encoding: IndexChoice, wire_dtype: WireDtype) -> WireCoding:
    return WireCoding(index_encoding, wire_dtype)


def _gaps_of(places: IntArray, start: int, *, may_take_rice: bool) -> _Gaps | None:
    """Return the elements without an entry before each of *places*; None if one is too large."""
    count, gaps = len(places), gaps_of(places, start)
    if not count:
        return _Gaps(gaps, GapFacts(0, 0))
    if not may_take_rice:
        largest = int(gaps.max())
        return _Gaps(gaps, GapFacts(count, largest)) if largest <= MAX_CODE else None
    try:
        sizes = bits.SIZES.take(gaps)
    except IndexError:
        return None
    counts: list[int] = np.bincount(sizes).tolist()
    largest = (1 << len(counts) - 1) - 1  # or another of so many bits
    rice = _rice_of(gaps, counts, int(places[-1]) - start + 1 - count)
    return _Gaps(gaps, GapFacts(count, largest, rice=rice), sizes)


def _rice_of(gaps: IntArray, counts: list[int], total: int) -> RiceCode:
    """Return the shorter Rice code of gaps of *total* elements, of which each size has *counts*."""
    count = len(gaps)
    gamma, low_bits = gamma_code(count, counts), unary_low_bits(count, total)
    by_gamma = code_bits(gamma, count)
    if least_unary_bits(count, counts, low_bits) > by_gamma:
        return gamma
    unary = RiceCode(low_bits, False, count + int((gaps >> low_bits).sum()))
    return gamma if by_gamma < code_bits(unary, count) else unary


def _write_values(values: Tensor, wire_dtype: WireDtype, into: Bytes) -> None:
    if wire_dtype == "float32":
        into.view(np.float32)[:] = values.numpy()
    else:
        torch.from_numpy(into).view(TORCH_DTYPES[wire_dtype]).copy_(values)


def _write_coarse(packed: Bytes, table: Float32Array, plan: Plan, raw: Bytes) -> int:
    """Write scales, values and what aligns indices; return where these begin."""
    begin = HEADER_BYTES + SCALE_BYTES * len(table)
    end = begin + len(packed)
    coarse.write_table(table, raw[HEADER_BYTES:begin])
    raw[begin:end] = packed
    padding = padding_bytes(plan.header.encoding, plan.header.wire_dtype, end)
    raw[end : end + padding] = 0
    return end + padding


def _write_gaps(found: _Gaps, plan: Plan, into: Bytes) -> None:
    parameter = plan.header.parameter
    if plan.header.encoding == "bit-packed":
        bits.write_packed(found.gaps, parameter, into)
    elif plan.header.encoding == "run-length":
        into.view(np.uint16)[:] = found.gaps
    elif plan.header.is_gamma and found.sizes is not None:
        bits.write_gamma(found.gaps, found.sizes, parameter, into)
    elif len(found.gaps):
        bits.write_unary(found.gaps, parameter, into)


def _read_indices(coded: Bytes, layout: Layout, start: int, length: int) -> IntArray | None:
    encoding, _, parameter, _, is_gamma = layout.header
    if parameter > CODE_BITS:
        return None
    gaps: IntArray | None = None
    if encoding == "rice":
        if not is_gamma:
            return bits.read_unary(coded, layout.entries, parameter, start)
        gaps = bits.read_gamma(coded, layout.entries, parameter, length)
    elif encoding == "run-length" and not parameter:
        gaps = coded.view(np.uint16).astype(np.int64)
    elif encoding == "bit-packed":
        gaps = bits.read_packed(coded, layout.entries, parameter)
    return None if gaps is None else bits.indices_of(gaps, start)
