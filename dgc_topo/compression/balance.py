"""Balance: what earlier sums say about where the largest entries of the next one will lie.

All ranks hold the same sums, bit for bit.  They therefore remember the same, and agree without a
message on the chunks of a re-selected sum, and on what each of them keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.compression.layout import FlatLayout
from dgc_topo.payload import Entries
from dgc_topo.payload.shares import Shares

_LEAST_CELL = 16  #: elements: smaller cells know no more of the next sum
_MOST_CELLS = 8192  #: of a tensor
_ONE = 1 << 10  #: weight of an entry of the last sum
_CPU = torch.device("cpu")
_BASE = 64  #: one part in so many of all weight is spread evenly


def cell_size(num_elements: int) -> int:
    """Return the elements of a tensor's cells, a power of 2."""
    needed = -(-num_elements // _MOST_CELLS)
    return max(_LEAST_CELL, 1 << (needed - 1).bit_length() if needed > 1 else 1)


def num_cells(num_elements: int) -> int:
    """Return the number of a tensor's cells."""
    return -(-num_elements // cell_size(num_elements))


class Balance:
    """Counts of the larger entries of earlier sums, by cells of the compressed tensors.

    Each sum counts half as much as the next one.

    Args:
        layout: Place of each tensor in the flat buffer.
    """

    def __init__(self, layout: FlatLayout) -> None:
        starts: list[Tensor] = []
        sizes: list[int] = []
        for _, place in layout.slices():
            size = cell_size(place.stop - place.start)
            starts.append(
                torch.arange(place.start, place.stop, size, dtype=torch.int64, device=_CPU)
            )
            sizes.append(len(starts[-1]))
        self._edges = torch.cat(
            [*starts, torch.tensor([layout.length], dtype=torch.int64, device=_CPU)]
        )
        self._counts = torch.zeros(len(self._edges) - 1, dtype=torch.int64, device=_CPU)
        self._names, self._sizes = layout.names, sizes

    def views(self) -> dict[str, Tensor]:
        """Return the counts of each tensor's cells by name, sharing memory."""
        return dict(zip(self._names, torch.split(self._counts, self._sizes), strict=True))

    def note(self, total: Entries) -> None:
        """Note where the larger half of a sum lies.

        In a sum of which a share of each chunk was kept, only they say where a larger share would
        have been right.
        """
        indices = total.indices
        if len(indices) > 1:
            magnitudes = total.values.abs()
            indices = indices[magnitudes >= magnitudes.median()]
        edges = torch.searchsorted(indices, self._edges.to(indices.device)).cpu()
        self._counts += edges.diff() * _ONE
        self._counts //= 2

    def shares(self) -> Shares | None:
        """Return the shares to expect of the next sum; None before the first one."""
        whole = int(self._counts.sum())
        if not whole:
            return None
        sizes = self._edges.diff()
        even = (sizes * (whole // _BASE) // self._edges[-1]).clamp_(1)
        return Shares(self._edges.numpy(), (self._counts + even).numpy())
