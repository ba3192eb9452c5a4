"""Messages on a GPU: the same bytes with few launches, by Triton kernels.

The cost of a message of some ten thousand entries is its kernel launches, some 10 us each, and not
its bytes.  Written here, a message takes two launches, and one wait for its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from dgc_topo.wire import kernels
from dgc_topo.wire.body import GapFacts
from dgc_topo.wire.coding import VALUE_BITS, IndexChoice, WireCoding, WireDtype
from dgc_topo.wire.format import Header, Plan, check_run, first_word, plan_of
from dgc_topo.wire.limits import HEADER_BYTES, WORD_BYTES

FACTS: int = kernels.FACTS  #: numbers that the kernels of one message share

_ELEMENTS: dict[WireDtype, object] = {
    "float32": tl.float32,
    "float16": tl.float16,
    "bfloat16": tl.bfloat16,
}
#: Codings that kernels write; of others but Rice's they find the numbers that a plan takes, and
#: ``auto`` is the smallest of those.
_CHOICES: dict[IndexChoice, int] = {
    "run-length": kernels.RUN_LENGTH,
    "bit-packed": kernels.BIT_PACKED,
}
_SHORT = 1 << 18  #: numbers that many small programs share
_GAP_BYTES = 4  #: that a gap takes at most


class PendingMessage(NamedTuple):
    """Message that is written before its length is known.

    Attributes:
        room: Memory for it, `room_bytes` of them or more, uint8, 4-byte aligned.
        facts: Numbers of `measure`, shape (FACTS,), int64: 0 until it is written.
        entries: Number of entries.
        length: Elements of its run.
        coding: Coding of values and indices.
    """

    room: Tensor
    facts: Tensor
    entries: int
    length: int
    coding: WireCoding

    @classmethod
    def of(
        cls, entries: int, length: int, coding: WireCoding, device: torch.device
    ) -> PendingMessage:
        """Return a message that is to be written to memory of its own."""
        room = torch.empty(room_bytes(entries, coding), dtype=torch.uint8, device=device)
        facts = torch.zeros(FACTS, dtype=torch.int64, device=device)
        return cls(room, facts, entries, length, coding)

    def launch(
        self, entry_indices: Tensor, values: Tensor, start: int, given: Tensor | None = None
    ) -> None:
        """Write the message of `encoding.encode`, without waiting for the GPU.

        Args:
            entry_indices: Shape (entries,), int64, contiguous.
            values: Shape (entries,), float32, contiguous.
            start: The run's first element.
            given: Nothing is written unless this number, int64, is that of entries.

        Raises:
            WireError: if the run is longer than 2**31 elements.
        """
        grid, block = _grid((len(self.room) - HEADER_BYTES) // WORD_BYTES)
        with _device_of(entry_indices):
            _measure(entry_indices, self.facts, start, self.length, self.coding, given)
            kernels.write[grid](
                entry_indices,
                values,
                self.room,
                self.facts,
                self.entries,
                start,
                element=_ELEMENTS[self.coding.wire_dtype],
                block=block,
            )

    def plan(self, facts: Sequence[int]) -> Plan:
        """Return its plan; *facts* are its own, on the host."""
        gaps = GapFacts(self.entries, facts[kernels.LARGEST], facts[kernels.ESCAPES])
        return plan_of(gaps, self.length, self.coding)

    def message(self, facts: Sequence[int]) -> Tensor | None:
        """Return the message, or None if it has to be written the general way."""
        if not writes(self.coding) or facts[kernels.WIDTH] < 0:
            return None
        return self.room[: self.plan(facts).num_bytes]


def writes(coding: WireCoding) -> bool:
    """Return True if kernels write messages of this coding; of ``auto`` they write most."""
    return coding.index_encoding in {"auto", *_CHOICES} and not coding.is_coarse


def room_bytes(count: int, coding: WireCoding) -> int:
    """Return the most bytes of a message of *count* entries, in whole words."""
    words = -(-count * ((VALUE_BITS[coding.wire_dtype] // 8) + _GAP_BYTES) // WORD_BYTES)
    return HEADER_BYTES + WORD_BYTES * words


def encode(
    entry_indices: Tensor, values: Tensor, start: int, length: int, coding: WireCoding
) -> Tensor | Plan:
    """Return the message that `encoding.encode` would make, or its plan: that goes the general way.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    if not writes(coding):
        return planned(entry_indices, start, length, coding)
    ahead = PendingMessage.of(len(entry_indices), length, coding, entry_indices.device)
    ahead.launch(entry_indices.contiguous(), values.contiguous(), start)
    facts = ahead.facts.tolist()
    message = ahead.message(facts)
    return ahead.plan(facts) if message is None else message


def planned(entry_indices: Tensor, start: int, length: int, coding: WireCoding) -> Plan:
    """Return the best plan for entries, waiting once.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    on_device = torch.zeros(FACTS, dtype=torch.int64, device=entry_indices.device)
    with _device_of(entry_indices):
        _measure(entry_indices.contiguous(), on_device, start, length, coding)
    facts = on_device.tolist()
    gaps = GapFacts(len(entry_indices), facts[kernels.LARGEST], facts[kernels.ESCAPES])
    return plan_of(gaps, length, coding)


def _measure(
    entry_indices: Tensor,
    facts: Tensor,
    start: int,
    length: int,
    coding: WireCoding,
    given: Tensor | None = None,
) -> None:
    """Find the numbers that decide how entries are coded."""
    check_run(length)
    grid, block = _grid(len(entry_indices))
    kernels.measure[grid](
        entry_indices,
        facts,
        given,
        len(entry_indices),
        start,
        length,
        first_word(Header("dense", coding.wire_dtype, 0)),
        choice=_CHOICES.get(coding.index_encoding, kernels.ANY),
        value_bytes=VALUE_BITS[coding.wire_dtype] // 8,
        block=block,
    )


def ends_and_sums(message: Tensor) -> tuple[bytes, bytes, int, int]:
    """Return the header, the last four bytes and both sums of the whole words after the header.

    Args:
        message: Shape (n,), uint8, contiguous, 4-byte aligned, as long as a header or longer.
    """
    size = len(message)
    facts = torch.zeros(2 + kernels.ENDS, dtype=torch.int64, device=message.device)
    with _device_of(message):
        grid, block = _grid((size - HEADER_BYTES) // WORD_BYTES)
        kernels.look[grid](message, facts, size, block=block)
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
        grid, block = _grid(count)
        kernels.read[grid](coded, steps, len(coded), count, width, start, block=block)
    return steps.cumsum_(0)


def _grid(count: int) -> tuple[tuple[int], int]:
    """Return the number of programs for *count* numbers, at least one, and the numbers of each."""
    block = kernels.BLOCK if count <= _SHORT else kernels.LARGE_BLOCK
    return (max(1, -(-count // block)),), block


def _device_of(tensor: Tensor) -> torch.cuda.device:
    """Return a context in which kernels run where *tensor* lies: else it is the current GPU."""
    return torch.cuda.device(tensor.get_device())  # none for -1, a CPU
