"""Own moves: a rank's own optimizer in the training loop, on the rank's own gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dgc_topo.compression.dense import Dense
from dgc_topo.training.averaging.base import Parameters, mean_of
from dgc_topo.training.buckets import apply_updates, dense_compressor, gradients_of
from dgc_topo.training.job import Job
from dgc_topo.training.optimizers import make_optimizer, set_learning_rate


class OwnMove(ABC):
    """A `LocalMove` of the training loop, with state for checkpoints.

    Attributes:
        learning_rate: Of the next step.
    """

    learning_rate = 0.0

    @abstractmethod
    def prepare(self) -> None:
        """See `LocalMove.prepare`."""

    @abstractmethod
    def move(self) -> None:
        """See `LocalMove.move`."""

    def momenta(self) -> Mapping[str, Tensor]:
        """See `LocalMove.momenta`."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what lasts from step to step."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state, bit for bit."""

    def resume_from(self, states: Sequence[Mapping[str, Any]], place: int) -> None:
        """Go on at a place among other ranks than before, out of the states of all of those."""
        self.load_state_dict(states[place % len(states)])


class SGDMove(OwnMove):
    """Momentum SGD, clipped by the job's own bound.

    Args:
        job: The job.
        parameters: The rank's, by name.
    """

    def __init__(self, job: Job, parameters: Parameters) -> None:
        self._parameters = parameters
        self._rule: Dense = dense_compressor(job, parameters, "float32")
        self._updates: dict[str, Tensor] = {}

    def prepare(self) -> None:
        """See `LocalMove.prepare`; weight decay is that of the parameters now."""
        self._updates = self._rule.finish(self._rule.compress(gradients_of(self._parameters)))

    def move(self) -> None:
        """See `LocalMove.move`."""
        apply_updates(self._parameters, self._updates, self.learning_rate)

    def momenta(self) -> Mapping[str, Tensor]:
        """See `LocalMove.momenta`."""
        return self._rule.momenta()

    def state_dict(self) -> dict[str, Any]:
        """See `OwnMove.state_dict`."""
        return self._rule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `OwnMove.load_state_dict`."""
        self._rule.load_state_dict(state)

    def resume_from(self, states: Sequence[Mapping[str, Any]], place: int) -> None:
        """See `OwnMove.resume_from`: with the mean momentum."""
        del place
        self.load_state_dict(
            {**states[0], "momentum": mean_of([state["momentum"] for state in states])}
        )


class OptimizerMove(OwnMove):
    """Any torch.optim.Optimizer; a parameter that took no part in the loss has no gradient.

    Args:
        job: The job, which names it.
        parameters: The rank's, by name.

    Attributes:
        optimizer: The optimizer.
    """

    def __init__(self, job: Job, parameters: Parameters) -> None:
        self._parameters = parameters
        self.optimizer: Optimizer = make_optimizer(job.train, parameters.values())
        self._clip_norm = job.train.clip_norm

    def prepare(self) -> None:
        """See `LocalMove.prepare`: clip the gradients."""
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)

    def move(self) -> None:
        """See `LocalMove.move`."""
        set_learning_rate(self.optimizer, self.learning_rate)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """See `OwnMove.state_dict`."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `OwnMove.load_state_dict`."""
        self.optimizer.load_state_dict(dict(state))


def own_move_of(job: Job, parameters: Parameters) -> OwnMove:
    """Return the own move of a rank of a job."""
    return SGDMove(job, parameters) if job.train.is_sgd else OptimizerMove(job, parameters)
