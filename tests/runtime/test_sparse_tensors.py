"""Sparse tensors, and policies of their sums: what every rank ends with, and what is refused."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dgc_topo.runtime import all_reduce
from dgc_topo.runtime.sparse_tensors import entries_of, write_entries
from tests.runtime.cluster import Cluster
from tests.strategies import examples

TOPOLOGIES = ["ring", "butterfly", "sharded-parameter-server", "mesh", "tree"]


@examples(40)
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
    sparse_dim=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_a_tensor_and_its_entries_are_the_same(shape, sparse_dim, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randint(-2, 3, shape, generator=generator).to(dtype)
    for value in (dense.to_sparse(min(sparse_dim, len(shape))), dense.clone()):
        indices, values = entries_of(value)
        flat = torch.zeros(dense.numel())
        flat[indices] = values
        assert flat.view(shape).equal(dense.float())
        assert (indices.diff() > 0).all()
        write_entries(entries_of(dense * 2), value)
        assert (value.to_dense() if value.is_sparse else value).equal(dense * 2)


@pytest.mark.parametrize("index", [-1, 3])
def test_entries_outside_the_tensor_are_refused(index):
    places = torch.tensor([[0, 2], [1, index]])
    value = torch.sparse_coo_tensor(places, torch.ones(2), (9, 3), check_invariants=False)
    with pytest.raises(ValueError, match=r"shape \(9, 3\): axis 1 has indices .*expected 0 to 2"):
        entries_of(value)


def twice(rank: int) -> Tensor:
    """A tensor that is not coalesced: one place is there twice."""
    places = torch.tensor([[0, 2, 2, rank], [1, 3, 3, 0]])
    return torch.sparse_coo_tensor(
        places, torch.tensor([1.0, 2.0, 3.0, 4.0]), (9, 4), check_invariants=True
    )


def sums(group: dist.ProcessGroup) -> dict[str, Any]:
    """Return sums of sparse tensors by topology and policy; and what was said to wrong ones."""
    rank = dist.get_rank(group)
    found: dict[str, Any] = {}
    for name in TOPOLOGIES:
        value = twice(rank)
        all_reduce(value, name, group, average=name == "tree")
        assert value.is_coalesced()
        found[name] = value.to_dense()
        value = twice(rank)
        all_reduce(value, name, group, average=name == "tree", balance=True)
        assert value.to_dense().equal(found[name])
    torchs = twice(rank).coalesce()
    dist.all_reduce(torchs, group=group)
    found["torch"] = torchs.to_dense()
    for merge in ("union", "reselect", "auto"):
        for is_sparse in (True, False):
            generator = torch.Generator().manual_seed(rank)
            value = torch.randint(-9, 10, (30, 10), generator=generator).float()
            value *= torch.rand(30, 10, generator=generator) < 0.2
            given, residual = value.clone(), torch.zeros(30, 10)
            more: dict[str, Any] = {} if merge == "union" else {"k": 40, "residual": residual}
            value = value.to_sparse() if is_sparse else value
            all_reduce(value, "sharded-parameter-server", group, merge=merge, **more)
            found[f"{merge} {is_sparse}"] = (value.to_dense(), residual, given)
    return found


def test_sparse_tensors_are_summed_and_what_is_rejected_goes_to_one_residual(cluster: Cluster):
    ranks = cluster.run(3, sums)
    exact = sum(twice(rank).to_dense() for rank in range(3))
    for found in ranks:
        for name in (*TOPOLOGIES, "torch"):
            expected = exact / 3 if name == "tree" else exact
            torch.testing.assert_close(found[name], expected)
    keys = [f"{merge} {kind}" for merge in ("union", "reselect", "auto") for kind in (True, False)]
    for key in keys:
        totals, residuals, given = zip(*(found[key] for found in ranks), strict=True)
        assert all(total.equal(totals[0]) for total in totals)
        assert (totals[0] + sum(residuals)).equal(sum(given))
        kept = int(totals[0].count_nonzero())
        assert kept > 60 if key.startswith("union") else 30 < kept <= 40


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"merge": "best"}, "merge 'best', expected one of union, reselect, auto"),
        ({"merge": "union", "k": 3}, "k or residual with merge 'union'"),
        ({"residual": torch.zeros(4)}, "k or residual with merge None"),
        ({"merge": "auto"}, "k None with merge 'auto', expected the number of entries"),
        ({"merge": "auto", "k": 0}, "k 0 with"),
        ({"merge": "reselect", "k": 1}, "no residual with merge 'reselect', expected a tensor of"),
        ({"merge": "reselect", "k": 1, "residual": torch.zeros(3)}, r"shape \(3,\) and layout"),
        ({"merge": "reselect", "k": 1, "residual": "value"}, "residual in the memory of the value"),
        ({"merge": "reselect", "k": 1, "residual": [0.0]}, r"residual \[0.0\] with merge"),
        ({"merge": ["auto"]}, r"merge \['auto'\], expected one of union"),
        ({"merge": "auto", "k": 0.01}, "all_reduce: k 0.01, expected a whole number"),
        ({"balance": "no"}, "all_reduce: balance 'no', expected True or False"),
        ({"average": "no"}, "all_reduce: average 'no', expected True or False"),
        ({"balance": True}, "balance with merge None of a tensor of layout torch.strided"),
        (
            {"balance": True, "merge": "auto", "k": 1, "residual": torch.zeros(4)},
            "balance with merge 'auto' .* re-selected chunks keep equal numbers",
        ),
    ],
    ids=str,
)
def test_a_policy_and_what_it_needs_belong_together(tmp_path, settings, says):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    value = torch.ones(4)
    if settings.get("residual") == "value":
        settings = {**settings, "residual": value}
    try:
        with pytest.raises(ValueError, match=says):
            all_reduce(value, "ring", **settings)
        assert value.equal(torch.ones(4))
    finally:
        dist.destroy_process_group()
