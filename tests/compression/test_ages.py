"""Ages, staleness and the clearing of stale velocities, against counters kept by hand."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.compression import accumulation
from dgc_topo.compression.density import StagedDensity
from dgc_topo.compression.dgc import DGC
from tests.compression.workers import constant, dgc_ranks, model, random_like, sparse_of


def bins(waits: list[int]) -> list[int]:
    counts = [0] * accumulation.NUM_BINS
    for wait in waits:
        counts[wait.bit_length() - 1] += 1
    return counts


@settings(max_examples=20)
@given(
    num_steps=st.integers(1, 40), density=st.sampled_from([0.05, 0.3]), seed=st.integers(0, 2**31)
)
def test_staleness_counts_every_wait(num_steps, density, seed):
    parameters = {"w": torch.zeros(6, 7)}
    rank = dgc_ranks(1, parameters, constant(density=density, track_ages=True))[0]
    generator = torch.Generator().manual_seed(seed)
    last, waits = [0] * 42, []
    for step in range(1, num_steps + 1):
        for index in sparse_of(rank.compress(random_like(parameters, generator))).indices.tolist():
            waits.append(step - last[index])
            last[index] = step
    staleness = rank.staleness()
    assert staleness.sent == bins(waits)
    assert staleness.waiting == bins([num_steps + 1 - at for at in last])


def test_a_dense_step_sends_everything():
    rank = DGC(
        {"w": torch.zeros(3, 4)},
        num_workers=1,
        config=constant(density=0.1, track_ages=True),
        density_schedule=StagedDensity(target=0.1, stages=(1.0,), warm_up_epochs=1),
    )
    rank.set_progress(0)
    for _ in range(2):
        rank.compress({"w": torch.ones(3, 4)})
    assert rank.staleness().sent == bins([1] * 24)
    assert rank.staleness().waiting == bins([1] * 12)


def test_staleness_without_ages_is_refused():
    rank = dgc_ranks(1, model(), constant())[0]
    with pytest.raises(RuntimeError, match="expected track_ages in the settings"):
        rank.staleness()


@pytest.mark.parametrize("mode", ["never", "all", "stale"])
@pytest.mark.parametrize("tile", [5, 1 << 20])
def test_velocities_are_cleared_when_due_and_residuals_never(mode, tile, monkeypatch):
    monkeypatch.setattr(accumulation, "_TILE", tile)
    parameters = {"w": torch.zeros(6, 7)}
    config = constant(density=0.1, momentum=0.5, clear_velocities=mode, clear_every_steps=4)
    rank = dgc_ranks(1, parameters, config)[0]
    generator = torch.Generator().manual_seed(3)
    velocity, residual, last = torch.zeros(42), torch.zeros(42), torch.zeros(42)
    for step in range(1, 18):
        gradients = random_like(parameters, generator)
        velocity = velocity * 0.5 + gradients["w"].flatten()
        residual += velocity
        sent = sparse_of(rank.compress(gradients)).indices
        velocity[sent], residual[sent], last[sent] = 0.0, 0.0, step
        if step % 4 == 0 and mode != "never":
            velocity[(last <= step - 4) | (mode == "all")] = 0.0
        assert rank.velocities()["w"].flatten().equal(velocity)
        assert rank.residuals()["w"].flatten().equal(residual)


def test_ages_are_kept_only_if_asked_for():
    config = constant(density=0.1, clear_velocities="all", clear_every_steps=1)
    assert "last_sent" not in dgc_ranks(1, model(), config)[0].state_dict()
    for asks in ({"track_ages": True}, {"clear_velocities": "stale"}):
        state: dict[str, Any] = dgc_ranks(1, model(), constant(None, **asks))[0].state_dict()
        assert state["last_sent"]["conv.weight"].dtype == torch.int32


def test_clearing_cannot_be_due_every_zero_steps():
    with pytest.raises(ValueError, match="clear_every_steps 0, expected at least 1"):
        constant(clear_every_steps=0)
