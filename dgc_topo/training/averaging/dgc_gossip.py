"""DGC over gossip: compressed changes in D-PSGD's order, with velocities in the residual.

::

    gradient     g at x
    send         q = C(x - estimate), and so on     as `choco`, before the local move
    consensus    x <- x + consensus_step * gap
    local move   u = momentum * u + g;  x <- x - lr * u

The residual ``x - estimate`` holds velocities, not gradients: momentum correction (Lin et al., ICLR
2018) for gossip.  At density 1 and a consensus step of 1 this is D-PSGD with momentum.

DGC also masks: where an element was sent, u = 0.  That is right where a rank applies its own
velocity only once it is sent.  Here it applies it at once, so nothing is stale, and masking makes
ranks with large gradients take smaller steps than others: they then agree on another point than the
optimum (tests/training/averaging/test_choco.py).  It is an option, and off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.averaging import DGCGossip
from dgc_topo.training.averaging.base import LocalMove, Parameters, Setup
from dgc_topo.training.averaging.choco import ChocoAverager, EstimateChange


class DGCGossipAverager(ChocoAverager):
    """One rank's estimate and gap; its velocity is that of its own SGD.

    Args:
        parameters: See `ChocoAverager`.
        local: See `ChocoAverager`.
        averaging: The rule's options.
        setup: See `ChocoAverager`.
    """

    def __init__(
        self, parameters: Parameters, local: LocalMove, averaging: DGCGossip, setup: Setup
    ) -> None:
        super().__init__(parameters, local, averaging, setup)
        self._masks = averaging.masking

    def _change(self, difference: Tensor, density: float) -> EstimateChange:
        """See `ChocoAverager`; the velocity of what is sent is masked, if that is wanted."""
        change = super()._change(difference, density)
        if self._masks and change.indices is not None:
            self._mask(change.indices)
        return change

    def _mask(self, indices: Tensor) -> None:
        """Reset the velocities of these elements."""
        momenta = self.local.momenta()
        ends = torch.tensor(self._compressed.offsets, dtype=torch.int64, device=indices.device)
        places = torch.searchsorted(indices, ends).tolist()
        for number, name in enumerate(self._compressed.names):
            if name in momenta:
                own = indices[places[number] : places[number + 1]] - ends[number]
                momenta[name].view(-1)[own] = 0.0
