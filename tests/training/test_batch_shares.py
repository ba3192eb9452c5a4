"""Unequal workers: each learns from its share of a batch, and counts as much."""

from typing import Any

import pytest
import torch

import dgc_topo as dt
from dgc_topo.experiments.scenario import parse_scenario
from dgc_topo.experiments.training_cases import cases_of_runs
from dgc_topo.network import Fabric
from dgc_topo.payload import DensePayload
from dgc_topo.runtime import run_in_process
from dgc_topo.simulation.training import ReadyLayer, Workload
from dgc_topo.training.data import SampleBatches, Shard, StreamBatches
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.preflight import check_jobs
from dgc_topo.training.strategies import ranks_of
from dgc_topo.training.world import VirtualWorld
from tests.training.test_virtual import jobs_of, virtual

SIZES = (4, 4, 2, 6)
WIRE = Fabric("wire", 1e6, 0.0, "1 MB/s")
WORK = Workload(0.5, (ReadyLayer("all", 1.5, (250_000,), 0),), update_s=0.25)


def shards():
    return [Shard(size, rank, 4, 3, None, SIZES) for rank, size in enumerate(SIZES)]


def test_unequal_workers_have_the_samples_of_one_with_all_of_them():
    whole = SampleBatches(100, Shard(sum(SIZES), seed=3)).indices(1)
    parts = [SampleBatches(100, shard) for shard in shards()]
    assert torch.equal(torch.cat([part.indices(1) for part in parts], 1), whole)
    randoms = SampleBatches(100, Shard(sum(SIZES), seed=3)).randoms(1, 3)
    assert torch.equal(torch.cat([part.randoms(1, 3) for part in parts], 1), randoms)


def test_unequal_workers_read_the_streams_of_one_with_all_of_them():
    tokens = torch.arange(2000).to(torch.uint8)
    whole = list(StreamBatches(tokens, 5, Shard(sum(SIZES), seed=3)).windows(2))
    parts = [list(StreamBatches(tokens, 5, shard).windows(2)) for shard in shards()]
    for number, window in enumerate(whole):
        mine = torch.cat([part[number].inputs for part in parts])
        assert torch.equal(mine, window.inputs)


def trained(folder, world_size, batch, shares=(), topology="ring", density=1.0):
    (job,) = jobs_of(
        folder,
        topology,
        world_size=world_size,
        batch_size=batch,
        densities=(density,),
        train={"batch_shares": list(shares)},
    )
    torch.set_num_threads(1)
    check_jobs([job])
    run = TrainingRun(
        virtual(job), 0, VirtualWorld(virtual(job), torch.device("cpu")), lambda _: None
    )
    return run.run(), run.parameters


def test_they_learn_what_one_worker_learns_from_the_whole_batch(tmp_path):
    alone, expected = trained(tmp_path, 1, 20)
    for topology in ("ring", "parameter-server?server = 'dedicated'"):
        servers = "dedicated" in topology
        record, found = trained(tmp_path, 3 + servers, 8, (2, 2, 1), topology)
        assert record.batch_shares == (2, 2, 1)
        assert record.num_batches == 2.5
        assert record.num_steps == alone.num_steps
        for name, values in expected.items():
            assert torch.allclose(found[name], values, atol=2e-5), (topology, name)


def test_a_gradient_counts_exactly_as_the_weighted_schedule_says(tmp_path):
    """Scaled losses over a plain all-reduce are plain losses over a weighted one."""
    (job,) = jobs_of(
        tmp_path, "ring", world_size=3, batch_size=8, train={"batch_shares": [2, 2, 1]},
        densities=(1.0,),
    )  # fmt: skip
    ranks = ranks_of(job, VirtualWorld(virtual(job), torch.device("cpu")), range(3))
    scales = [rank.loss_scale for rank in ranks]
    own = torch.randn(3, 50)
    weighted = dt.weighted(job.topology.schedule(3), job.train.batch_shares)
    dt.prove(weighted, weights=job.train.batch_shares)
    summed = [DensePayload(row / 5) for row in own]
    run_in_process(weighted, summed)
    scaled = [DensePayload(row * scale) for row, scale in zip(own, scales, strict=True)]
    run_in_process(job.topology.schedule(3), scaled)
    assert torch.allclose(summed[0].buffer, scaled[0].buffer, atol=1e-6)
    assert sum(scales) == pytest.approx(1)


def test_what_a_compressed_run_recorded_is_predicted_with_its_shares(tmp_path):
    record, _ = trained(tmp_path, 3, 8, (2, 2, 1), density=0.01)
    (case,) = cases_of_runs([record])
    assert case.step.batch_shares == (2, 2, 1)
    assert case.workload.batch_samples == pytest.approx(8)


def test_a_rank_of_half_the_speed_keeps_up_with_half_the_batch():
    settings: dict[str, Any] = {"cluster": WIRE, "world_size": 4, "slow_ranks": {3: 2.0}}
    held_up = dt.simulate_step(WORK, "ring", **settings)
    shared = dt.simulate_step(WORK, "ring", **settings, batch_shares=[2, 2, 2, 1])
    assert held_up.step_time_s == pytest.approx(2 * 2.25 + 1.5)
    assert shared.step_time_s == pytest.approx(2.0 + 1.5 + 2 * 0.25)
    assert shared.phases.wait_s == pytest.approx(3 / 4 * 0.25)  # for its update
    assert shared.samples_per_s == pytest.approx(3.5 / shared.step_time_s)
    assert shared.speedup == pytest.approx(3.5 * 2.25 / shared.step_time_s)
    rare = dt.simulate_step(WORK, "ring", **settings, batch_shares=[2, 2, 2, 1], every=10)
    assert rare.step_time_s == pytest.approx(2.0 + 2 * 0.25 + 0.15)


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ([2, 1], r"batch_shares \[2, 1\], expected 4, one per worker"),
        ([2, 1, 0, 1], "batch_shares 0, expected 1 or more"),
    ],
)
def test_shares_of_other_ranks_are_not_simulated(shares, says):
    with pytest.raises(ValueError, match=says):
        dt.simulate_step(WORK, "ring", WIRE, world_size=4, batch_shares=shares)


@pytest.mark.parametrize(
    ("topology", "train", "compression", "says"),
    [
        ("gossip", {"on_lost_rank": "continue"}, {}, "train.batch_shares: with on_lost_rank = 'c"),
        ("ring", {}, {"method": "ddp"}, "leaves the sum to DistributedDataParallel"),
        ("parameter-server?server = 'dedicated'", {}, {}, "expected 2, one per worker"),
    ],
)
def test_where_workers_count_alike_shares_are_refused(tmp_path, topology, train, compression, says):
    sparse = (0.1,) if "optimizer" in train else (1.0,)
    train = train | {"batch_shares": [2, 2, 1]}
    if "optimizer" in train:
        train |= {"momentum": 0.9}
    job = jobs_of(
        tmp_path, topology, world_size=3, batch_size=4, densities=sparse, train=train,
        compression=compression,
    )[0]  # fmt: skip
    with pytest.raises(ValueError, match=says):
        check_jobs([job])


TOML = """
name = "shares"
topologies = ["ring"]
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 2
batch_size_per_worker = 6
epochs = 1
learning_rate = 0.1
batch_shares = {shares}
{more}
"""


@pytest.mark.parametrize(
    ("shares", "more", "says"),
    [
        ("[4, 1]", "", "1 of 4 of batch_size_per_worker = 6 is no whole number of samples"),
        ("[1, 0]", "", "train.batch_shares.1 = 0"),
        ("[1, 1, 2]", "", "expected one per worker of world_size = 2"),
        ("[2, 1]", "label_skew = 1.0", "batch_shares with label_skew"),
        ("[2, 1]", "clip_norm = 1.0", "batch_shares with clip_norm"),
        (
            "[2, 1]",
            '[simulate]\nnetworks = ["1gbe"]\nworld_sizes = [2, 4]',
            "simulate.world_sizes: 4 with train.batch_shares",
        ),
    ],
)
def test_shares_that_make_no_sense_are_refused(shares, more, says):
    with pytest.raises(ValueError, match=says):
        parse_scenario(TOML.format(shares=shares, more=more))
