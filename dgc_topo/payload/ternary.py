"""Ternary payloads: two bits per element and one scale per layer, from each contributing rank.

A sum of ternary gradients is not ternary, so the contributions stay apart on their way: a reduce
joins two sets of them, and every rank adds them up at the end, in rank order.  After c ranks have
met in a message of n elements, it is c times as long::

    int32 c | c int32 ranks | c x layers float32 scales | c x ceil(n / 4) bytes, 2 bits an element

with the layers that the run touches.  A code is 0, 1 (plus the scale), 2 (minus the scale), or 3:
this rank's part of the element has not arrived here yet.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.payload.base import SUM, Arrival, BoundsOf, equal_bounds, runs, weighted_terms
from dgc_topo.schedule import Transfer
from dgc_topo.schedule.completion import Role

_PLUS, _MINUS, _ABSENT = 1, 2, 3
_PER_BYTE = 4
_WORD_BYTES = 4
_SHIFTS = (0, 2, 4, 6)


@dataclass(slots=True)
class Ternary:
    """Ternary gradient of one rank.

    Attributes:
        scales: Of each layer; shape (num_layers,), float32, finite.
        codes: 0, 1 (plus) or 2 (minus); 3 where it is not in the sum yet; shape (length,), uint8.
    """

    scales: Tensor
    codes: Tensor

    def values(self, layer_of: Tensor) -> Tensor:
        """Return it as float32, shape (length,)."""
        signs = (self.codes == _PLUS).to(torch.float32) - (self.codes == _MINUS).to(torch.float32)
        return signs * self.scales[layer_of]


class _Received(NamedTuple):
    """A message, taken apart.

    Attributes:
        transfer: Transfer that it is the message of.
        given: Scales and codes by rank.
    """

    transfer: Transfer
    given: dict[int, tuple[Tensor, Tensor]]


class TernaryPayload:
    """Ternary gradients, kept by rank; they can only be summed.

    Args:
        given: Gradients by rank; a server gives none.
        offsets: First element of each layer, then the length of the buffer.
        device: Device of the codes.
        bounds_of: Function for the offsets of chunks; equal slices by default.
    """

    def __init__(
        self,
        given: dict[int, Ternary],
        offsets: Sequence[int],
        device: torch.device,
        *,
        bounds_of: BoundsOf = equal_bounds,
    ) -> None:
        self.made_with: Mapping[str, object] = {}
        self.goals = SUM
        self.given = dict(given)
        self.length = offsets[-1]
        self._offsets = list(offsets)
        self._device = device
        self._bounds_of = bounds_of
        self._bounds: Sequence[int] = (0, self.length)

    def __repr__(self) -> str:
        return f"TernaryPayload({self.length:,} elements of ranks {sorted(self.given)})"

    @property
    def device(self) -> torch.device:
        """Device of the codes."""
        return self._device

    def to_dense(self) -> Tensor:
        """Return the sum, taken in rank order: shape (length,), float32."""
        offsets = torch.tensor(self._offsets, dtype=torch.int64, device=self._device)
        layers = torch.arange(len(offsets) - 1, dtype=torch.int64, device=self._device)
        layer_of = torch.repeat_interleave(layers, offsets.diff())
        total = torch.zeros(self.length, dtype=torch.float32, device=self._device)
        for rank in sorted(self.given):
            total += self.given[rank].values(layer_of)
        return total

    @property
    def layout(self) -> Hashable:
        """Key of the runs without elements, whose messages are empty."""
        return self.length, self._bounds_of

    def cut(self, num_chunks: int, *, agree: bool = True, role: Role | None = None) -> None:
        """Fix the chunk boundaries; the codes travel as they are, so the ranks agree anyway."""
        self._bounds = self._bounds_of(self.length, num_chunks)

    def message_bytes(self, chunk: int, count: int) -> int | None:
        """Return 0 for a run without elements, else None: only the sender knows the ranks in it."""
        return None if self._bounds[chunk + count] > self._bounds[chunk] else 0

    def most_bytes(self, chunk: int, count: int, world_size: int) -> int:
        """Return the size of a message to which every rank has given its part."""
        return self._size(world_size, self._bounds[chunk], self._bounds[chunk + count])

    def encoded_bytes(self) -> int:
        """Return the bytes of the whole buffer as one message."""
        return self._size(len(self.given), 0, self.length)

    def pack(self, chunk: int, count: int) -> Tensor:
        """Return the ranks' parts of a run as one message, empty for a run without elements."""
        start, stop = self._bounds[chunk], self._bounds[chunk + count]
        if start == stop:
            return torch.empty(0, dtype=torch.uint8, device=self._device)
        ranks = [r for r in sorted(self.given) if (self._codes(r, start, stop) != _ABSENT).any()]
        layers = self._layers(start, stop)
        head = torch.tensor([len(ranks), *ranks], dtype=torch.int32, device=self._device)
        scales = [self.given[rank].scales[layers].view(torch.uint8) for rank in ranks]
        codes = [_pack_codes(self._codes(rank, start, stop)) for rank in ranks]
        return torch.cat([head.view(torch.uint8), *scales, *codes])

    def landing(self, chunk: int, count: int) -> None:
        """Return None: codes are unpacked here."""

    def merge(self, arrivals: Sequence[Arrival], rank: int) -> None:
        """Join the arrivals to the parts held; a copy replaces all that came before it.

        Raises:
            ValueError: if a message does not fit its run, a rank's part would count twice, or a
                transfer scales what it carries: ternary gradients only sum.
        """
        received = [self._received(arrival) for arrival in arrivals]
        for first, end, covering in runs(received):
            start, stop = self._bounds[first], self._bounds[end]
            terms = [source for _, source in weighted_terms(covering, rank)]
            if None not in terms:
                for mine in self.given.values():
                    mine.codes[start:stop] = _ABSENT
            for source in filter(None, terms):
                for giver, given in source.given.items():
                    self._join(giver, *self._part(source.transfer, given, start, stop))

    def finish(self) -> None:
        """End a run; nothing is left to do."""

    def _received(self, arrival: Arrival) -> _Received:
        transfer, message = arrival
        if not transfer.is_plain:
            raise ValueError(
                f"ternary payload: {transfer}, expected an all-reduce: ternary gradients are "
                "summed or copied, never scaled"
            )
        start, stop = self._bounds[transfer.chunk], self._bounds[transfer.chunk_end]
        return _Received(transfer, self._unpack(message, start, stop))

    def _part(
        self, transfer: Transfer, given: tuple[Tensor, Tensor], start: int, stop: int
    ) -> tuple[Tensor, Tensor, int, int]:
        """Return scales and codes of the elements from *start* to before *stop*, and these two."""
        scales, codes = given
        begin = self._bounds[transfer.chunk]
        skipped = self._layers(start, stop).start - self._layers(begin, stop).start
        kept = self._layers(start, stop).stop - self._layers(start, stop).start
        return scales[skipped : skipped + kept], codes[start - begin : stop - begin], start, stop

    def _join(self, source: int, scales: Tensor, codes: Tensor, start: int, stop: int) -> None:
        if source not in self.given:
            blank = torch.full((self.length,), _ABSENT, dtype=torch.uint8, device=self._device)
            num_layers = len(self._offsets) - 1
            zeros = torch.zeros(num_layers, dtype=torch.float32, device=self._device)
            self.given[source] = Ternary(zeros, blank)
        mine = self.given[source]
        there, coming = mine.codes[start:stop] != _ABSENT, codes != _ABSENT
        if bool((there & coming).any()):
            raise ValueError(
                f"ternary payload: elements {start} to {stop - 1} of rank {source} arrived twice, "
                "expected each rank once in the sum"
            )
        layers = self._layers(
            start, stop
        )  # scales of layers of which the sender holds nothing are 0
        mine.scales[layers] = torch.where(scales != 0, scales, mine.scales[layers])
        mine.codes[start:stop] = torch.where(coming, codes, mine.codes[start:stop])

    def _codes(self, rank: int, start: int, stop: int) -> Tensor:
        return self.given[rank].codes[start:stop]

    def _layers(self, start: int, stop: int) -> slice:
        """Return the layers that the elements from *start* to before *stop* belong to."""
        return slice(bisect_right(self._offsets, start) - 1, bisect_left(self._offsets, stop))

    def _size(self, num_ranks: int, start: int, stop: int) -> int:
        layers = self._layers(start, stop)
        words = 1 + num_ranks * (1 + int(layers.stop - layers.start))
        return _WORD_BYTES * words + num_ranks * math.ceil((stop - start) / _PER_BYTE)

    def _unpack(self, message: Tensor, start: int, stop: int) -> dict[int, tuple[Tensor, Tensor]]:
        """Return scales and codes by rank, checked."""
        size = len(message)
        if start == stop and not size:
            return {}
        count = int(message[:_WORD_BYTES].view(torch.int32)) if size >= _WORD_BYTES else -1
        if count < 0 or self._size(count, start, stop) != len(message):
            raise ValueError(
                f"ternary payload: message of {len(message)} bytes for {count} ranks, expected "
                f"{self._size(max(count, 0), start, stop)} for elements {start} to {stop - 1}"
            )
        if not count:
            return {}
        ranks = message[_WORD_BYTES : _WORD_BYTES * (1 + count)].view(torch.int32).tolist()
        layers = self._layers(start, stop)
        at = _WORD_BYTES * (1 + count)
        end = at + _WORD_BYTES * count * (layers.stop - layers.start)
        scales = message[at:end].view(torch.float32).view(count, -1)
        codes = message[end:].view(count, -1)
        if sorted(set(ranks)) != ranks or (ranks and ranks[0] < 0):
            raise ValueError(f"ternary payload: message of ranks {ranks}, expected rising ones")
        if not bool(torch.isfinite(scales).all()):
            raise ValueError("ternary payload: message with a scale that is not finite")
        return {
            rank: (scales[i].clone(), _unpack_codes(codes[i], stop - start))
            for i, rank in enumerate(ranks)
        }


def _pack_codes(codes: Tensor) -> Tensor:
    """Return 2 bits per code, the first in the lowest bits."""
    padded = codes.new_zeros(-(-len(codes) // _PER_BYTE) * _PER_BYTE)
    padded[: len(codes)] = codes
    quads = padded.view(-1, _PER_BYTE)
    packed = quads[:, 0].clone()
    for place, shift in enumerate(_SHIFTS[1:], start=1):
        packed |= quads[:, place] << shift
    return packed


def _unpack_codes(packed: Tensor, count: int) -> Tensor:
    quads = torch.stack([(packed >> shift) & 3 for shift in _SHIFTS], dim=1)
    return quads.reshape(-1)[:count]
