"""`Averager`: one rank's side of an averaging rule, the same for processes and virtual workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dgc_topo.averaging import Averaging
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.payload import DensePayload, Payload
from dgc_topo.schedule import Goal

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
        goal: Goal of the topology.
    """

    num_workers: int
    config: DGCConfig
    trains: bool = True
    place: int = 0
    seed: int = 0
    weight: float = 1.0
    goal: Goal = "all-reduce"


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

    A rank that is left out of an exchange makes none of the three lines; before it comes back, what
    it has in `alike` is replaced by that of the others, after `outgoing`.

    Virtual workers take turns: all of them are done with a line before anyone begins the line after
    the schedule's.

    Attributes:
        moves_first: True if what is sent holds the rank's own move already.
        renormalise: Factor of the sum that `incoming` gets: the weights of all ranks over the
            weights of those that took part.
    """

    moves_first: bool
    renormalise: float = 1.0
    _last_exchange: int = -1

    def attend(self, exchange: int, renormalise: float = 1.0) -> None:
        """Note that this rank takes part in an exchange, before `outgoing`.

        Args:
            exchange: Its number.
            renormalise: See the class.
        """
        self._last_exchange, self.renormalise = exchange, renormalise

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

    def share(self, first: Averager) -> None:  # noqa: B027 - most have nothing of the kind
        """Hold what all ranks hold alike once, with a rank of this process that comes before."""

    def alike(self) -> Mapping[str, Tensor]:
        """Return the live tensors that all ranks hold alike, by any names; none in gossip."""
        return {}

    def check_alike(self) -> None:
        """Refuse what messages cannot hold bit for bit.

        Raises:
            ValueError: naming the first of it.
        """
        for name, tensor in self.alike().items():
            if tensor.dtype != torch.float32:
                raise ValueError(
                    f"ranks are left out of exchanges: {name} is {tensor.dtype}, expected "
                    "float32, as of parameters of at most 32 bits"
                )

    @torch.no_grad()
    def catch_up(self) -> DensePayload:
        """Return what all ranks hold alike, for a copy to those that were left out."""
        return DensePayload(torch.cat([tensor.reshape(-1) for tensor in self.alike().values()]))

    @torch.no_grad()
    def caught_up(self, payload: DensePayload) -> None:
        """Take over what the others hold alike."""
        alike = list(self.alike().values())
        for own, part in zip(
            alike, torch.split(payload.buffer, [t.numel() for t in alike]), strict=True
        ):
            own.copy_(part.view_as(own))

    def missed(self) -> None:  # noqa: B027 - most have taken nothing
        """Take back what `outgoing` took: the exchange failed, and nobody used it."""

    def renew(self) -> None:  # noqa: B027 - most remember nothing of the others
        """Forget what is known of other ranks: there are others now, or another schedule."""

    @property
    def agrees(self) -> bool:
        """True if all ranks hold the same `shared` parameters now, bit for bit."""
        return False

    @property
    def counts(self) -> float:
        """Factor of `shared` in the mean over the ranks, 1 on average."""
        return 1.0

    @abstractmethod
    def shared(self) -> dict[str, Tensor]:
        """Return this rank's part of the parameters that are evaluated, in memory of its own.

        Where ranks do not agree, those are the mean over the ranks of their parts.
        """

    def round_change(self) -> dict[str, Tensor]:
        """Return the change of the parameters in a round that all ranks have begun alike."""
        return {}

    def describe(self) -> str:
        """Describe what travels."""
        return "all elements travel dense"

    def common(self) -> Mapping[str, Tensor] | None:
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
        averaging: The rule.
        setup: Facts about it.

    Attributes:
        was_set: True if `follow` took over parameters that ranks share, until what is `common` has
            been made equal on all.
    """

    was_set = False

    def __init__(
        self, parameters: Parameters, local: LocalMove, averaging: Averaging, setup: Setup
    ) -> None:
        self.parameters, self.local, self.setup = dict(parameters), local, setup
        self.goals, self.moves_first = averaging.goals, averaging.moves_first

    def prepare(self) -> None:
        """See `Averager.prepare`; a dedicated server has no gradients."""
        if self.setup.trains:
            self.local.prepare()

    def follow(self) -> None:
        """Take over parameters that the script has set since the last exchange.

        A loaded checkpoint or weights that are clipped after each step are no change to be
        averaged: what the rule keeps beside the parameters begins at them.
        """

    def move(self) -> None:
        """See `Averager.move`; a dedicated server stays where it is."""
        if self.setup.trains:
            self.local.move()

    def describe(self) -> str:
        """See `Averager.describe`."""
        elements = sum(p.numel() for p in self.parameters.values())
        return f"all {elements:,} elements of {len(self.parameters)} tensors travel dense"

    @property
    def counts(self) -> float:
        """Factor of `shared` in the mean over the ranks, 1 on average."""
        return self.setup.weight

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
    def _others_than(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters that hold other values than these, rounded to their types."""
        return {
            name: p.detach()
            for name, p in self.parameters.items()
            if not torch.equal(p, values[name].to(p.dtype))
        }

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


def update_compressor(
    parameters: Parameters, setup: Setup, look_ahead: float = 0.0
) -> UpdateCompressor:
    """Return the compressor of a rank's changes, and of what it has not sent of them.

    Args:
        parameters: The rank's, by name.
        setup: Facts about it.
        look_ahead: See `UpdateCompressor`.
    """
    config = setup.config
    return UpdateCompressor(
        parameters,
        num_workers=setup.num_workers,
        density=config.density,
        selection=config.selection,
        wire_dtype=config.wire_dtype,
        index_encoding=config.index_encoding,
        look_ahead=look_ahead,
    )
