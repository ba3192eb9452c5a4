"""A worker's own optimizer behind the protocol of a compressor: its steps are what is compressed.

DGC's momentum correction is that of SGD.  Any other optimizer takes a step of its own on the
worker's own gradient; the change that it makes is compressed with a residual and averaged (see
`UpdateCompressor`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dgc_topo.compression.density import DensitySchedule
from dgc_topo.compression.gradients import Gradients
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.compression.values import check_epoch
from dgc_topo.payload import Payload
from dgc_topo.training.optimizers import set_learning_rate


class LocalOptimizer:
    """An optimizer and the compressor of its steps.

    The parameters are those that all ranks share, bit for bit, except while `looking_ahead`: a
    worker's gradient is that at its own parameters, which hold a share of what it has not sent yet.

    Args:
        parameters: The model's, by name; several ranks of a process may share them.
        optimizer: Optimizer of those that are trained; no other rank's.
        compressor: Compresses its steps.
        schedule: Density as a function of the epoch.
        clip_norm: Bound on the L2 norm of the worker's own gradient; None does not clip.

    Attributes:
        optimizer: The optimizer.
        learning_rate: Of the next step.
    """

    name = "updates"
    owns_momentum = False

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer: Optimizer,
        compressor: UpdateCompressor,
        schedule: DensitySchedule,
        clip_norm: float | None,
    ) -> None:
        self._parameters, self.optimizer = dict(parameters), optimizer
        self._compressor, self._schedule, self._clip_norm = compressor, schedule, clip_norm
        self._epoch, self.learning_rate = 0.0, 0.0
        self._shared: list[Tensor] | None = None

    @property
    def density(self) -> float:
        """Fraction of the compressed tensors' elements that is sent at the current progress."""
        return self._schedule.density_at(self._epoch)

    def set_progress(self, epoch: float) -> None:
        """See `Compressor.set_progress`."""
        self._epoch = check_epoch(self.name, epoch)

    @contextmanager
    def looking_ahead(self) -> Iterator[None]:
        """Move the parameters ahead by a share of what this worker has not sent, in the block."""
        self._shared = self._copies()
        with torch.no_grad():
            ahead = self._compressor.ahead()
            torch._foreach_add_(list(self._parameters.values()), list(ahead.values()))
        try:
            yield
        finally:
            self._put_back(self._shared)
            self._shared = None

    def compress(self, gradients: Gradients) -> Payload:
        """Let the optimizer take a step, undo it, and return what is sent of it.

        Args:
            gradients: Those of this worker's own mean loss, not divided by the number of workers.

        Raises:
            NonFiniteGradientError: if the step holds NaN or infinity.
        """
        before = self._copies()
        for name, parameter in self._parameters.items():
            if parameter.requires_grad:
                parameter.grad = gradients[name]
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)
        set_learning_rate(self.optimizer, self.learning_rate)
        self.optimizer.step()
        with torch.no_grad():
            steps = [p - old for p, old in zip(self._parameters.values(), before, strict=True)]
        self._put_back(before if self._shared is None else self._shared)
        updates = dict(zip(self._parameters, steps, strict=True))
        return self._compressor.compress(updates, density=self.density)

    def neutral(self) -> Payload:
        """Return a payload that adds nothing."""
        return self._compressor.neutral(density=self.density)

    def finish(self, payload: Payload) -> dict[str, Tensor]:
        """Return the change of the shared parameters, see `add_changes`."""
        return self._compressor.finish(payload)

    def describe(self) -> str:
        """See `Compressor.describe`."""
        return self._compressor.describe()

    def state_dict(self) -> dict[str, object]:
        """Return the states of the compressor and of the optimizer."""
        return {**self._compressor.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """See `Compressor.load_state_dict`."""
        self._compressor.load_state_dict(state)
        self.optimizer.load_state_dict(cast("dict[str, Any]", state["optimizer"]))

    def _copies(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters.values()]

    @torch.no_grad()
    def _put_back(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(list(self._parameters.values()), values)
