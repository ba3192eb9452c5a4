"""The norm of a gradient on a GPU, in one pass over all its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.compression.gpu import step_kernels as kernels
from dgc_topo.compression.gpu.blocks import ELEMENTS, Blocks, Reader
from dgc_topo.compression.layout import FlatLayout

BLOCK = 4096  #: elements per program


class FusedNorm:
    """The L2 norm over all tensors together, by one launch and one wait.

    Args:
        tensors: Like the gradients will be: names, shapes and device.
        device: Where they are.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.reader = Reader(tuple(tensors), device)
        self._blocks = Blocks(FlatLayout.of(tensors), BLOCK, device)
        self._sums = torch.empty(self._blocks.count, dtype=torch.float64, device=device)
        self._total = torch.empty((), dtype=torch.float64, device=device)

    def __call__(self, gradients: Mapping[str, Tensor]) -> float | None:
        """Return the norm, or None if a kernel cannot read them or it is not finite."""
        dtype = self.reader.read(gradients)
        if dtype is None or not self._blocks.count:
            return None
        self.launch(dtype, self._total)
        total = float(self._total)
        return math.sqrt(total) if math.isfinite(total) else None

    def launch(self, dtype: torch.dtype, total: Tensor) -> None:
        """Sum the squares of what the reader has read, without waiting for the GPU.

        Args:
            dtype: What the reader said.
            total: Shape (), float64; overwritten.
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
                block=BLOCK,
                num_warps=8,
            )
        torch.sum(self._sums, 0, out=total)
