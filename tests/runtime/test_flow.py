"""Messages that leave and arrive as early as they may compute what a step by step run does."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from queue import Queue
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.payload import DensePayload, Payload
from dgc_topo.runtime import (
    Communicator,
    StepTraffic,
    run_in_process,
)
from dgc_topo.runtime.batched import BatchedChannel, Messages
from dgc_topo.runtime.failure import Watch
from dgc_topo.runtime.singly import SinglyChannel
from dgc_topo.schedule import Schedule
from dgc_topo.topology import Topology, load_topology
from tests.runtime.jobs import EAGER_BYTES, Input, content, make
from tests.runtime.test_in_process import schedules
from tests.schedule.edits import drawn
from tests.strategies import ALL_REDUCE, GOSSIP, smallest_world, topologies

PATIENCE = timedelta(seconds=20)


class Wire:
    """Connections in memory that deliver as soon as both ends are posted, or as late as allowed."""

    def __init__(self, world_size: int, *, late: bool) -> None:
        self.world_size, self.late = world_size, late
        self.changed = threading.Condition()
        self.sends: dict[tuple[int, int, int], list[Half]] = defaultdict(list)
        self.receives: dict[tuple[int, int, int], list[Half]] = defaultdict(list)

    def post(self, half: "Half", key: tuple[int, int, int], *, is_send: bool) -> "Half":
        mine, others = (self.sends, self.receives) if is_send else (self.receives, self.sends)
        with self.changed:
            if others[key]:
                half.other = others[key].pop(0)
                half.other.other = half
                if not self.late:
                    half.deliver()
            else:
                mine[key].append(half)
            self.changed.notify_all()
        return half


class Half:
    """One end of a message; a send completes only when its receive does."""

    def __init__(self, wire: Wire, tensor: Tensor, *, is_send: bool) -> None:
        self.wire, self.tensor, self.is_send = wire, tensor, is_send
        self.other: Half | None = None
        self.done = False

    def wait(self, timeout: timedelta) -> bool:
        with self.wire.changed:
            if not self.wire.changed.wait_for(lambda: self.other, timeout.total_seconds()):
                raise RuntimeError("Timed out waiting")
            self.deliver()
        return True

    def deliver(self) -> None:
        if not self.done:
            assert self.other is not None
            source, target = (self, self.other) if self.is_send else (self.other, self)
            assert len(source.tensor) <= len(target.tensor), "Gloo would abort"
            target.tensor[: len(source.tensor)].copy_(source.tensor)
            self.done = self.other.done = True


class Group:
    """A process group as a rank sees it, over a wire."""

    def __init__(self, wire: Wire, rank: int) -> None:
        self.wire, self._rank = wire, rank

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self.wire.world_size

    def send(self, tensors: list[Tensor], peer: int, tag: int) -> Half:
        half = Half(self.wire, tensors[0], is_send=True)
        return self.wire.post(half, (self._rank, peer, tag), is_send=True)

    def recv(self, tensors: list[Tensor], peer: int, tag: int) -> Half:
        half = Half(self.wire, tensors[0], is_send=False)
        return self.wire.post(half, (peer, self._rank, tag), is_send=False)


def run_threads(
    schedule: Schedule,
    payloads: list[Payload],
    *,
    late: bool,
    group_of: Callable[[Wire, int], Group] = Group,
) -> list[list[StepTraffic]]:
    """Run a schedule with a thread per rank."""
    wire = Wire(len(payloads), late=late)

    def run(rank: int) -> list[StepTraffic]:
        group: Any = group_of(wire, rank)
        channel = SinglyChannel(group, torch.device("cpu"), PATIENCE, EAGER_BYTES)
        payloads[rank].cut(schedule.num_chunks, agree=schedule.goal == "all-reduce")
        program = channel.compile(schedule, payloads[rank])
        steps = list(channel.run(program, payloads[rank], "drawn"))
        payloads[rank].finish()
        return steps

    with ThreadPoolExecutor(len(payloads)) as pool:
        return list(pool.map(run, range(len(payloads))))


def check(schedule: Schedule, fresh: Callable[[], list[Payload]]) -> None:
    """Compare with the run in one process: results bit by bit, and what was moved."""
    expected = fresh()
    moved = run_in_process(schedule, expected)
    for late in (False, True):
        payloads = fresh()
        traffics = run_threads(schedule, payloads, late=late)
        for one, other in zip(payloads, expected, strict=True):
            assert content(one).numpy().tobytes() == content(other).numpy().tobytes()
        for steps, all_steps in zip(traffics, moved, strict=True):
            assert [(s.index, s.bytes_sent, s.bytes_received, s.messages_sent) for s in steps] == [
                (s.index, s.bytes_sent, s.bytes_received, s.messages_sent) for s in all_steps.steps
            ]


@settings(max_examples=150)
@given(
    schedules(),
    st.sampled_from(["float32", "float16", "bfloat16", "sparse", "bundle"]),
    st.integers(0, 60),
)
def test_any_schedule_as_in_one_process(schedule: Schedule, kind: str, length: int):
    given_ = Input(kind, length)
    check(schedule, lambda: [make(given_, rank) for rank in range(schedule.world_size)])


@pytest.mark.parametrize("kind", ["float32", "sparse", "bundle"])
def test_several_writers_of_a_chunk_as_in_one_process(kind: str):
    """Copies, weights of any sign and messages of one pair, all in one step."""
    random = np.random.default_rng(11)
    for _ in range(150):
        schedule = replace(drawn(random), goal="part", servers=())
        given_ = Input(kind, int(random.integers(0, 30)))
        check(schedule, lambda n=schedule.world_size, g=given_: [make(g, r) for r in range(n)])  # type: ignore[misc]


Mail = dict[tuple[int, int], Queue[Tensor]]


class Mailbox(BatchedChannel):
    """A transport of batches: what one rank sends another arrives in its order."""

    def __init__(self, rank: int, world_size: int, mail: Mail) -> None:
        self._rank, self._world_size, self.mail = rank, world_size, mail
        self._watch = Watch(rank, PATIENCE)

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size

    def compare(self, topology: str, settings: Mapping[str, Any]) -> None:
        """Believe that all ranks agree."""

    def exchange(self, receives: Messages, sends: Messages, device: torch.device) -> None:
        for peer, message in sends:
            self.mail[self._rank, peer].put(message.clone())
        for peer, message in receives:
            message.copy_(self.mail[peer, self._rank].get(timeout=20))


@pytest.mark.parametrize("kind", ["float32", "bundle"])
def test_batches_step_by_step_as_in_one_process(kind: str):
    random = np.random.default_rng(12)
    for _ in range(150):
        schedule = replace(drawn(random), goal="part", servers=())
        n = schedule.world_size
        mail: Mail = {(src, dst): Queue() for src in range(n) for dst in range(n)}
        topology = Topology("drawn", lambda world_size, drawn=schedule: drawn)
        expected, payloads = ([make(Input(kind, 20), r) for r in range(n)] for _ in range(2))
        run_in_process(schedule, expected)
        with ThreadPoolExecutor(n) as pool:
            ranks = [Communicator(topology, Mailbox(rank, n, mail)) for rank in range(n)]
            list(pool.map(lambda rank, payload: rank.run(payload), ranks, payloads))
        for one, other in zip(payloads, expected, strict=True):
            assert content(one).numpy().tobytes() == content(other).numpy().tobytes()


@pytest.mark.parametrize("topology", topologies(ALL_REDUCE + GOSSIP), ids=lambda t: t.label)
def test_every_topology_as_in_one_process(topology: Topology):
    for world_size in (2, 3, 5, 7, 8):
        if world_size < smallest_world(topology):
            continue
        schedule = topology.schedule(world_size, seed=3)
        for kind in ("float32", "sparse"):
            check(schedule, lambda k=kind, n=world_size: [make(Input(k, 101), r) for r in range(n)])  # type: ignore[misc]


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("length", [64, 1_000_000])
def test_where_two_ranks_exchange_each_receives_before_it_sends(world_size: int, length: int):
    """Over Gloo the other order halves the speed of an exchange; a butterfly only exchanges."""
    schedule = load_topology("butterfly").schedule(world_size)
    posted: dict[tuple[int, int], list[str]] = defaultdict(list)

    class Noting(Group):
        def send(self, tensors: list[Tensor], peer: int, tag: int) -> Half:
            posted[self.rank(), peer].append("send")
            return super().send(tensors, peer, tag)

        def recv(self, tensors: list[Tensor], peer: int, tag: int) -> Half:
            posted[self.rank(), peer].append("receive")
            return super().recv(tensors, peer, tag)

    payloads: list[Payload] = [DensePayload(torch.ones(length)) for _ in range(world_size)]
    run_threads(schedule, payloads, late=False, group_of=Noting)
    assert len(posted) == world_size * (world_size.bit_length() - 1)
    for order in posted.values():
        assert order.count("send") == order.count("receive") == 2
        for place in range(len(order)):
            so_far = order[: place + 1]
            assert so_far.count("send") <= so_far.count("receive"), order
