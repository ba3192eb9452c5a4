"""`Averager`: one rank's side of an averaging rule, the same for processes and virtual workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dgc_topo.compression.config import DGCConfig
from dgc_topo.payload import Payload

Parameters = Mapping[str, nn.Parameter]


class LocalMove(Protocol):
    """A rank's own optimizer, in two halves: what arrives may come between them."""

    def prepare(self) -> None:
        """Take the update from the gradients that the parameters have, at what they hold now."""

    def move(self) -> None:
        """Move the parameters by it, from what they hold by now."""

    def momenta(self) -> Mapping[str, Tensor]:
        """Return the live momentum by parameter name; empty if the optimizer has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Facts about a rank and its messages.

    Attributes:
        num_workers: N, the ranks that train.
        config: Settings of what is sent: selection, types and codings.  Its density is the one
            after a warm-up.
        trains: False for a dedicated server, which sends what adds nothing.
        place: Number among the ranks that train.
        seed: Seed of what is drawn at random.
        weight: Factor by which this rank's work counts, 1 on average.
    """

    num_workers: int
    config: DGCConfig
    trains: bool = True
    place: int = 0
    seed: int = 0
    weight: float = 1.0


class Averager(ABC):
    """One rank's side of an averaging rule.

    A step, on every rank, in this order::

        with averager.turn():             # the parameters are those for the gradient
            ...                           # forward and backward pass
            averager.prepare()
        averager.move()                   # if moves_first
        payloads = averager.outgoing(density)   # only in every H-th step, as the next two
        ...                               # the schedule runs on each payload
        averager.incoming(payloads)
        averager.move()                   # if not moves_first

    Virtual workers take turns: all of them are done with a line before anyone begins the line after
    the schedule's.

    Attributes:
        moves_first: True if what is sent holds the rank's own move already.
    """

    moves_first: ClassVar[bool] = True

    def turn(self) -> AbstractContextManager[None]:
        """Return the context in which the parameters are those for the gradient."""
        return nullcontext()

    @abstractmethod
    def prepare(self) -> None:
        """Take what is needed from the gradients that the parameters have now."""

    @abstractmethod
    def move(self) -> None:
        """Move the parameters."""

    def skip(self) -> None:  # noqa: B027 - most do not count
        """Count a step of which this rank makes no move of its own: its gradient was not finite."""

    @abstractmethod
    def outgoing(self, density: float) -> list[Payload]:
        """Return what the rank sends, in memory of its own.

        Args:
            density: Fraction of the compressed elements to send, the same on all ranks.

        Raises:
            NonFiniteGradientError: if it is not finite; nothing has changed then.
        """

    def neutral(self, density: float) -> list[Payload]:
        """Return what to send instead if `outgoing` raises: the others must not wait."""
        return self.outgoing(density)

    @abstractmethod
    def incoming(self, payloads: Sequence[Payload]) -> None:
        """Use what came back.

        Args:
            payloads: Those of `outgoing`, after the schedule ran on them.
        """

    def missed(self) -> None:  # noqa: B027 - most have taken nothing
        """Take back what `outgoing` took: the exchange failed, and nobody used it."""

    def renew(self) -> None:  # noqa: B027 - most remember nothing of the others
        """Forget what is known of other ranks: there are others now, or another schedule."""

    @property
    def agrees(self) -> bool:
        """True if all ranks hold the same `shared` parameters now, bit for bit."""
        return False

    @abstractmethod
    def shared(self) -> dict[str, Tensor]:
        """Return this rank's part of the parameters that are evaluated, in memory of its own.

        Where ranks do not agree, those are the mean over the ranks of their parts.
        """

    def describe(self) -> str:
        """Describe what travels."""
        return "all elements travel dense"

    def common(self) -> dict[str, Tensor] | None:
        """Return what all ranks hold alike at any time, bit for bit; None if there is nothing."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what lasts beside the parameters: numbers, and tensors by section and name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state, bit for bit; the parameters are put back apart."""
        del state

    def resume_from(
        self, parameters: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """Set the parameters out of those of other ranks than before, once the state is loaded.

        Args:
            parameters: Those of all former ranks that trained, by name.
            states: Their states.
        """
        raise NotImplementedError


class LocalAverager(Averager):
    """Base of rules in which each rank's own optimizer moves parameters of its own.

    Args:
        parameters: The rank's, by name.
        local: Its own optimizer.
        setup: Facts about it.
    """

    def __init__(self, parameters: Parameters, local: LocalMove, setup: Setup) -> None:
        self.parameters, self.local, self.setup = dict(parameters), local, setup

    def prepare(self) -> None:
        """See `Averager.prepare`; a dedicated server has no gradients."""
        if self.setup.trains:
            self.local.prepare()

    def move(self) -> None:
        """See `Averager.move`; a dedicated server stays where it is."""
        if self.setup.trains:
            self.local.move()

    def describe(self) -> str:
        """See `Averager.describe`."""
        elements = sum(p.numel() for p in self.parameters.values())
        return f"all {elements:,} elements of {len(self.parameters)} tensors travel dense"

    def shared(self) -> dict[str, Tensor]:
        """See `Averager.shared`: the rank's own parameters."""
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def resume_from(
        self, parameters: Sequence[Mapping[str, Tensor]], states: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Averager.resume_from`: their mean."""
        del states
        self._set(mean_of(parameters))

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        """Set parameters to *values*."""
        torch._foreach_copy_([self.parameters[name] for name in values], list(values.values()))


def mean_of(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the means, by name, taken in float64 and rounded to each first one's type."""
    return {
        name: torch.stack([each[name].to(torch.float64) for each in tensors])
        .mean(0)
        .to(first.dtype)
        for name, first in tensors[0].items()
    }
