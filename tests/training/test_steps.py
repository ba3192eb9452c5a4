"""Records of steps: complete and true as soon as they are made."""

import time

import pytest
import torch

import dgc_topo as dt
from dgc_topo.training.rank import Computed, TrainingRank
from dgc_topo.training.steps import AveragingStep, ExchangePlan
from dgc_topo.training.world import VirtualWorld
from tests.training.test_virtual import jobs_of, run_here, virtual

_PREPARING_S = 0.05


def test_ranks_that_take_turns_record_their_own_work_and_the_whole_step(tmp_path):
    """With a dedicated server, which computes nothing and sends the sum to both workers."""
    dedicated = "parameter-server?server = 'dedicated'"
    job = virtual(jobs_of(tmp_path, dedicated, densities=(0.01,))[0])
    world = VirtualWorld(job, torch.device("cpu"))
    contributors = job.topology.schedule(3, seed=job.seed).contributors.tolist()
    ranks = [TrainingRank(job, 0, contributors, world.device)]
    shared = ranks[0].parameters
    ranks += [
        TrainingRank(job, rank, contributors, world.device, parameters=shared) for rank in (1, 2)
    ]
    plan = ExchangePlan(world.connect(job, job.topology), job.attendance(3))
    step = AveragingStep(ranks, job.rule, plan)
    step.begin(0, 0.0, 0.1)
    for rank in ranks:
        rank.begin_epoch(0)
    computed = []
    for rank in ranks:
        with step.turn_of(rank):
            computed.append(rank.compute(None, 0))
        step.contribute(rank)
    before = {name: parameter.detach().clone() for name, parameter in shared.items()}
    records = step.apply(computed)
    assert any(not torch.equal(before[name], shared[name]) for name in before)
    (server,) = (record for rank, record in zip(ranks, records, strict=True) if not rank.trains)
    assert (server.compute_s, server.loss, server.entries, server.encoded_bytes) == (0, 0, 0, 0)
    assert server.bytes_sent > 0
    for rank, own, record in zip(ranks, computed, records, strict=True):
        assert record.compute_s == own.pass_s
        assert record.loss == own.loss
        assert record.merged_entries > 0
        assert (record.entries > 0) == rank.trains
        assert record.total_s == pytest.approx(records[0].total_s)
        assert record.others_s > 0


def test_a_server_alone_in_its_process_has_computed_nothing(tmp_path):
    (job,) = jobs_of(tmp_path, "parameter-server?server = 'dedicated'", densities=(1.0,))
    contributors = job.topology.schedule(3, seed=job.seed).contributors.tolist()
    (server,) = set(range(3)) - set(contributors)
    rank = TrainingRank(job, server, contributors, torch.device("cpu"))
    rank.begin_epoch(0)
    found = rank.compute(None, 0, interface_bytes=7.0)
    assert found == Computed(loss=0.0, pass_s=0.0, interface_bytes=7.0)
    assert rank.staleness() is None


@pytest.mark.parametrize(
    ("averaging", "phase"), [(None, "compress_s"), ("local-sgd:every=2", "update_s")]
)
def test_the_first_half_of_an_own_optimizers_step_is_part_of_the_update(
    tmp_path, monkeypatch, averaging, phase
):
    """It comes in every local step, and compressing in every H-th only."""
    (job,) = jobs_of(tmp_path, "ring", densities=(1.0,))
    job = job.model_copy(update={"averaging": averaging and dt.load_averaging(averaging)})
    rank = TrainingRank(job, 0, [0], torch.device("cpu"))
    rank.begin_epoch(0)
    prepare = rank.averager.prepare

    def slowly():
        time.sleep(_PREPARING_S)
        prepare()

    monkeypatch.setattr(rank.averager, "prepare", slowly)
    step = AveragingStep([rank], job.rule, None)
    step.begin(0, 0.0, 0.1)
    with step.turn_of(rank):
        computed = rank.compute(None, 0)
    step.contribute(rank)
    (record,) = step.apply([computed])
    assert getattr(record, phase) >= _PREPARING_S


def test_a_run_of_one_round_is_recorded_per_step_as_one_of_two_rounds(tmp_path):
    """Not as the last step, which has the exchange, though the first three warm caches up."""
    found = []
    for epochs in (1, 2):
        (job,) = jobs_of(tmp_path, "ring", densities=(1.0,), epochs=epochs, steps=4)
        rule = dt.load_averaging("local-sgd:every=4")
        found.append(run_here(job.model_copy(update={"averaging": rule})))
    short, long = found
    assert short.wire_bytes_per_step == long.wire_bytes_per_step
    assert short.compressed_bytes == long.compressed_bytes
