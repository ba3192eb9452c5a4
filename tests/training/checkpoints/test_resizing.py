"""Another number of workers goes on with the same parameters, and loses no gradient mass."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.averaging import load_averaging
from dgc_topo.compression.resharding import state_for
from dgc_topo.records.quality import LostRank, QualityPoint
from dgc_topo.training.agreement import shared_parameters
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.checkpoints.resizing import _moved
from dgc_topo.training.checkpoints.state import Progress
from dgc_topo.training.job import Job
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.world import VirtualWorld
from tests.training.checkpoints.runs import Stop, changed, jobs_of, stop_at, train, virtual


def resumed(job: Job, folder) -> tuple[TrainingRun, Progress]:
    """Return a training that has just taken over a checkpoint."""
    world = VirtualWorld(virtual(job), torch.device("cpu"))
    training = TrainingRun(
        virtual(job), 0, world, lambda _: None, Keeping(folder=folder, resume=True)
    )
    return training, training._keeper.resume(training._progress)[0]


def shared(training: TrainingRun) -> dict[str, Tensor]:
    """Return copies of the parameters that are evaluated."""
    found = shared_parameters(training._world, training._ranks, training._contributors, "comparing")
    return {name: value.detach().clone() for name, value in found.items()}


def sums(training: TrainingRun, section: str) -> dict[str, Tensor]:
    """Return the sums over all workers of a section of their compressors' states."""
    total: dict[str, Tensor] = {}
    for rank in training._ranks:
        states = rank.buckets.state_dict()
        if rank.rule.sends == "changes":
            states = [rank.averager.state_dict()]
        assert states
        for state in states:
            tensors = state[section]
            assert isinstance(tensors, Mapping)
            for name, tensor in tensors.items():
                total[name] = total.get(name, 0.0) + tensor.double()
    return total


KINDS: dict[str, dict[str, Any]] = {
    "dgc": {},
    "ages": {"compression": {"track_ages": True}},
    "overlap": {"train": {"overlap": True, "bucket_mib": 0.02}},
    "text": {
        "train": {
            "dataset": "austen",
            "model": "char-lstm",
            "options": {"bptt": 8, "hidden_size": 4, "embedding_size": 4},
        }
    },
    "adamw": {"train": {"optimizer": "adamw", "learning_rate": 0.01}},
    "sparse-loco:every=2,look_ahead=0.5": {"train": {"optimizer": "adamw", "learning_rate": 0.01}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_mass_is_lost_from_4_to_2_to_8_to_3_workers(kind, tmp_path):
    (job,) = jobs_of(
        tmp_path, "ring", densities=(0.02,), batch_size=4, epochs=3, steps=8, **KINDS[kind]
    )
    if ":" in kind:  # it stops in the middle of a round, and at its end
        job = job.model_copy(update={"averaging": load_averaging(kind)})
    sections = ("residual", "velocity") if job.rule.sends == "gradients" else ("residual",)
    job, stop = changed(job, checkpoint_every=1), 3
    before = None
    for size in (4, 2, 8, 3):
        training, progress = resumed(changed(job, world_size=size), tmp_path)
        if before is not None:
            mass, parameters = before
            for section in sections:
                for name, total in sums(training, section).items():
                    torch.testing.assert_close(total, mass[section][name], rtol=1e-6, atol=1e-7)
                    assert total.dim() == 1 or total.abs().sum() > 0  # biases travel dense
            agree = training._ranks[0].averager.agrees
            for name, parameter in shared(training).items():
                tolerance = 0.0 if agree else 1e-6  # a mean of another number of ranks
                assert torch.allclose(parameter, parameters[name], rtol=0, atol=tolerance)
            assert progress.step == stop
            stop += 3
        stop_at(training, stop)
        with pytest.raises(Stop):
            training.run()
        mass = {section: sums(training, section) for section in sections}
        before = mass, shared(training)
    record = train(changed(job, world_size=3), tmp_path, resume=True)
    assert record.num_workers == 3
    assert record.quality is not None
    assert [point.step for point in record.quality.points] == [8, 16, 24]
    assert record.num_steps == 24 - 9  # those of three workers


@given(
    former=st.integers(1, 9),
    now=st.integers(1, 9),
    values=st.lists(st.floats(-1e3, 1e3), min_size=9, max_size=9),
)
def test_every_former_worker_has_exactly_one_heir(former, now, values):
    """Small whole steps of the sums can be followed to the bit."""
    tensors = [torch.tensor([round(value)], dtype=torch.float32) for value in values[:former]]
    states: Sequence[dict[str, object]] = [
        {
            "compressor": "dgc",
            "step": 5,
            "epoch": 1.0,
            "residual": {"velocity": tensor},  # a parameter may be called anything
            "momentum": {"residual": torch.tensor([7.0])},
            "last_sent": {"velocity": torch.tensor([number], dtype=torch.int32)},
        }
        for number, tensor in enumerate(tensors)
    ]
    heirs = [state_for(states, place, now) for place in range(now)]
    assert sum(h["residual"]["velocity"] for h in heirs) == sum(tensors)
    assert all(h["momentum"]["residual"] == 7 and h["step"] == 5 for h in heirs)
    assert [int(h["last_sent"]["velocity"]) for h in heirs] == [
        place if place < former else 5 for place in range(now)
    ]


def test_progress_in_epochs_is_kept(tmp_path):
    """Fewer workers take more steps through the data: the training goes on at the same place."""
    (job,) = jobs_of(tmp_path, "ring", densities=(0.02,), batch_size=16, epochs=1, world_size=8)
    job = changed(job, max_steps_per_epoch=None, checkpoint_every=5)
    training, _ = resumed(job, tmp_path)
    stop_at(training, 7)
    with pytest.raises(Stop):
        training.run()
    halved, progress = resumed(changed(job, world_size=4), tmp_path)
    assert (
        progress.step
        == 5 * halved._timetable.steps_per_epoch // training._timetable.steps_per_epoch
    )
    assert progress.step > 5


@given(
    former=st.integers(1, 99), now=st.integers(1, 99), epochs=st.integers(0, 5), more=st.integers(0)
)
def test_all_steps_of_a_progress_have_one_unit(former, now, epochs, more):
    """Those of the new number of workers: an evaluation is at the end of its epoch."""
    step = epochs * former + more % former
    points = [QualityPoint(epoch=e, step=e * former, value=0.5) for e in range(1, epochs + 1)]
    lost = [LostRank(rank=1, step=step)]
    before = Progress(
        steps_per_epoch=former, step=step, points=points, resumed_at=[step], lost=lost
    )
    after = _moved(before, now)
    assert [point.step for point in after.points] == [point.epoch * now for point in points]
    assert after.resumed_at == [after.lost[0].step] == [after.step]
    assert after.step // now == epochs  # an epoch that is not over stays so
    assert after.step / now == pytest.approx(step / former, abs=1 / now)


@pytest.mark.parametrize(
    "how",
    [
        {"densities": (1.0,)},
        {"densities": (0.1,), "compression": {"method": "random-k"}},
        {"densities": (1.0,), "compression": {"method": "terngrad"}},
    ],
    ids=["dense", "random-k", "terngrad"],
)
def test_momentum_after_the_sum_stays(how, tmp_path):
    """Other methods than DGC go on with 2 and 5 workers of 4, and with their momentum."""
    (job,) = jobs_of(tmp_path, "ring", batch_size=4, epochs=2, steps=8, **how)
    job = changed(job, checkpoint_every=1)
    training, _ = resumed(changed(job, world_size=4), tmp_path)
    stop_at(training, 3)
    with pytest.raises(Stop):
        training.run()
    before = training._ranks[0].buckets.state_dict()
    for size in (2, 5):
        again, _ = resumed(changed(job, world_size=size), tmp_path)
        for rank in again._ranks:
            for found, expected in zip(rank.buckets.state_dict(), before, strict=True):
                torch.testing.assert_close(found["momentum"], expected["momentum"], rtol=0, atol=0)
