"""Channel for NCCL and others: all messages of a step as one batch, in the payload's memory.

The sends and receives of a batch must match in size.  If only the sender knows a size, a first
batch exchanges sizes.  NCCL returns one work object for the whole batch, and cannot wait with a
time-out; its progress is a CUDA event, polled here until the time-out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.liveness import current
from dgc_topo.payload import Arrival, Payload
from dgc_topo.runtime.compiler import compile_program
from dgc_topo.runtime.failure import Watch
from dgc_topo.runtime.framing import check_size, wire_bytes
from dgc_topo.runtime.program import Program, ProgramStep, Receive, Send
from dgc_topo.runtime.traffic import StepTraffic
from dgc_topo.schedule import Schedule

#: Seconds of polling without sleeping, because a sleep would cost a short step some 60 us.
SPIN_S = 1e-3
SLEEP_S = 50e-6

#: Messages of a batch: the peer and the tensor of each.
Messages = list[tuple[int, Tensor]]


class BatchedChannel:
    """Channel that exchanges a step's messages by `batch_isend_irecv`, step by step.

    Several messages between the same two ranks are matched by their order.

    The first batch of an NCCL group needs every rank; making the channel is therefore collective
    on such a group: every rank makes one, and all meet in a small all-reduce.

    Args:
        group: The process group; None is the default one.
        timeout: Longest time that one step may take.
    """

    def __init__(self, group: dist.ProcessGroup | None, timeout: timedelta) -> None:
        self._group = group
        self._rank, self._world_size = dist.get_rank(group), dist.get_world_size(group)
        self._watch = Watch(self._rank, timeout)
        if _uses_nccl(group):
            meeting = torch.zeros(
                1, dtype=torch.float32, device=f"cuda:{torch.cuda.current_device()}"
            )
            dist.all_reduce(meeting, group=group)
            torch.cuda.current_stream().synchronize()

    def compile(self, schedule: Schedule, payload: Payload) -> Program:
        """Return this rank's program for payloads of *payload*'s layout (see `compile_program`)."""
        return compile_program(schedule, self._rank, payload)

    def run(self, program: Program, payload: Payload, topology: str) -> tuple[StepTraffic, ...]:
        """Run a program on a payload that has been cut; *topology* is for errors.

        Raises:
            PeerError: if a peer is lost, or a step takes longer than the time-out.
            ValueError: if a message does not fit its chunks.
        """
        began = time.perf_counter()
        return tuple(self._run_step(step, payload, topology, began) for step in program.steps)

    def _run_step(
        self, step: ProgramStep, payload: Payload, topology: str, began: float
    ) -> StepTraffic:
        start = time.perf_counter()
        self._watch.begin(topology, step.index)
        outgoing = [payload.pack(send.chunk, send.count) for send in step.sends]
        exchange_start = time.perf_counter()
        sizes = self._sizes(step.receives, step.sends, outgoing, payload)
        incoming = [torch.empty(size, dtype=torch.uint8, device=payload.device) for size in sizes]
        self.exchange(
            [(r.peer, m) for r, m in zip(step.receives, incoming, strict=True) if m.numel()],
            [(s.peer, m) for s, m in zip(step.sends, outgoing, strict=True) if m.numel()],
            payload.device,
        )
        wait_s = time.perf_counter() - exchange_start
        if incoming:
            transfers = (receive.transfer for receive in step.receives)
            payload.merge(list(map(Arrival, transfers, incoming)), self._rank)
        sent, received = _moved(step.sends, outgoing), _moved(step.receives, incoming)
        times = (start - began, time.perf_counter() - start, wait_s)
        return StepTraffic(step.index, sent, received, len(step.sends), *times)

    def _sizes(
        self,
        receives: Sequence[Receive],
        sends: Sequence[Send],
        outgoing: Sequence[Tensor],
        payload: Payload,
    ) -> list[int]:
        """Return the size of each message to receive, exchanging the unknown ones.

        Raises:
            WireError: if a size is impossible.
        """
        unknown = [receive for receive in receives if receive.num_bytes is None]
        told = [
            (send.peer, message.numel())
            for send, message in zip(sends, outgoing, strict=True)
            if send.num_bytes is None
        ]
        # Each row has 1 element and is a message of its own.
        heard = torch.empty(len(unknown), 1, dtype=torch.int64, device=payload.device)
        said = torch.tensor([[size] for _, size in told], dtype=torch.int64, device=payload.device)
        self.exchange(
            [(receive.peer, heard[row]) for row, receive in enumerate(unknown)],
            [(peer, said[row]) for row, (peer, _) in enumerate(told)],
            payload.device,
        )
        found = iter(heard.view(-1).tolist())
        sizes = []
        for receive in receives:
            size = receive.num_bytes
            if size is None:
                size = next(found)
                chunk, count = receive.transfer.chunk, receive.transfer.count
                check_size(size, receive.peer, payload.most_bytes(chunk, count, self._world_size))
            sizes.append(size)
        return sizes

    def exchange(self, receives: Messages, sends: Messages, device: torch.device) -> None:
        """Exchange one batch, receives first, and return when it is complete.

        Raises:
            PeerError: if a peer is lost, or the time-out passes.
        """
        ops = [
            dist.P2POp(dist.irecv, tensor, group=self._group, group_peer=peer)
            for peer, tensor in receives
        ] + [
            dist.P2POp(dist.isend, tensor, group=self._group, group_peer=peer)
            for peer, tensor in sends
        ]
        if not ops:
            return
        peers = [peer for peer, _ in receives + sends]
        try:
            works = dist.batch_isend_irecv(ops)
            completed = device.type != "cuda" or _poll(works, self._watch, device)
        except RuntimeError as error:
            raise self._watch.lost_one_of(peers, error) from error
        if not completed:
            raise self._watch.timed_out(peers)
        if device.type != "cuda":
            self._watch.wait_batch(works, peers, num_receives=len(receives))


def _moved(acts: Sequence[Send | Receive], messages: Sequence[Tensor]) -> int:
    """Return the bytes that these messages are on the wire."""
    return sum(
        wire_bytes(message.numel(), sized=act.num_bytes is not None)
        for act, message in zip(acts, messages, strict=True)
    )


def _poll(works: Sequence[dist.Work], watch: Watch, device: torch.device) -> bool:
    """Wait for works on a GPU; return False if the time-out passes or a rank is lost before."""
    for work in works:
        work.wait()  # makes the current stream wait, not this process
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    done.record(torch.cuda.current_stream(device))
    started = time.monotonic()
    while not done.query():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if watch.left_s <= 0 or current().loss is not None:
            return False
        if time.monotonic() - started > SPIN_S:
            time.sleep(SLEEP_S)
    return True


def _uses_nccl(group: dist.ProcessGroup | None) -> bool:
    return torch.cuda.is_available() and "nccl" in dist.get_backend_config(group)
