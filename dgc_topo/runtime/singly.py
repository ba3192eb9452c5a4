"""Channel for Gloo and MPI: single messages in CPU memory, each sent as early as possible."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.payload import Arrival, Payload
from dgc_topo.runtime.compiler import compile_program
from dgc_topo.runtime.failure import Posted, Watch
from dgc_topo.runtime.framing import wire_bytes
from dgc_topo.runtime.program import Complete, Program, ProgramStep, Receive, Send
from dgc_topo.runtime.staging import Dispatch, Receipt, Staging
from dgc_topo.runtime.traffic import StepTraffic
from dgc_topo.schedule import Schedule


class SinglyChannel:
    """Channel that posts every message by itself, and waits for each when it is needed.

    Messages of known size in CPU memory need nothing but the group's own methods and scratch
    memory; others are staged.

    Args:
        group: The process group; None is the default one.
        device: Device of the payloads.
        timeout: Longest time that one step may take.
        eager_bytes: As of `Staging`.
        first_tag: As of `compile_program`.

    Attributes:
        group: The group, for its own methods: `dist.isend` and `irecv` look the group up again for
            every message.
        watch: Waiting for the messages of one step at a time.
        staging: Staging of messages of unknown size or on a GPU.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None,
        device: torch.device,
        timeout: timedelta,
        eager_bytes: int,
        first_tag: int = 0,
    ) -> None:
        own = dist.group.WORLD if group is None else group
        assert own is not None  # there is a default group: its rank has been asked for
        self.group = own
        self.watch = Watch(own.rank(), timeout)
        self.staging = Staging(own, device, self.watch, eager_bytes)
        self._reaches_payload = device.type == "cpu"
        self._first_tag = first_tag
        self._memory = torch.empty(0, dtype=torch.uint8, device="cpu")

    def compile(self, schedule: Schedule, payload: Payload) -> Program:
        """Return this rank's program for payloads of *payload*'s layout (see `compile_program`)."""
        memory = self._memory_of if self._reaches_payload else None
        return compile_program(schedule, self.group.rank(), payload, memory, self._first_tag)

    def run(self, program: Program, payload: Payload, topology: str) -> tuple[StepTraffic, ...]:
        """Run a program on a payload that has been cut; *topology* is for errors.

        Raises:
            PeerError: if a peer is lost, or a step takes longer than the time-out.
            ValueError: if a message does not fit its chunks.
        """
        run = _Run(program, payload, self, topology)
        return tuple(map(run.perform, program.steps))

    def _memory_of(self, num_bytes: int) -> Tensor:
        """Return CPU memory for the messages of a run, shared by all runs, which never overlap.

        A request for more replaces it; older programs keep the smaller one.
        """
        if self._memory.numel() < num_bytes:
            self._memory = torch.empty(num_bytes, dtype=torch.uint8, device="cpu")
        return self._memory[:num_bytes]


class _Run:
    """The messages of one run.

    Most messages are not staged, and take few calls: if ranks outnumber cores, a call costs some
    two microseconds, because its data is no longer in a cache.
    """

    def __init__(
        self, program: Program, payload: Payload, channel: SinglyChannel, topology: str
    ) -> None:
        self._topology = topology
        self._payload = payload
        self._group, self._staging = channel.group, channel.staging
        self._watch = channel.watch
        self._arrivals = dict(program.arrivals)
        self._receives: list[dist.Work | None] = [None] * program.num_receives
        self._sends: list[dist.Work | None] = [None] * program.num_sends
        # Of staged messages, by slot:
        self._receipts: dict[int, Receipt] = {}
        self._dispatches: dict[int, Dispatch] = {}
        self._bytes_received: dict[int, int] = {}
        self._bytes_sent: dict[int, int] = {}
        self._began = time.perf_counter()

    def perform(self, step: ProgramStep) -> StepTraffic:
        """Perform all acts of a step, and return its traffic."""
        start, watch = time.perf_counter(), self._watch
        waited_s = watch.waited_s
        watch.begin(self._topology, step.index)
        self._step = step
        for act in step.acts:
            if isinstance(act, Send):
                self._send(act)
            elif isinstance(act, Receive):
                self._receive(act)
            else:
                self._complete(act)
        for send in step.sends:
            if self._sends[send.slot] is not None:
                self._wait_sent(send)
        moved = step.num_bytes or self._moved(step)
        end = time.perf_counter()
        times = (start - self._began, end - start, watch.waited_s - waited_s)
        return StepTraffic(step.index, *moved, len(step.sends), *times)

    def _receive(self, act: Receive) -> None:
        slot = act.slot
        if act.staged:
            most = act.num_bytes
            if most is None:
                chunk, count = act.transfer.chunk, act.transfer.count
                most = self._payload.most_bytes(chunk, count, self._group.size())
            receipt = self._staging.receive(act.peer, act.tag, act.num_bytes, most)
            self._receipts[slot], self._receives[slot] = receipt, receipt.work
            return
        if act.lands:
            buffer = self._payload.landing(act.transfer.chunk, act.transfer.count)
            assert buffer is not None  # the compiler has checked this for the layout
        else:
            buffer = self._arrivals[slot].message
        try:
            self._receives[slot] = self._group.recv([buffer], act.peer, act.tag)
        except RuntimeError as error:
            raise self._watch.lost(act.peer, error) from error

    def _send(self, act: Send) -> None:
        slot, packed = act.slot, self._payload.pack(act.chunk, act.count)
        if act.staged:
            sized = act.num_bytes is not None
            dispatch = self._staging.send(packed, act.peer, act.tag, sized=sized)
            self._dispatches[slot], self._sends[slot] = dispatch, dispatch.work
            self._bytes_sent[slot] = wire_bytes(packed.numel(), sized=sized)
            return
        try:
            self._sends[slot] = self._group.send([packed], act.peer, act.tag)
        except RuntimeError as error:
            raise self._watch.lost(act.peer, error) from error

    def _complete(self, act: Complete) -> None:
        """Wait for all messages of a merge, and merge them."""
        receives, watch = self._receives, self._watch
        for receive in act.receives:
            work, receives[receive.slot] = receives[receive.slot], None
            assert work is not None  # it has been posted
            watch.wait(work, receive.peer, self, is_receive=True)
            if receive.num_bytes is None:
                self._receive_rest(receive)
        for send in act.sends:
            if self._sends[send.slot] is not None:
                self._wait_sent(send)
        if act.staged:
            self._open(act.staged)
        if act.merged:
            arrivals = list(map(self._arrivals.__getitem__, act.merged))
            self._payload.merge(arrivals, arrivals[0].transfer.dst)
        if act.staged:
            self._close(act.staged)

    def _receive_rest(self, act: Receive) -> None:
        """Post the receive of a message's rest, now that its head is there."""
        head = self._receipts[act.slot]
        whole = self._staging.receive_rest(head, act.tag)
        if whole is not head:
            self._receipts[act.slot], self._receives[act.slot] = whole, whole.work

    def _open(self, staged: tuple[Receive, ...]) -> None:
        """Wait for the rest of staged messages, and return them as arrivals."""
        for receive in staged:
            rest, self._receives[receive.slot] = self._receives[receive.slot], None
            if rest is not None:
                self._watch.wait(rest, receive.peer, self, is_receive=True)
        for receive in staged:
            sized = receive.num_bytes is not None
            message = self._staging.message(self._receipts[receive.slot], sized=sized)
            self._bytes_received[receive.slot] = wire_bytes(message.numel(), sized=sized)
            self._arrivals[receive.slot] = Arrival(receive.transfer, message)

    def _close(self, staged: tuple[Receive, ...]) -> None:
        """Give back the memory of staged messages."""
        for receive in staged:
            del self._arrivals[receive.slot]
            self._staging.give_back(self._receipts.pop(receive.slot))

    def _wait_sent(self, act: Send) -> None:
        """Wait until a message has left."""
        work, self._sends[act.slot] = self._sends[act.slot], None
        assert work is not None  # it has been posted
        self._watch.wait(work, act.peer, self, is_receive=False)
        if act.staged:
            dispatch = self._dispatches.pop(act.slot)
            if dispatch.rest is not None:
                self._watch.wait(dispatch.rest, act.peer, self, is_receive=False)
            self._staging.give_back(dispatch)

    def _moved(self, step: ProgramStep) -> tuple[int, int]:
        """Return the bytes that a step with staged messages sent, and received."""
        return (
            sum(send.num_bytes or self._bytes_sent[send.slot] for send in step.sends),
            sum(each.num_bytes or self._bytes_received[each.slot] for each in step.receives),
        )

    def __iter__(self) -> Iterator[Posted]:
        """Yield the step's messages that have not been waited for."""
        for receive in self._step.receives:
            if (work := self._receives[receive.slot]) is not None:
                yield Posted(work, receive.peer, is_receive=True)
        for send in self._step.sends:
            if (work := self._sends[send.slot]) is not None:
                yield Posted(work, send.peer, is_receive=False)
            if (dispatch := self._dispatches.get(send.slot)) and dispatch.rest is not None:
                yield Posted(dispatch.rest, send.peer, is_receive=False)
