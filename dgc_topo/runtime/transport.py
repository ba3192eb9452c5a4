"""Transports: they carry the messages of a rank's program, over torch.distributed.

There are two channels, one module each, for backends with different abilities:

* `singly` (Gloo, MPI): CPU memory, one work object per message, so that each leaves as soon as its
  content is known.  A receive completes with a message *shorter* than its buffer, so even a message
  of a size that only the sender knows needs no separate size message.  (Measured over Gloo: a size
  message first takes 2 to 4 times as long for small messages, because Gloo starts to send only once
  the receive is posted.)  GPU memory is staged through pinned memory.
* `batched` (NCCL and others): the payload's own memory, all messages of a step as one batch of
  exactly matching sizes; unknown sizes travel first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from dgc_topo.payload import Payload
from dgc_topo.runtime.batched import BatchedChannel
from dgc_topo.runtime.comparison import compare_ranks
from dgc_topo.runtime.connections import LONGEST_WAIT_S, SendQueues
from dgc_topo.runtime.failure import PeerError, StepPlace
from dgc_topo.runtime.framing import LENGTH_BYTES
from dgc_topo.runtime.program import Program
from dgc_topo.runtime.singly import SinglyChannel
from dgc_topo.runtime.traffic import StepTraffic
from dgc_topo.schedule import Schedule

DEFAULT_TIMEOUT = timedelta(seconds=60)

#: Bytes of a message of unknown size that travel without a round trip.  The rest of a longer
#: message waits for one, behind the receiver's own sends: in a butterfly of 4 ranks whose messages
#: grow to 2.5 MB, at 100 Mbit/s, that took 100 of 620 ms when this was 1 MiB.  This much memory is
#: reserved for each coming message, but only the message's own bytes are touched.
DEFAULT_EAGER_BYTES = 16 << 20

_SINGLY = ("gloo", "mpi")


class Channel(Protocol):
    """Way to run programs on one kind of backend."""

    def compile(self, schedule: Schedule, payload: Payload) -> Program:
        """Return this rank's program for payloads of *payload*'s layout, which has been cut."""

    def run(self, program: Program, payload: Payload, topology: str) -> tuple[StepTraffic, ...]:
        """Run a program that `compile` made for such payloads.

        Args:
            program: Acts of this rank.
            payload: This rank's, which has been cut; changed in place.
            topology: Its name, for errors.

        Raises:
            PeerError: if a peer is lost, or a step takes longer than the time-out.
            ValueError: if a message does not fit its chunks.
        """


class Transport(Channel, Protocol):
    """Carries a rank's messages; what a `Communicator` runs on."""

    @property
    def rank(self) -> int:
        """This rank, from 0 to world_size - 1."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""

    def compare(self, topology: str, settings: Mapping[str, Any]) -> None:
        """Refuse settings that are not the same on every rank; each rank calls this."""


class DistributedTransport:
    """Point-to-point messages over torch.distributed.

    After an error in the middle of a step, the connections hold messages of unknown state.  The
    transport then refuses to go on; start again with a new process group.

    Args:
        group: The process group; None is the default one.  Ranks are ranks in this group.  With
            NCCL in the group, making a transport is collective: every rank makes one.
        timeout: Longest time one step may take, waiting for a slower rank included, before the
            silent peers count as frozen.
        eager_bytes: See `dgc_topo.runtime.staging.Staging`; the same on every rank.
        longest_wait_s: Longest time that bytes wait in the kernel to leave (see `SendQueues`);
            None leaves the process's connections as they are.
        first_tag: Number of the first message between two ranks.  Transports of one group, whose
            runs overlap, need ranges of their own, and a backend that `tells_apart`.

    Attributes:
        rank: This process's rank in the group.
        world_size: Number of ranks in the group.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        *,
        eager_bytes: int = DEFAULT_EAGER_BYTES,
        longest_wait_s: float | None = LONGEST_WAIT_S,
        first_tag: int = 0,
    ) -> None:
        self.rank = dist.get_rank(group)
        self.world_size = dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("transport: this process is not in the group, expected a member")
        if eager_bytes < 2 * LENGTH_BYTES:
            raise ValueError(
                f"transport: eager_bytes {eager_bytes}, expected at least {2 * LENGTH_BYTES}"
            )
        if longest_wait_s is not None and longest_wait_s <= 0:
            raise ValueError(
                f"transport: longest_wait_s {longest_wait_s}, expected above 0, or None"
            )
        self._queues = None if longest_wait_s is None else SendQueues(longest_wait_s)
        self._failure: BaseException | None = None
        self._group = group
        self._timeout = timeout
        self._eager_bytes, self._first_tag = eager_bytes, first_tag
        self._backends = _backends(group)
        self._batched = BatchedChannel(group, timeout)
        self._channels: dict[torch.device, Channel] = {}

    @property
    def tells_apart(self) -> bool:
        """True if messages in CPU memory are told apart by their tags, not by their order."""
        return self._backends.get("cpu") in _SINGLY

    def compile(self, schedule: Schedule, payload: Payload) -> Program:
        """Return this rank's program for payloads of *payload*'s layout, which has been cut.

        Raises:
            ScheduleError: if a transfer does not fit the schedule.
            ValueError: if the group has no backend that reaches the payload's device.
        """
        return self._channel(payload.device).compile(schedule, payload)

    def run(self, program: Program, payload: Payload, topology: str) -> tuple[StepTraffic, ...]:
        """Run a program that `compile` made for such payloads (see `Channel.run`).

        After each run the bytes that may wait in the kernel are limited to the rates that it had.

        Raises:
            PeerError: if a peer is lost or the time-out passes, or after an earlier error.
            ValueError: if a message does not fit its chunks.
        """
        with self._guarded(topology):
            return self._channel(payload.device).run(program, payload, topology)

    def compare(self, topology: str, settings: Mapping[str, Any]) -> None:
        """Compare JSON values with those of every other rank, by key.

        Raises:
            RanksDifferError: on every rank, naming rank and key.
            PeerError: if a peer is lost or silent.
        """
        on_cpu = "cpu" in self._backends and self._backends["cpu"] != "nccl"
        device = torch.device("cpu") if on_cpu else torch.device("cuda")
        # These messages are too short to measure rates, and a look at the queues here would only
        # delay the look after the first payload.
        with self._guarded(topology, looks_at_queues=False):
            compare_ranks(self._group, device, self._timeout, StepPlace(topology, 0), settings)

    def _channel(self, device: torch.device) -> Channel:
        """Return the channel for the backend of *device*."""
        channel = self._channels.get(device)
        if channel is None:
            channel = self._channels[device] = self._new_channel(device)
        return channel

    def _new_channel(self, device: torch.device) -> Channel:
        backend = self._backends.get(device.type)
        if backend is None or (backend == "nccl" and device.type != "cuda"):
            listed = ", ".join(f"{kind}:{name}" for kind, name in self._backends.items())
            raise ValueError(
                f"transport: payload on {device}, expected a device that the process group's "
                f"backends reach ({listed})"
            )
        if backend in _SINGLY:
            return SinglyChannel(
                self._group, device, self._timeout, self._eager_bytes, self._first_tag
            )
        return self._batched

    @contextmanager
    def _guarded(self, topology: str, *, looks_at_queues: bool = True) -> Iterator[None]:
        """Refuse to begin after an error; note an error, or otherwise limit the kernel's queues."""
        if self._failure is not None:
            reason = f"transport unusable after an earlier error: {self._failure}"
            raise PeerError(self.rank, StepPlace(topology, 0), (), reason) from self._failure
        try:
            yield
        except BaseException as error:
            self._failure = error
            raise
        if looks_at_queues and self._queues is not None:
            self._queues.keep_short()


def _backends(group: dist.ProcessGroup | None) -> dict[str, str]:
    """Return the backend for each kind of device, such as ``{"cpu": "gloo", "cuda": "nccl"}``."""
    return dict(pair.split(":") for pair in dist.get_backend_config(group).split(","))
