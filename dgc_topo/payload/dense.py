"""Dense payloads: every chunk is a slice of a flat buffer, every message its bytes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.payload.base import (
    MIXTURE,
    Arrival,
    BoundsOf,
    Term,
    equal_bounds,
    runs,
    weighted_terms,
)
from dgc_topo.schedule import Goal
from dgc_topo.schedule.completion import Role
from dgc_topo.wire.coding import WireDtype, check_dense_dtype
from dgc_topo.wire.tensors import TORCH_DTYPES


class _Run(NamedTuple):
    """Consecutive chunks.

    Attributes:
        own: Elements of the buffer.
        message: The same elements as bytes, if they travel unrounded.
        num_bytes: Bytes of their message.
    """

    own: Tensor
    message: Tensor | None
    num_bytes: int


class DensePayload:
    """A flat float32 buffer, merged in place.

    With a 16-bit *wire_dtype* messages are rounded, and sums are still taken in float32.  If the
    ranks are to agree, packing also rounds the sender's own slice: otherwise a rank would add its
    own value unrounded, and the others the rounded one.  For the same reason the result is rounded
    at the end: some ranks computed it, others received a rounded copy.  In gossip the own value
    stays float32: rounding a model's weights in every iteration would swallow small updates.

    A value beyond the range of float16 (65504) becomes infinite, on the sender as well, so every
    rank sees the overflow and a loss scaler can react to it; bfloat16 has the range of float32.

    Args:
        buffer: Shape (length,), float32, contiguous; overwritten by a run.
        wire_dtype: Element type of messages: ``float32``, ``float16`` or ``bfloat16``.
        bounds_of: Function for the offsets of chunks; equal slices by default.
        goals: Accepted goals of schedules: by default all after which each rank has a sum or an
            average.  `SUM` for gradients; ``{"column-stochastic"}`` for a buffer that carries its
            push-sum weight.

    Raises:
        ValueError: if *buffer* or *wire_dtype* is anything else.
    """

    def __init__(
        self,
        buffer: Tensor,
        wire_dtype: WireDtype = "float32",
        *,
        bounds_of: BoundsOf = equal_bounds,
        goals: frozenset[Goal] = MIXTURE,
    ) -> None:
        if buffer.dim() != 1 or buffer.dtype != torch.float32 or not buffer.is_contiguous():
            raise ValueError(
                f"dense payload: buffer of shape {tuple(buffer.shape)} and {buffer.dtype}, "
                "expected a contiguous 1-D float32 tensor"
            )
        check_dense_dtype("dense payload", wire_dtype)
        # The same memory outside any graph.  The stride is set because a contiguous tensor of one
        # element may have any, and then refuses to be viewed as bytes.
        self.buffer = buffer.detach().as_strided(buffer.shape, (1,))
        self.device = buffer.device
        self.wire_dtype = wire_dtype
        self._dtype = TORCH_DTYPES[wire_dtype]
        self.made_with: Mapping[str, object] = {}
        self.goals = goals
        #: Length, element type and cut of the chunks.
        self.layout: Hashable = (len(buffer), wire_dtype, bounds_of)
        self._bounds_of = bounds_of
        self._bounds: Sequence[int] = (0, len(buffer))
        # By first chunk and count.  Hot paths look here first, which saves a call of `_run`.
        self._runs: dict[tuple[int, int], _Run] = {}
        self._round_own = wire_dtype != "float32"

    def __repr__(self) -> str:
        return f"DensePayload({len(self.buffer):,} elements, wire_dtype={self.wire_dtype!r})"

    def cut(self, num_chunks: int, *, agree: bool = True, role: Role | None = None) -> None:
        """Fix the chunk boundaries, and whether the own value is rounded like the messages."""
        if num_chunks != len(self._bounds) - 1:
            self._bounds = self._bounds_of(len(self.buffer), num_chunks)
            self._runs = {}
        self._round_own = agree and self.wire_dtype != "float32"

    def message_bytes(self, chunk: int, count: int) -> int:
        """Return the size of a run's message in bytes."""
        return (self._bounds[chunk + count] - self._bounds[chunk]) * self._dtype.itemsize

    def most_bytes(self, chunk: int, count: int, world_size: int) -> int:
        """Return the size of a run's message in bytes: all are of one size."""
        return self.message_bytes(chunk, count)

    def encoded_bytes(self) -> int:
        """Return the bytes of the whole buffer as one message."""
        return len(self.buffer) * self._dtype.itemsize

    def pack(self, chunk: int, count: int) -> Tensor:
        """Return the run's bytes: a view of the buffer, or its 16-bit rounding."""
        run = self._runs.get((chunk, count)) or self._run(chunk, count)
        if run.message is not None:
            return run.message
        rounded = run.own.to(self._dtype)
        if self._round_own:
            run.own.copy_(rounded)
        return rounded.view(torch.uint8)

    def landing(self, chunk: int, count: int) -> Tensor | None:
        """Return the run's own bytes, if messages are not rounded."""
        return (self._runs.get((chunk, count)) or self._run(chunk, count)).message

    def merge(self, arrivals: Sequence[Arrival], rank: int) -> None:
        """Apply the arrivals of one step, in the order listed, adding in rank order."""
        if len(arrivals) == 1 and arrivals[0].transfer.is_plain:
            # Same result as the general way, in a tenth of its time.
            transfer, message = arrivals[0]
            place = transfer.chunk, transfer.count
            run = self._runs.get(place) or self._run(*place)
            if message.numel() == run.num_bytes:
                value = message.view(self._dtype)
                if transfer.keep:
                    run.own.add_(value)  # two addends commute exactly
                else:
                    run.own.copy_(value)
                return
        for arrival in arrivals:
            self._check(arrival)
        for first, end, covering in runs(arrivals):
            own = self._run(first, end - first).own
            if not own.numel():
                continue
            terms = weighted_terms(covering, rank)
            if terms:
                _accumulate(own, [self._value(term, own, first) for term in terms])
            else:
                own.zero_()

    def finish(self) -> None:
        """End a run: round the result as a message would be, if the ranks are to agree."""
        if self._round_own:
            self.buffer.copy_(self.buffer.to(self._dtype))

    def _run(self, chunk: int, count: int) -> _Run:
        """Return a run, cached because making it takes longer than the rest of a short message."""
        run = self._runs.get((chunk, count))
        if run is None:
            own = self.buffer[self._bounds[chunk] : self._bounds[chunk + count]]
            message = own.view(torch.uint8) if self.wire_dtype == "float32" else None
            run = _Run(own, message, self.message_bytes(chunk, count))
            self._runs[chunk, count] = run
        return run

    def _value(self, term: Term[Arrival], own: Tensor, first: int) -> tuple[float, Tensor]:
        """Return a term as (coefficient, its elements on the run that starts at *first*)."""
        coefficient, arrival = term
        if arrival is None:
            return coefficient, own
        offset = self._bounds[first] - self._bounds[arrival.transfer.chunk]
        elements = arrival.message.view(self._dtype)
        return coefficient, elements[offset : offset + len(own)]

    def _check(self, arrival: Arrival) -> None:
        transfer, message = arrival
        expected = self.message_bytes(transfer.chunk, transfer.count)
        if message.numel() != expected:
            raise ValueError(
                f"dense payload: message of {message.numel()} bytes ({transfer}), "
                f"expected {expected}"
            )


def _accumulate(own: Tensor, terms: list[tuple[float, Tensor]]) -> None:
    """Set *own* to the sum of the terms, added in the order given; *own* may be one of them.

    Messages may be views of a sender's buffer, so they are never written to.
    """
    at_own = next((place for place, (_, value) in enumerate(terms) if value is own), None)
    if at_own is None:
        own.copy_(_product(*terms[0]))
        rest = terms[1:]
    else:
        if terms[at_own][0] != 1:
            own.mul_(terms[at_own][0])
        if at_own > 0:
            own.add_(_sum(terms[:at_own]))  # two addends commute exactly
        rest = terms[at_own + 1 :]
    for term in rest:
        own.add_(_product(*term))


def _sum(terms: list[tuple[float, Tensor]]) -> Tensor:
    """Return the sum of the messages as float32; possibly the first message itself."""
    total = _product(*terms[0])
    if len(terms) > 1:
        total = total + _product(*terms[1])
    for term in terms[2:]:
        total.add_(_product(*term))
    return total


def _product(coefficient: float, value: Tensor) -> Tensor:
    """Return the term as float32; the message itself if there is nothing to compute.

    ``add(..., alpha=coefficient)`` is not used: it rounds once or twice depending on where the
    vector loop ends, and so on the number of threads.
    """
    value = value.to(torch.float32)
    return value if coefficient == 1 else value * coefficient
