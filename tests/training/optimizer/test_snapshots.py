"""Snapshots: what goes on is what never stopped, also on another number of ranks."""

import pytest
import torch

from tests.runtime.cluster import Cluster
from tests.training.optimizer import snapshots
from tests.training.optimizer.test_equality import check_alike, largest_difference
from tests.training.optimizer.test_situations import GOSSIP, RULES
from tests.training.optimizer.training import adamw, sgd

AHEAD = pytest.param(adamw, {"topology": "tree", "density": 0.1, "look_ahead": 0.5}, id="ahead")


LOCAL = pytest.param(
    adamw,
    {"topology": "ring", "density": 0.1, "averaging": "sparse-loco:every=2,outer_momentum=0.5"},
    id="sparse-loco",
)
PUSH = pytest.param(
    adamw, {"topology": "gossip:graph=random-push", "averaging": "push-sum"}, id="push-sum"
)
CHOCO = pytest.param(
    sgd, {"topology": "gossip:graph=ring", "density": 0.2, "averaging": "choco"}, id="choco"
)


@pytest.mark.parametrize(("make", "options"), [*RULES, AHEAD, GOSSIP, LOCAL, PUSH, CHOCO])
def test_resumed_is_never_stopped_bit_for_bit(cluster: Cluster, make, options):
    options = options if "gossip" in options["topology"] else {**options, "warm_up_steps": 5}
    for weights, state in cluster.run(3, snapshots.resumed, make, options):
        assert weights
        assert state


@pytest.mark.parametrize(("make", "options"), RULES)
def test_another_number_of_ranks_goes_on_with_all_that_was_not_sent(
    cluster: Cluster, make, options
):
    """A dedicated server, which never sends, gets nothing."""
    weights, states = zip(*cluster.run(4, snapshots.half_trained, make, options), strict=True)
    served = {**options, "topology": "parameter-server:server=dedicated"}
    for size, chosen in ((2, options), (3, served)):
        arguments = make, chosen, weights[0], list(states)
        loaded, after = zip(*cluster.run(size, snapshots.gone_on, *arguments), strict=True)
        check_alike(list(after))
        assert total(loaded).keys() == total(states).keys()
        assert largest_difference(total(loaded), total(states)) < 1e-6
        if chosen is served and "density" in options:
            held = [sum(t.abs().sum() for t in total([rank]).values()) for rank in loaded]
            assert sorted(h > 0 for h in held) == [False, True, True]


@pytest.mark.parametrize(
    ("rule", "density"), [("diloco:every=4", 0.1), ("local-sgd:every=2,participation=0.6", 1.0)]
)
def test_another_number_of_ranks_goes_on_between_two_exchanges(cluster: Cluster, rule, density):
    """All begin with the mean of the former ranks' parameters; what waits keeps its sum.

    Also where a rank was left out of the last exchange, and counts from an older anchor.
    """
    options = {"topology": "ring", "density": density, "averaging": rule}
    arguments = sgd, options, 5
    weights, states = zip(*cluster.run(4, snapshots.between_exchanges, *arguments), strict=True)
    mean = {name: torch.stack([own[name] for own in weights]).mean(0) for name in weights[0]}
    for size in (2, 3):
        found = cluster.run(size, snapshots.gone_on_between, sgd, options, weights[0], list(states))
        loaded, first, later = zip(*found, strict=True)
        check_alike(list(first))
        assert largest_difference(first[0], mean) < 1e-6
        assert largest_difference(total(loaded), total(states)) < 1e-6
        check_alike(list(later))
        assert largest_difference(first[0], later[0]) > 1e-3


@pytest.mark.parametrize(
    ("make", "topology", "averaging"),
    [
        (adamw, "gossip:graph=random-push", "push-sum"),
        (sgd, "gossip:graph=ring", "choco"),
        (sgd, "gossip:graph=ring", "no-loco:every=2"),
    ],
)
def test_another_number_of_ranks_goes_on_from_the_mean_of_what_gossip_mixes(
    cluster: Cluster, make, topology, averaging
):
    """No rank goes on with what one former rank alone knew of the others."""
    options = {"topology": topology, "averaging": averaging}
    weights, states = zip(
        *cluster.run(4, snapshots.between_exchanges, make, options, 3), strict=True
    )
    mean = {name: torch.stack([own[name] for own in weights]).mean(0) for name in weights[0]}
    before = [state["dgc_topo"]["compressor"] for state in states]
    found = cluster.run(3, snapshots.gone_on_between, make, options, mean, list(states))
    loaded, first, later = zip(*found, strict=True)
    check_alike(list(first))
    check_alike(list(later))
    for own in (state["dgc_topo"]["compressor"] for state in loaded):
        if averaging == "push-sum":
            weight = torch.stack([state["weight"] for state in before]).mean()
            for name, x in own["x"].items():
                exact = torch.stack([state["x"][name] for state in before]).mean(0) / weight
                torch.testing.assert_close(x, exact)
                torch.testing.assert_close(first[0][name], exact)
            assert own["weight"] == 1
        elif averaging == "choco":
            assert all(not gap.any() for gap in own["gap"].values())
            assert all(torch.equal(own["estimate"][n], first[0][n]) for n in own["estimate"])
        else:
            for name, anchor in own["anchor"].items():
                exact = torch.stack([state["anchor"][name] for state in before]).mean(0)
                torch.testing.assert_close(anchor, exact)


def total(states) -> dict[str, torch.Tensor]:
    """Return the sum of all residuals, those of frozen layers included, by name."""
    sums: dict[str, torch.Tensor] = {}
    for state in states:
        own = state["dgc_topo"]
        for sections in (own.get("compressor", {}), own.get("aside", {})):
            for name, residual in sections.get("residual", {}).items():
                sums[name] = sums.get(name, torch.zeros_like(residual)) + residual
    return sums or {"": torch.zeros(1)}
