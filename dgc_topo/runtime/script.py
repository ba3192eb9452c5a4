"""Everything that one rank does in a run, in order: worked out once, and then only done.

What a `program` allows (which message may leave or be received early) is settled here for payloads
of one layout, so that a run spends its time on messages.  That matters most where ranks outnumber
cores: each finds the caches full of what the others do, and Python costs several times what it
costs in a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from dgc_topo.payload import Arrival, Payload
from dgc_topo.runtime.program import Merge, Message, ProgramStep
from dgc_topo.schedule import Transfer

_WINDOW = 3  #: receives of a stream that are posted at a time

#: A message of so many bytes takes longer than the round trip that a late receive costs.
_LONG_BYTES = 1 << 16

_ALIGNMENT = 64  #: bytes of a line of a cache


@dataclass(frozen=True, slots=True, eq=False)
class Receive:
    """Post the receive of a message."""

    slot: int  #: its place among the run's receives
    transfer: Transfer
    peer: int
    tag: int
    num_bytes: int | None  #: None if only the sender knows
    lands: bool  #: whether it is received where it belongs
    staged: bool  #: whether it takes more than its bytes in CPU memory
    is_receive: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Send:
    """Pack a message, and post its send."""

    slot: int  #: its place among the run's sends
    chunk: int
    count: int
    peer: int
    tag: int
    num_bytes: int | None
    staged: bool
    is_receive: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Complete:
    """Wait for messages, for the sends that read what they change, and merge them.

    Attributes:
        receives: What to wait for.
        sends: What is to have left first.
        merged: Slots of the messages that have not landed where they belong.
        staged: Those of *receives* that are.
    """

    receives: tuple[Receive, ...]
    sends: tuple[Send, ...]
    merged: tuple[int, ...]
    staged: tuple[Receive, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One step of the schedule, with what may already be done in it for the next one.

    Attributes:
        index: The step's number in the whole schedule.
        acts: What to do.
        receives: The step's messages, whenever they are posted.
        sends: The same; the step is over when they have left.
        num_bytes: Sent and received, if all sizes are known.
    """

    index: int
    acts: tuple[Receive | Send | Complete, ...]
    receives: tuple[Receive, ...]
    sends: tuple[Send, ...]
    num_bytes: tuple[int, int] | None


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """All of a run.

    Attributes:
        stages: The steps in which the rank does something.
        num_receives: Number of messages to receive.
        num_sends: Number of messages to send.
        arrivals: By slot, those that are received in scratch memory, which is set aside for them;
            others land where they belong, or are staged.
    """

    stages: tuple[Stage, ...]
    num_receives: int
    num_sends: int
    arrivals: Mapping[int, Arrival]


def script_for(
    program: Sequence[ProgramStep], payload: Payload, memory: Callable[[int], Tensor] | None
) -> Script:
    """Return what *program* comes to for payloads of *payload*'s layout.

    A message without bytes (a chunk without elements) is known to both ends: nobody sends it.

    Args:
        program: What the rank may do when.
        payload: Any with that layout, which has been cut.
        memory: Returns so many bytes of memory for a run; None if messages can't be received in a
            payload's own memory, nor sent from there.
    """
    numbers = _Numbers()
    drafts = [_Draft(step, payload, memory is not None, numbers) for step in program]
    after: list[_Draft | None] = [*drafts[1:], None][: len(drafts)]
    stages = tuple(_stage(now, following) for now, following in zip(drafts, after, strict=True))
    arrivals = {} if memory is None else _arrivals(stages, memory)
    return Script(stages, numbers.receives, numbers.sends, arrivals)


def _arrivals(stages: Iterable[Stage], memory: Callable[[int], Tensor]) -> dict[int, Arrival]:
    """Return what is received in scratch memory; what was used last, and is in a cache, first."""
    sizes: list[int] = []  # of places
    free: list[int] = []
    taken: dict[int, tuple[Receive, int, int]] = {}  # by slot: its place and size
    for act in (act for stage in stages for act in stage.acts):
        if isinstance(act, Receive) and act.num_bytes is not None and not act.lands:
            size = act.num_bytes
            if not free:
                sizes.append(size)
                free.append(len(sizes) - 1)
            place = ([place for place in free if sizes[place] >= size] or free)[-1]
            free.remove(place)
            sizes[place] = max(sizes[place], size)
            taken[act.slot] = act, place, size
        elif isinstance(act, Complete):
            free += (taken[each.slot][1] for each in act.receives if each.slot in taken)
    starts = [0, *accumulate(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]
    whole = memory(starts[-1])
    return {
        slot: Arrival(act.transfer, whole[starts[place] : starts[place] + size])
        for slot, (act, place, size) in taken.items()
    }


def _stage(now: _Draft, after: _Draft | None) -> Stage:
    acts: list[Receive | Send | Complete] = [*now.receive(_room(now, 0))]
    # Sends come before receives of the next step: to post one takes as long as to send.  (Measured
    # in a bare loop of the same messages: a butterfly of 8 ranks and 50 kB at 100 Mbit/s took
    # 11.2 ms the other way round, not 9.9.)
    acts += now.send(range(len(now.step.sends)))
    if after is not None:
        acts += _receive_ahead(now, 0, after)
        acts += after.send_early(now.step.releases)
    for number, merge in enumerate(now.step.merges):
        acts += now.receive(_room(now, number))
        if after is not None:
            acts += _receive_ahead(now, number, after)
        acts += now.complete(number)
        if after is not None:
            acts += after.send_early(merge.releases)
    receives = tuple(receive for group in now.receives for receive in group)
    sends = tuple(filter(None, now.sends))
    return Stage(now.step.index, tuple(acts), receives, sends, _sizes(sends, receives))


def _room(now: _Draft, number: int) -> int:
    """Return how many merges' receives may be posted when one is waited for.

    Of a stream a few, so that its scratch memory stays in a cache; else all.
    """
    return number + _WINDOW if now.step.is_stream else len(now.step.merges)


def _receive_ahead(now: _Draft, number: int, after: _Draft) -> Iterator[Receive]:
    left = _room(now, number) - len(now.step.merges) if now.step.is_stream else _WINDOW
    return after.receive(left if after.step.is_stream else len(after.step.merges), early=True)


def _sizes(sends: Sequence[Send], receives: Sequence[Receive]) -> tuple[int, int] | None:
    sent, received = ([each.num_bytes for each in half] for half in (sends, receives))
    if None in sent or None in received:
        return None
    return sum(filter(None, sent)), sum(filter(None, received))


class _Numbers:
    """Counts the messages of a run."""

    def __init__(self) -> None:
        self.receives = self.sends = 0


class _Draft:
    """One step, from the first message that is posted to the last that is complete."""

    def __init__(
        self, step: ProgramStep, payload: Payload, reaches: bool, numbers: _Numbers
    ) -> None:
        self.step = step
        self._payload = payload
        self._reaches = reaches
        self.receives = [self._receives_of(merge, numbers) for merge in step.merges]
        self.sends = [self._send_of(message, numbers) for message in step.sends]
        self._num_posted = 0  # merges whose receives are posted
        self._sent = [False] * len(step.sends)

    def receive(self, end: int, *, early: bool = False) -> Iterator[Receive]:
        """Post the receives of the first *end* merges, as far as they are not posted yet.

        With *early*, only up to the first that would disturb the step before, or slow it down:
        ranks that wait for nothing of that step send as soon as they may.  (Measured: a butterfly
        of 3 ranks and 10 MB at 100 Mbit/s took 2.9 s that way, not 2.6 s.)
        """
        merges = self.step.merges
        while self._num_posted < min(end, len(merges)):
            merge = merges[self._num_posted]
            if early and (not merge.early or (merge.competes and self._is_long(merge))):
                return
            yield from self.receives[self._num_posted]
            self._num_posted += 1

    def send(self, places: Iterable[int]) -> Iterator[Send]:
        """Post those of the step's sends in *places* that have not been posted yet."""
        for place in places:
            send = self.sends[place]
            if send is not None and not self._sent[place]:
                self._sent[place] = True
                yield send

    def send_early(self, places: Sequence[int]) -> Iterator[Send]:
        """As `send`, while the step before still goes on; the others follow in their own step.

        Not to a peer of whose messages one is still to be posted: over Gloo, where two ranks send
        to each other before they receive, one message waits for the other (measured: two ranks'
        halving and doubling of 1 MB at 100 Mbit/s took 128 ms, not 88).
        """
        unposted = self.step.merges[self._num_posted :]
        peers = {transfer.src for merge in unposted for transfer, _ in merge.receives}
        return self.send(p for p in places if self.step.sends[p].transfer.dst not in peers)

    def complete(self, number: int) -> Iterator[Complete]:
        """Wait for everything that belongs to a merge, and merge it."""
        receives = self.receives[number]
        sends = (self.sends[place] for place in self.step.merges[number].awaits)
        merged = tuple(receive.slot for receive in receives if not receive.lands)
        staged = tuple(receive for receive in receives if receive.staged)
        if receives:
            yield Complete(receives, tuple(filter(None, sends)), merged, staged)

    def _is_long(self, merge: Merge) -> bool:
        """Whether messages are known to be long enough to be worth holding back."""
        sizes = [self._payload.message_bytes(t.chunk, t.count) for t, _ in merge.receives]
        return sum(size for size in sizes if size is not None) >= _LONG_BYTES

    def _receives_of(self, merge: Merge, numbers: _Numbers) -> tuple[Receive, ...]:
        receives = []
        for transfer, tag in merge.receives:
            run = (transfer.chunk, transfer.count)
            size = self._payload.message_bytes(*run)
            if size == 0:
                continue
            lands = self._reaches and merge.in_place and self._payload.landing(*run) is not None
            slot = numbers.receives
            staged = size is None or not self._reaches
            receives.append(Receive(slot, transfer, transfer.src, tag, size, lands, staged))
            numbers.receives += 1
        return tuple(receives)

    def _send_of(self, message: Message, numbers: _Numbers) -> Send | None:
        transfer, tag = message
        size = self._payload.message_bytes(transfer.chunk, transfer.count)
        if size == 0:
            return None
        slot = numbers.sends
        numbers.sends += 1
        staged = size is None or not self._reaches
        return Send(slot, transfer.chunk, transfer.count, transfer.dst, tag, size, staged)
