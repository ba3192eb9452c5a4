"""CHOCO and DGC over gossip: compressed changes, estimates that neighbours share, and D-PSGD."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.averaging import load_averaging
from dgc_topo.mixing import mixing_matrix
from dgc_topo.payload import SparsePayload
from dgc_topo.runtime import run_in_process
from tests.strategies import examples
from tests.training.averaging.quadratic import Quadratics

RULES = "choco:consensus_step=0.5", "dgc-gossip:consensus_step=0.5"
GRAPHS = "ring", "complete", "exponential", "torus"


def mixing_of(topology, num_ranks):
    matrix = mixing_matrix(dt.load_topology(topology).schedule(num_ranks))
    return torch.from_numpy(matrix).to(torch.float32)


def stacked(ranks, name):
    return torch.stack([getattr(averager, name) for averager in ranks.averagers])


@examples(8)
@given(
    rule=st.sampled_from(RULES),
    graph=st.sampled_from(GRAPHS),
    num_ranks=st.integers(1, 6),
    density=st.sampled_from([1.0, 0.3, 0.1]),
    wire_dtype=st.sampled_from(["float32", "bfloat16", "float16", "int8", "int4", "int2"]),
)
def test_gaps_are_those_of_the_estimates_and_move_no_mean(
    rule, graph, num_ranks, density, wire_dtype
):
    """Every rank's gap is what the neighbours' estimates say, though only changes travelled."""
    topology = f"gossip:graph={graph}"
    density = min(density, 0.3) if wire_dtype.startswith("int") else density
    ranks = Quadratics(rule, topology, num_ranks, density=density, wire_dtype=wire_dtype)
    mixing = mixing_of(topology, num_ranks)
    for _ in range(4):
        ranks.step()
        estimates, gaps = stacked(ranks, "estimate"), stacked(ranks, "gap")
        torch.testing.assert_close(gaps, mixing @ estimates - estimates, rtol=0, atol=2e-6)
    before = ranks.shared().mean(0)
    ranks.exchange(0)
    torch.testing.assert_close(ranks.shared().mean(0), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("momentum", "num_ranks"), [(0.0, 3), (0.9, 5), (0.9, 6), (0.9, 7)])
def test_at_density_1_dgc_gossip_is_d_psgd(momentum, num_ranks):
    found, expected = (
        Quadratics(rule, "gossip:graph=ring", num_ranks, learning_rate=0.05, momentum=momentum)
        for rule in ("dgc-gossip", "d-psgd")
    )
    for _ in range(12):
        found.step()
        expected.step()
        torch.testing.assert_close(found.shared(), expected.shared(), rtol=1e-6, atol=2e-6)
    assert expected.apart() > 0.05


def test_at_density_1_choco_mixes_after_the_move():
    ranks = Quadratics("choco", "gossip:graph=ring", 5)
    mixing, x = mixing_of("gossip:graph=ring", 5), ranks.shared()
    for _ in range(6):
        x = mixing @ (x - 0.1 * ranks.curvatures * (x - ranks.centres))
        ranks.step()
        torch.testing.assert_close(ranks.shared(), x, rtol=1e-5, atol=1e-5)


def test_the_consensus_step_is_the_root_of_the_density():
    found, expected = (
        Quadratics(rule, "gossip:graph=ring", 4, density=0.25)
        for rule in ("choco", "choco:consensus_step=0.5")
    )
    for each in (found, expected):
        each.train(5)
    assert torch.equal(found.shared(), expected.shared())


@pytest.mark.parametrize("rule", RULES)
def test_ranks_agree_though_little_is_sent(rule):
    ranks = Quadratics(rule, "gossip:graph=ring", 4, density=0.2)
    ranks.train(10)
    assert ranks.apart() > 0.2
    mean = ranks.shared().mean(0)
    for _ in range(60):
        ranks.mix()
    assert ranks.apart() < 0.05
    torch.testing.assert_close(ranks.shared().mean(0), mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rule", "graph"), [(RULES[0], "ring"), (RULES[1], "exponential")])
def test_ranks_come_near_the_optimum_of_all(rule, graph):
    ranks = Quadratics(rule, f"gossip:graph={graph}", 4, density=0.25)
    ranks.train(90, [0.1, 0.03, 0.01])
    assert ranks.off() < 0.15


def test_masked_velocities_lead_elsewhere():
    """Masking is an option of dgc-gossip, and off: ranks apply their own velocities at once."""
    off = {}
    for masking in ("false", "true"):
        rule = f"dgc-gossip:masking={masking},consensus_step=1"
        ranks = Quadratics(rule, "gossip:graph=complete", 3, momentum=0.8, density=0.5)
        ranks.train(90, [0.03, 0.01, 0.003])
        off[masking] = ranks.off()
    assert off["false"] < 0.1
    assert off["true"] > 5 * off["false"]


def test_what_is_sent_is_the_largest_and_the_rest_waits():
    ranks = Quadratics("choco", "gossip:graph=ring", 3, density=0.25)
    first = ranks.averagers[0]
    ranks.train(2)
    first.move()
    waiting = first._layout.flatten(first.parameters, first._device) - first.estimate
    (payload,) = first.outgoing(0.25)
    sparse, rest = payload.parts
    assert isinstance(sparse, SparsePayload)
    assert sparse.num_entries == 5
    left = first._layout.flatten(first.parameters, first._device) - first.estimate
    compressed = waiting[:20].abs()
    assert compressed[sparse.indices].min() >= compressed.sort().values[15]
    torch.testing.assert_close(rest.buffer, waiting[20:])
    sent = waiting - left
    torch.testing.assert_close(sent[:20], sparse.to_dense(), rtol=0, atol=1e-6)


def test_estimates_travel_whole_once_the_graph_is_another():
    """Ranks of a ring that one of them left: gaps of the new ring, from the next exchange on."""
    ranks = Quadratics("choco", "gossip:graph=ring", 5, density=0.1)
    ranks.train(3)
    left = [0, 1, 3, 4]
    for attribute in ("averagers", "parameters", "local"):
        setattr(ranks, attribute, [getattr(ranks, attribute)[rank] for rank in left])
    ranks.meet_over(dt.without("gossip:graph=ring", [2], world_size=5), 4)
    ranks.centres, ranks.curvatures = ranks.centres[left], ranks.curvatures[left]
    for averager in ranks.averagers:
        averager.renew()
    mixing, mean = mixing_of(ranks.topology, 4), None
    for _ in range(3):
        ranks.mix()
        estimates, gaps = stacked(ranks, "estimate"), stacked(ranks, "gap")
        torch.testing.assert_close(gaps, mixing @ estimates - estimates, rtol=0, atol=2e-6)
        mean = ranks.shared().mean(0) if mean is None else mean
        torch.testing.assert_close(ranks.shared().mean(0), mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ["choco", "dgc-gossip"])
def test_topologies_that_change_are_refused(rule):
    averaging = load_averaging(rule)
    for graph in ("one-peer-exponential", "random-matching"):
        refusal = averaging.refusal_of(dt.load_topology(f"gossip:graph={graph}"))
        assert refusal is not None
        assert "changes from one exchange to the next" in refusal
    for other in ("ring", "gossip:graph=random-push"):
        refusal = averaging.refusal_of(dt.load_topology(other))
        assert refusal is not None
        assert "expected a topology that is doubly-stochastic" in refusal
    assert averaging.refusal_of(dt.load_topology("gossip:graph=torus")) is None


def test_compressed_gradients_stay_refused_over_gossip():
    """Entries of a gradient have no meaning in a mixture: only these rules' payloads have one."""
    model = torch.nn.Linear(8, 4)
    payloads = []
    for _ in range(3):
        dgc = dt.DGC(model, num_workers=3, density=0.25, warm_up="none")
        payloads.append(
            dgc.compress({name: torch.ones_like(p) for name, p in model.named_parameters()})
        )
    schedule = dt.load_topology("gossip:graph=ring").schedule(3)
    with pytest.raises(ValueError, match="doubly-stochastic: every rank ends with a mixture"):
        run_in_process(schedule, payloads)


@pytest.mark.parametrize("rule", ["choco", "dgc-gossip", "push-sum", "no-loco:every=2"])
def test_a_saved_state_goes_on_bit_for_bit(rule):
    topology = "gossip:graph=exponential"
    settings: Any = {"momentum": 0.5, "density": 0.3 if rule in {"choco", "dgc-gossip"} else 1.0}
    ranks = Quadratics(rule, topology, 4, **settings)
    ranks.train(3)
    again = Quadratics(rule, topology, 4, **settings)
    again.iteration = ranks.iteration
    for new, old in zip(again.averagers, ranks.averagers, strict=True):
        state = old.state_dict()
        copies = torch.utils._pytree.tree_map(
            lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, state
        )
        with torch.no_grad():
            for name, parameter in new.parameters.items():
                parameter.copy_(old.parameters[name])
                new.local._velocity[name].copy_(old.local._velocity[name])
        new.load_state_dict(copies)
    for each in (ranks, again):
        each.train(3)
    assert torch.equal(ranks.shared(), again.shared())
