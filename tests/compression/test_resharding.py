"""State for another number of ranks: the mass of all gradients stays."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.compression.resharding import state_for
from dgc_topo.compression.updates import UpdateCompressor

SHAPES = {"weight": (7, 5), "bias": (5,), "other": (3, 4)}


def compressor_of(kind: str, world_size: int):
    parameters = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    if kind == "updates":
        return UpdateCompressor(parameters, num_workers=world_size, density=0.2)
    return dt.DGC(
        parameters,
        num_workers=world_size,
        density=0.2,
        momentum=0.5,
        warm_up="none",
        track_ages=kind == "ages",
    )


def states_of(kind: str, world_size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return each rank's snapshot after three steps with gradients of its own."""
    ranks = [compressor_of(kind, world_size) for _ in range(world_size)]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for rank in ranks:
            rank.compress({n: torch.randn(s, generator=generator) for n, s in SHAPES.items()})
    return [rank.state_dict() for rank in ranks]


def total(states, section: str, name: str) -> torch.Tensor:
    return torch.stack([state[section][name].double() for state in states]).sum(0)


@pytest.mark.parametrize("kind", ["dgc", "ages", "updates"])
@settings(max_examples=12)
@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_sums_over_the_ranks_stay_through_any_numbers_of_ranks(kind, sizes, seed):
    first = states = states_of(kind, sizes[0], seed)
    for size in sizes[1:]:
        states = [state_for(states, rank, size) for rank in range(size)]
        for rank in states:  # and each can be loaded
            compressor_of(kind, size).load_state_dict(rank)
    for section in {"residual", "velocity", "sent_histogram"} & first[0].keys():
        for name in first[0][section]:
            error = (total(states, section, name) - total(first, section, name)).abs().max()
            assert error <= 1e-6 * (1 + total(first, section, name).abs().max())
    assert {rank["step"] for rank in states} == {3}


@pytest.mark.parametrize("kind", ["dgc", "updates"])
def test_the_same_number_of_ranks_changes_nothing(kind):
    states = states_of(kind, 3)
    for rank, state in enumerate(states):
        again = state_for(states, rank, 3)
        assert again.keys() == state.keys()
        for name in state["residual"]:
            assert torch.equal(again["residual"][name], state["residual"][name])


def test_compressors_without_residuals_keep_what_all_ranks_share():
    random_k = dt.RandomK({n: torch.zeros(s) for n, s in SHAPES.items()}, density=0.2)
    state: dict[str, Any] = random_k.state_dict()
    state["momentum"] = {n: torch.ones(s) for n, s in SHAPES.items()}
    found = state_for([state, copy.deepcopy(state)], 4, 5)
    assert torch.equal(found["momentum"]["weight"], torch.ones(7, 5))
