"""Strategies of a training step, and the one that runs every averaging rule."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from torch import nn

from dgc_topo.averaging import Attendance, Averaging
from dgc_topo.payload import Payload
from dgc_topo.runtime import PeerError, Traffic
from dgc_topo.training.buckets import sparse_entries
from dgc_topo.training.clocks import PhaseClock
from dgc_topo.training.rank import Computed, StepRecord, TrainingRank
from dgc_topo.training.world import Exchange


class Strategy(ABC):
    """The way from gradients to moved parameters, for the ranks of this process.

    Every step is one call of `begin`; then, rank by rank, a forward and backward pass in its
    `turn_of` (but for a dedicated server), and `contribute`; then `apply`.

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
        """Take the gradient from a rank's parameters; the next rank's may replace it."""
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
    """A rank's payloads before the schedule runs, and the numbers of their making."""

    payloads: list[Payload]
    density: float
    entries: int
    encoded_bytes: int
    compress_s: float
    update_s: float


class ExchangePlan(NamedTuple):
    """The exchanges of a training.

    Attributes:
        exchange: Runs the schedule of an exchange on payloads.
        attendance: The ranks that take part in which exchange.
        catch_up: Gives ranks that were left out what all hold alike; None if all always take part.
    """

    exchange: Exchange
    attendance: Attendance
    catch_up: Exchange | None = None


class AveragingStep(Strategy):
    """Steps of an averaging rule: each rank's turn, an exchange in every H-th step, its use.

    Ranks that share their parameters would all make the same move: the first worker makes it.

    Args:
        ranks: Those of this process; all share their parameters, or none does.
        rule: The averaging rule.
        plan: The exchanges; None is one worker alone, which sends nothing.
        finish_all: True if every rank keeps something of the sum: what it rejected.
        time_scale: See `PhaseClock`.
    """

    def __init__(
        self,
        ranks: Sequence[TrainingRank],
        rule: Averaging,
        plan: ExchangePlan | None,
        *,
        finish_all: bool = False,
        time_scale: float = 1.0,
    ) -> None:
        self._ranks, self._rule, self._plan = ranks, rule, plan
        self._finish_all = finish_all or rule.is_local
        leader = next((at for at, rank in enumerate(ranks) if rank.trains), 0)
        self._movers = range(len(ranks)) if rule.is_local else (leader,)
        device = next(iter(ranks[0].parameters.values())).device
        self._clock = PhaseClock(device, time_scale)
        self._failure: PeerError | None = None
        self.begin(0, 0.0, 0.0)

    def begin(self, iteration: int, epoch: float, learning_rate: float) -> None:
        """See `Strategy.begin`."""
        self._iteration, self._epoch, self._learning_rate = iteration, epoch, learning_rate
        self._contributions: list[_Contribution] = []
        self._ahead_s = self._prepare_s = 0.0

    @contextmanager
    def turn_of(self, rank: TrainingRank) -> Iterator[None]:
        """See `Strategy.turn_of`."""
        self._clock.start()
        rank.set_progress(self._epoch, self._learning_rate)
        with rank.averager.turn():
            self._ahead_s = self._clock.lap()
            yield
            self._clock.start()
            rank.averager.prepare()
            self._prepare_s = self._clock.lap()

    def contribute(self, rank: TrainingRank) -> None:
        """See `Strategy.contribute`: compress it, or move by it.

        Raises:
            NonFiniteGradientError: if it is not finite.
        """
        clock, averager = self._clock, rank.averager
        # Where each rank has an optimizer of its own, this is the first half of its step.
        update_s = self._prepare_s if self._rule.is_local else 0.0
        clock.start()
        if averager.moves_first:
            averager.move()
            update_s += clock.lap()
        ahead_s = self._ahead_s + (0.0 if self._rule.is_local else self._prepare_s)
        density = rank.density
        payloads = averager.outgoing(density) if self._takes_part(rank) else []
        own = payloads if rank.trains else []
        self._contributions.append(
            _Contribution(
                payloads=payloads,
                density=density,
                entries=sparse_entries(*payloads),
                encoded_bytes=sum(payload.encoded_bytes() for payload in own),
                compress_s=ahead_s + clock.lap(),
                update_s=update_s,
            )
        )

    def _takes_part(self, rank: TrainingRank) -> bool:
        """Return True if a rank takes part in an exchange in this step, and tell it so."""
        if not self._rule.is_due(self._iteration):
            return False
        if self._plan is not None:
            attendance, number = self._plan.attendance, self._number
            if rank.rank not in attendance.of(number):
                return False
            rank.averager.attend(number, float(attendance.renormalised(number)))
        return True

    @property
    def _number(self) -> int:
        """Number of the exchange: a topology that changes does so from one to the next."""
        return self._iteration // self._rule.every

    def apply(self, computed: Sequence[Computed]) -> list[StepRecord]:
        """See `Strategy.apply`."""
        payloads = [own.payloads for own in self._contributions]
        traffic = self._run(payloads)
        merged = [sparse_entries(*each) for each in payloads]
        uses_s = [self._use_s(at, own) for at, own in enumerate(payloads)]
        moves_s = [self._move_s(at) for at in range(len(payloads))]
        turns_s = [
            one.pass_s + own.compress_s + own.update_s + communicate_s(runs)
            for one, own, runs in zip(computed, self._contributions, traffic, strict=True)
        ]
        if self._rule.is_local:
            turns_s = list(map(sum, zip(turns_s, uses_s, moves_s, strict=True)))
        else:  # all of them share what the leader does
            uses_s = [uses_s[self._movers[0]]] * len(payloads)
            moves_s = [moves_s[self._movers[0]]] * len(payloads)
        return [
            StepRecord(
                compute_s=one.pass_s,
                compress_s=own.compress_s + uses_s[at],
                communicate_s=sum(run.communicate_s for run in runs),
                wait_s=sum(run.wait_s for run in runs),
                update_s=own.update_s + moves_s[at],
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

    def check(self) -> None:
        """See `Strategy.check`: ranks moved by their own steps, and averaged nothing."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self, payloads: Sequence[Sequence[Payload]]) -> list[list[Traffic]]:
        """Run the schedule on what the ranks here send, part by part; return each one's traffic.

        If a peer is lost where each rank has parameters of its own, note it: nobody may use half of
        a message, and everybody has a state to go on from.
        """
        if self._plan is None or not any(payloads):
            return [[] for _ in payloads]
        began = time.perf_counter()
        try:
            runs = [*self._catch_up(self._plan)]
            for part in range(max(map(len, payloads))):
                own = [each[part] if each else None for each in payloads]
                runs.append(self._plan.exchange(own, self._number))
        except PeerError as error:
            if not self._rule.is_local:
                raise
            self._failure = error
            return [[Traffic((), time.perf_counter() - began)] for _ in payloads]
        return [list(own) for own in zip(*runs, strict=True)]

    def _catch_up(self, plan: ExchangePlan) -> Iterator[Sequence[Traffic]]:
        """Give the ranks that were left out what all hold alike; yield the traffic, if any."""
        alike = [rank.averager.alike() for rank in self._ranks]
        behind = plan.attendance.behind(self._number)
        if plan.catch_up is None or not alike[0] or not len(behind):
            return
        involved = {*behind.tolist(), *plan.attendance.givers(self._number).tolist()}
        payloads = [
            rank.averager.catch_up() if rank.rank in involved else None for rank in self._ranks
        ]
        yield plan.catch_up(payloads, self._number)
        for rank, payload in zip(self._ranks, payloads, strict=True):
            if payload is not None and rank.rank in behind:
                rank.averager.caught_up(payload)

    def _use_s(self, at: int, payloads: Sequence[Payload]) -> float:
        """Use what came back for a rank here; return the seconds that it took."""
        averager = self._ranks[at].averager
        self._clock.start()
        if payloads and (at in self._movers or self._finish_all):
            if self._failure is None:
                averager.incoming(payloads)
            else:
                averager.missed()
        return self._clock.lap()

    def _move_s(self, at: int) -> float:
        """Move the parameters of a rank here by what came back; return the seconds that it took."""
        averager = self._ranks[at].averager
        self._clock.start()
        if at in self._movers and not averager.moves_first:
            averager.move()
        return self._clock.lap()


def communicate_s(runs: Iterable[Traffic]) -> float:
    """Return the seconds of communication, waiting included."""
    return sum(run.communicate_s + run.wait_s for run in runs)
