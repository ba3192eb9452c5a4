"""The flat layout: where each named tensor lies in one 1-D buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

# For a model of many small tensors a third of the time that one call per tensor takes.
from torch._utils import _flatten_dense_tensors as _flatten
from torch._utils import _unflatten_dense_tensors as _unflatten


@dataclass(frozen=True, slots=True)
class FlatLayout:
    """Named tensors laid end to end, in order, each row-major.

    One buffer instead of one tensor per parameter: elementwise work on all of them is then a
    single kernel, and an index into the buffer is an index into the payload.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]  #: first element of each tensor, then the length of the buffer

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

    def slices(self) -> Iterable[tuple[str, slice]]:
        """Return the name and the place of each tensor, in order."""
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
    """Memory that holds the tensors of a layout end to end, to be filled again and again.

    New memory of some megabytes costs several times what filling it does: the system hands it out
    page by page.

    Args:
        layout: Where each tensor lies.
        device: Where the memory is.
    """

    def __init__(self, layout: FlatLayout, device: torch.device) -> None:
        self.flat = torch.empty(layout.length, dtype=torch.float32, device=device)
        self.views = layout.views(self.flat)

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Copy tensors of these names and shapes here; return all of it, shape (length,)."""
        torch._foreach_copy_(list(self.views.values()), [tensors[name] for name in self.views])
        return self.flat


@lru_cache(maxsize=64)
def _shaped(shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Return tensors of these shapes, without memory."""
    return [torch.empty(shape, dtype=torch.float32, device="meta") for shape in shapes]
