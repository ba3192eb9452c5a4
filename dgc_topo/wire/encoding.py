"""Encoding of messages: entries of a run to bytes (layout: FORMAT.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.wire import coarse, indices, rice, small, tensors
from dgc_topo.wire.body import GapFacts, padding_bytes
from dgc_topo.wire.coding import DEFAULT_CODING, VALUE_BITS, WireCoding, WireDtype
from dgc_topo.wire.format import Plan, may_take_rice, plan_of, suits_kernels
from dgc_topo.wire.header import seal
from dgc_topo.wire.limits import HEADER_BYTES, MAX_CODE, SCALE_BYTES, WORD_BYTES
from dgc_topo.wire.scales import (
    MOST_LEVEL,
    Scales,
    levels_of,
    narrowest,
    pack_values,
    rounded,
    sections_of,
)
from dgc_topo.wire.tensors import TORCH_DTYPES, has_kernels


def encode(
    entry_indices: Tensor,
    values: Tensor,
    start: int,
    length: int,
    coding: WireCoding = DEFAULT_CODING,
    scales: Scales | None = None,
) -> Tensor:
    """Return the message for entries of the elements ``start .. start + length - 1``.

    Args:
        entry_indices: Shape (n,), int64, strictly ascending, inside the run (trusted).
        values: Shape (n,), float32; rounded to the coding's type.
        start: The run's first element.
        length: Elements in the run.
        coding: Type of the values, and coding of the indices.
        scales: Scales that the values are steps of, if they are coarse; by default one for all of
            them is found.  Steps that the coding's type cannot count take the next wider one.

    Returns:
        Shape (num_bytes,), uint8, contiguous, 4-byte aligned, on the device of *entry_indices*.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    made = _made_fast(entry_indices, values, start, length, coding, scales)
    if isinstance(made, Tensor):
        return made
    sections, coarse = 1, None
    if coding.is_coarse:
        coarse = _steps(entry_indices, values, coding.wire_dtype, scales)
        sections, coding = len(coarse.table), replace(coding, wire_dtype=coarse.wire_dtype)
    gaps = indices.gaps_of(entry_indices, start)
    if made is None:
        made = _plan_gaps(gaps, entry_indices, start, length, coding, sections)
    words = torch.empty(-(-made.num_bytes // WORD_BYTES), dtype=torch.int32, device=gaps.device)
    if made.num_bytes % WORD_BYTES:
        words[-1] = 0
    message = words.view(torch.uint8)[: made.num_bytes]
    body = message[HEADER_BYTES:]
    if made.header.encoding == "dense":
        dense = body.view(TORCH_DTYPES[coding.wire_dtype]).zero_()
        dense[entry_indices - start] = values.to(dense.dtype)
    else:
        end = _write_values(values, coarse, coding, body)
        padding = padding_bytes(made.header.encoding, coding.wire_dtype, end)
        body[end : end + padding] = 0
        indices_end = len(body) - made.header.count_bytes
        _write_indices(made, gaps, entry_indices, start, body[end + padding : indices_end])
        _write_count(len(gaps), body[indices_end:])
    seal(words, made.header, made.num_bytes, length)
    return message


class _Steps(NamedTuple):
    """Coarse values as they travel: two numbers for each section, and the steps as bytes."""

    table: Tensor
    steps: Tensor
    wire_dtype: WireDtype


def _steps(
    entry_indices: Tensor, values: Tensor, wire_dtype: WireDtype, scales: Scales | None
) -> _Steps:
    if scales is None:
        values, scales = rounded(entry_indices, values, (), wire_dtype)
    if tensors.in_numpy(values):
        places, own = entry_indices.numpy(), values.numpy()
        table = coarse.table_of(scales)
        found, wire_dtype = coarse.steps_of(places, own, table, scales.bounds, wire_dtype)
        return _Steps(torch.from_numpy(table), torch.from_numpy(found), wire_dtype)
    sections = sections_of(entry_indices, scales.bounds)
    levels = levels_of(values, scales, sections, MOST_LEVEL)
    wire_dtype = narrowest(levels, wire_dtype)
    steps = pack_values(levels, values.signbit(), wire_dtype)
    return _Steps(torch.stack([scales.low, scales.step], 1), steps, wire_dtype)


def _write_values(values: Tensor, coarse: _Steps | None, coding: WireCoding, into: Tensor) -> int:
    """Write values, with their scales if they have any, and return the bytes that they take."""
    if coarse is None:
        end = VALUE_BITS[coding.wire_dtype] // 8 * len(values)
        into[:end].view(TORCH_DTYPES[coding.wire_dtype]).copy_(values)
        return end
    begin = SCALE_BYTES * len(coarse.table)
    end = begin + len(coarse.steps)
    into[:begin].view(torch.bfloat16).copy_(coarse.table.view(-1))
    into[begin:end] = coarse.steps
    return end


def encoded_bytes(
    entry_indices: Tensor,
    start: int,
    length: int,
    coding: WireCoding = DEFAULT_CODING,
    sections: int = 1,
) -> int:
    """Return the bytes of the message that `encode` would return, without making it.

    Args:
        entry_indices: Of the entries.
        start: The run's first element.
        length: Elements in the run.
        coding: Type of the values, if no section takes a wider one; and coding of the indices.
        sections: Sections with a scale, if values are coarse.
    """
    if has_kernels(entry_indices.device) and suits_kernels(coding):
        from dgc_topo.wire import on_gpu  # noqa: PLC0415 - needs Triton

        return on_gpu.planned(entry_indices, start, length, coding).num_bytes
    gaps = indices.gaps_of(entry_indices, start)
    return _plan_gaps(gaps, entry_indices, start, length, coding, sections).num_bytes


def or_dense(coding: WireCoding, entry_indices: Tensor, start: int, length: int) -> WireCoding:
    """Return a coding, or the dense one of the same type if a message of it is smaller.

    Coarse values cannot be dense.  Arguments are those of `encoded_bytes`.
    """
    if coding.is_coarse or coding.index_encoding in {"auto", "dense"}:
        return coding
    dense = replace(coding, index_encoding="dense")
    both = coding, dense
    return min(both, key=lambda each: encoded_bytes(entry_indices, start, length, each))


def _made_fast(  # as `encode`
    entry_indices: Tensor,
    values: Tensor,
    start: int,
    length: int,
    coding: WireCoding,
    scales: Scales | None,
) -> Tensor | Plan | None:
    """Return the message where few calls make it; else its plan, if that is known by now."""
    if has_kernels(entry_indices.device):
        if not suits_kernels(coding):
            return None
        from dgc_topo.wire import on_gpu  # noqa: PLC0415 - needs Triton

        return on_gpu.encode(entry_indices, values, start, length, coding)
    return small.encode(entry_indices, values, start, length, coding, scales)


def _plan_gaps(
    gaps: Tensor, entry_indices: Tensor, start: int, length: int, coding: WireCoding, sections: int
) -> Plan:
    """Return the best plan for entries; on a GPU it waits once or twice, seldom more often.

    Args:
        gaps: Of the entries, as `indices.gaps_of`.
        entry_indices: Of the entries.
        start: The run's first element.
        length: Elements of the run.
        coding: What is wanted.
        sections: Sections with a scale, if values are coarse.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    count = len(gaps)
    if not count:
        return plan_of(GapFacts(0, 0, sections=sections), length, coding)
    if tensors.in_numpy(gaps):
        largest, last = int(gaps.numpy().max()), entry_indices.numpy().item(-1)
    else:
        largest, last = torch.stack([gaps.max(), entry_indices[-1]]).tolist()
    escapes = 0
    if largest > MAX_CODE:
        escapes = int(torch.div(gaps, MAX_CODE, rounding_mode="floor").sum())
    facts = GapFacts(count, largest, escapes, sections=sections)
    if may_take_rice(coding):
        facts = facts._replace(rice=rice.best_rice(gaps, last - start + 1 - count))
    return plan_of(facts, length, coding)


def _write_indices(
    made: Plan, gaps: Tensor, entry_indices: Tensor, start: int, into: Tensor
) -> None:
    match made.header.encoding:
        case "run-length":
            indices.write_codes(gaps, made.escapes, into)
        case "bit-packed":
            indices.write_packed(gaps, made.header.parameter, into)
        case "bitmap":
            indices.pack_plane(entry_indices - start, into)
        case "rice":
            rice.write_rice(gaps, made.header.parameter, into, is_gamma=made.header.is_gamma)
        case "int32":
            padding = len(into) - 4 * len(gaps)
            into[:padding] = 0
            into[padding:].view(torch.int32).copy_(entry_indices - start)


def _write_count(count: int, into: Tensor) -> None:
    if len(into):
        number = bytearray(count.to_bytes(len(into), "little"))
        into.copy_(torch.frombuffer(number, dtype=torch.uint8))
