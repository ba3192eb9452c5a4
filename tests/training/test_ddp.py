"""DistributedDataParallel with its hooks, in the same loop and the same records."""

import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from dgc_topo.records.measurement import Measurement
from dgc_topo.runtime.connections import congestion_controls, tcp_bytes_sent
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.ddp import check_powersgd
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Finished, launch
from tests.training.test_virtual import jobs_of, run_here

METHODS = ("ddp", "ddp-fp16", "ddp-powersgd")
SETTINGS = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, "clip_norm": 0.5}


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> dict[str, Measurement]:
    """Three workers: dense over a ring, then DDP with each hook."""
    folder = tmp_path_factory.mktemp("ddp")
    jobs: list[Job] = []
    for method in ("dgc", *METHODS):
        settings = {"method": method, "powersgd_start_step": 4}
        jobs += jobs_of(folder, "ring", densities=(1.0,), train=SETTINGS, compression=settings)
    found: list[Measurement] = []
    launch(jobs, lambda e: found.append(e.measurement) if isinstance(e, Finished) else None)
    assert [record.compression for record in found] == ["dense", *METHODS]
    return {record.compression: record for record in found}


@pytest.mark.slow
def test_ddp_learns_what_dense_training_over_a_topology_learns(records):
    """Nesterov momentum, weight decay and clipping by the global norm included."""
    ours, theirs = records["dense"].quality, records["ddp"].quality
    assert ours is not None
    assert theirs is not None
    for mine, other in zip(ours.points, theirs.points, strict=True):
        assert mine.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert mine.value == pytest.approx(other.value, abs=2e-3)


@pytest.mark.slow
def test_every_hook_learns_and_all_ranks_agree(records):
    for method in METHODS:
        quality, parameters = records[method].quality, records[method].parameters
        assert parameters is not None  # gathered from all ranks and found equal
        assert quality is not None
        first, last = (point.train_loss for point in quality.points)
        assert last < first


@pytest.mark.slow
def test_bytes_are_what_the_hook_hands_over_and_what_tcp_sent(records):
    dense = records["ddp"]
    assert dense.compressed_bytes == dense.gradient_bytes
    assert records["ddp-fp16"].compressed_bytes == dense.gradient_bytes / 2
    assert records["ddp-powersgd"].compression_ratio > 10
    # Gloo's ring: 2 (n - 1) / n times the buffer, and headers.
    assert dense.wire_bytes_per_step == pytest.approx(4 / 3 * dense.gradient_bytes, rel=0.05)
    half = records["ddp-fp16"].wire_bytes_per_step
    assert half == pytest.approx(2 / 3 * dense.gradient_bytes, rel=0.05)
    assert records["ddp-powersgd"].wire_bytes_per_step < dense.wire_bytes_per_step / 5


@pytest.mark.slow
def test_records_say_who_communicated_and_what_was_not_hidden(records):
    for method in METHODS:
        record = records[method]
        assert (record.topology, record.options, record.goal) == ("gloo", {}, "all-reduce")
        assert record.messages_per_step is None
        assert record.phases.wait_s > 0
        assert record.phases.compute_s > 0
        assert record.is_dense == (method != "ddp-powersgd")


def test_tcp_bytes_are_those_that_both_ends_sent():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as left,
        server.accept()[0] as right,
    ):
        before = tcp_bytes_sent()
        left.sendall(bytes(100_000))
        received = 0
        while received < 100_000:
            received += len(right.recv(1 << 16))
        right.sendall(bytes(77))
        assert len(left.recv(100)) == 77
        assert tcp_bytes_sent() - before == 100_077


def test_asking_for_the_connections_opens_no_descriptor_for_good(tmp_path):
    """Files among the descriptors as well: what is no socket must not stay duplicated."""
    with (tmp_path / "file").open("w"), socket.create_server(("127.0.0.1", 0)):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            tcp_bytes_sent()
            congestion_controls()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_ddp_is_one_job_whatever_the_topologies(tmp_path):
    topologies = ("ring", "parameter-server?server = 'dedicated'", "gossip")
    jobs = jobs_of(tmp_path, *topologies, densities=(1.0,), compression={"method": "ddp"})
    assert [job.label for job in jobs] == ["gloo, ddp"]


def test_a_training_that_is_over_before_powersgd_begins_is_refused(tmp_path):
    settings = {"method": "ddp-powersgd", "powersgd_start_step": 12}
    (job,) = jobs_of(tmp_path, "ring", densities=(1.0,), compression=settings)
    check_powersgd(job, 13)
    with pytest.raises(ValueError, match=r"powersgd_start_step = 12: .* less than all 12 steps"):
        check_powersgd(job, 12)


def test_ddp_needs_real_workers(tmp_path):
    (job,) = jobs_of(tmp_path, "ring", densities=(1.0,), compression={"method": "ddp"})
    with pytest.raises(ValueError, match="gloo, ddp: DistributedDataParallel needs real workers"):
        run_here(job)


@pytest.mark.parametrize("method", ["terngrad", *METHODS])
def test_what_sends_every_element_has_no_density(method):
    with pytest.raises(ValidationError, match="sends every element"):
        CompressionSection(method=method, densities=(0.1,))
