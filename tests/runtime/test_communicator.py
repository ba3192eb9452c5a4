"""What a communicator asks of its transport and its topology."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from dgc_topo.arrays import IntArray
from dgc_topo.payload import DensePayload, Payload, SparsePayload
from dgc_topo.runtime import Communicator, Program, StepTraffic
from dgc_topo.runtime.compiler import compile_program
from dgc_topo.schedule import Schedule, Step, mix, reduce
from dgc_topo.topology import Topology, load_topology
from tests.runtime.cluster import Cluster
from tests.runtime.jobs import construction_errors


class Recorder:
    """A transport that brings nothing and writes down what it was asked."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.log: list[str] = []
        self.compiled = 0

    def compile(self, schedule: Schedule, payload: Payload) -> Program:
        self.compiled += 1
        return compile_program(schedule, self.rank, payload)

    def run(self, program: Program, payload: Payload, topology: str) -> tuple[StepTraffic, ...]:
        for step in program.steps:
            where = f"{topology}, step {step.index}"
            self.log += [f"{where}: receive {r.num_bytes} from {r.peer}" for r in step.receives]
            self.log += [f"{where}: send {s.num_bytes} to {s.peer}" for s in step.sends]
        return ()

    def compare(self, topology: str, settings: Mapping[str, Any]) -> None:
        self.log.append(f"{topology}: compare {settings['seed']}")


def counted(topology: Topology) -> tuple[Topology, list[int]]:
    """Return a topology that counts how often its schedule is built, and for which iterations."""
    asked: list[int] = []

    def fixed(world_size: int) -> Schedule:
        asked.append(0)
        return topology.schedule(world_size)

    def varying(world_size: int, iteration: int = 0) -> Schedule:
        asked.append(iteration)
        return topology.schedule(world_size, iteration=iteration)

    return Topology(topology.name, varying if topology.varies else fixed), asked


@pytest.mark.parametrize(
    ("goal", "taken"),
    [
        ("all-reduce", True),
        ("doubly-stochastic", True),
        ("part", True),
        ("column-stochastic", False),
    ],
)
def test_a_buffer_may_be_mixed_but_by_push_sum_only_with_its_weight(goal, taken):
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal=goal)
    communicator = Communicator(Topology("mine", lambda world_size: schedule), Recorder(0, 2))
    communicator.run(DensePayload(torch.ones(3), goals=frozenset({goal})))
    if taken:
        communicator.run(DensePayload(torch.ones(3)))
    else:
        with pytest.raises(ValueError, match=r"^mine: its schedule is column-stochastic: .*weight"):
            communicator.run(DensePayload(torch.ones(3)))


def test_runs_its_own_part_of_every_step():
    transport = Recorder(rank=1, world_size=3)
    ring = Communicator(load_topology("ring"), transport, compare=False)
    traffic = ring.run(DensePayload(torch.ones(3)))
    assert transport.log[:4] == [
        "ring, step 0: receive 4 from 0",
        "ring, step 0: send 4 to 2",
        "ring, step 1: receive 4 from 0",
        "ring, step 1: send 4 to 2",
    ]
    assert 0 < traffic.communicate_s <= traffic.duration_s


def test_messages_without_bytes_are_left_out():
    transport = Recorder(rank=0, world_size=3)
    Communicator(load_topology("ring"), transport, compare=False).run(DensePayload(torch.ones(0)))
    assert transport.log == []


def test_alone_there_is_nothing_to_do():
    transport = Recorder(rank=0, world_size=1)
    payload = SparsePayload(torch.tensor([2]), torch.ones(1), 5)
    traffic = Communicator(load_topology("ring"), transport).run(payload)
    assert transport.log == []
    assert traffic.steps == ()
    assert payload.to_dense().tolist() == [0, 0, 1, 0, 0]


def test_ranks_are_compared_once():
    transport = Recorder(0, 3)
    communicator = Communicator(load_topology("ring"), transport, seed=7)
    for _ in range(2):
        communicator.run(DensePayload(torch.ones(3)))
    assert [line for line in transport.log if "compare" in line] == ["ring: compare 7"]


def test_a_fixed_schedule_is_built_once_and_compiled_once_for_each_layout():
    ring, asked = counted(load_topology("ring"))
    transport = Recorder(0, 3)
    communicator = Communicator(ring, transport, compare=False)
    for iteration in range(3):
        communicator.run(DensePayload(torch.ones(3)), iteration)
        communicator.run(DensePayload(torch.ones(5)), iteration)
    assert asked == [0]
    assert transport.compiled == 2


def test_a_schedule_that_varies_is_built_for_each_iteration():
    gossip, asked = counted(load_topology("gossip", {"graph": "one-peer-exponential"}))
    transport = Recorder(0, 8)
    communicator = Communicator(gossip, transport, compare=False)
    for iteration in range(3):
        communicator.run(DensePayload(torch.ones(1)), iteration)
    assert asked == [0, 1, 2]
    sent = [line for line in transport.log if "send" in line]
    assert [line.split()[-1] for line in sent] == ["1", "2", "4"]


def test_a_schedule_that_recurs_is_compiled_once():
    for graph, turns in (("ring", 1), ("one-peer-exponential", 3), ("random-matching", 6)):
        transport = Recorder(0, 8)
        gossip = Communicator(load_topology("gossip", {"graph": graph}), transport, compare=False)
        for iteration in range(6):
            gossip.run(DensePayload(torch.ones(1)), iteration)
        assert transport.compiled == turns


class Turn:
    """A function of steps that is equal to all others of its kind, and has no hash."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, hop: int) -> None:
        self.hop = hop

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Turn)

    def __call__(self, ranks: IntArray) -> Iterator[Step]:
        everyone = np.arange(4)
        yield mix(everyone, (everyone + self.hop) % 4, weight=1, denominator=2)


def test_what_a_schedule_is_made_of_need_not_be_hashable():
    def turning(world_size: int, iteration: int = 0) -> Schedule:
        return Schedule(world_size, 1, Turn(iteration + 1), goal="doubly-stochastic")

    transport = Recorder(0, 4)
    communicator = Communicator(Topology("turning", turning), transport, compare=False)
    for iteration in range(2):
        communicator.run(DensePayload(torch.ones(1)), iteration)
    assert [line.split()[-1] for line in transport.log if "send" in line] == ["1", "2"]


def test_a_transport_refuses_what_it_cannot_carry(cluster: Cluster):
    device, eager_bytes, longest_wait, member = cluster.run(1, construction_errors)[0]
    assert "payload on meta, expected a device that" in device
    assert "cpu:gloo" in device
    assert eager_bytes == "transport: eager_bytes 8, expected at least 16"
    assert longest_wait == "transport: longest_wait_s 0.0, expected above 0, or None"
    assert member == "transport: this process is not in the group, expected a member"
