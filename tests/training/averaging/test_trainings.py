"""Rules over gossip in whole trainings: real and virtual workers, checkpoints, lost ranks."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dgc_topo.averaging import load_averaging
from dgc_topo.experiments.jobs import check_trainings
from dgc_topo.experiments.scenario import ScenarioError
from dgc_topo.topology import load_topology
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.launch import Finished, launch
from dgc_topo.training.strategies import ranks_of
from dgc_topo.training.world import VirtualWorld
from dgc_topo.workers.forks import ForkedLoopback, can_fork
from tests.training.averaging.test_own_rule import ELASTIC
from tests.training.checkpoints.runs import changed, jobs_of, stopped, train, virtual
from tests.training.test_survival import Striker
from tests.training.test_virtual import run, run_here

#: Rule, topology and density; three ranks.
RULES = [
    ("push-sum", "gossip:graph=random-push", 1.0),
    ("choco", "gossip:graph=ring", 0.05),
    ("dgc-gossip:consensus_step=0.3", "gossip:graph=exponential", 0.05),
    ("no-loco:every=3", "gossip:graph=random-matching", 1.0),
]


def points_of(record) -> Any:
    assert record.quality is not None
    return record.quality.points


def job_of(folder, rule, topology, density, **settings):
    extra = {"evaluate_ranks": True} | settings.pop("train", {})
    settings = {"world_size": 3, "batch_size": 4, "train": extra} | settings
    (job,) = jobs_of(folder, "ring", densities=(density,), **settings)
    update = {"averaging": load_averaging(rule), "topology": load_topology(topology)}
    return job.model_copy(update=update)


#: The same with ranks that are left out, or that count unequally.
UNEQUAL = [
    ("sparse-loco:every=2,participation=0.6", "ring", 0.05),
    ("no-loco:every=2,participation=0.7", "gossip:graph=ring", 1.0),
    (f"{ELASTIC}:every=2,participation=0.6", "ring", 1.0),
    ("push-sum:left_out=1@0-/2", "gossip:graph=random-push", 1.0),
]
SHARES = [
    ("local-sgd:every=2", "butterfly", 0.05),
    ("choco", "gossip:graph=ring", 0.05),
    ("push-sum", "gossip:graph=random-push", 1.0),
]


@pytest.mark.slow
def test_virtual_workers_equal_real_ones(tmp_path):
    jobs = [job_of(tmp_path, *rule, train={"label_skew": 0.5}) for rule in RULES + UNEQUAL]
    jobs += [job_of(tmp_path, *rule, train={"batch_shares": [4, 4, 1]}) for rule in SHARES]
    for real, job in zip(run(jobs), jobs, strict=True):
        found = run_here(job)
        for name in ("wire_bytes_per_step", "compressed_bytes", "sparse", "spectral_gap"):
            assert getattr(real, name) == getattr(found, name), (job.label, name)
        if job.topology.gossips:
            assert found.spectral_gap
            assert 0 < found.spectral_gap <= 1
        for one, other in zip(points_of(real), points_of(found), strict=True):
            assert one.ranks == other.ranks  # the models are the same bits
            assert one.train_loss == other.train_loss
            assert one.ranks.lowest <= one.ranks.mean <= one.ranks.highest
            # Their average is summed in another order.
            assert one.consensus_distance == pytest.approx(other.consensus_distance, rel=1e-4)
            assert one.value == pytest.approx(other.value, abs=2e-3)
            assert one.consensus_distance > 1e-3 or job.rule.rule == "local-sgd"  # just averaged


def test_what_one_sends_in_an_exchange_does_not_depend_on_how_many_take_part(tmp_path):
    """Bytes per step do: two of three ranks send a ring of two, and anchors to those who return."""
    whole, part = (
        run_here(job_of(tmp_path, f"diloco:every=2,participation={share}", "ring", 1.0))
        for share in (1, 0.6)
    )
    assert part.compressed_bytes == whole.compressed_bytes == whole.gradient_bytes
    assert part.wire_bytes_per_step > 0


def test_virtual_workers_hold_one_anchor(tmp_path):
    """Unless some of them are left out of exchanges, and fall behind."""
    for more, is_one in (("", True), (",participation=0.6", False), (",left_out=2@1", False)):
        job = virtual(job_of(tmp_path, f"diloco:every=2{more}", "ring", 1.0))
        ranks = ranks_of(job, VirtualWorld(job, torch.device("cpu")), range(3))
        held = {tensor.data_ptr() for rank in ranks for tensor in rank.averager.alike().values()}
        assert len(held) == (1 if is_one else 3) * len(ranks[0].averager.alike())


@pytest.mark.parametrize(
    ("rule", "train", "says"),
    [
        (
            "d-psgd:left_out=3@1",
            {},
            r"d-psgd\(left_out=3@1\): left_out: rank 3 of 3, expected 0 to 2",
        ),
        ("d-psgd:left_out=2@1", {"on_lost_rank": "continue"}, "the numbers of lost ranks then"),
    ],
)
def test_ranks_that_cannot_be_left_out_are_named_before_any_worker_starts(
    tmp_path, rule, train, says
):
    job = job_of(tmp_path, rule, "gossip", 1.0)
    job = job.model_copy(update={"train": job.train.model_copy(update=train)})
    with pytest.raises(ScenarioError, match=f"^here: averaging: .*{says}"):
        check_trainings("here", [job])


def test_compressed_rules_send_what_their_density_says(tmp_path):
    dense, sparse = (
        run_here(job_of(tmp_path, "choco", "gossip:graph=ring", density, epochs=1, steps=2))
        for density in (1.0, 0.01)
    )
    assert sparse.wire_bytes_per_step < 0.03 * dense.wire_bytes_per_step
    assert sparse.sparse is not None
    assert sparse.sparse.entries == pytest.approx(0.01 * sparse.sparse.length, rel=0.01)


@pytest.mark.parametrize("rule", RULES + UNEQUAL, ids=lambda rule: Path(rule[0]).name)
def test_a_training_goes_on_bit_for_bit(rule, tmp_path):
    job = changed(job_of(tmp_path, *rule, steps=5), checkpoint_every=2)
    whole = train(job)
    stopped(job, tmp_path / "kept", 7)
    again = train(job, tmp_path / "kept", resume=True)
    assert again.resumed_at
    assert again.quality == whole.quality


@pytest.mark.parametrize("rule", RULES + UNEQUAL, ids=lambda rule: Path(rule[0]).name)
def test_a_training_goes_on_with_other_workers(rule, tmp_path):
    job = changed(job_of(tmp_path, *rule, steps=5), checkpoint_every="epoch")
    stopped(job, tmp_path / "kept", 8)
    more = train(changed(job, world_size=5), tmp_path / "kept", resume=True)
    assert more.num_workers == 5
    first, last = points_of(more)
    assert last.value > 0.5 * first.value
    assert last.consensus_distance > 0


@pytest.mark.skipif(not can_fork(), reason="needs Linux")
@pytest.mark.timeout(600)
def test_ranks_go_on_without_a_lost_one(tmp_path):
    """Push-sum begins anew where it is; estimates travel whole once, and go on compressed."""
    settings = {
        "world_size": 4,
        "steps": 25,
        "train": {"on_lost_rank": "continue", "learning_rate": 0.02},
    }
    jobs = [job_of(tmp_path, *rule, **settings) for rule in RULES[:2]]
    strikes = [Striker((10, place, signal.SIGKILL)) for place in (0, 1)]

    def hear(event):
        strikes[event.job](event)

    with ForkedLoopback(["dgc_topo.training.loop"]) as hosts:
        launch(jobs, hear, hosts, Keeping(folder=tmp_path))
    finished = [event.measurement for each in strikes for event in each.of(Finished)]
    assert len(finished) == 2
    for record in finished:
        assert len(record.lost_ranks) == 1
        assert record.num_workers == 3
        assert record.quality.final > 0.2  # of 0.1 by chance
