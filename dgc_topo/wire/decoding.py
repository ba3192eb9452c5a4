"""Decoding of messages: bytes to the entries of a run (layout: FORMAT.md)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.wire import coarse, indices, rice, small, tensors
from dgc_topo.wire.format import WireError, check_run
from dgc_topo.wire.header import open_message
from dgc_topo.wire.limits import HEADER_BYTES, WORD_BYTES
from dgc_topo.wire.parts import Layout, unused_bits_error
from dgc_topo.wire.scales import Scales, sections_of, unpack_values, values_of
from dgc_topo.wire.tensors import TORCH_DTYPES


class Decoded(NamedTuple):
    """Entries of a message.

    Attributes:
        indices: Shape (n,), int64, strictly ascending inside the run.
        values: Shape (n,), float32, possibly a view of the message.
        scales: Scales of the values, if they are coarse.
    """

    indices: Tensor
    values: Tensor
    scales: Scales | None


def decode(
    message: Tensor, start: int, length: int, bounds: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Return the indices and values in a message, see `decode_scaled`."""
    found, values, _ = decode_scaled(message, start, length, bounds)
    return found, values


def decode_scaled(
    message: Tensor, start: int, length: int, bounds: tuple[int, ...] = ()
) -> Decoded:
    """Return the entries in a message for the elements ``start .. start + length - 1``.

    On a GPU it waits twice: for what the header says, and for whether the indices fit.

    Args:
        message: Any bytes, 1-D uint8.
        start: The run's first element.
        length: Elements in the run.
        bounds: Elements inside the run at which a section with a scale of its own begins.

    Raises:
        WireError: if the message is damaged, of another version, or not for this run.
    """
    check_run(length)
    message = _usable(message)
    layout = open_message(message, length, len(bounds) + 1)
    _check_unused(message, layout)
    read = small.decode(message, layout, start, length, bounds)
    if read is not None:
        return Decoded(*read)
    found = _read_indices(layout, message, start, length)
    values = message[layout.values_start : layout.values_end]
    dtype = layout.header.wire_dtype
    if dtype in TORCH_DTYPES:
        return Decoded(found, values.view(TORCH_DTYPES[dtype]).to(torch.float32), None)
    coded = message[HEADER_BYTES : layout.values_start]
    if tensors.in_numpy(message):
        scaled = coarse.values_in(values.numpy(), found.numpy(), coded.numpy(), bounds, dtype)
        if scaled is not None:
            return Decoded(found, torch.from_numpy(scaled[0]), scaled[1])
    low, step = coded.view(torch.bfloat16).to(torch.float32).view(-1, 2).unbind(1)
    scales = Scales(bounds, low.contiguous(), step.contiguous())
    levels, negative = unpack_values(values, layout.entries, dtype)
    return Decoded(found, values_of(levels, negative, scales, sections_of(found, bounds)), scales)


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
    is_here = message.device.type == "cpu"
    for place, mask in layout.unused:
        found = message.numpy().item(place) if is_here else int(message[place])
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
            low_bits, is_gamma = layout.header.parameter, layout.header.is_gamma
            found = rice.read_rice(coded, count, low_bits, (start, length), is_gamma=is_gamma)
        case "bit-packed":
            found = indices.read_packed(coded, count, layout.header.parameter, start)
    indices.check_last(encoding, int(found[-1]) - start, length)
    return found
