"""Fused kernels' launches for the gradient's norm and for accumulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gpu import step_kernels as kernels
from dgc_topo.compression.gpu.blocks import ELEMENTS, Blocks, Reader
from dgc_topo.compression.gpu.candidates import Candidates
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.local_step import Term
from dgc_topo.compression.pool import Watcher
from dgc_topo.wire.tensors import largest_addend

_NORM_BLOCK = 4096  #: elements per program


class FusedNorm:
    """The L2 norm over all tensors together, by one launch and one wait.

    Args:
        tensors: Tensors with the gradients' names, shapes and device.
        device: Device of the tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.reader = Reader(tuple(tensors), device)
        self._blocks = Blocks(FlatLayout.of(tensors), _NORM_BLOCK, device)
        self._sums = torch.empty(self._blocks.count, dtype=torch.float64, device=device)
        self._total = torch.empty((), dtype=torch.float64, device=device)

    def __call__(self, gradients: Mapping[str, Tensor]) -> float | None:
        """Return the norm; None if it is not finite, or no kernel can read the gradients."""
        dtype = self.reader.read(gradients)
        if dtype is None or not self._blocks.count:
            return None
        self.launch(dtype, self._total)
        total = float(self._total)
        return math.sqrt(total) if math.isfinite(total) else None

    def launch(self, dtype: torch.dtype, total: Tensor) -> None:
        """Launch the sum of the squares of the tensors that the reader has read; do not wait.

        Args:
            dtype: Type of the tensors, as the reader returned it.
            total: Sum, shape (), float64; overwritten.
        """
        blocks = self._blocks
        with blocks.on_device():
            kernels.sum_squares[(blocks.count,)](
                self.reader.addresses,
                blocks.tensor,
                blocks.inside,
                blocks.length,
                self._sums,
                element=ELEMENTS[dtype],
                block=_NORM_BLOCK,
                num_warps=8,
            )
        torch.sum(self._sums, 0, out=total)


BLOCK = 1024  #: elements per program of the pass, a power of two
_WARPS = 4
_TAKEN = 256  #: elements per program that takes what is sent
_TERMS = 2  #: that the kernel can sum: gradients, and weights


class Source(NamedTuple):
    """Tensors that a kernel adds up.

    Attributes:
        addresses: Addresses of the tensors, int64.
        dtype: Type of the tensors.
        factor: Factor on all of them.
    """

    addresses: Tensor
    dtype: torch.dtype
    factor: float


class Clipped(NamedTuple):
    """A gradient's norm, known to the GPU alone.

    Attributes:
        squares: Sum of the gradient's squares, shape (), float64.
        bound: Norm that it is clipped to, shape (), float64; may be infinite.
        factor: Set to the factor on the gradient; shape (), float32.
    """

    squares: Tensor
    bound: Tensor
    factor: Tensor


class FusedAccumulation(Accumulation):
    """Counterpart of `Accumulation`: the same bits in one launch and one pass over the memory.

    Gradients that are not contiguous or of several types use the plain operations.

    Args:
        layout: Where each tensor lies in u and v.
        device: Device of u and v.
        config: Settings, which choose the law.
        num_workers: Number of ranks whose contributions are summed.
        block: Elements per program of the kernel, a power of two.
    """

    def __init__(
        self,
        layout: FlatLayout,
        device: torch.device,
        config: DGCConfig,
        *,
        num_workers: int = 1,
        block: int = BLOCK,
    ) -> None:
        super().__init__(layout, device, config, num_workers=num_workers)
        self.blocks = Blocks(layout, block, device)
        self._readers = [Reader(layout.names, device) for _ in range(_TERMS)]

    @torch.no_grad()
    def add(self, *terms: Term, pool: Watcher | None = None) -> None:
        """Accumulate the terms' sum; only `Candidates` are gathered in the same pass."""
        if not self.blocks.count:
            return
        sources = self._sources(terms)
        listed = pool if isinstance(pool, Candidates) else None
        if sources is not None:
            self.launch(sources, listed)
        else:
            super().add(*terms)
            listed = None
        if pool is not None and pool is not listed:
            pool.watch(0, self.residual)

    def _sources(self, terms: Sequence[Term]) -> list[Source] | None:
        """Return the sources for the kernel, or None if it cannot read them."""
        found = []
        for reader, (tensors, factor) in zip(self._readers, terms, strict=False):
            dtype = reader.read(tensors)
            if dtype is None:
                return None
            found.append(Source(reader.addresses, dtype, factor))
        return found if len(found) == len(terms) else None

    def numbers_among(self, names: Sequence[str]) -> Tensor:
        """Return the index in *names* of each block's tensor, shape (num_blocks,), int32."""
        places = {name: place for place, name in enumerate(names)}
        numbers = [places[name] for name in self.layout.names]
        device = self.blocks.device
        return torch.tensor(numbers, dtype=torch.int32, device=device)[self.blocks.tensor]

    def take(self, indices: Tensor) -> Tensor:
        """Remove elements and return them, see `Accumulation.take`."""
        return self.send(indices, torch.float32) if self._keeps else super().take(indices)

    def send(self, indices: Tensor, wire_dtype: torch.dtype) -> Tensor:
        """Remove elements and return what the wire can hold, see `Accumulation.send`."""
        if not self._keeps:
            return super().send(indices, wire_dtype)
        values = torch.empty(len(indices), dtype=torch.float32, device=indices.device)
        if len(indices):
            self.launch_take(indices, values, wire_dtype)
        return values

    def launch_take(
        self,
        indices: Tensor,
        values: Tensor,
        wire_dtype: torch.dtype,
        given: Tensor | None = None,
    ) -> None:
        """Launch the removal of elements, and write them to *values* as the wire can hold them.

        Args:
            indices: Shape (n,), int64.
            values: Shape (n,), float32; overwritten.
            wire_dtype: Type of the numbers on the wire.
            given: Number of valid indices, int64; unless it equals n, nothing is done.
        """
        with self.blocks.on_device():
            kernels.take[(-(-len(indices) // _TAKEN),)](
                indices,
                values,
                given,
                len(indices),
                self.residual,
                self.velocity,
                masks=self._masking,
                element=ELEMENTS[wire_dtype],
                largest=largest_addend(wire_dtype, self._num_workers),
                block=_TAKEN,
            )

    def launch(
        self,
        sources: Sequence[Source],
        listed: Candidates | None,
        clipped: Clipped | None = None,
        numbers: Tensor | None = None,
    ) -> None:
        """Launch the accumulation of one source or two, and the listing of candidates if wanted.

        Args:
            sources: Tensors to add.
            listed: Candidates to list.
            clipped: The gradient's norm, instead of the first source's factor; nothing is added if
                the norm is not finite.
            numbers: Index of each block's tensor among the addresses; by default the layout's.
        """
        blocks = self.blocks
        with blocks.on_device():
            kernels.accumulate[(blocks.count,)](
                sources[0].addresses,
                sources[-1].addresses,
                blocks.tensor if numbers is None else numbers,
                blocks.inside,
                blocks.flat,
                blocks.length,
                self.velocity,
                self.residual,
                *(listed.buffers if listed else (blocks.flat,) * 9),
                *(clipped or (blocks.flat,) * 3),
                self._momentum,
                sources[0].factor,
                sources[-1].factor,
                clips=clipped is not None,
                has_weights=len(sources) > 1,
                corrects=self._corrects,
                nesterov=self._nesterov,
                keeps=self._keeps,
                scans=listed is not None,
                element=ELEMENTS[sources[0].dtype],
                weight_element=ELEMENTS[sources[-1].dtype],
                block=blocks.size,
                num_warps=_WARPS,
                enable_fp_fusion=False,
            )
