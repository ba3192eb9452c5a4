"""D-PSGD: parameters are mixed with the neighbours', then each rank makes its own step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dgc_topo.payload import DensePayload, Payload
from dgc_topo.schedule import Goal
from dgc_topo.training.averaging.base import LocalAverager
from dgc_topo.wire.coding import WireDtype

#: Goals of gossip that parameters can use: the ranks' average must not change.
AVERAGES: frozenset[Goal] = frozenset({"doubly-stochastic"})


class ParameterAverager(LocalAverager):
    """D-PSGD: ``x_i <- sum_j W[i, j] x_j``, and from there the rank's own step.

    The gradient is that at the parameters before (Lian et al., NeurIPS 2017).  Momentum stays with
    the rank.

    Args:
        parameters: See `LocalAverager`.
        local: See `LocalAverager`.
        averaging: See `LocalAverager`.
        setup: See `LocalAverager`.
    """

    def outgoing(self, density: float) -> list[Payload]:
        """See `Averager.outgoing`: copies of all parameters."""
        del density  # whole parameters
        return [mixture_of(self.parameters, self.setup.config.coding.dense_dtype)]

    def incoming(self, payloads: Sequence[Payload]) -> None:
        """See `Averager.incoming`: the mixture takes the place of the parameters."""
        (payload,) = payloads
        assert isinstance(payload, DensePayload)
        with torch.no_grad():
            set_parts(self.parameters.values(), payload.buffer)


def mixture_of(parameters: Mapping[str, Tensor], wire_dtype: WireDtype) -> DensePayload:
    """Return the payload of copies of all parameters, which gossip turns into the mixture."""
    parts = [p.detach().reshape(-1).to(torch.float32) for p in parameters.values()]
    return DensePayload(torch.cat(parts), wire_dtype=wire_dtype, goals=AVERAGES)


def set_parts(targets: Iterable[Tensor], flat: Tensor) -> None:
    """Copy consecutive parts of *flat* to *targets*."""
    begin = 0
    for target in targets:
        target.copy_(flat[begin : begin + target.numel()].view_as(target))
        begin += target.numel()
