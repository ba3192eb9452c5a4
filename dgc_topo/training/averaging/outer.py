"""The outer optimizer: an SGD with momentum on what a round of local steps has changed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.averaging import Outer


class OuterSGD:
    """torch.optim.SGD on minus a change: ``b = m b - d``; ``s -= lr * b``, or Nesterov's.

    With a learning rate of 1 and no momentum a step is ``s += d``, bit for bit.

    Args:
        values: What it moves, by name; kept by the caller.
        outer: Its settings.
    """

    def __init__(self, values: Mapping[str, Tensor], outer: Outer) -> None:
        self._outer = outer
        self._momentum = (
            {name: torch.zeros_like(value) for name, value in values.items()}
            if outer.momentum
            else {}
        )

    def momentum(self) -> dict[str, Tensor]:
        """Return the live momentum by name; empty if there is none."""
        return self._momentum

    @torch.no_grad()
    def step(self, values: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> None:
        """Move *values* in place by *changes* of the same names and shapes."""
        names, outer = list(changes), self._outer
        moves = [changes[name].to(values[name].dtype, copy=outer.nesterov) for name in names]
        if outer.momentum:
            buffers = [self._momentum[name] for name in names]
            torch._foreach_mul_(buffers, outer.momentum)
            torch._foreach_add_(buffers, moves)
            if outer.nesterov:
                torch._foreach_add_(moves, buffers, alpha=outer.momentum)
            else:
                moves = buffers
        torch._foreach_add_([values[name] for name in names], moves, alpha=outer.learning_rate)
