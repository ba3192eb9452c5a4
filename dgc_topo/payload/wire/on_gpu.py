"""Messages on a GPU: the same bytes with few launches, by kernels that need Triton.

A message of some ten thousand entries costs not what it moves but what it launches, some 10 us
each.  Written here, one takes two launches and one wait.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dgc_topo.coding import HEADER_BYTES, MAX_CODE, WireDtype
from dgc_topo.payload.wire import kernels
from dgc_topo.payload.wire.header import WORD_BYTES, sealing
from dgc_topo.payload.wire.plan import Coding, Plan, plan_of

_ELEMENTS: dict[WireDtype, object] = {
    "float32": tl.float32,
    "float16": tl.float16,
    "bfloat16": tl.bfloat16,
}
_CODE_BITS = 16


def encode(
    entry_indices: Tensor, values: Tensor, start: int, length: int, coding: Coding
) -> Tensor | Plan:
    """Return the message that `message.encode` would make, or its plan: that goes the general way.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    entry_indices = entry_indices.contiguous()
    with _device_of(entry_indices):
        made, facts = _measured(entry_indices, start, length, coding)
        encoding, _, parameter = made.header
        if encoding == "bit-packed":
            width = parameter
        elif encoding == "run-length" and not parameter:
            width = _CODE_BITS
        else:
            return made
        num_words = -(-made.num_bytes // WORD_BYTES)
        message = torch.empty(WORD_BYTES * num_words, dtype=torch.uint8, device=facts.device)
        body_words = num_words - HEADER_BYTES // WORD_BYTES
        kernels.write[_grid(body_words)](
            entry_indices,
            values.contiguous(),
            message,
            facts,
            len(entry_indices),
            start,
            body_words,
            width,
            *sealing(made.header, made.num_bytes, length),
            element=_ELEMENTS[coding.wire_dtype],
            block=kernels.BLOCK,
        )
    return message[: made.num_bytes] if made.num_bytes % WORD_BYTES else message


def planned(entry_indices: Tensor, start: int, length: int, coding: Coding) -> Plan:
    """Return how entries are coded best, waiting once.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    entry_indices = entry_indices.contiguous()
    with _device_of(entry_indices):
        return _measured(entry_indices, start, length, coding)[0]


def _measured(
    entry_indices: Tensor, start: int, length: int, coding: Coding
) -> tuple[Plan, Tensor]:
    """Return how entries are coded best, and the numbers that the kernels share."""
    count = len(entry_indices)
    facts = torch.zeros(kernels.FACTS, dtype=torch.int64, device=entry_indices.device)
    largest = escapes = 0
    if count:
        kernels.measure[_grid(count)](entry_indices, facts, count, start, block=kernels.BLOCK)
        largest, escapes, *_ = facts.tolist()
    if largest <= MAX_CODE:  # a gap of just 65535 is a code, unless there are longer ones
        escapes = 0
    return plan_of(count, largest, escapes, length, coding), facts


def ends_and_sums(message: Tensor) -> tuple[bytes, bytes, int, int]:
    """Return the header, the last four bytes and both sums of the whole words after the header.

    Args:
        message: Shape (n,), uint8, contiguous, 4-byte aligned, as long as a header or longer.
    """
    size = len(message)
    facts = torch.zeros(2 + kernels.ENDS, dtype=torch.int64, device=message.device)
    with _device_of(message):
        grid = _grid((size - HEADER_BYTES) // WORD_BYTES)
        kernels.look[grid](message, facts, size, block=kernels.BLOCK)
    plain, weighted, *ends = facts.tolist()
    return bytes(ends[:HEADER_BYTES]), bytes(ends[HEADER_BYTES:]), plain, weighted


def read_gaps(coded: Tensor, count: int, width: int, start: int) -> Tensor:
    """Return *count* indices from packed gaps, shape (count,), int64.

    Args:
        coded: uint8, as `indices.write_packed` writes it; run lengths are gaps of 16 bits.
        count: Number of entries, at least 1.
        width: Bits of a gap, 1 to 31.
        start: First element of the run.
    """
    steps = torch.empty(count, dtype=torch.int64, device=coded.device)
    with _device_of(coded):
        kernels.read[_grid(count)](
            coded, steps, len(coded), count, width, start, block=kernels.BLOCK
        )
    return steps.cumsum_(0)


def _grid(count: int) -> tuple[int]:
    """Return how many programs handle so many numbers; one if there are none."""
    return (max(1, -(-count // kernels.BLOCK)),)


def _device_of(tensor: Tensor) -> torch.cuda.device:
    """Return a context in which kernels run where *tensor* lies: else it is the current GPU."""
    return torch.cuda.device(tensor.get_device())  # none for -1, a CPU
