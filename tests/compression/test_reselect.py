"""Re-selection keeps the best of the sum and loses nothing, over every all-reduce topology."""

import pytest
import torch

from dgc_topo.compression.layout import Groups
from dgc_topo.compression.summed import best_entries, without
from dgc_topo.payload import Entries
from dgc_topo.runtime.in_process import run_in_process
from dgc_topo.sizes import entries_of
from dgc_topo.topology import load_topology
from tests.compression.test_mass import Reference, flat
from tests.compression.workers import constant, dgc_ranks, random_like, sparse_of

PARAMETERS = {"a": torch.zeros(11, 7), "b": torch.zeros(30, 3)}
ALL_REDUCES = [
    ("ring", {}),
    ("tree", {}),
    ("mesh", {}),
    ("parameter-server", {}),
    ("sharded-parameter-server", {}),
    ("butterfly", {"algorithm": "doubling"}),
    ("butterfly", {"algorithm": "halving-doubling"}),
    ("hierarchical", {"group_size": 2}),
]


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("world_size", [1, 4, 6])
@pytest.mark.parametrize(("name", "options"), ALL_REDUCES)
def test_applied_plus_residuals_is_all_that_was_accumulated(name, options, world_size, scope):
    schedule = load_topology(name, options).schedule(world_size)
    config = constant(density=0.05, merge="reselect", scope=scope)
    ranks = dgc_ranks(world_size, PARAMETERS, config)
    length = flat(PARAMETERS).numel()
    references = [Reference(length, 0.9, nesterov=False, masking=True) for _ in ranks]
    applied = torch.zeros(length, dtype=torch.float64)
    generator = torch.Generator().manual_seed(8)
    came_back = 0
    for _ in range(8):
        gradients = [random_like(PARAMETERS, generator) for _ in ranks]
        payloads = [r.compress(g) for r, g in zip(ranks, gradients, strict=True)]
        for reference, gradient, payload in zip(references, gradients, payloads, strict=True):
            reference.add(flat(gradient))
            reference.mask(sparse_of(payload).indices)
        run_in_process(schedule, payloads)
        merged = sparse_of(payloads[0]).num_entries
        updates = [r.finish(p) for r, p in zip(ranks, payloads, strict=True)]
        for other in updates[1:]:
            assert all(other[name].equal(updates[0][name]) for name in PARAMETERS)
        applied += flat(updates[0])
        kept = int(flat(updates[0]).count_nonzero())
        sizes = [167] if scope == "model" else [77, 90]
        assert kept == sum(entries_of(size, 0.05) for size in sizes)
        came_back += merged - kept
        left = torch.stack([flat(rank.residuals()) for rank in ranks]).sum(0)
        everything = torch.stack([reference.accumulated for reference in references]).sum(0)
        torch.testing.assert_close(applied + left, everything, rtol=1e-4, atol=1e-4)
    assert (came_back > 0) == (world_size > 1)


def test_the_best_are_those_of_each_group_and_own_shares_of_others_come_back():
    merged = Entries(torch.tensor([0, 2, 5, 7, 9]), torch.tensor([1.0, -3.0, 2.0, -2.0, 0.5]))
    best = best_entries(merged, Groups((0, 5, 10)), 0.2)
    assert best.indices.tolist() == [2, 5]  # 2 and -2 are equal: the lower index
    assert best.values.tolist() == [-3.0, 2.0]
    own = Entries(torch.tensor([0, 5, 7]), torch.tensor([1.0, 4.0, -2.0]))
    back = without(own, best.indices)
    assert (back.indices.tolist(), back.values.tolist()) == ([0, 7], [1.0, -2.0])


def test_a_second_finish_gives_nothing_back_twice():
    ranks = dgc_ranks(2, PARAMETERS, constant(density=0.05, merge="reselect"))
    generator = torch.Generator().manual_seed(8)
    payloads = [rank.compress(random_like(PARAMETERS, generator)) for rank in ranks]
    run_in_process(load_topology("ring").schedule(2), payloads)
    ranks[0].finish(payloads[0])
    residual = flat(ranks[0].residuals())
    again = ranks[0].finish(payloads[0])
    assert flat(ranks[0].residuals()).equal(residual)
    assert int(flat(again).count_nonzero()) == 4 + 4


def test_a_rank_that_only_serves_derives_the_same_update():
    ranks = dgc_ranks(3, PARAMETERS, constant(density=0.05, merge="reselect"))
    generator = torch.Generator().manual_seed(8)
    payloads = [rank.compress(random_like(PARAMETERS, generator)) for rank in ranks[:2]]
    payloads.append(ranks[2].neutral())
    topology = load_topology("parameter-server", {"server": "dedicated"})
    run_in_process(topology.schedule(3), payloads)
    first, _, served = (r.finish(p) for r, p in zip(ranks, payloads, strict=True))
    assert all(served[name].equal(first[name]) for name in PARAMETERS)


def test_density_1_applies_everything():
    ranks = dgc_ranks(2, PARAMETERS, constant(density=1, merge="reselect"))
    gradients = random_like(PARAMETERS, torch.Generator().manual_seed(8))
    payloads = [rank.compress(gradients) for rank in ranks]
    run_in_process(load_topology("ring").schedule(2), payloads)
    assert flat(ranks[0].finish(payloads[0])).equal(2 * flat(gradients))
