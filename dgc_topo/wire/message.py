"""Encoding and decoding of messages: entries of a run to bytes and back (layout: FORMAT.md)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dgc_topo.wire import indices, rice, small
from dgc_topo.wire.body import GapFacts, with_rice
from dgc_topo.wire.coding import DEFAULT_CODING, VALUE_BYTES, WireCoding
from dgc_topo.wire.format import Plan, WireError, check_run, may_take_rice, plan_of
from dgc_topo.wire.header import open_message, seal
from dgc_topo.wire.layout import Layout, unused_bits_error
from dgc_topo.wire.limits import HEADER_BYTES, MAX_CODE, WORD_BYTES
from dgc_topo.wire.tensors import TORCH_DTYPES, has_kernels


def encode(
    entry_indices: Tensor,
    values: Tensor,
    start: int,
    length: int,
    coding: WireCoding = DEFAULT_CODING,
) -> Tensor:
    """Return the message for entries of the elements ``start .. start + length - 1``.

    Args:
        entry_indices: Shape (n,), int64, strictly ascending, inside the run (trusted).
        values: Shape (n,), float32; rounded to the coding's type.
        start: The run's first element.
        length: Elements in the run.
        coding: Type of the values, and coding of the indices.

    Returns:
        Shape (num_bytes,), uint8, contiguous, 4-byte aligned, on the device of *entry_indices*.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    made = _made_fast(entry_indices, values, start, length, coding)
    if isinstance(made, Tensor):
        return made
    gaps = indices.gaps_of(entry_indices, start)
    if made is None:
        made = _plan_gaps(gaps, entry_indices, start, length, coding)
    words = torch.empty(-(-made.num_bytes // WORD_BYTES), dtype=torch.int32, device=gaps.device)
    if made.num_bytes % WORD_BYTES:
        words[-1] = 0
    message = words.view(torch.uint8)[: made.num_bytes]
    body, dtype = message[HEADER_BYTES:], TORCH_DTYPES[coding.wire_dtype]
    if made.header.encoding == "dense":
        dense = body.view(dtype).zero_()
        dense[entry_indices - start] = values.to(dense.dtype)
    else:
        values_end = VALUE_BYTES[coding.wire_dtype] * len(gaps)
        body[:values_end].view(dtype).copy_(values)
        indices_end = len(body) - made.header.count_bytes
        _write_indices(made, gaps, entry_indices, start, body[values_end:indices_end])
        _write_count(len(gaps), body[indices_end:])
    seal(words, made.header, made.num_bytes, length)
    return message


def encoded_bytes(
    entry_indices: Tensor,
    start: int,
    length: int,
    coding: WireCoding = DEFAULT_CODING,
) -> int:
    """Return the bytes of the message that `encode` would return, without making it."""
    if has_kernels(entry_indices.device) and not may_take_rice(coding):
        from dgc_topo.wire import on_gpu  # noqa: PLC0415 - needs Triton

        return on_gpu.planned(entry_indices, start, length, coding).num_bytes
    gaps = indices.gaps_of(entry_indices, start)
    return _plan_gaps(gaps, entry_indices, start, length, coding).num_bytes


def _made_fast(
    entry_indices: Tensor, values: Tensor, start: int, length: int, coding: WireCoding
) -> Tensor | Plan | None:
    """Return the message where few calls make it; else its plan, if that is known by now."""
    if has_kernels(entry_indices.device):
        if may_take_rice(coding):
            return None
        from dgc_topo.wire import on_gpu  # noqa: PLC0415 - needs Triton

        return on_gpu.encode(entry_indices, values, start, length, coding)
    return small.encode(entry_indices, values, start, length, coding)


def _plan_gaps(
    gaps: Tensor, entry_indices: Tensor, start: int, length: int, coding: WireCoding
) -> Plan:
    """Return the best plan for entries; on a GPU it waits once or twice, seldom more often.

    Args:
        gaps: Of the entries, as `indices.gaps_of`.
        entry_indices: Of the entries.
        start: The run's first element.
        length: Elements of the run.
        coding: What is wanted.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    count = len(gaps)
    if not count:
        return plan_of(GapFacts(0, 0), length, coding)
    largest, last = torch.stack([gaps.max(), entry_indices[-1]]).tolist()
    escapes = 0
    if largest > MAX_CODE:
        escapes = int(torch.div(gaps, MAX_CODE, rounding_mode="floor").sum())
    facts = GapFacts(count, largest, escapes)
    if may_take_rice(coding):
        total = last - start + 1 - count
        facts = with_rice(facts, total, partial(rice.quotient_sums, gaps))
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
            rice.write_rice(gaps, made.header.parameter, into)
        case "int32":
            padding = len(into) - 4 * len(gaps)
            into[:padding] = 0
            into[padding:].view(torch.int32).copy_(entry_indices - start)


def _write_count(count: int, into: Tensor) -> None:
    if len(into):
        number = bytearray(count.to_bytes(len(into), "little"))
        into.copy_(torch.frombuffer(number, dtype=torch.uint8))


def decode(message: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the entries in a message for the elements ``start .. start + length - 1``.

    On a GPU it waits twice: for what the header says, and for whether the indices fit.

    Args:
        message: Any bytes, 1-D uint8.
        start: The run's first element.
        length: Elements in the run.

    Returns:
        Indices, shape (n,), int64, strictly ascending inside the run; and their values, shape
        (n,), float32, possibly a view of *message*.

    Raises:
        WireError: if the message is damaged, of another version, or not for this run.
    """
    check_run(length)
    message = _usable(message)
    layout = open_message(message, length)
    _check_unused(message, layout)
    read = small.decode(message, layout, start, length)
    if read is not None:
        return read
    values = message[HEADER_BYTES : layout.values_end].view(TORCH_DTYPES[layout.header.wire_dtype])
    return _read_indices(layout, message, start, length), values.to(torch.float32)


def _usable(message: Tensor) -> Tensor:
    """Return the message in memory where its numbers can be looked at in place."""
    if message.dtype != torch.uint8 or message.dim() != 1:
        raise WireError(
            f"wire: message of shape {tuple(message.shape)} and {message.dtype}, expected 1-D uint8"
        )
    aligned = message.is_contiguous() and not message.data_ptr() % WORD_BYTES
    return message if aligned else message.clone(memory_format=torch.contiguous_format)


def _check_unused(message: Tensor, layout: Layout) -> None:
    """Refuse bits that are set and belong to nothing.

    Raises:
        WireError: if there are any.
    """
    for place, mask in layout.unused:
        found = int(message[place])
        if found & mask:
            raise unused_bits_error(layout.header, found, mask)


def _read_indices(layout: Layout, message: Tensor, start: int, length: int) -> Tensor:
    """Return the indices, strictly ascending and inside the run."""
    count, coded = layout.entries, message[layout.indices_start : layout.indices_end]
    encoding = layout.header.encoding
    if not count and encoding != "bitmap":
        return torch.empty(0, dtype=torch.int64, device=message.device)
    match encoding:
        case "dense":
            return torch.arange(start, start + length, dtype=torch.int64, device=message.device)
        case "bitmap":
            return indices.read_bitmap(coded, count, start)
        case "int32":
            return indices.read_int32(coded, start, length)
        case "run-length":
            escaped = bool(layout.header.parameter)
            found = indices.read_codes(coded, count, start, escaped=escaped)
        case "rice":
            found = rice.read_rice(coded, count, layout.header.parameter, start)
        case "bit-packed":
            found = indices.read_packed(coded, count, layout.header.parameter, start)
    indices.check_last(encoding, int(found[-1]) - start, length)
    return found
