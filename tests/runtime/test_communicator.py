"""What a communicator asks of its transport and its topology."""

from collections.abc import Iterable, Sequence

import pytest
import torch

from dgc_topo.payload import DensePayload, SparsePayload
from dgc_topo.runtime import Communicator, Exchanged, Incoming, Outgoing, Place
from dgc_topo.schedule import Schedule, reduce
from dgc_topo.topology import Topology, load_topology
from tests.runtime.cluster import Cluster
from tests.runtime.jobs import construction_errors


class Recorder:
    """A transport that brings zeros and writes down what it was asked."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.log: list[str] = []

    def exchange(
        self,
        place: Place,
        receives: Sequence[Incoming],
        sends: Iterable[Outgoing],
        device: torch.device,
    ) -> Exchanged:
        self.log += [f"{place}: receive {size} bytes from {peer}" for peer, size, _ in receives]
        self.log += [f"{place}: send {m.numel()} bytes to {peer}" for peer, m, _ in sends]
        arrived = [torch.zeros(size or 0, dtype=torch.uint8) for _, size, _ in receives]
        return Exchanged(arrived, wait_s=0.0)


class Counted:
    """A topology that counts how often its schedule is built."""

    def __init__(self, topology: Topology) -> None:
        self.name = topology.name
        self.varies = topology.varies
        self.asked: list[int] = []
        self._topology = topology

    def schedule(self, world_size: int, *, iteration: int = 0, seed: int = 0) -> Schedule:
        self.asked.append(iteration)
        return self._topology.schedule(world_size, iteration=iteration, seed=seed)


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
    traffic = Communicator(load_topology("ring"), transport).run(DensePayload(torch.ones(3)))
    assert transport.log[:4] == [
        "topology ring, step 0: receive 4 bytes from 0",
        "topology ring, step 0: send 4 bytes to 2",
        "topology ring, step 1: receive 4 bytes from 0",
        "topology ring, step 1: send 4 bytes to 2",
    ]
    assert (traffic.bytes_sent, traffic.bytes_received, traffic.messages_sent) == (16, 16, 4)
    assert 0 < traffic.communicate_s <= traffic.duration_s


def test_messages_without_bytes_are_left_out():
    transport = Recorder(rank=0, world_size=3)
    Communicator(load_topology("ring"), transport).run(DensePayload(torch.ones(0)))
    assert transport.log == []


def test_alone_there_is_nothing_to_do():
    transport = Recorder(rank=0, world_size=1)
    payload = SparsePayload(torch.tensor([2]), torch.ones(1), 5)
    traffic = Communicator(load_topology("ring"), transport).run(payload)
    assert transport.log == []
    assert traffic.steps == ()
    assert payload.to_dense().tolist() == [0, 0, 1, 0, 0]


def test_a_fixed_schedule_is_built_once():
    ring = Counted(load_topology("ring"))
    communicator = Communicator(ring, Recorder(0, 3))
    for iteration in range(3):
        communicator.run(DensePayload(torch.ones(3)), iteration)
    assert ring.asked == [0]


def test_a_schedule_that_varies_is_built_for_each_iteration():
    gossip = Counted(load_topology("gossip", {"graph": "one-peer-exponential"}))
    transport = Recorder(0, 8)
    communicator = Communicator(gossip, transport)
    for iteration in range(3):
        communicator.run(DensePayload(torch.ones(1)), iteration)
    assert gossip.asked == [0, 1, 2]
    sent = [line for line in transport.log if "send" in line]
    assert [line.split()[-1] for line in sent] == ["1", "2", "4"]


@pytest.mark.parametrize(("server", "expected"), [("dedicated", 3), ("colocated", 4)])
def test_a_dedicated_server_does_not_contribute(server: str, expected: int):
    topology = load_topology("parameter-server", {"server": server})
    assert Communicator(topology, Recorder(0, 4)).num_contributors == expected


def test_a_transport_refuses_what_it_cannot_carry(cluster: Cluster):
    device, eager_bytes, longest_wait, member = cluster.run(1, construction_errors)[0]
    assert "payload on meta, expected a device that" in device
    assert "cpu:gloo" in device
    assert eager_bytes == "transport: eager_bytes 8, expected at least 16"
    assert longest_wait == "transport: longest_wait_s 0.0, expected above 0, or None"
    assert member == "transport: this process is not in the group, expected a member"
