"""Accumulation by one fused kernel, for GPUs; it needs Triton, which comes with torch there.

Not yet run on a GPU: the tests run the kernel through Triton's interpreter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import torch
import triton.language as tl
from torch import Tensor

from dgc_topo.compression import kernels
from dgc_topo.compression.accumulation import Accumulation
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.groups import Groups
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.pool import Pool

_ELEMENTS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_SPARE = 1 << 16  # candidates that fit, beyond four times what is sent


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
        self,
        layout: FlatLayout,
        device: torch.device,
        config: DGCConfig,
        *,
        block: int = kernels.BLOCK,
    ) -> None:
        super().__init__(layout, device, config)
        self._block = block
        self._device = device
        self._blocks = _Blocks(layout, block, device)
        self._addresses: dict[int, tuple[list[int], Tensor]] = {}

    @torch.no_grad()
    def add(self, *terms: tuple[Mapping[str, Tensor], float], pool: Pool | None = None) -> None:
        """As `Accumulation.add`."""
        sources = [[tensors[name].detach() for name in self.layout.names] for tensors, _ in terms]
        types = [_common_type(tensors) for tensors in sources]
        if not self._blocks.count or len(terms) > len(("gradients", "weights")) or None in types:
            super().add(*terms, pool=pool)
            return
        found = torch.zeros(1, dtype=torch.int64, device=self._device)
        capacity = 4 * pool.num_wanted + _SPARE if pool else 0
        indices = torch.empty(capacity, dtype=torch.int64, device=self._device)
        magnitudes = torch.empty(capacity, device=self._device)
        addresses = [self._table(place, tensors) for place, tensors in enumerate(sources)]
        blocks = self._blocks
        kernels.accumulate[(blocks.count,)](
            addresses[0],
            addresses[-1],
            blocks.tensor,
            blocks.inside,
            blocks.flat,
            blocks.length,
            blocks.groups(pool.groups) if pool else blocks.tensor,
            self.velocity,
            self.residual,
            pool.thresholds if pool else magnitudes,
            found,
            indices,
            magnitudes,
            capacity,
            self._momentum,
            terms[0][1],
            terms[-1][1],
            has_weights=len(terms) > 1,
            corrects=self._corrects,
            nesterov=self._nesterov,
            keeps=self._keeps,
            scans=pool is not None,
            element=_ELEMENTS[sources[0][0].dtype],
            weight_element=_ELEMENTS[sources[-1][0].dtype],
            block=self._block,
            enable_fp_fusion=False,
        )
        if pool is not None:
            self._hand_over(pool, int(found), indices, magnitudes)

    def _hand_over(self, pool: Pool, count: int, indices: Tensor, magnitudes: Tensor) -> None:
        """Give the pool its candidates in ascending order; look again if there were too many."""
        if count > len(indices):
            pool.watch_all(self.residual)
            return
        ascending, order = indices[:count].sort()
        pool.put(ascending, magnitudes[:count][order])

    def _table(self, place: int, tensors: Sequence[Tensor]) -> Tensor:
        """Return the addresses of tensors on the device; they seldom change between steps."""
        addresses = [tensor.data_ptr() for tensor in tensors]
        known = self._addresses.get(place)
        if known is None or known[0] != addresses:
            known = addresses, torch.tensor(addresses, dtype=torch.int64, device=self._device)
            self._addresses[place] = known
        return known[1]


class _Blocks:
    """The blocks of all tensors, as the kernel reads them: one element per block."""

    def __init__(self, layout: FlatLayout, block: int, device: torch.device) -> None:
        places = [place for _, place in layout.slices()]
        sizes = torch.tensor([place.stop - place.start for place in places], dtype=torch.int64)
        starts = torch.tensor([place.start for place in places], dtype=torch.int64)
        counts = (sizes + block - 1) // block
        tensor = torch.arange(len(sizes)).repeat_interleave(counts)
        first = (counts.cumsum(0) - counts)[tensor]
        inside = (torch.arange(len(tensor)) - first) * block
        self.count = len(tensor)
        self.tensor = tensor.to(device, torch.int32)
        self.inside = inside.to(device)
        self._flat = starts[tensor] + inside
        self.flat = self._flat.to(device)
        self.length = (sizes[tensor] - inside).clamp(max=block).to(device, torch.int32)
        self._groups: tuple[Groups, Tensor] | None = None

    def groups(self, groups: Groups) -> Tensor:
        """Return each block's group; groups begin where tensors do."""
        if self._groups is None or self._groups[0] != groups:
            starts = self._flat.tolist()
            numbers = [bisect_right(groups.offsets, start) - 1 for start in starts]
            self._groups = groups, torch.tensor(numbers, dtype=torch.int32).to(self.flat.device)
        return self._groups[1]


def _common_type(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """Return the element type of contiguous *tensors*, None where the kernel cannot read them."""
    types = {tensor.dtype for tensor in tensors}
    if len(types) > 1 or not all(tensor.is_contiguous() for tensor in tensors):
        return None
    return next(iter(types & set(_ELEMENTS)), None)
