"""Momentum SGD on a summed gradient: what dense training does, and DGC's own dense part."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.tensors import is_frozen
from dgc_topo.compression.values import FLOAT32_MAX


def check_sgd(
    where: str, *, momentum: float, nesterov: bool, weight_decay: float, clip_norm: float | None
) -> None:
    """Refuse settings that make no sense.

    Raises:
        ValueError: naming *where* and the setting.
    """
    if not 0 <= momentum < 1 or (nesterov and not momentum):
        expected = "0 < momentum < 1 with nesterov" if nesterov else "0 <= momentum < 1"
        raise ValueError(f"{where}: momentum {momentum}, expected {expected}")
    if not 0 <= weight_decay <= FLOAT32_MAX:
        raise ValueError(f"{where}: weight_decay {weight_decay}, expected at least 0")
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise ValueError(f"{where}: clip_norm {clip_norm}, expected above 0, or None")


def clip_by_norm(gradient: Tensor, clip_norm: float) -> None:
    """Scale *gradient* in place so that its L2 norm is at most *clip_norm*.

    Stays on the device, without synchronising.  Of a norm that overflows float32 nobody can tell by
    what to scale: the gradient becomes NaN, for the next loss to show, rather than silently 0.
    """
    norm = torch.linalg.vector_norm(gradient)
    factor = (clip_norm / norm).clamp(max=1.0)  # a norm of 0 gives infinity, hence 1
    gradient.mul_(torch.where(norm < math.inf, factor, math.nan))


class MomentumSGD:
    """Turn the gradient summed over all ranks into an update, as torch.optim.SGD does.

    ``d = g + weight_decay * w;  b = momentum * b + d;`` the update is ``b``, or with Nesterov
    ``d + momentum * b``.  Decoupled weight decay leaves ``d = g`` and adds ``weight_decay * w``
    to the update.  The buffer b is float32 whatever the parameters are.

    Args:
        parameters: Live references; read for weight decay.
        device: Where they and the buffer are.
        momentum: m, from 0 to below 1; 0 keeps no buffer.
        nesterov: Look ahead by one step of momentum.
        weight_decay: Factor on the parameters, at least 0.
        decoupled: Keep weight decay out of the momentum.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        device: torch.device,
        *,
        momentum: float,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        decoupled: bool = False,
    ) -> None:
        self.layout = FlatLayout.of(parameters)
        self._parameters = parameters
        self._momentum = momentum
        self._nesterov = nesterov
        self._weight_decay = weight_decay
        self._decoupled = decoupled
        length = self.layout.length if momentum else 0
        self._buffer = torch.zeros(length, dtype=torch.float32, device=device)

    @torch.no_grad()
    def update(self, gradient: Tensor) -> Tensor:
        """Return the update for a summed gradient; one call per step.

        Args:
            gradient: Shape (length,), float32; overwritten by the update.
        """
        if not self._decoupled:
            self._add_decay(gradient)
        if self._momentum:
            self._buffer.mul_(self._momentum).add_(gradient)
            if self._nesterov:
                gradient.add_(self._buffer, alpha=self._momentum)
            else:
                gradient.copy_(self._buffer)
        if self._decoupled:
            self._add_decay(gradient)
        return gradient

    def buffers(self) -> dict[str, Tensor]:
        """Return the momentum of each parameter, sharing memory; none if momentum is 0."""
        return self.layout.views(self._buffer) if self._momentum else {}

    def _add_decay(self, flat: Tensor) -> None:
        if self._weight_decay:
            for name, view in self.layout.views(flat).items():
                if not is_frozen(self._parameters[name]):
                    view.add_(self._parameters[name], alpha=self._weight_decay)
