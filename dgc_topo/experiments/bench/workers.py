"""One rank's part in a benchmark of all-reduces: run all ways in turn, check, and time them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.experiments.bench.collectives import GLOO, BenchPlan
from dgc_topo.payload import DensePayload
from dgc_topo.runtime import Communicator, DistributedTransport
from dgc_topo.workers.group import Worker

AllReduce = Callable[[], object]
_STREAMS = 3  # how often the one-way stream is sent
_LONG_S = 1.0  # if the first run took longer, no second run is needed to warm up


def measure(worker: Worker, argument: Any) -> Any:
    """Time every way to all-reduce, at every size.

    Args:
        worker: This rank.
        argument: `dgc_topo.experiments.bench.collectives.BenchPlan` as JSON.

    Returns:
        On rank 0 the goodput of a one-way stream (bytes/s) and, by size and way, the seconds of
        the slowest rank in every round, counted from the end of a barrier.  None on other ranks.

    Raises:
        ValueError: if the result of a way differs from Gloo's, or between ranks.
    """
    # If all ranks are on one host, Gloo reduces in shared memory; compare with Gloo over TCP.
    os.environ.pop("LOCAL_WORLD_SIZE", None)
    plan = BenchPlan.model_validate(argument)
    transport = DistributedTransport(timeout=worker.timeout)
    communicators = {
        topology.label: Communicator(topology, transport, compare=False)
        for topology in plan.topologies
    }
    goodput = _goodput(worker, plan.stream_bytes)
    times = [_measure_size(worker, plan, communicators, size) for size in plan.sizes]
    if worker.rank:
        return None
    return {"goodput_bytes_per_s": goodput, "times_s": times}


def _measure_size(
    worker: Worker, plan: BenchPlan, communicators: Mapping[str, Communicator], size: int
) -> dict[str, list[float]]:
    generator = torch.Generator().manual_seed(worker.rank)
    given = torch.randn(size // 4, generator=generator)
    buffer = given.clone()
    payload = DensePayload(buffer)
    ways: dict[str, AllReduce] = {GLOO: lambda: dist.all_reduce(buffer)}
    for label, communicator in communicators.items():
        ways[label] = partial(communicator.run, payload)
    first = _check(worker, ways, given, buffer)
    kept = {way: run for way, run in ways.items() if first[way] <= plan.slowest * first[GLOO]}
    num_rounds = plan.num_rounds(sum(first[way] for way in kept))
    taken: dict[str, list[float]] = {way: [] for way in kept}
    for number in range(num_rounds):
        in_turn = list(kept)
        in_turn = in_turn[number % len(in_turn) :] + in_turn[: number % len(in_turn)]
        for way in in_turn:
            taken[way].append(_timed(kept[way], given, buffer))
    slowest = _slowest(worker, taken)
    return {way: slowest.get(way, [first[way]]) for way in ways}


def _check(
    worker: Worker, ways: Mapping[str, AllReduce], given: Tensor, buffer: Tensor
) -> dict[str, float]:
    """Warm up, compare every result with Gloo's, and return the slowest rank's last time."""
    buffer.copy_(given)
    ways[GLOO]()
    expected = buffer.clone()
    taken: dict[str, float] = {}
    for way, run in ways.items():
        taken[way] = max(worker.gather(float, _timed(run, given, buffer), "warming up"))
        if taken[way] < _LONG_S:
            taken[way] = max(worker.gather(float, _timed(run, given, buffer), "warming up"))
        # Another order of adding n numbers changes the sum by a few rounding errors of the largest.
        tolerance = 1e-6 * worker.world_size * float(expected.abs().max())
        digest = crc32(buffer.numpy().tobytes())
        fits = torch.allclose(buffer, expected, rtol=0, atol=tolerance)
        everyone = worker.gather(tuple[bool, int], (fits, digest), "comparing results")
        if not all(fits for fits, _ in everyone):
            raise ValueError(f"bench: {way} of {4 * len(given)} bytes: not the sum that Gloo gets")
        if way != GLOO and len({digest for _, digest in everyone}) != 1:
            raise ValueError(f"bench: {way} of {4 * len(given)} bytes: ranks end with other bits")
    return taken


def _timed(run: AllReduce, given: Tensor, buffer: Tensor) -> float:
    buffer.copy_(given)
    dist.barrier()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _slowest(worker: Worker, taken: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return the time of the slowest rank, round by round."""
    everyone = worker.gather(
        dict[str, list[float]],
        {way: list(times) for way, times in taken.items()},
        "gathering times",
    )
    return {
        way: [max(times) for times in zip(*(rank[way] for rank in everyone), strict=True)]
        for way in taken
    }


def _goodput(worker: Worker, num_bytes: int) -> float:
    """Return the payload bytes per second of one stream from rank 0 to rank 1, alone."""
    message = torch.full(
        (num_bytes,), 1, dtype=torch.uint8
    )  # written, because unwritten memory is one shared page in a cache
    seconds = []
    for _ in range(_STREAMS):
        dist.barrier()
        start = time.perf_counter()
        if worker.rank == 0:
            dist.send(message, 1)
        elif worker.rank == 1:
            dist.recv(message, 0)
        seconds.append(time.perf_counter() - start)
    everyone = worker.gather(float, median(seconds), "measuring a stream")
    return float(
        num_bytes / everyone[1]
    )  # a send is over when the system has taken its bytes, so wait for the receiver
