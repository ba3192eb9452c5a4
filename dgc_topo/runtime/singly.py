"""One work per message, in CPU memory: Gloo, MPI.

Gloo facts this rests on (measured with torch 2.13): a receive completes with a message shorter
than its buffer; a message *longer* than its buffer aborts the receiving process; messages of one
tag between two ranks arrive in order; a send completes only once its receive is posted, and costs
a round trip if it is posted first; a wait that times out closes every connection of the group.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.runtime.channel import LENGTH_BYTES
from dgc_topo.runtime.failure import Watch
from dgc_topo.runtime.head import announced_bytes, check_arrived, write_head


class Receipt(NamedTuple):
    """A staged message to receive, under way."""

    work: dist.Work
    buffer: Tensor  #: for all of the message; or for its length and its beginning
    memory: Tensor  #: scratch to give back when it has been merged
    peer: int
    most_bytes: int | None  #: that it can have, if only the sender knows how many


class Dispatch(NamedTuple):
    """A staged message to send, under way."""

    work: dist.Work
    rest: dist.Work | None  #: of what did not fit the receiver's buffer
    memory: Tensor  #: scratch to give back when it has left


class _Staged(NamedTuple):
    """A message in CPU memory."""

    head: Tensor
    rest: Tensor | None  #: what does not fit the receiver's buffer for a message of unknown size
    memory: Tensor  #: scratch that holds it


class SinglyChannel:
    """Posts every message by itself.

    Messages of known size in CPU memory need nothing but the group's own methods, and `memory`;
    others are staged.  A message of unknown size starts with its length and is received into a
    buffer of *eager_bytes*.  What does not fit follows as a second message, whose receive can be
    posted only when the length is known: one more round trip, small beside the time of so many
    bytes.  GPU memory is staged through pinned memory.

    Args:
        group: The process group; None is the default one.
        device: Where payloads live.
        timeout: Longest time that one step may take.
        eager_bytes: Bytes, at least 16, the same on every rank.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None,
        device: torch.device,
        timeout: timedelta,
        eager_bytes: int,
    ) -> None:
        own = dist.group.WORLD if group is None else group
        assert own is not None  # there is a default group: its rank has been asked for
        #: Its own methods: `dist.isend` and `irecv` look the group up again for every message.
        self.group = own
        #: Over one step of a run at a time.
        self.watch = Watch(own.rank(), timeout)
        self._device = device
        self._eager_bytes = eager_bytes
        self._scratch = _Scratch(device)
        self._memory = torch.empty(0, dtype=torch.uint8, device="cpu")
        #: Whether a message can be received in the payload's own memory, and sent from there.
        self.reaches_payload = device.type == "cpu"

    def memory(self, num_bytes: int) -> Tensor:
        """Return CPU memory for the messages of a run, the same for all: one runs at a time.

        A larger one replaces it; who has the smaller one keeps that.
        """
        if self._memory.numel() < num_bytes:
            self._memory = torch.empty(num_bytes, dtype=torch.uint8, device="cpu")
        return self._memory[:num_bytes]

    def receive(
        self, peer: int, tag: int, num_bytes: int | None, most_bytes: int | None = None
    ) -> Receipt:
        """Post the receive of a staged message, or of its head.

        Args:
            peer: Who sends it.
            tag: Which of the peer's messages it is.
            num_bytes: Its size; None if only the sender knows.
            most_bytes: What it takes at most; None if that is not known either.
        """
        size = self._eager_bytes if num_bytes is None else num_bytes
        memory = self._scratch.take(size)
        buffer = memory[:size]
        return Receipt(self._receive(buffer, peer, tag), buffer, memory, peer, most_bytes)

    def receive_rest(self, head: Receipt, peer: int, tag: int) -> Receipt:
        """Post the receive of what is missing of a message of unknown size, now its head is there.

        Returns:
            *head* itself if it is the whole message; else one of the same message that holds
            its beginning, and the head's memory has been given back.

        Raises:
            WireError: if its length cannot be.
        """
        size = announced_bytes(head.buffer, peer, head.most_bytes)
        if (end := LENGTH_BYTES + size) <= self._eager_bytes:
            return head
        memory = self._scratch.take(end)
        whole = memory[:end]
        whole[: self._eager_bytes].copy_(head.buffer)
        self.give_back(head)
        work = self._receive(whole[self._eager_bytes :], peer, tag + 1)
        return Receipt(work, whole, memory, peer, head.most_bytes)

    def send(self, message: Tensor, peer: int, tag: int, *, sized: bool) -> Dispatch:
        """Post the send of a message that is staged; *sized* if the receiver knows its size."""
        staged = self._stage(message, sized=sized)
        work, rest = self._send(staged.head, peer, tag), None
        if staged.rest is not None:
            rest = self._send(staged.rest, peer, tag + 1)
        return Dispatch(work, rest, staged.memory)

    def message(self, receipt: Receipt, *, sized: bool) -> Tensor:
        """Return the message in a receipt that is complete, where the payload lives.

        Raises:
            WireError: if less has come than was announced.
        """
        message = receipt.buffer
        if not sized:
            size = announced_bytes(message, receipt.peer, receipt.most_bytes)
            message = message[LENGTH_BYTES : LENGTH_BYTES + size]
            check_arrived(receipt.buffer, receipt.peer, message)
        return message if self.reaches_payload else message.to(self._device, non_blocking=True)

    def give_back(self, staged: Receipt | Dispatch) -> None:
        """Take back the memory of a message that has been merged, or has left."""
        self._scratch.give(staged.memory)

    def _stage(self, message: Tensor, *, sized: bool) -> _Staged:
        on_gpu, size = message.device.type == "cuda", message.numel()
        start = 0 if sized else LENGTH_BYTES
        fits = size if sized else min(size, self._eager_bytes - LENGTH_BYTES)
        # From CPU memory a long message is copied up to its head only.
        copied = message if on_gpu else message[:fits]
        memory = self._scratch.take(start + copied.numel())
        _copy(memory[start : start + copied.numel()], copied)
        if not sized:
            staged = memory[start : start + size] if on_gpu else message
            write_head(memory[:LENGTH_BYTES], staged)
        rest = memory[start + fits : start + size] if on_gpu else message[fits:]
        return _Staged(memory[: start + fits], rest if fits < size else None, memory)

    def _receive(self, buffer: Tensor, peer: int, tag: int) -> dist.Work:
        try:
            return self.group.recv([buffer], peer, tag)
        except RuntimeError as error:
            raise self.watch.lost(peer, error) from error

    def _send(self, message: Tensor, peer: int, tag: int) -> dist.Work:
        try:
            return self.group.send([message], peer, tag)
        except RuntimeError as error:
            raise self.watch.lost(peer, error) from error


class _Scratch:
    """Memory that is used again and again; what was used last, and is in a cache, first.

    What a GPU may still be about to read is handed out again only when it has been read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = device.type == "cuda"
        self._free: list[tuple[Tensor, torch.cuda.Event | None]] = []

    def take(self, num_bytes: int) -> Tensor:
        """Return a buffer of at least *num_bytes*, 1 or more, whose content is undefined."""
        whole = self._large_enough(num_bytes)
        if whole is None:
            # Sparse messages vary in size: a little room saves allocating again next time.
            room = num_bytes + num_bytes // 4
            whole = torch.empty(room, dtype=torch.uint8, device="cpu", pin_memory=self._pinned)
        return whole

    def give(self, whole: Tensor) -> None:
        """Take back what `take` returned."""
        read = None
        if self._pinned:
            read = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            read.record(torch.cuda.current_stream(self._device))
        self._free.append((whole, read))

    def _large_enough(self, num_bytes: int) -> Tensor | None:
        """Return a free buffer; if all are too small let one go, so that they don't pile up."""
        if not self._free:
            return None
        place = len(self._free) - 1
        while place and self._free[place][0].numel() < num_bytes:
            place -= 1
        whole, read = self._free.pop(place)
        if read is not None:
            read.synchronize()
        return whole if whole.numel() >= num_bytes else None


def _copy(staged: Tensor, message: Tensor) -> None:
    """Copy to CPU memory and, from a GPU, wait for the copy: the network reads it at once."""
    staged.copy_(message, non_blocking=True)
    if message.device.type == "cuda":
        torch.cuda.current_stream(message.device).synchronize()
