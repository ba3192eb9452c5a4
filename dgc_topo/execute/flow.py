"""Run a rank's program, where messages complete one by one: each leaves as soon as it can."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from dgc_topo.execute.channel import wire_bytes
from dgc_topo.execute.failure import Pending, Place, Posted, Watch
from dgc_topo.execute.program import Merge, Message, ProgramStep
from dgc_topo.execute.singly import Dispatch, Receipt, SinglyChannel
from dgc_topo.execute.traffic import StepTraffic
from dgc_topo.payload import Arrival, Payload
from dgc_topo.schedule import Transfer

_Awaited = tuple[Message, Receipt]

_WINDOW = 3  #: receives of a stream that are posted at a time

#: A message of so many bytes takes longer than the round trip that a late receive costs.
_LONG_BYTES = 1 << 16


def run_flow(
    program: tuple[ProgramStep, ...], payload: Payload, channel: SinglyChannel, topology: str
) -> Iterator[StepTraffic]:
    """Run a program on a payload that has been cut, yielding what each step moved.

    Raises:
        PeerError: if a peer is lost, or a step takes longer than the time-out.
        ValueError: if a message does not fit its chunks.
    """
    began = time.perf_counter()
    opened = [_OpenStep(step, payload, channel) for step in program]
    for now, after in zip(opened, [*opened[1:], None], strict=False):
        start = time.perf_counter()
        watch = channel.watch(Place(topology, now.step.index))
        _receive_ahead(watch, 0, now, after)
        now.send(watch, range(len(now.step.sends)))
        if after is not None:
            after.send_early(watch, now.step.releases)
        for number, merge in enumerate(now.step.merges):
            _receive_ahead(watch, number, now, after)
            now.complete(watch, number)
            if after is not None:
                after.send_early(watch, merge.releases)
        now.finish(watch)
        yield now.traffic(start - began, time.perf_counter() - start)


def _receive_ahead(watch: Watch, number: int, now: _OpenStep, after: _OpenStep | None) -> None:
    """Post receives: of a stream a few, so that its scratch memory stays in a cache; else all."""
    room = number + _WINDOW if now.step.is_stream else len(now.step.merges)
    now.receive(watch, room)
    if after is not None:
        left = room - len(now.step.merges) if now.step.is_stream else _WINDOW
        after.receive(watch, left if after.step.is_stream else len(after.step.merges), early=True)


class _OpenStep:
    """One step's messages, from the first that is posted to the last that is complete."""

    def __init__(self, step: ProgramStep, payload: Payload, channel: SinglyChannel) -> None:
        self.step = step
        self._payload = payload
        self._channel = channel
        self._inbox: list[list[_Awaited]] = []  # one per merge whose receives are posted
        self._outbox: list[Dispatch | None] = [None] * len(step.sends)
        self._rests: list[Receipt] = []
        self._sent = [False] * len(step.sends)
        self._bytes_sent = self._bytes_received = self._messages_sent = 0
        self._wait_s = 0.0

    def receive(self, watch: Watch, end: int, *, early: bool = False) -> None:
        """Post the receives of the first *end* merges, as far as they are not posted yet.

        With *early*, only up to the first that would disturb the step before, or slow it down:
        ranks that wait for nothing of that step send as soon as they may.  (Measured: a butterfly
        of 3 ranks and 10 MB at 100 Mbit/s took 2.9 s that way, not 2.6 s.)
        """
        merges = self.step.merges
        while len(self._inbox) < min(end, len(merges)):
            merge = merges[len(self._inbox)]
            if early and (not merge.early or (merge.competes and self._is_long(merge))):
                return
            self._inbox.append(self._post_receives(watch, merge))

    def send(self, watch: Watch, places: Iterable[int]) -> None:
        """Pack and post those of the step's sends in *places* that have not been posted yet."""
        for place in places:
            if not self._sent[place]:
                self._sent[place] = True
                self._outbox[place] = self._post_send(watch, self.step.sends[place])

    def send_early(self, watch: Watch, places: Sequence[int]) -> None:
        """As `send`, while the step before still goes on; the others follow in their own step.

        Not to a peer of whose messages one is still to be posted: over Gloo, where two ranks send
        to each other before they receive, one message waits for the other (measured: two ranks'
        halving and doubling of 1 MB at 100 Mbit/s took 128 ms, not 88).
        """
        if not places:
            return
        unposted = self.step.merges[len(self._inbox) :]
        peers = {transfer.src for merge in unposted for transfer, _ in merge.receives}
        self.send(watch, (p for p in places if self.step.sends[p].transfer.dst not in peers))

    def complete(self, watch: Watch, number: int) -> None:
        """Wait for everything that belongs to a merge, and merge it."""
        merge = self.step.merges[number]
        received = self._collect(watch, number)
        for place in merge.awaits:
            self._see_off(watch, place)
        arrivals = []
        for transfer, receipt in received:
            message = self._channel.message(receipt)
            self._bytes_received += wire_bytes(message.numel(), sized=receipt.sized)
            if receipt.is_scratch:
                arrivals.append(Arrival(transfer, message))
        if arrivals:
            self._payload.merge(arrivals, arrivals[0].transfer.dst)
        for _, receipt in received:
            self._channel.give_back(receipt)

    def finish(self, watch: Watch) -> None:
        """Wait for the sends that are still under way."""
        for place in range(len(self._outbox)):
            self._see_off(watch, place)

    def traffic(self, start_s: float, duration_s: float) -> StepTraffic:
        """Return the step's account."""
        return StepTraffic(
            self.step.index,
            self._bytes_sent,
            self._bytes_received,
            self._messages_sent,
            start_s,
            duration_s,
            self._wait_s,
        )

    def _is_long(self, merge: Merge) -> bool:
        """Whether messages are known to be long enough to be worth holding back."""
        sizes = [self._payload.message_bytes(t.chunk, t.count) for t, _ in merge.receives]
        return sum(size for size in sizes if size is not None) >= _LONG_BYTES

    def _post_receives(self, watch: Watch, merge: Merge) -> list[_Awaited]:
        awaited: list[_Awaited] = []
        for message in merge.receives:
            transfer, tag = message
            size = self._payload.message_bytes(transfer.chunk, transfer.count)
            # Both ends know of a message without bytes (a chunk without elements): nobody sends it.
            if size == 0:
                continue
            target = None
            if merge.in_place and self._channel.reaches_payload:
                target = self._payload.landing(transfer.chunk, transfer.count)
            receipt = self._channel.receive(watch, transfer.src, tag, size, target)
            awaited.append((message, receipt))
        return awaited

    def _post_send(self, watch: Watch, message: Message) -> Dispatch | None:
        transfer, tag = message
        size = self._payload.message_bytes(transfer.chunk, transfer.count)
        if size == 0:
            return None
        packed = self._payload.pack(transfer.chunk, transfer.count)
        sized = size is not None
        self._messages_sent += 1
        self._bytes_sent += wire_bytes(packed.numel(), sized=sized)
        return self._channel.send(watch, packed, transfer.dst, tag, sized=sized)

    def _collect(self, watch: Watch, number: int) -> list[tuple[Transfer, Receipt]]:
        """Wait for a merge's messages, all of them and in whole."""
        awaited = self._inbox[number]
        received = []
        while awaited:
            (transfer, tag), head = awaited.pop(0)
            self._wait(watch, head)
            whole = self._channel.receive_rest(watch, head, tag)
            received.append((transfer, whole))
            if whole is not head:
                self._rests.append(whole)
        while self._rests:
            self._wait(watch, self._rests.pop(0))
        return received

    def _see_off(self, watch: Watch, place: int) -> None:
        """Wait until a message has left."""
        dispatch = self._outbox[place]
        if dispatch is None:
            return
        self._outbox[place] = None
        self._wait(watch, dispatch)
        if dispatch.rest is not None:
            self._wait(watch, Posted(dispatch.rest, dispatch.peer, is_receive=False))
        self._channel.give_back(dispatch)

    def _wait(self, watch: Watch, pending: Pending) -> None:
        start = time.perf_counter()
        watch.wait(pending, self)
        self._wait_s += time.perf_counter() - start

    def __iter__(self) -> Iterator[Pending]:
        """Yield the step's messages that have not been waited for."""
        for awaited in self._inbox:
            yield from (receipt for _, receipt in awaited)
        yield from self._rests
        for dispatch in self._outbox:
            if dispatch is not None:
                yield dispatch
                if dispatch.rest is not None:
                    yield Posted(dispatch.rest, dispatch.peer, is_receive=False)
