"""Thresholds from nothing: digit by digit of the largest magnitudes, over the whole residual.

It costs four bytes read per element and digit, needs no sample, and waits for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.compression.gpu import selection_kernels as kernels
from dgc_topo.compression.gpu.blocks import spans
from dgc_topo.compression.gpu.candidates import Lists
from dgc_topo.compression.groups import Groups

CHUNK = 1024  #: elements that a program looks at together
_CHUNKS = 16  #: which it does so many times
DIGITS = 3  #: of a threshold; 2**-16 of it stays unknown: tails are never so dense
_VALUES: int = kernels.VALUES.value


class Search:
    """Finds a threshold per group that no fewer than what it sends exceed, and hardly more.

    Args:
        groups: Who competes with whom.
        device: Where the residual is.
    """

    def __init__(self, groups: Groups, device: torch.device) -> None:
        offsets = torch.tensor(groups.offsets, dtype=torch.int64, device="cpu")
        self._begin = offsets.to(device)
        self._group, self._first = spans(offsets.diff(), CHUNK * _CHUNKS, device)

    def thresholds(self, residual: Tensor, lists: Lists, searched: Tensor) -> Tensor:
        """Return a threshold of each *searched* group, infinity for others.

        Args:
            residual: The finished one.
            lists: Its counters are made use of, and left so.
            searched: Of which groups, shape (num_groups,), bool.
        """
        lists.clear()
        wanted = torch.where(searched, lists.wanted, 0)
        found = torch.empty(len(wanted), dtype=torch.float32, device=residual.device)
        with lists.blocks.on_device():
            for digit in range(DIGITS):
                kernels.count_everywhere[(len(self._group),)](
                    self._group,
                    self._first,
                    self._begin,
                    wanted,
                    residual,
                    lists.histograms,
                    digit=digit,
                    digits=kernels.DIGITS,
                    values=_VALUES,
                    chunk=CHUNK,
                    chunks=_CHUNKS,
                )
            kernels.write_thresholds[(len(wanted),)](
                wanted,
                lists.histograms,
                found,
                known=DIGITS,
                digits=kernels.DIGITS,
                values=_VALUES,
            )
        return found
