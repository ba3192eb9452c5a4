"""The `Communicator`: runs a topology's schedules on one rank."""

from __future__ import annotations

import time
from collections.abc import Hashable

from dgc_topo.payload import Payload, check_goal, passes_of
from dgc_topo.runtime.comparison import settings_of
from dgc_topo.runtime.program import Program
from dgc_topo.runtime.traffic import StepTraffic, Traffic
from dgc_topo.runtime.transport import Transport
from dgc_topo.schedule import Schedule
from dgc_topo.schedule.completion import Role
from dgc_topo.topology import Topology

_MOST_PROGRAMS = 64  #: programs that are kept, one per layout (such as a bucket's)


class Communicator:
    """One rank's side of a topology.

    All ranks call `run` in the same order with payloads of the same shape.  A rank waits only for
    its own transfers, so ranks may drift apart as far as the schedule allows.  If messages complete
    one by one (Gloo), each leaves as soon as its content is known (see `compiler`); otherwise all
    messages of a step travel as one batch (NCCL).

    Args:
        topology: Source of the schedule.
        transport: Carries the messages; its world size is the schedule's.
        seed: For topologies that draw at random; the same on every rank.
        compare: True if the first run compares topology, seed and the payload's settings with those
            of every other rank, at the cost of two small messages to each.
    """

    def __init__(
        self, topology: Topology, transport: Transport, seed: int = 0, *, compare: bool = True
    ) -> None:
        self._topology = topology
        self._transport = transport
        self._seed = seed
        self._compares = compare and transport.world_size > 1
        self._kept: Schedule | None = None
        self._programs: dict[Hashable, Program] = {}

    def schedule(self, iteration: int = 0) -> Schedule:
        """Return the schedule of an iteration; always the same one if the topology never varies."""
        if self._kept is not None:
            return self._kept
        world_size = self._transport.world_size
        schedule = self._topology.schedule(world_size, iteration=iteration, seed=self._seed)
        if not self._topology.varies:
            self._kept = schedule
        return schedule

    def run(self, payload: Payload, iteration: int = 0) -> Traffic:
        """Run the schedule once on *payload*, in place.

        Args:
            payload: This rank's buffer; a dedicated server brings zeros, or no entries.
            iteration: Number of the training step, for topologies that change.

        Returns:
            Bytes, messages and seconds of each step.

        Raises:
            PeerError: if a peer is lost or silent for longer than the transport's time-out.
            RanksDifferError: in the first run, if ranks differ in topology, seed, payload or
                iteration.
            ValueError: if the payload has no meaning after such a schedule (a part of a sum after
                gossip), before anything is sent; or if a message does not fit, because the
                payloads of two ranks differ in shape: other ranks then reach their time-out.
        """
        schedule = self.schedule(iteration)
        name, world_size = self._topology.name, self._transport.world_size
        check_goal(name, payload, schedule.goal)
        if self._compares:
            settings = settings_of(self._topology, world_size, self._seed, payload)
            self._transport.compare(name, {**settings, "iteration": iteration})
            self._compares = False
        began = time.perf_counter()
        steps: list[StepTraffic] = []
        for each in passes_of(payload):
            since = time.perf_counter() - began if steps else 0.0
            for step in self._run_pass(schedule, each):
                step.start_s += since
                steps.append(step)
        return Traffic(tuple(steps), time.perf_counter() - began)

    def _run_pass(self, schedule: Schedule, payload: Payload) -> tuple[StepTraffic, ...]:
        agree, role = schedule.goal == "all-reduce", Role(schedule, self._transport.rank)
        payload.cut(schedule.num_chunks, agree=agree, role=role)
        program = self._program(schedule, payload)
        steps = self._transport.run(program, payload, self._topology.name)
        payload.finish()
        return steps

    def _program(self, schedule: Schedule, payload: Payload) -> Program:
        """Return the program for the payload's layout, compiled once if its schedule recurs."""
        key = schedule, payload.device, payload.layout
        program = self._programs.get(key)
        if program is None:
            program = self._transport.compile(schedule, payload)
            if len(self._programs) == _MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            self._programs[key] = program
        return program
