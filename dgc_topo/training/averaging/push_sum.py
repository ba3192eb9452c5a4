"""Stochastic gradient push: gossip over directed graphs, where ranks give away shares of a total.

Over a directed graph a rank cannot see to it that what it *receives* is an average.  It can see to
it that what it *gives* adds up to what it had.  Every rank therefore carries a weight beside its
parameters, which is given away in the same shares; the quotient of both goes to the average
(Kempe, Dobra, Gehrke, FOCS 2003; Assran et al., ICML 2019)::

    gradient     at z = x / w
    local move   x <- x - lr * u
    exchange     x_i <- sum_j W[i, j] x_j        w_i <- sum_j W[i, j] w_j

The columns of W sum to 1.  Over all ranks, the sum of w therefore stays their number, and only
gradients move the sum of x: to rounding, and exactly if the shares are powers of two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgc_topo.averaging import Averaging
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.payload import BundlePayload, DensePayload, Payload
from dgc_topo.training.averaging.base import (
    LocalAverager,
    LocalMove,
    Parameters,
    Setup,
    mean_of,
)


class PushSumAverager(LocalAverager):
    """One rank's x and its weight w; the model's parameters are x / w between steps.

    Args:
        parameters: See `LocalAverager`.
        local: See `LocalAverager`.
        averaging: The rule's options.
        setup: See `LocalAverager`.

    Attributes:
        weight: w, shape (1,), float32.
    """

    def __init__(
        self, parameters: Parameters, local: LocalMove, averaging: Averaging, setup: Setup
    ) -> None:
        super().__init__(parameters, local, averaging, setup)
        self._layout = FlatLayout.of(self.parameters)
        device = next(iter(self.parameters.values())).device
        self.weight = torch.ones(1, dtype=torch.float32, device=device)
        self._x = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """See `LocalAverager.follow`: x is what gives the parameters with this weight."""
        shown = {name: x / self.weight for name, x in self._x.items()}
        for name, parameter in self._others_than(shown).items():
            self._x[name].copy_(parameter * self.weight)

    def move(self) -> None:
        """See `Averager.move`: the optimizer moves x, so that its decay is one of x / w, too."""
        self._set(self._x)
        super().move()
        with torch.no_grad():
            for name, x in self._x.items():
                # Gossip keeps sums: a rank that counts more moves the sum by more.
                x.lerp_(self.parameters[name], self.setup.weight)
        self._show()

    @torch.no_grad()
    def outgoing(self, density: float) -> list[Payload]:
        """See `Averager.outgoing`: x, and w in a part of its own, which is never rounded."""
        del density  # parameters travel whole
        flat = self._layout.flatten(self._x, self.weight.device)
        x = DensePayload(flat, self.setup.config.coding.dense_dtype, goals=self.goals)
        return [BundlePayload([x, DensePayload(self.weight.clone(), goals=self.goals)])]

    @torch.no_grad()
    def incoming(self, payloads: Sequence[Payload]) -> None:
        """See `Averager.incoming`.

        Raises:
            ValueError: if the topology leaves this rank nothing.
        """
        (payload,) = payloads
        assert isinstance(payload, BundlePayload)
        x, weight = payload.parts
        assert isinstance(x, DensePayload)
        assert isinstance(weight, DensePayload)
        if not float(weight.buffer) > 0:
            raise ValueError(
                f"push-sum: weight {float(weight.buffer):g} after an exchange, expected above 0: a "
                "topology in which every rank keeps a share of its own"
            )
        _copy(self._x, self._layout.views(x.buffer))
        self.weight.copy_(weight.buffer)
        self._show()

    @torch.no_grad()
    def renew(self) -> None:
        """Begin anew from x / w with a weight of 1: the shares that lost ranks held are gone."""
        for x in self._x.values():
            x.div_(self.weight)
        self.weight.fill_(1.0)

    @property
    def counts(self) -> float:
        """See `Averager.counts`: a rank's moves hold it."""
        return 1.0

    def shared(self) -> dict[str, Tensor]:
        """See `Averager.shared`: x, as the weights of all ranks are 1 on average."""
        return {name: x.clone() for name, x in self._x.items()}

    def state_dict(self) -> dict[str, Any]:
        """See `Averager.state_dict`: x and w."""
        return {"x": dict(self._x), "weight": self.weight}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Averager.load_state_dict`."""
        _copy(self._x, state["x"])
        self.weight.copy_(state["weight"])
        self._show()

    @torch.no_grad()
    def resume_from(
        self, parameters: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Averager.resume_from`: the sum of all x over that of all w, with a weight of 1."""
        del parameters
        _copy(self._x, mean_of([state["x"] for state in states]))
        self.weight.copy_(torch.stack([state["weight"] for state in states]).mean(0))
        self.renew()
        self._show()

    def _show(self) -> None:
        """Set the model's parameters to x / w."""
        self._set({name: x / self.weight for name, x in self._x.items()})


def _copy(live: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, tensor in live.items():
        tensor.copy_(values[name])
