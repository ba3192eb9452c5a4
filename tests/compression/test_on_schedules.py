"""Compressed gradients over real schedules: every rank ends with the same, and right, update."""

from typing import Any

import pytest
import torch

from dgc_topo.compression.dense import Dense
from dgc_topo.compression.random_k import RandomK
from dgc_topo.compression.terngrad import TernGrad
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.runtime import Communicator, run_in_process
from dgc_topo.schedule import Schedule, mix
from dgc_topo.topology import Topology, load_topology
from dgc_topo.wire.coding import DENSE_DTYPES
from tests.compression.workers import add_up, constant, dgc_ranks, model, random_like
from tests.runtime.test_communicator import Recorder
from tests.strategies import GOSSIP, PUSH, topologies

WORLD_SIZE = 5
TOPOLOGIES = ["ring", "butterfly", "mesh", "tree", "parameter-server"]


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("density", [0.05, 1.0])
@pytest.mark.parametrize("wire_dtype", DENSE_DTYPES)
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


def halves(goal):
    step = mix(0, 1, weight=1, denominator=2)
    build = lambda world_size: Schedule.from_steps(world_size, 1, [step], goal=goal)  # noqa: E731
    return Topology(f"halves of {goal}", build)


COMPRESSORS: dict[str, Any] = {
    "dgc": lambda parameters: dgc_ranks(1, parameters, constant(density=0.1))[0],
    "reselect": lambda p: dgc_ranks(1, p, constant(density=0.1, merge="reselect"))[0],
    "dgc, all dense": lambda parameters: dgc_ranks(1, parameters, constant(density=1.0))[0],
    "dense": Dense,
    "terngrad": lambda parameters: TernGrad(parameters, rank=0),
    "random-k": lambda parameters: RandomK(parameters, density=0.1),
    "updates": lambda p: UpdateCompressor(p, num_workers=2, density=0.1),
}
MIXING = [*topologies(GOSSIP + PUSH), halves("part"), halves("column-stochastic")]


@pytest.mark.parametrize("topology", MIXING, ids=lambda t: t.label)
@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_is_to_be_summed_is_refused_by_what_does_not_sum_before_anything_is_sent(
    topology, name
):
    parameters = model()
    compressor = COMPRESSORS[name](parameters)
    gradients = random_like(parameters, torch.Generator().manual_seed(3))
    for payload in (compressor.compress(gradients), compressor.neutral()):
        payload.cut = payload.pack = None
        transport = Recorder(0, 2)
        with pytest.raises(ValueError, match=f"^{topology.name}: its schedule is .* all-reduce "):
            Communicator(topology, transport).run(payload)
        with pytest.raises(ValueError, match=r"^run in process: its schedule is .* all-reduce for"):
            run_in_process(topology.schedule(2), [payload, payload])
        assert not transport.log
