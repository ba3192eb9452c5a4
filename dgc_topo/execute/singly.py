"""One work per message, in CPU memory: Gloo, MPI.

Gloo facts this rests on (measured with torch 2.13): a receive completes with a message shorter
than its buffer; a message *longer* than its buffer aborts the receiving process; messages of one
tag between two ranks arrive in order; a send completes only once its receive is posted, and costs
a round trip if it is posted first; a wait that times out closes every connection of the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.execute.channel import LENGTH_BYTES
from dgc_topo.execute.failure import Place, Watch


@dataclass(slots=True)
class Receipt:
    """A message to receive, under way; a `Pending`."""

    work: dist.Work
    peer: int
    buffer: Tensor  #: for all of the message; or for its length and its beginning
    sized: bool  #: whether both ends know the size; else the message begins with it
    is_scratch: bool  #: whether the buffer is to be given back
    is_receive: bool = True


@dataclass(slots=True)
class Dispatch:
    """A message to send, under way; a `Pending`."""

    work: dist.Work
    peer: int
    rest: dist.Work | None  #: of what did not fit the receiver's buffer
    staged: Tensor | None  #: memory to give back when it has left
    is_receive: bool = False


class _Staged(NamedTuple):
    """A message in CPU memory."""

    head: Tensor
    rest: Tensor | None  #: what does not fit the receiver's buffer for a message of unknown size
    memory: Tensor  #: scratch that holds it


class SinglyChannel:
    """Posts every message by itself.

    A message of unknown size starts with its length and is received into a buffer of
    *eager_bytes*.  What does not fit follows as a second message, whose receive can be posted only
    when the length is known: one more round trip, small beside the time of so many bytes.
    GPU memory is staged through pinned memory.

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
        # Its own methods: `dist.isend` and `irecv` look the group up again for every message.
        self._group = own
        self._rank = own.rank()
        self._device = device
        self._timeout = timeout
        self._eager_bytes = eager_bytes
        self._scratch = _Scratch(device)
        #: Whether a message can be received in the payload's own memory, and sent from there.
        self.reaches_payload = device.type == "cpu"

    def watch(self, place: Place) -> Watch:
        """Return a watch over one step, whose time begins now."""
        return Watch(self._rank, place, self._timeout)

    def receive(
        self, watch: Watch, peer: int, tag: int, num_bytes: int | None, target: Tensor | None
    ) -> Receipt:
        """Post the receive of a message, or of its head.

        Args:
            watch: Of the step that is under way.
            peer: Who sends it.
            tag: Which of the peer's messages it is.
            num_bytes: Its size; None if only the sender knows.
            target: CPU memory of that size to receive it in; None for scratch memory.
        """
        buffer = target
        if buffer is None:
            buffer = self._scratch.take(self._eager_bytes if num_bytes is None else num_bytes)
        work = self._receive(watch, buffer, peer, tag)
        return Receipt(work, peer, buffer, num_bytes is not None, target is None)

    def receive_rest(self, watch: Watch, head: Receipt, tag: int) -> Receipt:
        """Post the receive of what is missing, now that a head is there.

        Returns:
            *head* itself if it is the whole message; else one of the same message that holds
            its beginning, and the head's memory has been given back.
        """
        if head.sized or (end := _end_of(head.buffer)) <= self._eager_bytes:
            return head
        whole = self._scratch.take(end)
        whole[: self._eager_bytes].copy_(head.buffer)
        self._scratch.give(head.buffer)
        work = self._receive(watch, whole[self._eager_bytes :], head.peer, tag + 1)
        return Receipt(work, head.peer, whole, sized=False, is_scratch=True)

    def send(self, watch: Watch, message: Tensor, peer: int, tag: int, *, sized: bool) -> Dispatch:
        """Post the send of a message whose size the receiver knows or not."""
        if sized and self.reaches_payload:
            return Dispatch(self._send(watch, message, peer, tag), peer, None, None)
        staged = self._stage(message, sized=sized)
        work, rest = self._send(watch, staged.head, peer, tag), None
        if staged.rest is not None:
            rest = self._send(watch, staged.rest, peer, tag + 1)
        return Dispatch(work, peer, rest, staged.memory)

    def message(self, receipt: Receipt) -> Tensor:
        """Return the message in a receipt that is complete, where the payload lives."""
        message = receipt.buffer
        if not receipt.sized:
            message = message[LENGTH_BYTES : _end_of(message)]
        return message if self.reaches_payload else message.to(self._device, non_blocking=True)

    def give_back(self, pending: Receipt | Dispatch) -> None:
        """Take back the memory of a message that has been merged, or has left."""
        if isinstance(pending, Dispatch):
            if pending.staged is not None:
                self._scratch.give(pending.staged)
        elif pending.is_scratch:
            self._scratch.give(pending.buffer)

    def _stage(self, message: Tensor, *, sized: bool) -> _Staged:
        on_gpu, size = message.device.type == "cuda", message.numel()
        start = 0 if sized else LENGTH_BYTES
        fits = size if sized else min(size, self._eager_bytes - LENGTH_BYTES)
        # From CPU memory a long message is copied up to its head only.
        memory = self._scratch.take(start + (size if on_gpu else fits))
        _copy(memory[start:], message if on_gpu else message[:fits])
        if not sized:
            memory[:LENGTH_BYTES].view(torch.int64).fill_(size)
        rest = memory[start + fits :] if on_gpu else message[fits:]
        return _Staged(memory[: start + fits], rest if fits < size else None, memory)

    def _receive(self, watch: Watch, buffer: Tensor, peer: int, tag: int) -> dist.Work:
        try:
            return self._group.recv([buffer], peer, tag)
        except RuntimeError as error:
            raise watch.lost(peer, error) from error

    def _send(self, watch: Watch, message: Tensor, peer: int, tag: int) -> dist.Work:
        try:
            return self._group.send([message], peer, tag)
        except RuntimeError as error:
            raise watch.lost(peer, error) from error


def _end_of(head: Tensor) -> int:
    """Return where the message ends that starts with its length."""
    return LENGTH_BYTES + int(head[:LENGTH_BYTES].view(torch.int64))


class _Scratch:
    """Memory that is used again and again; what was used last, and is in a cache, first.

    What a GPU may still be about to read is handed out again only when it has been read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = device.type == "cuda"
        self._used: dict[int, Tensor] = {}  # by address
        self._free: list[tuple[Tensor, torch.cuda.Event | None]] = []

    def take(self, num_bytes: int) -> Tensor:
        """Return a buffer of exactly *num_bytes*, at least 1, whose content is undefined."""
        whole = self._large_enough(num_bytes)
        if whole is None:
            # Sparse messages vary in size: a little room saves allocating again next time.
            room = num_bytes + num_bytes // 4
            whole = torch.empty(room, dtype=torch.uint8, pin_memory=self._pinned)
        self._used[whole.data_ptr()] = whole
        return whole[:num_bytes]

    def give(self, memory: Tensor) -> None:
        """Take back what `take` returned, or a part from its beginning."""
        read = None
        if self._pinned:
            read = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            read.record(torch.cuda.current_stream(self._device))
        self._free.append((self._used.pop(memory.data_ptr()), read))

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
