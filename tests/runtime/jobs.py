"""What the workers do, and the inputs that workers and tests derive alike."""

import os
import signal
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.dgc import DGC
from dgc_topo.payload import MIXTURE, BundlePayload, DensePayload, Payload, SparsePayload
from dgc_topo.runtime import (
    Communicator,
    DistributedTransport,
    PeerError,
    RanksDifferError,
    Traffic,
)
from dgc_topo.runtime.batched import BatchedChannel
from dgc_topo.schedule import Schedule, gather, reduce
from dgc_topo.topology import Topology, load_topology
from dgc_topo.wire.coding import WireDtype

Array = npt.NDArray[np.float32]
EAGER_BYTES = 128  #: small, so that sparse messages take both ways


class Input(NamedTuple):
    """A payload that every rank fills from its rank."""

    kind: str  #: float32, float16, bfloat16, sparse or bundle
    length: int
    density: float = 0.3


def make(given: Input, rank: int, *, contributes: bool = True, device: str = "cpu") -> Payload:
    """Return the payload of one rank; a server that does not contribute holds zeros."""
    generator = torch.Generator().manual_seed(1000 * given.length + rank)
    values = torch.randn(given.length, generator=generator)
    chosen = torch.rand(given.length, generator=generator) < given.density
    if not contributes:
        values, chosen = torch.zeros(given.length), torch.zeros(given.length, dtype=torch.bool)
    values, indices = values.to(device), chosen.nonzero().view(-1).to(device)
    sparse = SparsePayload(indices, values[indices], given.length, goals=MIXTURE)
    if given.kind == "sparse":
        return sparse
    if given.kind == "bundle":
        return BundlePayload([DensePayload(values[::3].clone()), sparse])
    return DensePayload(values, cast(WireDtype, given.kind))


def content(payload: Payload) -> Tensor:
    """Return the whole buffer, shape (length,)."""
    if isinstance(payload, SparsePayload):
        return payload.to_dense()
    if isinstance(payload, BundlePayload):
        return torch.cat([content(part) for part in payload.parts])
    assert isinstance(payload, DensePayload)
    return payload.buffer.clone()


def double_mesh(world_size: int) -> Schedule:
    """Everyone sends everyone two messages, of one chunk and of two, in one step."""
    ranks = np.arange(world_size)
    src, dst = (axis.reshape(-1) for axis in np.meshgrid(ranks, ranks))
    src, dst = src[src != dst], dst[src != dst]
    step = gather([reduce(src, dst, 2), reduce(src, dst, 0, 2)])
    return Schedule.from_steps(world_size, 3, [step])


DOUBLE_MESH = Topology("double mesh", double_mesh)


class Outcome(NamedTuple):
    """One run on one rank."""

    result: Array
    reference: Array  #: the same input by `torch.distributed.all_reduce`
    traffic: Traffic


def run_all(
    group: dist.ProcessGroup,
    topology: Topology,
    inputs: Sequence[Input],
    batched: bool = False,
    iterations: int = 1,
    device: str = "cpu",
) -> list[Outcome]:
    """Run the topology on every input."""
    rank = dist.get_rank(group)
    transport = DistributedTransport(group, timedelta(seconds=30), eager_bytes=EAGER_BYTES)
    if batched:  # what NCCL runs, here over Gloo
        channel = BatchedChannel(group, timedelta(seconds=30))
        transport._new_channel = lambda device: channel  # type: ignore[method-assign]
    communicator = Communicator(topology, transport, seed=5)
    servers = topology.schedule(dist.get_world_size(group), seed=5).servers
    outcomes = []
    for given in inputs:
        payload = make(given, rank, contributes=rank not in servers, device=device)
        reference = content(payload)
        dist.all_reduce(reference, group=group)
        for iteration in range(iterations):
            traffic = communicator.run(payload, iteration)
        result = content(payload).cpu().numpy()
        outcomes.append(Outcome(result, reference.cpu().numpy(), traffic))
    return outcomes


class TrapPayload(DensePayload):
    """Does something to its own process when it is about to send for the nth time."""

    def __init__(self, buffer: Tensor, trap: signal.Signals, nth: int) -> None:
        super().__init__(buffer)
        self._trap = trap
        self._left = nth

    def pack(self, chunk: int, count: int) -> Tensor:
        if self._left == 0:
            time.sleep(0.05)  # what this process has posted before leaves it first
            os.kill(os.getpid(), self._trap)
        self._left -= 1
        return super().pack(chunk, count)


class Failure(NamedTuple):
    """How a run failed on one rank."""

    error: PeerError
    after_s: float
    again: PeerError  #: what the next run said


def run_into_trap(
    group: dist.ProcessGroup,
    topology: Topology,
    victims: Sequence[int],
    trap: signal.Signals,
    nth: int,
    timeout_s: float,
    device: str = "cpu",
) -> Failure:
    """Run a topology in which some ranks are killed or frozen before their nth message."""
    transport = DistributedTransport(group, timedelta(seconds=timeout_s))
    communicator = Communicator(topology, transport)
    buffer = torch.ones(64, device=device)
    communicator.run(DensePayload(buffer))
    trapped = dist.get_rank(group) in victims
    payload = TrapPayload(buffer, trap, nth) if trapped else DensePayload(buffer)
    start = time.monotonic()
    error = _error_of(communicator, payload)
    after_s = time.monotonic() - start
    return Failure(error, after_s, _error_of(communicator, payload))


def _error_of(communicator: Communicator, payload: Payload) -> PeerError:
    try:
        communicator.run(payload)
    except PeerError as error:
        return error
    raise AssertionError("the run should have failed")


def mismatched_sizes(group: dist.ProcessGroup, topology: Topology) -> str:
    """Give the ranks sparse buffers of different lengths, uncompared; return what each one says."""
    rank = dist.get_rank(group)
    transport = DistributedTransport(group, timedelta(seconds=3))
    length = 100 if rank == 0 else 4
    indices = torch.arange(length)
    payload = SparsePayload(indices, torch.ones(length), length)
    try:
        Communicator(topology, transport, compare=False).run(payload)
    except ValueError as error:
        return str(error)
    return "fine"


def differing(
    group: dist.ProcessGroup, topologies: Sequence[Topology], seeds: Sequence[int]
) -> list[str]:
    """Run with a topology, seed and payload of each rank's own; return what is said to each."""
    rank = dist.get_rank(group)
    names = {"w": torch.zeros(40, 5)}
    config = DGCConfig(density=0.1 if rank else 0.2, warm_up="none")
    dgc = DGC(names, num_workers=2, config=config)
    payloads = [
        DensePayload(torch.ones(8)),
        DensePayload(torch.ones(8 + rank)),
        DensePayload(torch.ones(8), "float32" if rank else "float16"),
        dgc.compress({"w": torch.rand(40, 5)}),
        BundlePayload([DensePayload(torch.ones(4 + 4 * rank))]),
    ]
    said = []
    for payload in payloads:
        transport = DistributedTransport(group, timedelta(seconds=10))
        communicator = Communicator(topologies[rank], transport, seeds[rank])
        try:
            communicator.run(payload)
            communicator.run(payload)
        except RanksDifferError as error:
            said.append(str(error))
        else:
            said.append("fine")
    return said


def construction_errors(group: dist.ProcessGroup) -> list[str]:
    """Return what is said about an unreachable device, bad options, and a stranger."""
    ring = load_topology("ring")
    nowhere = DensePayload(torch.ones(3, device="meta"))
    attempts = [
        lambda: Communicator(ring, DistributedTransport(group)).run(nowhere),
        lambda: DistributedTransport(group, eager_bytes=8),
        lambda: DistributedTransport(group, longest_wait_s=0.0),
        lambda: DistributedTransport(dist.GroupMember.NON_GROUP_MEMBER),  # type: ignore[arg-type]
    ]
    said = []
    for attempt in attempts:
        try:
            attempt()
        except ValueError as error:
            said.append(str(error))
    return said
