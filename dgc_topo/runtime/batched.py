"""All messages of a step as one batch, in the payload's own memory: NCCL and others.

A batch's sends and receives must match in size, so where only the sender knows a size, a first
batch exchanges sizes.  NCCL returns one work for the whole batch and cannot be asked to wait for a
limited time; its progress is a CUDA event, polled here until the time-out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.runtime.channel import Exchanged, Incoming, Outgoing
from dgc_topo.runtime.failure import Place, Watch
from dgc_topo.runtime.head import check_size

#: A step shorter than this is polled without sleeping, which would cost it some 60 us.
SPIN_S = 1e-3
SLEEP_S = 50e-6


class BatchedChannel:
    """Exchanges a step's messages by `batch_isend_irecv`.

    The first batch of an NCCL group needs every rank; making the channel is therefore collective
    on such a group: every rank makes one, and all meet in a small all-reduce.

    Args:
        group: The process group; None is the default one.
        timeout: Longest time that one step may take.
    """

    def __init__(self, group: dist.ProcessGroup | None, timeout: timedelta) -> None:
        self._group = group
        self._watch = Watch(dist.get_rank(group), timeout)
        if _uses_nccl(group):
            meeting = torch.zeros(
                1, dtype=torch.float32, device=f"cuda:{torch.cuda.current_device()}"
            )
            dist.all_reduce(meeting, group=group)
            torch.cuda.current_stream().synchronize()

    def exchange(
        self,
        place: Place,
        receives: Sequence[Incoming],
        sends: Iterable[Outgoing],
        device: torch.device,
    ) -> Exchanged:
        """Exchange one step's messages (see `Channel`)."""
        self._watch.begin(*place)
        outgoing = list(sends)
        started = time.perf_counter()
        sizes = self._sizes(receives, outgoing, device)
        messages = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
        self._run(
            [(r.peer, m) for r, m in zip(receives, messages, strict=True) if m.numel()],
            [(s.peer, s.message) for s in outgoing if s.message.numel()],
            device,
        )
        return Exchanged(messages, time.perf_counter() - started)

    def _sizes(
        self,
        receives: Sequence[Incoming],
        outgoing: Sequence[Outgoing],
        device: torch.device,
    ) -> list[int]:
        """Return the size of each message to receive, exchanging the unknown ones.

        Raises:
            WireError: if a size cannot be.
        """
        asked = [place for place, receive in enumerate(receives) if receive.num_bytes is None]
        told = [send for send in outgoing if send.num_bytes is None]
        # Rows of 1 element: each is a message of its own.
        heard = torch.empty(len(asked), 1, dtype=torch.int64, device=device)
        sizes_told = [[send.message.numel()] for send in told]
        said = torch.tensor(sizes_told, dtype=torch.int64, device=device)
        self._run(
            [(receives[place].peer, heard[row]) for row, place in enumerate(asked)],
            [(send.peer, said[row]) for row, send in enumerate(told)],
            device,
        )
        sizes = [receive.num_bytes or 0 for receive in receives]
        for place, size in zip(asked, heard.view(-1).tolist(), strict=True):
            check_size(size, receives[place].peer, receives[place].most_bytes)
            sizes[place] = size
        return sizes

    def _run(
        self,
        receives: list[tuple[int, Tensor]],
        sends: list[tuple[int, Tensor]],
        device: torch.device,
    ) -> None:
        """Run one batch, receives first, until it is complete."""
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


def _poll(works: Sequence[dist.Work], watch: Watch, device: torch.device) -> bool:
    """Wait for works on a GPU; return whether they completed within the time-out."""
    for work in works:
        work.wait()  # makes the current stream wait, not this process
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    done.record(torch.cuda.current_stream(device))
    started = time.monotonic()
    while not done.query():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if watch.left_s <= 0:
            return False
        if time.monotonic() - started > SPIN_S:
            time.sleep(SLEEP_S)
    return True


def _uses_nccl(group: dist.ProcessGroup | None) -> bool:
    return torch.cuda.is_available() and "nccl" in dist.get_backend_config(group)
