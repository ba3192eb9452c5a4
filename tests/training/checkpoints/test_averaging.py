"""Trainings by every averaging rule go on with the same bits, in the middle of a round, too."""

import pytest
import torch

from dgc_topo.averaging import load_averaging
from tests.training.checkpoints.runs import changed, jobs_of, stopped, train

ADAMW = {"optimizer": "adamw", "learning_rate": 0.005}


@pytest.mark.parametrize(
    ("rule", "topology", "density", "optimizer"),
    [
        ("updates:look_ahead=0.5", "ring", 0.02, ADAMW),
        ("local-sgd:every=3", "butterfly", 1.0, {}),
        ("diloco:every=3", "parameter-server?server = 'dedicated'", 1.0, ADAMW),
        ("sparse-loco:every=3,outer_momentum=0.5", "ring", 0.02, {}),
        ("d-psgd:every=2", "gossip?graph = 'one-peer-exponential'", 1.0, ADAMW),
    ],
)
def test_what_was_stopped_ends_with_the_same_bits(tmp_path, rule, topology, density, optimizer):
    (job,) = jobs_of(tmp_path, topology, densities=(density,), epochs=1, steps=7, train=optimizer)
    job = changed(job.model_copy(update={"averaging": load_averaging(rule)}), checkpoint_every=1)
    whole = train(job, tmp_path / "whole")
    stopped(job, tmp_path / "parts", 4)  # after the first step of a round
    stopped(job, tmp_path / "parts", 6, resume=True)
    parts = train(job, tmp_path / "parts", resume=True)
    assert parts.resumed_at == (4, 6)
    assert parts.quality == whole.quality
    assert parts.parameters == whole.parameters
    assert parts.wire_bytes_per_step == whole.wire_bytes_per_step
    assert whole.models is not None
    first, second = (
        torch.load(tmp_path / part / whole.models.last, weights_only=True)
        for part in ("whole", "parts")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
