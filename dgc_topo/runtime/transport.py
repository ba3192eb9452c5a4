"""How the messages of one step travel.

The two ways, one module each, differ in what a backend can do:

* `singly` (Gloo, MPI): CPU memory, one work per message, so that each one leaves as soon as what it
  carries is known.  A receive completes with a message *shorter* than its buffer, so even a message
  whose size only the sender knows needs no separate size message.  (Measured over Gloo: a size
  message first takes 2 to 4 times as long for small messages, because Gloo starts to send only once
  the receive is posted.)  GPU memory is staged through pinned memory.
* `batched` (NCCL and others): the payload's own memory, all messages of a step as one batch of
  exactly matching sizes; unknown sizes travel first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from dgc_topo.runtime.batched import BatchedChannel
from dgc_topo.runtime.channel import LENGTH_BYTES, Channel, Exchanged, Incoming, Outgoing
from dgc_topo.runtime.compared import compare_ranks
from dgc_topo.runtime.failure import PeerError, Place
from dgc_topo.runtime.queues import LONGEST_WAIT_S, SendQueues
from dgc_topo.runtime.singly import SinglyChannel

DEFAULT_TIMEOUT = timedelta(seconds=60)

#: Bytes of a message of unknown size that travel without a round trip.  What is longer waits for
#: one, behind what the receiver itself is sending: in a butterfly of 4 ranks whose messages grow
#: to 2.5 MB, at 100 Mbit/s, that took 100 of 620 ms when this was 1 MiB.  It is memory that is set
#: aside for each message to come, and touched only as far as the message goes.
DEFAULT_EAGER_BYTES = 16 << 20

_SINGLY = ("gloo", "mpi")


class Transport(Channel, Protocol):
    """Carries a rank's messages; what a `Communicator` runs on."""

    @property
    def rank(self) -> int:
        """This rank, from 0 to world_size - 1."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""


@runtime_checkable
class SinglyTransport(Transport, Protocol):
    """A transport that may be able to carry each message by itself."""

    def singly(self, device: torch.device) -> SinglyChannel | None:
        """Return what carries single messages for a payload on *device*; None if steps only."""

    def guard(self, place: Place) -> AbstractContextManager[None]:
        """Refuse to go on after an error, here or before."""

    def compare(self, place: Place, settings: Mapping[str, Any]) -> None:
        """Refuse settings that are not the same on every rank; each rank calls this."""


class DistributedTransport:
    """Point-to-point messages over torch.distributed.

    After any error in the middle of a step the connections hold messages of unknown state, so the
    transport refuses to go on; start anew with a new process group.

    Args:
        group: The process group; None is the default one.  Ranks are ranks in this group.  With
            NCCL in the group, making a transport is collective: every rank makes one.
        timeout: Longest time one step may take, waiting for a slower rank included, before the
            silent peers count as frozen.
        eager_bytes: See `SinglyChannel`; the same on every rank.
        longest_wait_s: How long what the kernel has taken may wait to leave (see `queues`); None
            leaves the process's connections as they are.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        *,
        eager_bytes: int = DEFAULT_EAGER_BYTES,
        longest_wait_s: float | None = LONGEST_WAIT_S,
    ) -> None:
        self._rank = dist.get_rank(group)
        self._world_size = dist.get_world_size(group)
        if self._rank < 0:
            raise ValueError("transport: this process is not in the group, expected a member")
        if eager_bytes < 2 * LENGTH_BYTES:
            raise ValueError(
                f"transport: eager_bytes {eager_bytes}, expected at least {2 * LENGTH_BYTES}"
            )
        if longest_wait_s is not None and longest_wait_s <= 0:
            raise ValueError(
                f"transport: longest_wait_s {longest_wait_s}, expected above 0, or None"
            )
        queues = None if longest_wait_s is None else SendQueues(longest_wait_s)
        self._guard = _Guard(self._rank, queues)
        self._group = group
        self._timeout = timeout
        self._eager_bytes = eager_bytes
        self._backends = _backends(group)
        self._batched = BatchedChannel(group, timeout)
        self._singly: dict[torch.device, SinglyChannel] = {}

    @property
    def rank(self) -> int:
        """This process's rank in the group."""
        return self._rank

    @property
    def world_size(self) -> int:
        """Number of ranks in the group."""
        return self._world_size

    def exchange(
        self,
        place: Place,
        receives: Sequence[Incoming],
        sends: Iterable[Outgoing],
        device: torch.device,
    ) -> Exchanged:
        """Exchange one step's messages as a batch, on any backend (see `Channel`).

        Raises:
            PeerError: if a peer is lost or the time-out passes, or after an earlier error.
            ValueError: if the group has no backend that reaches *device*.
        """
        self._backend(device)
        with self.guard(place):
            return self._batched.exchange(place, receives, sends, device)

    def singly(self, device: torch.device) -> SinglyChannel | None:
        """Return what carries single messages, where the backend for *device* does that.

        Raises:
            ValueError: if the group has no backend that reaches *device*.
        """
        channel = self._singly.get(device)
        if channel is None and self._backend(device) in _SINGLY:
            channel = SinglyChannel(self._group, device, self._timeout, self._eager_bytes)
            self._singly[device] = channel
        return channel

    def guard(self, place: Place) -> AbstractContextManager[None]:
        """Return what remembers an error in the middle of a step.

        What waits in the kernel is kept short by what one run after the other delivers.

        Raises:
            PeerError: if there was an earlier error.
        """
        self._guard.check(place)
        return self._guard

    def compare(self, place: Place, settings: Mapping[str, Any]) -> None:
        """Compare JSON values with those of every other rank, by key.

        Raises:
            RanksDifferError: on every rank, naming rank and key.
            PeerError: if a peer is lost or silent.
        """
        on_cpu = "cpu" in self._backends and self._backends["cpu"] != "nccl"
        device = torch.device("cpu") if on_cpu else torch.device("cuda")
        self._guard.check(place, moves_payloads=False)
        with self._guard:
            compare_ranks(self._group, device, self._timeout, place, settings)

    def _backend(self, device: torch.device) -> str:
        backend = self._backends.get(device.type)
        if backend is None or (backend == "nccl" and device.type != "cuda"):
            listed = ", ".join(f"{kind}:{name}" for kind, name in self._backends.items())
            raise ValueError(
                f"transport: payload on {device}, expected a device that the process group's "
                f"backends reach ({listed})"
            )
        return backend


class _Guard(AbstractContextManager[None]):
    """Remembers an error, and looks after the queues when there was none."""

    def __init__(self, rank: int, queues: SendQueues | None) -> None:
        self._rank = rank
        self._queues = queues
        self._looks = True
        self._failure: BaseException | None = None

    def check(self, place: Place, *, moves_payloads: bool = True) -> None:
        """Refuse to begin after an error.

        Where no payloads move, too little is sent to tell from it how fast connections deliver,
        and a look at the queues afterwards would only put off the one after the first payload.
        """
        self._looks = moves_payloads
        if self._failure is not None:
            reason = f"transport unusable after an earlier error: {self._failure}"
            raise PeerError(self._rank, place, (), reason) from self._failure

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._failure = error
        elif self._queues is not None and self._looks:
            self._queues.keep_short()


def _backends(group: dist.ProcessGroup | None) -> dict[str, str]:
    """Return the backend for each kind of device, such as ``{"cpu": "gloo", "cuda": "nccl"}``."""
    return dict(pair.split(":") for pair in dist.get_backend_config(group).split(","))
