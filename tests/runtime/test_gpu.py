"""GPU payloads: the same bits as on a CPU, staged over Gloo or sent by NCCL."""

import signal
from collections.abc import Iterator

import pytest
import torch

from dgc_topo.runtime import run_in_process
from dgc_topo.topology import Topology
from tests.runtime.cluster import Cluster
from tests.runtime.jobs import content, make, run_all, run_into_trap
from tests.runtime.test_real_processes import INPUTS, SUMS, check_as_in_one_process

pytestmark = pytest.mark.gpu
several_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="NCCL needs a device for each rank"
)


@pytest.fixture(scope="module")
def sharing() -> Iterator[Cluster]:
    """Two ranks, on one GPU if there is only one."""
    workers = Cluster(2, [2])
    yield workers
    workers.close()


@pytest.fixture
def nccl() -> Iterator[Cluster]:
    workers = Cluster(2, [2], backend="cpu:gloo,cuda:nccl")
    yield workers
    workers.close()


@pytest.mark.parametrize("topology", SUMS, ids=lambda t: t.label)
def test_a_gpu_computes_what_a_cpu_does(topology: Topology):
    for given in INPUTS:
        results = []
        for device in ("cpu", "cuda"):
            payloads = [make(given, rank, device=device) for rank in range(5)]
            run_in_process(topology.schedule(5), payloads)
            results.append([content(payload).cpu().numpy().tobytes() for payload in payloads])
        assert results[0] == results[1], given


@pytest.mark.parametrize("topology", SUMS, ids=lambda t: t.label)
def test_gloo_carries_gpu_memory(sharing: Cluster, topology: Topology):
    per_rank = sharing.run(2, run_all, topology, INPUTS, False, 1, "cuda")
    for given, *outcomes in zip(INPUTS, *per_rank, strict=True):
        check_as_in_one_process(topology, given, outcomes)


@several_gpus
def test_nccl_carries_gpu_memory(nccl: Cluster):
    for topology in SUMS:
        per_rank = nccl.run(2, run_all, topology, INPUTS, False, 1, "cuda")
        for given, *outcomes in zip(INPUTS, *per_rank, strict=True):
            check_as_in_one_process(topology, given, outcomes)


def test_nccl_with_one_rank():
    workers = Cluster(1, [1], backend="cpu:gloo,cuda:nccl")
    try:
        for topology in SUMS:
            if topology.options.get("server") != "dedicated":
                per_rank = workers.run(1, run_all, topology, INPUTS[:4], False, 1, "cuda")
                assert per_rank[0][3].result.tobytes() == per_rank[0][3].reference.tobytes()
    finally:
        workers.close()


@several_gpus
def test_nccl_notices_a_frozen_peer(nccl: Cluster):
    ring = next(topology for topology in SUMS if topology.name == "ring")
    failure, _ = nccl.run(2, run_into_trap, ring, (1,), signal.SIGSTOP, 1, 3.0, "cuda", answers=1)
    assert failure.error.peers == (1,)
    assert "within 3 s" in str(failure.error)
