"""Tiles: pieces of the flat buffer that fit a cache, and how gradients come to them.

A large tensor is cut into tiles; small ones in a row share a tile, so that many small layers cost
few calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgc_topo.compression.layout import FlatLayout

#: Elements per tile.  On a CPU three of these in float32 fit the caches, and more would cost calls;
#: a GPU wants few launches.
CPU_TILE = 1 << 18
MAX_TILE = 1 << 24

Terms = Sequence[tuple[Mapping[str, Tensor], float]]  #: tensors by name, and their factor


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one tensor's elements."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tile:
    """A run of the flat buffer, and the tensors that it is made of."""

    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def length(self) -> int:
        """Elements."""
        return self.stop - self.start


def tile_size(length: int, device: torch.device) -> int:
    """Return how many elements of a buffer of *length* to work on at once, at most."""
    return CPU_TILE if device.type == "cpu" else min(max(length // 64, CPU_TILE), MAX_TILE)


def tiles_of(layout: FlatLayout, size: int) -> Iterator[Tile]:
    """Yield tiles of at most *size* elements that cover the layout, in order."""
    waiting: list[Piece] = []
    begin = end = 0
    for name, place in layout.slices():
        length = place.stop - place.start
        if end + length - begin > size and waiting:
            yield Tile(begin, end, tuple(waiting))
            waiting, begin = [], end
        whole = length // size * size if length > size else 0
        for at in range(0, whole, size):
            yield Tile(begin, begin + size, (Piece(name, at, at + size),))
            begin += size
        if whole < length:
            waiting.append(Piece(name, whole, length))
        end = place.stop
    if waiting:
        yield Tile(begin, end, tuple(waiting))


class Gatherer:
    """Brings the weighted sum of tensors to one tile after the other.

    A tile of one float32 tensor with factor 1 is a view of it; anything else is put together in
    memory of the gatherer's own.  Products are rounded before they are added, so that the sum does
    not depend on where a tile begins.

    Args:
        terms: What to sum; tensors of any floating-point type.
        size: Elements of the largest tile.
        device: Where the tensors are.
    """

    def __init__(self, terms: Terms, size: int, device: torch.device) -> None:
        self._terms = [
            ({name: _flat(tensor.detach()) for name, tensor in tensors.items()}, factor)
            for tensors, factor in terms
        ]
        self._size = size
        self._device = device
        self._scratch: list[Tensor] = []

    def __call__(self, tile: Tile) -> Tensor:
        """Return the sum on *tile*, shape (tile.length,), float32; not to be modified."""
        total = self._term(0, tile)
        for place in range(1, len(self._terms)):
            term = self._term(place, tile)
            total = torch.add(total, term, out=self._memory(0, tile.length))
        return total

    def _term(self, place: int, tile: Tile) -> Tensor:
        flats, factor = self._terms[place]
        values = [_run(flats[piece.name], piece.start, piece.stop) for piece in tile.pieces]
        if len(values) > 1:
            joined = torch.cat(values, out=self._memory(place, tile.length))
            return joined if factor == 1 else joined.mul_(factor)
        if factor == 1 and values[0].dtype == torch.float32:
            return values[0]
        # Not torch.mul(values[0], ...): 16-bit factors would be rounded to 16 bits.
        return self._memory(place, tile.length).copy_(values[0]).mul_(factor)

    def _memory(self, place: int, length: int) -> Tensor:
        while len(self._scratch) <= place:
            memory = torch.empty(self._size, dtype=torch.float32, device=self._device)
            self._scratch.append(memory)
        return self._scratch[place][:length]


def _flat(tensor: Tensor) -> Tensor:
    """Return a flat view of a tensor, or the tensor itself if that would be a copy."""
    return tensor.view(-1) if tensor.is_contiguous() else tensor


def _run(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Return a run of a tensor's elements; of one that is not contiguous only those are copied."""
    if tensor.dim() == 1:
        return tensor[start:stop]
    row = tensor[0].numel()
    first = start // row
    rows = tensor[first : -(-stop // row)].reshape(-1)
    return rows[start - first * row : stop - first * row]
