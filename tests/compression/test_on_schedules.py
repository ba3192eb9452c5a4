"""Compressed gradients over real schedules: every rank ends with the same, and right, update."""

import pytest
import torch

from dgc_topo.coding import WIRE_DTYPES
from dgc_topo.execute.in_process import run_in_process
from dgc_topo.topology import load_topology
from tests.compression.workers import add_up, constant, dgc_ranks, model, random_like

WORLD_SIZE = 5
TOPOLOGIES = ["ring", "butterfly", "mesh", "tree", "parameter-server"]


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("density", [0.05, 1.0])
@pytest.mark.parametrize("wire_dtype", WIRE_DTYPES)
def test_all_ranks_derive_the_same_update_whatever_the_topology(name, density, wire_dtype):
    parameters = model()
    config = constant(density=density, weight_decay=0.01, wire_dtype=wire_dtype)
    # A few roundings of sums, of 24, 11 or 8 bits.
    near = {"float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}[wire_dtype]
    ranks, by_hand = (dgc_ranks(WORLD_SIZE, parameters, config) for _ in range(2))
    schedule = load_topology(name).schedule(WORLD_SIZE)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        gradients = [random_like(parameters, generator) for _ in ranks]
        payloads = [r.compress(g) for r, g in zip(ranks, gradients, strict=True)]
        run_in_process(schedule, payloads)
        updates = [r.finish(p) for r, p in zip(ranks, payloads, strict=True)]
        total = add_up([r.compress(g) for r, g in zip(by_hand, gradients, strict=True)])
        for parameter, expected in by_hand[0].finish(total).items():
            torch.testing.assert_close(updates[0][parameter], expected, rtol=near, atol=near)
            assert all(other[parameter].equal(updates[0][parameter]) for other in updates)


@pytest.mark.parametrize("density", [0.05, 1.0])
def test_a_dedicated_server_takes_part_with_a_neutral_payload(density):
    parameters = model()
    ranks = dgc_ranks(3, parameters, constant(density=density))
    gradients = random_like(parameters, torch.Generator().manual_seed(3))
    payloads = [ranks[0].compress(gradients), ranks[1].compress(gradients), ranks[2].neutral()]
    expected = ranks[2].finish(add_up(payloads))
    run_in_process(load_topology("parameter-server", {"server": "dedicated"}).schedule(3), payloads)
    found = ranks[0].finish(payloads[0])
    assert all(found[name].equal(expected[name]) for name in parameters)
