"""Unions of ascending runs: whichever way is taken, the same as of sets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.payload.union import union

INDICES = st.lists(st.sets(st.integers(0, 2**40), max_size=30), min_size=1, max_size=5)


def ascending(indices) -> torch.Tensor:
    return torch.tensor(sorted(indices), dtype=torch.int64)


def check(runs: list[torch.Tensor]) -> None:
    indices, places = union(runs)
    unique, inverse = np.unique(torch.cat(runs).numpy(), return_inverse=True)
    np.testing.assert_array_equal(indices.numpy(), unique)
    np.testing.assert_array_equal(places.numpy(), inverse)
    assert indices.dtype == places.dtype == torch.int64


@given(runs=INDICES)
def test_it_has_every_index_once_and_knows_where_each_went(runs):
    check([ascending(run) for run in runs])


@pytest.mark.parametrize("num_runs", [1, 2, 3, 7])
@pytest.mark.parametrize("num_indices", [1000, 40_000])
def test_many_indices_go_another_way_to_the_same_end(num_runs, num_indices):
    draw = np.random.default_rng(num_runs)
    chosen = (draw.choice(10 * num_indices, num_indices, replace=False) for _ in range(num_runs))
    check([ascending(each) for each in chosen])
