"""Run a rank's script, where messages complete one by one: each leaves as soon as it can."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch.distributed as dist

from dgc_topo.payload import Arrival, Payload
from dgc_topo.runtime.channel import wire_bytes
from dgc_topo.runtime.failure import Pending, Posted
from dgc_topo.runtime.script import Complete, Receive, Script, Send, Stage
from dgc_topo.runtime.singly import Dispatch, Receipt, SinglyChannel
from dgc_topo.runtime.traffic import StepTraffic


def run_flow(
    script: Script, payload: Payload, channel: SinglyChannel, topology: str
) -> Iterator[StepTraffic]:
    """Run a script on a payload that has been cut, yielding what each step moved.

    Raises:
        PeerError: if a peer is lost, or a step takes longer than the time-out.
        ValueError: if a message does not fit its chunks.
    """
    return map(_Run(script, payload, channel, topology).perform, script.stages)


class _Run:
    """The messages of one run.

    Most are neither of unknown size nor on a GPU, and take few calls: where ranks outnumber cores,
    a call costs some two microseconds, as what it touches is no longer in a cache.
    """

    def __init__(
        self, script: Script, payload: Payload, channel: SinglyChannel, topology: str
    ) -> None:
        self._topology = topology
        self._payload = payload
        self._channel = channel
        self._watch = channel.watch
        self._arrivals = dict(script.arrivals)
        self._receives: list[dist.Work | None] = [None] * script.num_receives
        self._sends: list[dist.Work | None] = [None] * script.num_sends
        # Of staged messages, by slot:
        self._receipts: dict[int, Receipt] = {}
        self._dispatches: dict[int, Dispatch] = {}
        self._bytes_received: dict[int, int] = {}
        self._bytes_sent: dict[int, int] = {}
        self._began = time.perf_counter()

    def perform(self, stage: Stage) -> StepTraffic:
        """Do all that belongs to a step, and return its account."""
        start, watch = time.perf_counter(), self._watch
        waited_s = watch.waited_s
        watch.begin(self._topology, stage.index)
        self._stage = stage
        for act in stage.acts:
            if isinstance(act, Send):
                self._send(act)
            elif isinstance(act, Receive):
                self._receive(act)
            else:
                self._complete(act)
        for send in stage.sends:
            if self._sends[send.slot] is not None:
                self._see_off(send)
        moved = stage.num_bytes or self._moved(stage)
        end = time.perf_counter()
        times = (start - self._began, end - start, watch.waited_s - waited_s)
        return StepTraffic(stage.index, *moved, len(stage.sends), *times)

    def _receive(self, act: Receive) -> None:
        slot = act.slot
        if act.staged:
            most = act.num_bytes
            if most is None:
                chunk, count = act.transfer.chunk, act.transfer.count
                most = self._payload.most_bytes(chunk, count, self._channel.group.size())
            receipt = self._channel.receive(act.peer, act.tag, act.num_bytes, most)
            self._receipts[slot], self._receives[slot] = receipt, receipt.work
            return
        if act.lands:
            buffer = self._payload.landing(act.transfer.chunk, act.transfer.count)
            assert buffer is not None  # so it was for this layout
        else:
            buffer = self._arrivals[slot].message
        try:
            self._receives[slot] = self._channel.group.recv([buffer], act.peer, act.tag)
        except RuntimeError as error:
            raise self._watch.lost(act.peer, error) from error

    def _send(self, act: Send) -> None:
        slot, packed = act.slot, self._payload.pack(act.chunk, act.count)
        if act.staged:
            sized = act.num_bytes is not None
            dispatch = self._channel.send(packed, act.peer, act.tag, sized=sized)
            self._dispatches[slot], self._sends[slot] = dispatch, dispatch.work
            self._bytes_sent[slot] = wire_bytes(packed.numel(), sized=sized)
            return
        try:
            self._sends[slot] = self._channel.group.send([packed], act.peer, act.tag)
        except RuntimeError as error:
            raise self._watch.lost(act.peer, error) from error

    def _complete(self, act: Complete) -> None:
        """Wait for everything that belongs to a merge, and merge it."""
        receives, watch = self._receives, self._watch
        for receive in act.receives:
            work, receives[receive.slot] = receives[receive.slot], None
            assert work is not None  # it has been posted
            watch.wait(work, receive, self)
            if receive.num_bytes is None:
                self._receive_rest(receive)
        for send in act.sends:
            if self._sends[send.slot] is not None:
                self._see_off(send)
        if act.staged:
            self._open(act.staged)
        if act.merged:
            arrivals = list(map(self._arrivals.__getitem__, act.merged))
            self._payload.merge(arrivals, arrivals[0].transfer.dst)
        if act.staged:
            self._close(act.staged)

    def _receive_rest(self, act: Receive) -> None:
        """Post the receive of what is missing of a message, now that its head is there."""
        head = self._receipts[act.slot]
        whole = self._channel.receive_rest(head, act.peer, act.tag)
        if whole is not head:
            self._receipts[act.slot], self._receives[act.slot] = whole, whole.work

    def _open(self, staged: tuple[Receive, ...]) -> None:
        """Wait for what was missing of staged messages, and make arrivals of them."""
        for receive in staged:
            rest, self._receives[receive.slot] = self._receives[receive.slot], None
            if rest is not None:
                self._watch.wait(rest, receive, self)
        for receive in staged:
            sized = receive.num_bytes is not None
            message = self._channel.message(self._receipts[receive.slot], sized=sized)
            self._bytes_received[receive.slot] = wire_bytes(message.numel(), sized=sized)
            self._arrivals[receive.slot] = Arrival(receive.transfer, message)

    def _close(self, staged: tuple[Receive, ...]) -> None:
        """Give back the memory of staged messages."""
        for receive in staged:
            del self._arrivals[receive.slot]
            self._channel.give_back(self._receipts.pop(receive.slot))

    def _see_off(self, act: Send) -> None:
        """Wait until a message has left."""
        work, self._sends[act.slot] = self._sends[act.slot], None
        assert work is not None  # it has been posted
        self._watch.wait(work, act, self)
        if act.staged:
            dispatch = self._dispatches.pop(act.slot)
            if dispatch.rest is not None:
                self._watch.wait(dispatch.rest, act, self)
            self._channel.give_back(dispatch)

    def _moved(self, stage: Stage) -> tuple[int, int]:
        """Return the bytes that a step with staged messages sent, and received."""
        return (
            sum(send.num_bytes or self._bytes_sent[send.slot] for send in stage.sends),
            sum(each.num_bytes or self._bytes_received[each.slot] for each in stage.receives),
        )

    def __iter__(self) -> Iterator[Pending]:
        """Yield the step's messages that have not been waited for."""
        for receive in self._stage.receives:
            if (work := self._receives[receive.slot]) is not None:
                yield Posted(work, receive.peer, is_receive=True)
        for send in self._stage.sends:
            if (work := self._sends[send.slot]) is not None:
                yield Posted(work, send.peer, is_receive=False)
            if (dispatch := self._dispatches.get(send.slot)) and dispatch.rest is not None:
                yield Posted(dispatch.rest, send.peer, is_receive=False)
