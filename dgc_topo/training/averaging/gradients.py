"""Gradients: what every rank contributes is summed, and all ranks make the same update."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dgc_topo.payload import Payload
from dgc_topo.training.averaging.base import Averager, Parameters
from dgc_topo.training.buckets import Buckets, Move, gradients_of


class GradientAverager(Averager):
    """A rank's side of data parallel training, dense or compressed; ranks may share parameters.

    Args:
        parameters: The rank's, by name.
        buckets: Parts of the gradient, each with its compressor.
        move: Moves the parameters by what the buckets make of the sum.
        trains: False for a dedicated server, which adds nothing.

    Attributes:
        learning_rate: Of the next step.
    """

    moves_first = False

    def __init__(
        self, parameters: Parameters, buckets: Buckets, move: Move, *, trains: bool
    ) -> None:
        self._parameters, self._buckets, self._trains = parameters, buckets, trains
        self._move, self.learning_rate = move, 0.0
        self._updates: dict[str, Tensor] = {}

    def prepare(self) -> None:
        """See `Averager.prepare`: the gradients stay where they are."""

    def outgoing(self, density: float) -> list[Payload]:
        """See `Averager.outgoing`; the buckets know the density themselves."""
        del density
        if not self._trains:
            return self._buckets.neutral()
        return self._buckets.compress(gradients_of(self._parameters))

    def incoming(self, payloads: Sequence[Payload]) -> None:
        """See `Averager.incoming`."""
        self._updates = self._buckets.finish(payloads)

    def move(self) -> None:
        """See `Averager.move`: by what came back."""
        self._move(self._updates, self.learning_rate)

    @property
    def agrees(self) -> bool:
        """See `Averager.agrees`."""
        return True

    def shared(self) -> dict[str, Tensor]:
        """See `Averager.shared`."""
        return {name: p.detach().clone() for name, p in self._parameters.items()}

    def common(self) -> dict[str, Tensor]:
        """See `Averager.common`: the parameters."""
        return dict(self._parameters)
