"""Bundles: several payloads that travel together in one message, with one latency."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, device

from dgc_topo.payload.base import Arrival, Payload, passes_of
from dgc_topo.schedule import Goal
from dgc_topo.schedule.completion import Role

ALIGNMENT = 8  #: bytes; parts begin at multiples, so that they can be viewed as numbers
SIZE_BYTES = 8  #: int64 size of each part that only the sender knows


class BundlePayload:
    """Payloads that share every message: chunk c is chunk c of every part.

    A message begins with the sizes in bytes of those parts whose size only the sender knows, int64
    each.  Every part follows, padded to a multiple of 8 bytes.

    Args:
        parts: The payloads, all on one device; merged in place.

    Raises:
        ValueError: if there are no parts, or they are on different devices.
    """

    def __init__(self, parts: Sequence[Payload]) -> None:
        devices = sorted({str(part.device) for part in parts})
        if len(devices) != 1:
            raise ValueError(
                f"bundle payload: {len(parts)} parts on devices {devices}, "
                "expected at least one part, and one device"
            )
        self.parts = tuple(parts)
        #: Goals that all parts accept.
        self.made_with: Mapping[str, object] = {}
        self.goals: frozenset[Goal] = frozenset.intersection(*(part.goals for part in parts))

    def __repr__(self) -> str:
        return f"BundlePayload({', '.join(map(repr, self.parts))})"

    @property
    def device(self) -> device:
        """Device of the parts."""
        return self.parts[0].device

    @property
    def layout(self) -> Hashable:
        """Keys of every part."""
        return tuple(part.layout for part in self.parts)

    def passes(self) -> Iterator[Payload]:
        """Yield earlier passes of parts, each by itself; then all parts together."""
        running = [passes_of(part) for part in self.parts]
        last = []
        for part, passes in zip(self.parts, running, strict=True):
            now = next(passes)
            if now is not part:
                yield now
                now = next(passes)
            last.append(now)
        is_one = all(now is part for now, part in zip(last, self.parts, strict=True))
        yield self if is_one else BundlePayload(last)
        for passes in running:
            next(passes, None)

    def cut(self, num_chunks: int, *, agree: bool = True, role: Role | None = None) -> None:
        """Fix the chunk boundaries of every part."""
        for part in self.parts:
            part.cut(num_chunks, agree=agree, role=role)

    def message_bytes(self, chunk: int, count: int) -> int | None:
        """Return the size of a run's message in bytes, None if a part's is unknown."""
        total = 0
        for part in self.parts:
            size = part.message_bytes(chunk, count)
            if size is None:
                return None
            total += _padded(size)
        return total

    def most_bytes(self, chunk: int, count: int, world_size: int) -> int:
        """Return the most bytes of the parts' messages, each padded, and of their sizes."""
        most = [part.most_bytes(chunk, count, world_size) for part in self.parts]
        return sum(SIZE_BYTES + _padded(each) for each in most)

    def encoded_bytes(self) -> int:
        """Return the bytes of every part's whole buffer as one message."""
        return sum(part.encoded_bytes() for part in self.parts)

    def pack(self, chunk: int, count: int) -> Tensor:
        """Return the parts' messages, joined."""
        known = [part.message_bytes(chunk, count) for part in self.parts]
        messages = [part.pack(chunk, count) for part in self.parts]
        sizes = [
            message.numel() for message, size in zip(messages, known, strict=True) if size is None
        ]
        pieces = [torch.tensor(sizes, dtype=torch.int64, device=self.device).view(torch.uint8)]
        for message in messages:
            padding = _padded(message.numel()) - message.numel()
            pieces += [message, message.new_zeros(padding)]
        return torch.cat(pieces)

    def landing(self, chunk: int, count: int) -> Tensor | None:
        """Return None: the parts of a message belong to different buffers."""
        return None

    def merge(self, arrivals: Sequence[Arrival], rank: int) -> None:
        """Apply the arrivals of one step to every part."""
        opened = [tuple(self._open(arrival)) for arrival in arrivals]
        for place, part in enumerate(self.parts):
            part.merge([messages[place] for messages in opened], rank)

    def finish(self) -> None:
        """End a run of every part."""
        for part in self.parts:
            part.finish()

    def _open(self, arrival: Arrival) -> Iterator[Arrival]:
        """Yield the arrival's message for each part."""
        transfer, message = arrival
        known = [part.message_bytes(transfer.chunk, transfer.count) for part in self.parts]
        num_unknown = known.count(None)
        offset = num_unknown * SIZE_BYTES
        if message.numel() < offset:
            raise ValueError(
                f"bundle payload: message of {message.numel()} bytes ({transfer}), "
                f"expected at least {offset}"
            )
        unknown = iter(message[:offset].view(torch.int64).tolist())
        sizes = [next(unknown) if size is None else size for size in known]
        expected = offset + sum(_padded(size) for size in sizes)
        if min(sizes) < 0 or message.numel() != expected:
            raise ValueError(
                f"bundle payload: message of {message.numel()} bytes ({transfer}), "
                f"expected {expected} for parts of {sizes} bytes"
            )
        for size in sizes:
            yield Arrival(transfer, message[offset : offset + size])
            offset += _padded(size)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
