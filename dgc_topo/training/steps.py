"""Strategies of a training step: all-reduce of gradients, or D-PSGD gossip of parameters."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dgc_topo.payload import DensePayload, Payload
from dgc_topo.runtime import PeerError, Traffic
from dgc_topo.schedule import Goal
from dgc_topo.training.buckets import gradients_of, sparse_entries
from dgc_topo.training.clocks import PhaseClock
from dgc_topo.training.rank import Computed, StepRecord, TrainingRank
from dgc_topo.training.world import Exchange
from dgc_topo.wire.coding import WireDtype

#: Goals of gossip that parameters can use: the ranks' average must not change.
AVERAGES: frozenset[Goal] = frozenset({"doubly-stochastic"})


class Strategy(ABC):
    """The way from gradients to moved parameters, for the ranks of this process.

    Every step is one call of `begin`; then, rank by rank in its own `turn_of`, a forward and
    backward pass (but for a dedicated server) and `contribute`; then `apply`.

    Attributes:
        forward: Module that the forward pass has to go through, if not the model itself.
    """

    forward: nn.Module | None = None

    @abstractmethod
    def begin(self, iteration: int, epoch: float, learning_rate: float) -> None:
        """Begin a step, after so many steps and epochs, with a learning rate."""

    def turn_of(self, rank: TrainingRank) -> AbstractContextManager[None]:
        """Return the context of a rank's turn: in it the parameters are those for its gradient."""
        del rank
        return nullcontext()

    def contribute(self, rank: TrainingRank) -> None:
        """Take the gradient from a rank's parameters; the next rank's gradient replaces it."""
        del rank  # one rank alone leaves its gradient where it is

    def check(self) -> None:  # noqa: B027 - most raise it where it happens
        """Raise what cut the last step short, now that its state is whole again.

        Raises:
            PeerError: if a peer was lost while parameters were averaged.
        """

    @abstractmethod
    def apply(self, computed: Sequence[Computed]) -> list[StepRecord]:
        """Communicate and update.

        Args:
            computed: Of each rank here.

        Returns:
            Per rank, what it did in this step.
        """

    def prepare_to_resume(self, rank: TrainingRank) -> None:
        """Become as after a first step, before the state of a checkpoint is put back."""
        del rank  # only DDP is another one then

    def state_dict(self) -> dict[str, Any]:
        """Return what lasts from step to step, beside the ranks' buckets: plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state, bit for bit."""
        del state


class _Contribution(NamedTuple):
    """A rank's gradient, one payload per bucket, before it is summed."""

    payloads: list[Payload]
    density: float
    entries: int
    encoded_bytes: int
    compress_s: float


class AllReduceStep(Strategy):
    """Compress the gradients, sum them over the ranks, apply the same update everywhere.

    A rank that only serves contributes payloads that add nothing.

    Args:
        ranks: Those of this process, which share their parameters if they are several.
        exchange: Sums payloads; None is one worker alone, which sends nothing.
        finish_all: True if every rank keeps something of the sum: its own rejected entries.
        time_scale: See `PhaseClock`.
    """

    def __init__(
        self,
        ranks: Sequence[TrainingRank],
        exchange: Exchange | None,
        *,
        finish_all: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        self._ranks = ranks
        self._exchange = exchange
        self._finish_all = finish_all
        # Ranks that share parameters would all make the same update: the first worker does.
        self._leader = next((at for at, rank in enumerate(ranks) if rank.trains), 0)
        device = next(iter(ranks[0].parameters.values())).device
        self._clock = PhaseClock(device, time_scale)
        self.begin(0, 0.0, 0.0)

    def begin(self, iteration: int, epoch: float, learning_rate: float) -> None:
        """See `Strategy.begin`."""
        self._iteration, self._epoch, self._learning_rate = iteration, epoch, learning_rate
        self._contributions: list[_Contribution] = []
        self._ahead_s = 0.0

    @contextmanager
    def turn_of(self, rank: TrainingRank) -> Iterator[None]:
        """See `Strategy.turn_of`."""
        self._clock.start()
        with rank.buckets.looking_ahead():
            self._ahead_s = self._clock.lap()
            yield

    def contribute(self, rank: TrainingRank) -> None:
        """See `Strategy.contribute`: compress it.

        Raises:
            NonFiniteGradientError: if it is not finite.
        """
        clock, buckets = self._clock, rank.buckets
        clock.start()
        buckets.set_progress(self._epoch, self._learning_rate)
        density = buckets.density
        encoded_bytes = 0
        if rank.trains:
            payloads = buckets.compress(gradients_of(rank.parameters))
            encoded_bytes = sum(payload.encoded_bytes() for payload in payloads)
        else:
            payloads = buckets.neutral()
        entries = sparse_entries(*payloads)
        self._contributions.append(
            _Contribution(payloads, density, entries, encoded_bytes, self._ahead_s + clock.lap())
        )

    def apply(self, computed: Sequence[Computed]) -> list[StepRecord]:
        """See `Strategy.apply`."""
        payloads = [own.payloads for own in self._contributions]
        traffic = self._sum(payloads)
        merged = [sparse_entries(*each) for each in payloads]
        self._clock.start()
        updates = self._ranks[self._leader].buckets.finish(payloads[self._leader])
        finish_s = self._clock.lap()
        if self._finish_all:
            for at, rank in enumerate(self._ranks):
                if at != self._leader:
                    rank.buckets.finish(payloads[at])
            self._clock.start()
        self._ranks[self._leader].move(updates, self._learning_rate)
        update_s = self._clock.lap()
        turns_s = [
            one.pass_s + own.compress_s + sum(run.communicate_s + run.wait_s for run in runs)
            for one, own, runs in zip(computed, self._contributions, traffic, strict=True)
        ]
        return [
            StepRecord(
                compute_s=one.pass_s,
                compress_s=own.compress_s + finish_s,
                communicate_s=sum(run.communicate_s for run in runs),
                wait_s=sum(run.wait_s for run in runs),
                update_s=update_s,
                others_s=sum(turns_s[:at]) + sum(turns_s[at + 1 :]),
                bytes_sent=sum(run.bytes_sent for run in runs),
                messages_sent=sum(run.messages_sent for run in runs),
                encoded_bytes=own.encoded_bytes,
                entries=own.entries,
                merged_entries=merged[at],
                density=own.density,
                loss=one.loss,
                interface_bytes=one.interface_bytes,
            )
            for at, (one, own, runs) in enumerate(
                zip(computed, self._contributions, traffic, strict=True)
            )
        ]

    def _sum(self, payloads: Sequence[Sequence[Payload]]) -> list[list[Traffic]]:
        """Sum what the ranks here contribute, bucket by bucket; return each rank's traffic."""
        if self._exchange is None:
            return [[] for _ in payloads]
        runs = [self._exchange(bucket, self._iteration) for bucket in zip(*payloads, strict=True)]
        return [list(own) for own in zip(*runs, strict=True)]


class GossipStep(Strategy):
    """D-PSGD: average parameters with neighbours, then move by the rank's own gradient.

    x_i <- sum_j W[i, j] x_j - lr * update_i, both at the parameters before the step (Lian et al.,
    NeurIPS 2017).  Momentum stays local.
    """

    def __init__(
        self,
        rank: TrainingRank,
        exchange: Exchange,
        wire_dtype: WireDtype,
        *,
        time_scale: float = 1.0,
    ) -> None:
        self._parameters = rank.parameters
        self._buckets, self._move = rank.buckets, rank.move
        self._exchange = exchange
        self._wire_dtype = wire_dtype
        self._clock = PhaseClock(next(iter(rank.parameters.values())).device, time_scale)
        self._failure: PeerError | None = None
        self.begin(0, 0.0, 0.0)

    def begin(self, iteration: int, epoch: float, learning_rate: float) -> None:
        """See `Strategy.begin`."""
        self._iteration, self._epoch, self._learning_rate = iteration, epoch, learning_rate

    @torch.no_grad()
    def apply(self, computed: Sequence[Computed]) -> list[StepRecord]:
        """See `Strategy.apply`."""
        (own,), clock = computed, self._clock
        clock.start()
        self._buckets.set_progress(self._epoch, self._learning_rate)
        local = self._buckets.compress(gradients_of(self._parameters))
        updates = self._buckets.finish(local)
        payload = mixture_of(self._parameters, self._wire_dtype)
        compress_s = clock.lap()
        traffic = self._mix(payload)
        clock.start()
        if self._failure is None:
            set_parts(self._parameters.values(), payload.buffer)
        self._move(updates, self._learning_rate)
        return [
            StepRecord(
                compute_s=own.pass_s,
                compress_s=compress_s,
                communicate_s=traffic.communicate_s,
                wait_s=traffic.wait_s,
                update_s=clock.lap(),
                bytes_sent=traffic.bytes_sent,
                messages_sent=traffic.messages_sent,
                encoded_bytes=payload.encoded_bytes(),
                density=1.0,
                loss=own.loss,
                interface_bytes=own.interface_bytes,
            )
        ]

    def check(self) -> None:
        """See `Strategy.check`: the rank moved by its own update, and mixed nothing."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _mix(self, payload: Payload) -> Traffic:
        """Mix with the neighbours; if one is lost, note it: nobody may use half of a message."""
        began = time.perf_counter()
        try:
            (traffic,) = self._exchange([payload], self._iteration)
        except PeerError as error:
            self._failure = error
            return Traffic((), time.perf_counter() - began)
        return traffic


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
