"""Errors about lost and silent peers, and the waiting that finds out which peers they are."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

import torch.distributed as dist

from dgc_topo.liveness import current

#: Longest wait for the word of who was lost, once a connection has broken.
VERDICT_S = 3.0


class StepPlace(NamedTuple):
    """Topology and step, for errors."""

    topology: str
    step: int

    def __str__(self) -> str:
        return f"topology {self.topology}, step {self.step}"


class PeerError(RuntimeError):
    """A peer was lost or silent for the time-out; the transport cannot be used any more.

    Attributes:
        rank: Rank that noticed.
        place: Topology and step.
        peers: Sorted ranks that were lost or silent; on backends that complete all messages of a
            step at once, all ranks that may have been.
        reason: Cause, in words.
    """

    def __init__(self, rank: int, place: StepPlace, peers: Sequence[int], reason: str) -> None:
        super().__init__(rank, place, peers, reason)  # as args, so that the error can be pickled
        self.rank = rank
        self.place = place
        self.peers = tuple(sorted(peers))
        self.reason = reason

    def __str__(self) -> str:
        return f"rank {self.rank}: {self.place}: {self.reason}"


class Posted(NamedTuple):
    """A message under way.

    Attributes:
        work: Handle that the backend returned for it.
        peer: Rank at its other end.
        is_receive: True if it comes from the peer.
    """

    work: dist.Work
    peer: int
    is_receive: bool


class Watch:
    """Waiting for the messages of one step at a time, with one time-out for all of them.

    Args:
        rank: The waiting rank.
        timeout: Longest time of a step, from its beginning.

    Attributes:
        waited_s: Seconds in all waits so far.
    """

    def __init__(self, rank: int, timeout: timedelta) -> None:
        self._rank = rank
        self._topology, self._step = "", 0
        self._timeout = timeout
        self._timeout_s = timeout.total_seconds()
        self._deadline_s = 0.0
        self._unit_s = max(self._timeout_s / 100, 1e-3)
        self._told_units = math.ceil(self._timeout_s / self._unit_s)
        self._granted = _at_least_a_millisecond(self._timeout_s)
        self.waited_s = 0.0

    def begin(self, topology: str, step: int) -> None:
        """Begin a step, with all of the time-out before it; *topology* is for errors."""
        self._topology, self._step = topology, step
        self._deadline_s = time.monotonic() + self._timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until the time-out; not positive when it has passed."""
        return self._deadline_s - time.monotonic()

    def wait(
        self, work: dist.Work, peer: int, others: Iterable[Posted] = (), *, is_receive: bool
    ) -> None:
        """Wait until a message is complete; up to a hundredth longer than the time-out.

        Args:
            work: Handle that the backend returned for it.
            peer: Rank at its other end.
            others: The step's messages not known to be complete; if this one times out, they tell
                which other peers are silent.
            is_receive: True if it comes from the peer.

        Raises:
            PeerError: if the peer is lost, or the time-out passes.
        """
        start_s = time.monotonic()
        units = math.ceil((self._deadline_s - start_s) / self._unit_s)
        if units != self._told_units:
            self._granted = _at_least_a_millisecond(units * self._unit_s)
            self._told_units = units
        try:
            work.wait(self._granted)
        except RuntimeError as error:
            if self.left_s > 0:
                raise self.lost(peer, error) from error
            raise self._silent(Posted(work, peer, is_receive), others) from error
        self.waited_s += time.monotonic() - start_s

    def wait_batch(
        self, works: Sequence[dist.Work], peers: Sequence[int], num_receives: int
    ) -> None:
        """Wait until a batch is complete.

        Args:
            works: One per message, or fewer that stand for all of them.
            peers: The peer of each message, those to receive first.
            num_receives: Number of messages to receive.

        Raises:
            PeerError: if a peer is lost, or the time-out passes.
        """
        if len(works) == len(peers):
            pending = [
                Posted(work, peer, place < num_receives)
                for place, (work, peer) in enumerate(zip(works, peers, strict=True))
            ]
            for place, (work, peer, is_receive) in enumerate(pending):
                others = islice(pending, place + 1, None)
                self.wait(work, peer, others, is_receive=is_receive)
            return
        for work in works:
            try:
                work.wait(_at_least_a_millisecond(self.left_s))
            except RuntimeError as error:
                if self.left_s > 0:
                    raise self.lost_one_of(peers, error) from error
                raise self.timed_out(peers) from error

    def timed_out(self, peers: Iterable[int]) -> PeerError:
        """Return the error for a time-out in which each of the *peers* may be the silent one."""
        suspects = sorted(set(peers))
        return self._error(suspects, f"nothing from {in_words(suspects)} {self._within}")

    def lost_one_of(self, peers: Iterable[int], error: RuntimeError) -> PeerError:
        """Return the error for a failure that each of the *peers* may have caused."""
        suspects = sorted(set(peers))
        reason = f"lost connection to {in_words(suspects)}: {in_short(error)}"
        return self._error(suspects, reason, VERDICT_S)

    def _silent(self, first: Posted, others: Iterable[Posted]) -> PeerError:
        # After a time-out Gloo fails all other messages, too, so that waiting for them costs
        # nothing.
        lost: dict[int, RuntimeError] = {}
        silent = [first]
        for pending in others:
            try:
                pending.work.wait(timedelta(milliseconds=1))
            except RuntimeError as error:
                if "imeout" in str(error) or "imed out" in str(error):
                    silent.append(pending)
                else:
                    lost[pending.peer] = error
        mute = {pending.peer for pending in silent if pending.is_receive} - lost.keys()
        deaf = {pending.peer for pending in silent} - mute - lost.keys()
        reasons = [f"nothing from {in_words(sorted(mute))}"] if mute else []
        reasons += [f"{in_words(sorted(deaf))} took no message"] if deaf else []
        silence = [f"{' and '.join(reasons)} {self._within}"] if reasons else []
        # A rank that left may be the cause of the silence or its victim, so name both ranks.
        return self._error(mute | deaf | lost.keys(), "; ".join(silence + _losses(lost)))

    def lost(self, peer: int, error: RuntimeError) -> PeerError:
        """Return the error for a message that could not be started, or did not come through."""
        return self._error((peer,), "; ".join(_losses({peer: error})), VERDICT_S)

    def _error(self, peers: Iterable[int], reason: str, verdict_s: float = 0.0) -> PeerError:
        """Return the error; if it is known who was lost, the reason is that and nothing else."""
        loss = current().verdict(verdict_s)
        if loss is not None:
            peers, reason = (loss.rank,), str(loss)
        elif ended := current().ended:
            reason = f"{ended[0]}; {reason}"
        return PeerError(self._rank, StepPlace(self._topology, self._step), sorted(peers), reason)

    @property
    def _within(self) -> str:
        return f"within {self._timeout.total_seconds():g} s (frozen or unreachable)"


def _at_least_a_millisecond(seconds: float) -> timedelta:
    # Gloo cuts off fractions of a millisecond, and 0 ms means its own default.
    return timedelta(milliseconds=max(math.ceil(seconds * 1000), 1))


def _losses(errors: dict[int, RuntimeError]) -> list[str]:
    return [
        f"lost connection to rank {peer}: {in_short(error)}"
        for peer, error in sorted(errors.items())
    ]


def in_words(ranks: Sequence[int]) -> str:
    """Return ranks as a text, such as ``ranks 0, 2``."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks))}"


def in_short(error: RuntimeError) -> str:
    """Return a backend's message without its source location and advice."""
    first_line = (str(error).splitlines() or [repr(error)])[0]
    text = re.sub(r"^\[[^\]]*:\d+\] ", "", first_line)
    return re.split(r"\. (?=[A-Z])", text, maxsplit=1)[0].rstrip(".")
