"""Drafts of a rank's steps: what each message waits for, and which may be posted early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dgc_topo.payload import Payload
from dgc_topo.runtime.program import Complete, Receive, Send
from dgc_topo.schedule import RankStep, Transfer

WINDOW = 3  #: receives of a stream that are posted at a time

#: A message of this many bytes takes longer than the round trip that a late receive costs.
_LONG_BYTES = 1 << 16


class Messages:
    """Numbers and properties of a run's messages.

    Both ends number the messages between them alike.  Every message has two tags, the second one
    for the rest that does not fit its first buffer: with a single tag, the rest of a message could
    be taken for the head of the next one.
    """

    def __init__(self, payload: Payload, num_chunks: int, tag: int, *, reaches: bool) -> None:
        self._payload, self._reaches = payload, reaches
        self._num_chunks, self._first_tag = num_chunks, tag
        self._sent: Counter[int] = Counter()  # tags used, by peer
        self._received: Counter[int] = Counter()
        self.num_receives = self.num_sends = 0

    def receive(self, transfer: Transfer, *, in_place: bool) -> Receive | None:
        """Return the receive of a transfer; None if it has no bytes."""
        tag, size, staged = self._travel(self._received, transfer.src, transfer)
        if size == 0:
            return None
        run = transfer.chunk, transfer.count
        lands = self._reaches and in_place and self._payload.landing(*run) is not None
        self.num_receives += 1
        slot = self.num_receives - 1
        return Receive(slot, transfer, transfer.src, tag, size, lands, staged)

    def send(self, transfer: Transfer) -> Send | None:
        """Return the send of a transfer; None if it has no bytes."""
        tag, size, staged = self._travel(self._sent, transfer.dst, transfer)
        if size == 0:
            return None
        self.num_sends += 1
        chunk, count = transfer.chunk, transfer.count
        return Send(self.num_sends - 1, chunk, count, transfer.dst, tag, size, staged)

    def likely_bytes(self, transfer: Transfer) -> float:
        """Return the bytes of a transfer; if only the sender knows, as many as this rank has."""
        size = self._payload.message_bytes(transfer.chunk, transfer.count)
        return self._bytes_per_chunk * transfer.count if size is None else size

    @cached_property
    def _bytes_per_chunk(self) -> float:
        """Bytes of this rank's own entries in a chunk, in the mean."""
        return self._payload.encoded_bytes() / self._num_chunks

    def _travel(
        self, used: Counter[int], peer: int, transfer: Transfer
    ) -> tuple[int, int | None, bool]:
        tag = self._first_tag + used[peer]
        used[peer] += 2
        size = self._payload.message_bytes(transfer.chunk, transfer.count)
        return tag, size, size is None or not self._reaches


@dataclass(slots=True, eq=False)
class _Group:
    """Receives of one step whose runs of chunks overlap, directly or by way of each other.

    Attributes:
        receives: Receives with bytes, in the order in which they apply.
        sources: Sending ranks, those of messages without bytes included.
        span: First chunk, and one past the last.
        awaits: The step's sends that read these chunks, and therefore come first.
        early: True if they may be received during the previous step.
        competes: True if they are long, and share the incoming link with the previous step's
            messages from other ranks.
        releases: The next step's sends, by place, that may leave once the group is merged.
    """

    receives: tuple[Receive, ...]
    sources: frozenset[int]
    span: tuple[int, int]
    awaits: tuple[Send, ...]
    early: bool
    competes: bool
    releases: list[int] = field(default_factory=list)

    def completion(self) -> Complete:
        """Return the act that waits for the group's messages and merges them."""
        merged = tuple(receive.slot for receive in self.receives if not receive.lands)
        staged = tuple(receive for receive in self.receives if receive.staged)
        return Complete(self.receives, self.awaits, merged, staged)


class Draft:
    """One step, while its acts are put in order.

    Args:
        step: The rank's part of it.
        before: The step before, if there is one.
        messages: Messages of the whole run.

    Attributes:
        sent: The rank's outgoing transfers, as listed.
        received: The incoming ones.
        sends: Acts for *sent*, in the same order; None for transfers without bytes.
        receives: Acts for those of *received* with bytes, in the same order.
        groups: Receives to wait for and merge together, in this order.
        releases: The *next* step's sends, by place, that may leave at once, because this step does
            not change what they carry.
        is_stream: True if all messages come from one rank and none waits for a send.  Only then
            may receives be posted a few at a time.  In other cases a cycle of ranks could wait for
            each other, or an error could not tell which rank is silent.
    """

    def __init__(self, step: RankStep, before: Draft | None, messages: Messages) -> None:
        self.index = step.index
        self.sent, self.received = tuple(step.sends), tuple(step.receives)
        self.sends = [messages.send(transfer) for transfer in self.sent]
        grouped = _overlapping(self.received)
        in_place = {group[0] for group in grouped if len(group) == 1 and self._replaces(group[0])}
        posts = [
            messages.receive(transfer, in_place=place in in_place)
            for place, transfer in enumerate(self.received)
        ]
        self.receives = tuple(filter(None, posts))
        self.groups = [
            self._group(places, posts, before, messages, in_place=places[0] in in_place)
            for places in grouped
        ]
        self.releases: list[int] = []
        one_by_one = all(len(places) == 1 for places in grouped)
        waits = any(_meet(send, group.span) for send in self.sent for group in self.groups)
        sources = {transfer.src for transfer in self.received}
        self.is_stream = one_by_one and not waits and len(sources) == 1
        self._num_posted = 0  # groups whose receives are posted
        self._has_left = [False] * len(self.sent)

    def find_releases(self, after: Draft) -> None:
        """Find the group, if any, for which each of the next step's sends has to wait.

        Sends to peers to which this step does not send are left out: they follow after the step.
        """
        busy = {transfer.dst for transfer in self.sent}
        for place, send in enumerate(after.sent):
            if not busy - {send.dst}:
                holding = [group for group in self.groups if _meet(send, group.span)]
                (holding[-1] if holding else self).releases.append(place)

    def room(self, number: int) -> int:
        """Return the number of groups that may be posted while group *number* is waited for.

        It is small for a stream, so that its scratch memory stays in a cache; otherwise all.
        """
        return number + WINDOW if self.is_stream else len(self.groups)

    def receive(self, end: int, *, early: bool = False) -> Iterator[Receive]:
        """Post the receives of the first *end* groups, as far as they are not posted yet.

        With *early*, stop before the first group that would disturb the previous step or slow it
        down, because ranks that do not wait for that step send at once.  (Measured: without this
        rule a butterfly of 3 ranks and 10 MB at 100 Mbit/s took 2.9 s instead of 2.6 s.)
        """
        while self._num_posted < min(end, len(self.groups)):
            group = self.groups[self._num_posted]
            if early and (not group.early or group.competes):
                return
            yield from group.receives
            self._num_posted += 1

    def send(self, places: Iterable[int]) -> Iterator[Send]:
        """Post those of the step's sends in *places* that have not been posted yet."""
        for place in places:
            send = self.sends[place]
            if send is not None and not self._has_left[place]:
                self._has_left[place] = True
                yield send

    def send_early(self, places: Sequence[int]) -> Iterator[Send]:
        """Post sends during the previous step, if possible; the others follow in their own step.

        A send waits if a receive from the same peer has yet to be posted.  Over Gloo, if two ranks
        send to each other before they receive, one message waits for the other (measured: halving
        and doubling of 1 MB by two ranks at 100 Mbit/s took 128 ms instead of 88 ms).
        """
        peers = {peer for group in self.groups[self._num_posted :] for peer in group.sources}
        return self.send(place for place in places if self.sent[place].dst not in peers)

    def _replaces(self, place: int) -> bool:
        """Return True if a message replaces chunks that no send of the step reads."""
        transfer = self.received[place]
        span = transfer.chunk, transfer.chunk_end
        plain = transfer.keep == 0 and transfer.weight == 1
        return plain and not any(_meet(send, span) for send in self.sent)

    def _group(
        self,
        places: Sequence[int],
        posts: Sequence[Receive | None],
        before: Draft | None,
        messages: Messages,
        *,
        in_place: bool,
    ) -> _Group:
        transfers = [self.received[place] for place in places]
        span = min(t.chunk for t in transfers), max(t.chunk_end for t in transfers)
        receives = tuple(post for place in places if (post := posts[place]) is not None)
        awaited = zip(self.sent, self.sends, strict=True)
        awaits = tuple(send for t, send in awaited if send is not None and _meet(t, span))
        sources = frozenset(t.src for t in transfers)
        around = () if before is None else (*before.sent, *before.received)
        # Only a message that lands in place can disturb the previous step.
        early = not in_place or not any(_meet(t, span) for t in around)
        others = set() if before is None else {t.src for t in before.received} - sources
        competes = bool(others) and sum(map(messages.likely_bytes, transfers)) >= _LONG_BYTES
        return _Group(receives, sources, span, awaits, early, competes)


def _overlapping(received: Sequence[Transfer]) -> list[list[int]]:
    """Split receives into groups that share no chunk, ordered by their first members."""
    groups: list[list[int]] = []
    end = 0
    for place in sorted(range(len(received)), key=lambda place: received[place].chunk):
        if received[place].chunk >= end:
            groups.append([])
        groups[-1].append(place)
        end = max(end, received[place].chunk_end)
    return sorted(sorted(group) for group in groups)


def _meet(transfer: Transfer, span: tuple[int, int]) -> bool:
    """Return True if a transfer's chunks and those of a span overlap."""
    return transfer.chunk < span[1] and span[0] < transfer.chunk_end
