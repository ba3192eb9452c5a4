"""The flat buffer: the place of each tensor in it, groups of elements, and tiles."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

# For many small tensors this takes a third of the time of one call per tensor.
from torch._utils import _flatten_dense_tensors as _flatten
from torch._utils import _unflatten_dense_tensors as _unflatten

from dgc_topo.sizes import entries_of


@dataclass(frozen=True, slots=True)
class FlatLayout:
    """Named tensors laid end to end, in order, each row-major.

    With one buffer, elementwise work on all tensors is a single kernel, and an index into the
    buffer is an index into the payload.

    Attributes:
        names: Names of the tensors.
        shapes: Their shapes.
        offsets: First element of each tensor, then the length of the buffer.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> FlatLayout:
        """Return the layout of *tensors* in their own order."""
        shapes = tuple(tuple(tensor.shape) for tensor in tensors.values())
        ends = itertools.accumulate((prod(shape) for shape in shapes), initial=0)
        return cls(tuple(tensors), shapes, tuple(ends))

    @property
    def length(self) -> int:
        """Elements in the buffer."""
        return self.offsets[-1]

    @property
    def inner_bounds(self) -> tuple[int, ...]:
        """Elements at which a tensor but the first begins, each once."""
        return tuple(sorted({*self.offsets} - {0, self.length}))

    def slices(self) -> Iterable[tuple[str, slice]]:
        """Return the name and the slice of each tensor, in order."""
        places = itertools.starmap(slice, itertools.pairwise(self.offsets))
        return zip(self.names, places, strict=True)

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Return the tensors inside *buffer*, shape (length,), sharing its memory."""
        parts = _unflatten(buffer, _shaped(self.shapes))  # type: ignore[no-untyped-call]  # by torch
        return dict(zip(self.names, parts, strict=True))

    @torch.no_grad()
    def flatten(self, tensors: Mapping[str, Tensor], device: torch.device) -> Tensor:
        """Return a new float32 buffer, shape (length,), holding the tensors of these names."""
        found = [tensors[name] for name in self.names]
        if len(found) > 1 and all(tensor.dtype == torch.float32 for tensor in found):
            joined: Tensor = _flatten(found)  # type: ignore[no-untyped-call]
            return joined
        flat = [tensor.reshape(-1).to(torch.float32) for tensor in found]
        return torch.cat([*flat, torch.empty(0, dtype=torch.float32, device=device)])


class FlatBuffer:
    """Reused memory that holds the tensors of a layout end to end.

    New memory of some megabytes costs several times as much as filling it, because the system hands
    it out page by page.

    Args:
        layout: Place of each tensor.
        device: Device of the memory.
    """

    def __init__(self, layout: FlatLayout, device: torch.device) -> None:
        self.flat = torch.empty(layout.length, dtype=torch.float32, device=device)
        self.views = layout.views(self.flat)

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Copy tensors of these names and shapes into the buffer; return it, shape (length,)."""
        torch._foreach_copy_(list(self.views.values()), [tensors[name] for name in self.views])
        return self.flat


@lru_cache(maxsize=64)
def _shaped(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Return tensors of these shapes, without memory."""
    return [torch.empty(shape, dtype=torch.float32, device="meta") for shape in shapes]


@dataclass(frozen=True, slots=True)
class Groups:
    """Consecutive ranges that cover a flat buffer; each sends its own largest elements.

    One group per layer is the paper's rule and keeps every layer learning.  A single group over
    the whole model sends the largest elements wherever they are.

    Attributes:
        offsets: First element of each group, then the length of the buffer.
    """

    offsets: tuple[int, ...]

    @classmethod
    def per_layer(cls, layout: FlatLayout) -> Groups:
        """Return one group per tensor."""
        return cls(layout.offsets)

    @classmethod
    def whole(cls, layout: FlatLayout) -> Groups:
        """Return a single group."""
        return cls((0, layout.length))

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return len(self.offsets) - 1

    def counts(self, density: float) -> list[int]:
        """Return the number of elements that each group sends, see `entries_of`."""
        return [entries_of(stop - start, density) for start, stop in pairwise(self.offsets)]


#: Elements per tile.  On a CPU three float32 tiles fit the caches, and smaller tiles would cost
#: more calls; on a GPU large tiles need few launches.
CPU_TILE = 1 << 18
MAX_TILE = 1 << 24

Terms = Sequence[tuple[Mapping[str, Tensor], float]]  #: tensors by name, and their factor


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of one tensor's elements.

    Attributes:
        name: The tensor.
        start: First element, within the tensor.
        stop: One past the last.
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Tile:
    """A run of the flat buffer, and the tensors that it is made of.

    Attributes:
        start: First element, within the flat buffer.
        stop: One past the last.
        pieces: Runs of tensors that make it up, in order.
    """

    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def length(self) -> int:
        """Elements."""
        return self.stop - self.start


def tile_size(length: int, device: torch.device) -> int:
    """Return the number of elements per tile, for a buffer of *length* elements."""
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
    """Weighted sum of tensors, computed one tile after the other.

    A tile of one float32 tensor with factor 1 is a view of it; any other is put together in the
    gatherer's own memory.  Products are rounded before they are added, so that the sum does not
    depend on where a tile begins.

    Args:
        terms: Tensors to sum, of any floating-point type, with their factors.
        size: Elements of the largest tile.
        device: Device of the tensors.
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
    """Return a run of a tensor's elements; if it is not contiguous, only that run is copied."""
    if tensor.dim() == 1:
        return tensor[start:stop]
    row = tensor[0].numel()
    first = start // row
    rows = tensor[first : -(-stop // row)].reshape(-1)
    return rows[start - first * row : stop - first * row]
