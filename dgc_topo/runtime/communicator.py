"""Run a topology's schedule on one rank."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator

from dgc_topo.payload import Arrival, Payload, check_goal
from dgc_topo.runtime.channel import Exchanged, Incoming, Outgoing, wire_bytes
from dgc_topo.runtime.compared import settings_of
from dgc_topo.runtime.failure import Place
from dgc_topo.runtime.flow import run_flow
from dgc_topo.runtime.plan import Plan, ScheduleSource, plan_for
from dgc_topo.runtime.program import PlannedStep
from dgc_topo.runtime.script import Script, script_for
from dgc_topo.runtime.singly import SinglyChannel
from dgc_topo.runtime.traffic import StepTraffic, Traffic
from dgc_topo.runtime.transport import SinglyTransport, Transport
from dgc_topo.schedule import Transfer

_MOST_SCRIPTS = 16  #: that are kept: one per layout, such as a bucket's


class Communicator:
    """One rank's side of a topology.

    All ranks call `run` in the same order with payloads of the same shape.  A rank waits only for
    its own transfers, so ranks may drift apart by as much as the schedule allows.  Where messages
    complete one by one (Gloo), each leaves as soon as what it carries is known (see `program`);
    else all of a step travel as one batch (NCCL).

    Args:
        topology: Where the schedule comes from.
        transport: What carries the messages; its world size is the schedule's.
        seed: For topologies that draw at random; the same on every rank.
        compare: Whether the first run compares topology, seed and what made the payload with those
            of every other rank; it costs two small messages to each.
    """

    def __init__(
        self,
        topology: ScheduleSource,
        transport: Transport,
        seed: int = 0,
        *,
        compare: bool = True,
    ) -> None:
        self._topology = topology
        self._transport = transport
        self._singly = transport if isinstance(transport, SinglyTransport) else None
        self._seed = seed
        self._compares = compare and self._singly is not None and transport.world_size > 1
        self._kept: Plan | None = None
        self._scripts: dict[Hashable, Script] = {}
        self._num_contributors: int | None = None

    @property
    def num_contributors(self) -> int:
        """Number of ranks whose input counts: all but dedicated servers."""
        if self._num_contributors is None:
            schedule = self._topology.schedule(self._transport.world_size, seed=self._seed)
            self._num_contributors = len(schedule.contributors)
        return self._num_contributors

    def run(self, payload: Payload, iteration: int = 0) -> Traffic:
        """Run the schedule once on *payload*, in place.

        Args:
            payload: This rank's buffer; a dedicated server brings zeros, or no entries.
            iteration: Number of the training step, for topologies that change.

        Returns:
            What was moved, and how long it took.

        Raises:
            PeerError: if a peer is lost or silent for longer than the transport's time-out.
            RanksDifferError: in the first run, if ranks differ in topology, seed or payload.
            ValueError: if the payload means nothing after such a schedule (a part of a sum after
                gossip), before anything is sent; or if a message does not fit (the payloads of two
                ranks differ in shape), and other ranks then run into their time-out.
        """
        plan = self._plan(iteration)
        check_goal(self._topology.name, payload, plan.goal)
        if self._compares:
            self._compare(payload)
        began = time.perf_counter()
        payload.cut(plan.num_chunks, agree=plan.agree)
        steps = self._run_singly(plan, payload)
        if steps is None:
            steps = tuple(self._run_step(step, payload, began) for step in plan.steps)
        payload.finish()
        return Traffic(steps, time.perf_counter() - began)

    def _compare(self, payload: Payload) -> None:
        """Compare the ranks, once."""
        assert self._singly is not None
        settings = settings_of(self._topology, self._transport.world_size, self._seed, payload)
        self._singly.compare(Place(self._topology.name, 0), settings)
        self._compares = False

    def _run_singly(self, plan: Plan, payload: Payload) -> tuple[StepTraffic, ...] | None:
        """Run a plan message by message; return None if the transport can't."""
        if self._singly is None or (channel := self._singly.singly(payload.device)) is None:
            return None
        with self._singly.guard(Place(self._topology.name, 0)):
            script = self._script(plan, payload, channel)
            return tuple(run_flow(script, payload, channel, self._topology.name))

    def _script(self, plan: Plan, payload: Payload, channel: SinglyChannel) -> Script:
        """Return the script for the payload's layout, made once for each if that is possible."""
        key = channel, payload.layout
        script = self._scripts.get(key)
        if script is not None:
            return script
        memory = channel.memory if channel.reaches_payload else None
        script = script_for(plan.program, payload, memory)
        if plan is self._kept:
            if len(self._scripts) == _MOST_SCRIPTS:
                del self._scripts[next(iter(self._scripts))]
            self._scripts[key] = script
        return script

    def _plan(self, iteration: int) -> Plan:
        if self._kept is not None:
            return self._kept
        world_size, rank = self._transport.world_size, self._transport.rank
        plan = plan_for(
            self._topology.schedule(world_size, iteration=iteration, seed=self._seed), rank
        )
        if not self._topology.varies:
            self._kept = plan
        return plan

    def _run_step(self, step: PlannedStep, payload: Payload, began: float) -> StepTraffic:
        start = time.perf_counter()
        sends = [(t, payload.message_bytes(t.chunk, t.count)) for t in step.sends]
        receives = [(t, payload.message_bytes(t.chunk, t.count)) for t in step.receives]
        # Both ends know of a message without bytes (a chunk without elements), so nobody sends it.
        sends = [(t, size) for t, size in sends if size != 0]
        receives = [(t, size) for t, size in receives if size != 0]
        outbox = _Outbox(sends, payload)
        exchanged = self._transport.exchange(
            Place(self._topology.name, step.index),
            [Incoming(t.src, size, self._most(t, size, payload)) for t, size in receives],
            outbox,
            payload.device,
        )
        self._merge([t for t, _ in receives], exchanged, payload)
        return StepTraffic(
            step.index,
            outbox.bytes_sent,
            sum(
                wire_bytes(message.numel(), sized=size is not None)
                for message, (_, size) in zip(exchanged.messages, receives, strict=True)
            ),
            len(sends),
            start - began,
            time.perf_counter() - start,
            exchanged.wait_s,
        )

    def _most(self, transfer: Transfer, size: int | None, payload: Payload) -> int:
        if size is not None:
            return size
        return payload.most_bytes(transfer.chunk, transfer.count, self._transport.world_size)

    def _merge(self, transfers: list[Transfer], exchanged: Exchanged, payload: Payload) -> None:
        arrivals = [
            Arrival(t, message) for t, message in zip(transfers, exchanged.messages, strict=True)
        ]
        if arrivals:
            payload.merge(arrivals, self._transport.rank)


class _Outbox:
    """Packs messages one by one as they are asked for, once the receives are posted."""

    def __init__(self, sends: list[tuple[Transfer, int | None]], payload: Payload) -> None:
        self._sends = sends
        self._payload = payload
        self.bytes_sent = 0

    def __iter__(self) -> Iterator[Outgoing]:
        for transfer, size in self._sends:
            message = self._payload.pack(transfer.chunk, transfer.count)
            self.bytes_sent += wire_bytes(message.numel(), sized=size is not None)
            yield Outgoing(transfer.dst, message, size)
