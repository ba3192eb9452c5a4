"""Accumulation in one pass over the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gpu import step_kernels as kernels
from dgc_topo.compression.gpu.blocks import ELEMENTS, Addresses, Blocks, common_type
from dgc_topo.compression.gpu.candidates import Candidates
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.pool import Watcher

BLOCK = 1024  #: elements per program of the pass, a power of two
_WARPS = 4
_TAKEN = 512  #: elements per program that takes what is sent
_TERMS = 2  #: that the kernel can sum: gradients, and weights


class FusedAccumulation(Accumulation):
    """As `Accumulation`, bit for bit, in one launch and one pass over the memory.

    Gradients of several types, or not contiguous, take the plain path.

    Args:
        layout: Where each tensor lies in u and v.
        device: Where they are kept.
        config: Says which law holds.
        block: Elements per program of the kernel, a power of two.
    """

    def __init__(
        self, layout: FlatLayout, device: torch.device, config: DGCConfig, *, block: int = BLOCK
    ) -> None:
        super().__init__(layout, device, config)
        self.blocks = Blocks(layout, block, device)
        self._addresses = tuple(Addresses(device) for _ in range(_TERMS))

    @torch.no_grad()
    def add(self, *terms: tuple[Mapping[str, Tensor], float], pool: Watcher | None = None) -> None:
        """As `Accumulation.add`; only `Candidates` are gathered in the same pass."""
        if not self.blocks.count:
            return
        sources = [[tensors[name] for name in self.layout.names] for tensors, _ in terms]
        types = [dtype for tensors in sources if (dtype := common_type(tensors)) is not None]
        listed = pool if isinstance(pool, Candidates) else None
        if len(sources) == len(types) <= _TERMS:
            self._launch(sources, types, [factor for _, factor in terms], listed)
        else:
            super().add(*terms)
            listed = None
        if pool is not None and pool is not listed:
            pool.watch(0, self.residual)

    def take(self, indices: Tensor) -> Tensor:
        """As `Accumulation.take`."""
        if not self._keeps or not len(indices):
            return super().take(indices)
        values = torch.empty(len(indices), device=indices.device)
        with self.blocks.on_device():
            kernels.take[(-(-len(indices) // _TAKEN),)](
                indices,
                values,
                len(indices),
                self.residual,
                self.velocity,
                masks=self._masking,
                block=_TAKEN,
            )
        return values

    def _launch(
        self,
        sources: Sequence[Sequence[Tensor]],
        types: Sequence[torch.dtype],
        factors: Sequence[float],
        listed: Candidates | None,
    ) -> None:
        """Accumulate one source or two, and list candidates if they are wanted."""
        blocks = self.blocks
        pairs = zip(self._addresses, sources, strict=False)
        tables = [table.of(tensors) for table, tensors in pairs]
        with blocks.on_device():
            kernels.accumulate[(blocks.count,)](
                tables[0],
                tables[-1],
                blocks.tensor,
                blocks.inside,
                blocks.flat,
                blocks.length,
                self.velocity,
                self.residual,
                *(listed.buffers if listed else (blocks.flat,) * 9),
                self._momentum,
                factors[0],
                factors[-1],
                has_weights=len(sources) > 1,
                corrects=self._corrects,
                nesterov=self._nesterov,
                keeps=self._keeps,
                scans=listed is not None,
                element=ELEMENTS[types[0]],
                weight_element=ELEMENTS[types[-1]],
                block=blocks.size,
                num_warps=_WARPS,
                enable_fp_fusion=False,
            )
