"""One work per message, in CPU memory: Gloo, MPI.

Gloo facts this rests on (measured with torch 2.13): a receive completes with a message shorter
than its buffer; a message *longer* than its buffer aborts the receiving process; messages of one
tag between two ranks arrive in order; a send completes only once its receive is posted; a wait
that times out closes every connection of the group.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.execute.channel import LENGTH_BYTES, Exchanged, Incoming, Outgoing
from dgc_topo.execute.failure import Pending, Place, Watch


class SinglyChannel:
    """Posts and waits for every message by itself; GPU memory is staged.

    A message of unknown size starts with its length and is received into a buffer of
    *eager_bytes*.  What does not fit follows as a second message, whose receive can be posted only
    when the length is known: one more round trip, small beside the time of so many bytes.

    Args:
        group: The process group; None is the default one.
        timeout: Longest time that one step may take.
        eager_bytes: Bytes, at least 16, the same on every rank.
    """

    def __init__(
        self, group: dist.ProcessGroup | None, timeout: timedelta, eager_bytes: int
    ) -> None:
        if eager_bytes < 2 * LENGTH_BYTES:
            raise ValueError(
                f"transport: eager_bytes {eager_bytes}, expected at least {2 * LENGTH_BYTES}"
            )
        self._group = group
        self._rank = dist.get_rank(group)
        self._timeout = timeout
        self._eager_bytes = eager_bytes
        self._heads = _Scratch()
        self._long = _Scratch()
        self._staged = _Scratch()
        self._copied: torch.cuda.Event | None = None

    def exchange(
        self,
        place: Place,
        receives: Sequence[Incoming],
        sends: Iterable[Outgoing],
        device: torch.device,
    ) -> Exchanged:
        """Exchange one step's messages (see `Channel`)."""
        watch = Watch(self._rank, place, self._timeout)
        on_gpu = device.type == "cuda"
        if self._copied is not None:  # the last step's messages may still be read from scratch
            self._copied.synchronize()
            self._copied = None
        inbox = self._post_receives(watch, receives, pinned=on_gpu)
        outbox = self._post_sends(watch, sends)
        started = time.perf_counter()
        messages = self._collect(watch, inbox, receives, outbox, pinned=on_gpu)
        wait_s = time.perf_counter() - started
        if on_gpu:
            messages = [message.to(device, non_blocking=True) for message in messages]
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(device))
        return Exchanged(messages, wait_s)

    def _post_receives(
        self, watch: Watch, receives: Sequence[Incoming], *, pinned: bool
    ) -> list[tuple[Pending, Tensor, int]]:
        """Return each receive with its buffer and its tag."""
        tags = _Tags()
        inbox = []
        for slot, (peer, num_bytes) in enumerate(receives):
            size = self._eager_bytes if num_bytes is None else num_bytes
            buffer, tag = self._heads.at(slot, size, pinned=pinned), tags.next(peer)
            inbox.append((self._receive(watch, buffer, peer, tag), buffer, tag))
        return inbox

    def _post_sends(self, watch: Watch, sends: Iterable[Outgoing]) -> list[Pending]:
        tags = _Tags()
        outbox = []
        for slot, send in enumerate(sends):
            tag = tags.next(send.peer)
            head, rest = self._stage(slot, send)
            outbox.append(self._send(watch, head, send.peer, tag))
            if rest is not None:
                outbox.append(self._send(watch, rest, send.peer, tag + 1))
        return outbox

    def _stage(self, slot: int, send: Outgoing) -> tuple[Tensor, Tensor | None]:
        """Return the message in CPU memory, and what does not fit a buffer of unknown size."""
        message, size = send.message, send.message.numel()
        if send.num_bytes is not None and message.device.type == "cpu":
            return message, None
        if send.num_bytes is not None:
            staged = self._staged.at(slot, size, pinned=True)
            _to_cpu(staged, message)
            return staged, None
        room = self._eager_bytes - LENGTH_BYTES
        if message.device.type == "cpu":  # a long message is copied up to its head only
            staged = self._staged.at(slot, LENGTH_BYTES + min(size, room), pinned=False)
            staged[LENGTH_BYTES:].copy_(message[:room])
            rest = message[room:]
        else:
            staged = self._staged.at(slot, LENGTH_BYTES + size, pinned=True)
            _to_cpu(staged[LENGTH_BYTES:], message)
            staged, rest = staged[: self._eager_bytes], staged[self._eager_bytes :]
        staged[:LENGTH_BYTES].view(torch.int64).fill_(size)
        return staged, rest if size > room else None

    def _collect(
        self,
        watch: Watch,
        inbox: list[tuple[Pending, Tensor, int]],
        receives: Sequence[Incoming],
        outbox: list[Pending],
        *,
        pinned: bool,
    ) -> list[Tensor]:
        """Return the received messages, once everything of the step is complete."""
        messages = []
        open_works = [pending for pending, _, _ in inbox] + outbox
        for slot, (pending, buffer, tag) in enumerate(inbox):
            watch.wait(pending, islice(open_works, slot + 1, None))
            if receives[slot].num_bytes is not None:
                messages.append(buffer)
                continue
            end = LENGTH_BYTES + int(buffer[:LENGTH_BYTES].view(torch.int64))
            if end <= self._eager_bytes:
                messages.append(buffer[LENGTH_BYTES:end])
                continue
            whole = self._long.at(slot, end, pinned=pinned)
            whole[: self._eager_bytes].copy_(buffer)
            rest = whole[self._eager_bytes :]
            open_works.append(self._receive(watch, rest, pending.peer, tag + 1))
            messages.append(whole[LENGTH_BYTES:])
        for place in range(len(inbox), len(open_works)):
            watch.wait(open_works[place], islice(open_works, place + 1, None))
        return messages

    def _receive(self, watch: Watch, buffer: Tensor, peer: int, tag: int) -> Pending:
        work = watch.post(
            peer, lambda: dist.irecv(buffer, group=self._group, group_src=peer, tag=tag)
        )
        return Pending(work, peer, is_receive=True)

    def _send(self, watch: Watch, message: Tensor, peer: int, tag: int) -> Pending:
        work = watch.post(
            peer, lambda: dist.isend(message, group=self._group, group_dst=peer, tag=tag)
        )
        return Pending(work, peer, is_receive=False)


class _Tags:
    """Numbers the messages between two ranks in one step alike on both ends.

    Every message takes two tags, the second for what does not fit: with one tag for both, the
    rest of a message could be taken for the head of the next one.
    """

    def __init__(self) -> None:
        self._used: Counter[int] = Counter()

    def next(self, peer: int) -> int:
        tag = self._used[peer]
        self._used[peer] += 2
        return tag


class _Scratch:
    """Buffers that are used again in every step, one per place in the step."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, bool], Tensor] = {}

    def at(self, slot: int, num_bytes: int, *, pinned: bool) -> Tensor:
        """Return a buffer of exactly *num_bytes*, whose content is undefined."""
        buffer = self._buffers.get((slot, pinned))
        if buffer is None or buffer.numel() < num_bytes:
            # Sparse messages vary in size: a little room saves allocating again next time.
            room = num_bytes + num_bytes // 4
            buffer = torch.empty(room, dtype=torch.uint8, pin_memory=pinned)
            self._buffers[slot, pinned] = buffer
        return buffer[:num_bytes]


def _to_cpu(staged: Tensor, message: Tensor) -> None:
    """Copy to pinned memory and wait for the copy: the network reads it at once."""
    staged.copy_(message, non_blocking=True)
    torch.cuda.current_stream(message.device).synchronize()
