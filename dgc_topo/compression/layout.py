"""The flat layout: where each named tensor lies in one 1-D buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


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
        return {
            name: buffer[place].view(shape)
            for (name, place), shape in zip(self.slices(), self.shapes, strict=True)
        }

    def flatten(self, tensors: Mapping[str, Tensor], device: torch.device) -> Tensor:
        """Return a new float32 buffer, shape (length,), holding the tensors of these names."""
        flat = [tensors[name].detach().reshape(-1).to(torch.float32) for name in self.names]
        return torch.cat([*flat, torch.empty(0, device=device)])
