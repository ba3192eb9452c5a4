"""A training that was stopped and goes on is, bit for bit, the one that never stopped."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgc_topo.records.measurement import Measurement
from dgc_topo.training.checkpoints.randoms import random_states, restore_random_states
from dgc_topo.training.job import Job
from tests.training.checkpoints.runs import changed, jobs_of, stopped, train
from tests.training.test_virtual import RUNGS

SAME = ("quality", "parameters", "staleness", "num_steps", "compressed_bytes", "sparse")


def assert_same(again: Measurement, whole: Measurement) -> None:
    for name in (*SAME, "wire_bytes_per_step", "messages_per_step", "density"):
        assert getattr(again, name) == getattr(whole, name), name


def job_of(folder: Path, *topologies: str, density: float = 0.02, every=5, **how) -> Job:
    (job,) = jobs_of(folder, *topologies, densities=(density,), batch_size=4, **how)
    return changed(job, checkpoint_every=every)


TEXT = {
    "dataset": "austen",
    "model": "char-lstm",
    "options": {"bptt": 8, "hidden_size": 4, "embedding_size": 4, "dropout": 0.3},
    "clip_norm": 0.25,
}
STATISTICS = {"model": "resnet20", "options": {"width": 2, "augment": True}}
ADAMW = {"optimizer": "adamw", "learning_rate": 0.01, "learning_rate_decay": "cosine"}
STALE = {"clear_velocities": "stale", "clear_every_steps": 3}
KINDS: dict[str, dict[str, Any]] = {
    "dense": {"density": 1.0, "train": {"nesterov": True, "weight_decay": 0.01}},
    "text with dropout": {"train": TEXT},
    "batch statistics, crops": {"train": STATISTICS, "steps": 4, "every": 3},
    "overlap": {"train": {"overlap": True, "bucket_mib": 0.02}},
    "overlap, cosine": {
        "train": {"overlap": True, "bucket_mib": 0.02, "learning_rate_decay": "cosine"}
    },
    "reselect": {"compression": {"merge": "reselect", "balance": True}},
    "float16": {"compression": {"wire_dtype": "float16"}},
    "velocities cleared": {"compression": {"clear_velocities": "all", "clear_every_steps": 3}},
    "stale velocities cleared": {"compression": STALE},
    "exact": {"compression": {"selection": "exact", "scope": "model"}},
    "separate decay": {
        "train": {"weight_decay": 0.01},
        "compression": {"weight_decay_mode": "separate"},
    },
    "adamw, updates compressed": {"train": ADAMW},
    "adamw, dense": {"density": 1.0, "train": ADAMW},
    "terngrad": {"density": 1.0, "compression": {"method": "terngrad"}},
    "a dedicated server": {"topologies": ("parameter-server?server = 'dedicated'",)},
    **{", ".join(f"{k}={v}" for k, v in rung.items()): {"compression": rung} for rung in RUNGS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_goes_on_with_the_same_bits(kind, tmp_path):
    """In the middle of an epoch, after a checkpoint and some steps more."""
    how = dict(KINDS[kind])
    topologies = how.pop("topologies", ("butterfly",))
    job = job_of(tmp_path, *topologies, **how)
    whole = train(job)
    stopped(job, tmp_path, whole.num_steps - 2)
    again = train(job, tmp_path, resume=True)
    assert_same(again, whole)
    assert again.resumed_at


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A training with evaluations, and its record."""
    folder = tmp_path_factory.mktemp("undisturbed")
    job = job_of(folder, "ring", world_size=2, epochs=3, steps=5)
    return job, train(job)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    every=st.integers(1, 8) | st.just("epoch"),
    stops=st.lists(st.integers(0, 14), min_size=1, max_size=4),
)
def test_stops_at_any_steps(every, stops, undisturbed, tmp_path_factory):
    """However often and where it stops, also before the first checkpoint."""
    folder = tmp_path_factory.mktemp("stops")
    job, whole = undisturbed
    job = changed(job, checkpoint_every=every)
    for stop in sorted(stops):
        stopped(job, folder, stop, resume=True)
    again = train(job, folder, resume=True)
    assert_same(again, whole)
    step = 5 if every == "epoch" else every
    assert all(at % step == 0 or at % 5 == 0 for at in again.resumed_at)


def test_what_a_training_leaves_to_the_caller_draws_on(tmp_path):
    """Random states of the process are in a checkpoint, whoever draws from them."""

    def draw():
        return random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(2).tolist()  # noqa: NPY002

    draw()
    states = random_states()
    expected = [draw() for _ in range(3)]
    draw()
    restore_random_states(states)
    assert [draw() for _ in range(3)] == expected
