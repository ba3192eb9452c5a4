"""Staging of messages whose size is unknown to the receiver, or that are on a GPU.

Facts about Gloo that this relies on (measured with torch 2.13): a receive completes with a message
shorter than its buffer; a message *longer* than its buffer aborts the receiving process; messages
of one tag between two ranks arrive in order; a send completes only once its receive is posted, and
costs a round trip if it is posted first; a wait that times out closes every connection of the
group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.runtime.failure import Watch
from dgc_topo.runtime.framing import LENGTH_BYTES, announced_bytes, check_arrived, write_head


class Receipt(NamedTuple):
    """A staged message to receive, under way.

    Attributes:
        work: Handle of the backend.
        buffer: Buffer for the whole message, or for its head and beginning.
        memory: Scratch memory to give back after the merge.
        peer: Sending rank.
        most_bytes: Most bytes of the message, if only the sender knows their number.
    """

    work: dist.Work
    buffer: Tensor
    memory: Tensor
    peer: int
    most_bytes: int | None


class Dispatch(NamedTuple):
    """A staged message to send, under way.

    Attributes:
        work: Handle of the backend.
        rest: Handle for the rest that did not fit the receiver's buffer.
        memory: Scratch memory to give back when the message has left.
    """

    work: dist.Work
    rest: dist.Work | None
    memory: Tensor


class Staging:
    """Sends and receives through scratch memory.

    A message of unknown size begins with its length, and is received into a buffer of
    *eager_bytes*. A rest that does not fit follows as a second message.  Its receive is posted when
    the length is known, which costs one more round trip, little compared with the time of that many
    bytes.  GPU memory is staged through pinned memory.

    Args:
        group: The process group.
        device: Device of the payloads.
        watch: Maker of errors.
        eager_bytes: Bytes, at least 16, the same on every rank.
    """

    def __init__(
        self, group: dist.ProcessGroup, device: torch.device, watch: Watch, eager_bytes: int
    ) -> None:
        self._group, self._device, self._watch = group, device, watch
        self._eager_bytes = eager_bytes
        self._scratch = _Scratch(device)

    def receive(
        self, peer: int, tag: int, num_bytes: int | None, most_bytes: int | None = None
    ) -> Receipt:
        """Post the receive of a message, or of its head.

        Args:
            peer: Sending rank.
            tag: Number of the message among the peer's.
            num_bytes: Size of the message; None if only the sender knows it.
            most_bytes: Most bytes of the message; None if that is not known either.
        """
        size = self._eager_bytes if num_bytes is None else num_bytes
        memory = self._scratch.take(size)
        buffer = memory[:size]
        return Receipt(self._receive(buffer, peer, tag), buffer, memory, peer, most_bytes)

    def receive_rest(self, head: Receipt, tag: int) -> Receipt:
        """Post the receive of a message's rest, now that its head is there.

        Returns:
            *head* itself if it holds the whole message; otherwise a new receipt with the
            message's beginning, and the head's memory has been given back.

        Raises:
            WireError: if its length is impossible.
        """
        size = announced_bytes(head.buffer, head.peer, head.most_bytes)
        if (end := LENGTH_BYTES + size) <= self._eager_bytes:
            return head
        memory = self._scratch.take(end)
        whole = memory[:end]
        whole[: self._eager_bytes].copy_(head.buffer)
        self.give_back(head)
        work = self._receive(whole[self._eager_bytes :], head.peer, tag + 1)
        return Receipt(work, whole, memory, head.peer, head.most_bytes)

    def send(self, message: Tensor, peer: int, tag: int, *, sized: bool) -> Dispatch:
        """Post the send of a message; *sized* if the receiver knows its size."""
        on_gpu, size = message.device.type == "cuda", message.numel()
        start = 0 if sized else LENGTH_BYTES
        fits = size if sized else min(size, self._eager_bytes - LENGTH_BYTES)
        # From CPU memory a long message is copied up to its head only.
        copied = message if on_gpu else message[:fits]
        memory = self._scratch.take(start + copied.numel())
        _copy(memory[start : start + copied.numel()], copied)
        staged = memory[start : start + size] if on_gpu else message
        if not sized:
            write_head(memory[:LENGTH_BYTES], staged)
        work = self._send(memory[: start + fits], peer, tag)
        rest = None if fits == size else self._send(staged[fits:], peer, tag + 1)
        return Dispatch(work, rest, memory)

    def message(self, receipt: Receipt, *, sized: bool) -> Tensor:
        """Return the message of a complete receipt, on the payload's device.

        Raises:
            WireError: if less has come than was announced.
        """
        message = receipt.buffer
        if not sized:
            size = announced_bytes(message, receipt.peer, receipt.most_bytes)
            message = message[LENGTH_BYTES : LENGTH_BYTES + size]
            check_arrived(receipt.buffer, receipt.peer, message)
        on_cpu = self._device.type == "cpu"
        return message if on_cpu else message.to(self._device, non_blocking=True)

    def give_back(self, staged: Receipt | Dispatch) -> None:
        """Take back the memory of a message that has been merged, or has left."""
        self._scratch.give(staged.memory)

    def _receive(self, buffer: Tensor, peer: int, tag: int) -> dist.Work:
        try:
            return self._group.recv([buffer], peer, tag)
        except RuntimeError as error:
            raise self._watch.lost(peer, error) from error

    def _send(self, message: Tensor, peer: int, tag: int) -> dist.Work:
        try:
            return self._group.send([message], peer, tag)
        except RuntimeError as error:
            raise self._watch.lost(peer, error) from error


class _Scratch:
    """Reused memory; the buffer that was used last, and is in a cache, is reused first.

    A buffer that a GPU may still have to read is reused only after it has been read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = device.type == "cuda"
        self._free: list[tuple[Tensor, torch.cuda.Event | None]] = []

    def take(self, num_bytes: int) -> Tensor:
        """Return a buffer of at least *num_bytes*, 1 or more, whose content is undefined."""
        whole = self._large_enough(num_bytes)
        if whole is None:
            # Sparse messages vary in size: some spare room avoids new allocations.
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
        """Return a free buffer; if all are too small, drop one, so that they do not pile up."""
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
