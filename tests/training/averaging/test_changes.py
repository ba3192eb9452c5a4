"""Rules that average changes: what they reduce to, and that nothing is lost."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.training.averaging.changes import ChangeAverager
from tests.training.averaging.quadratic import (
    Rank,
    Ranks,
    adamw,
    close,
    grad_of,
    momentum,
    same,
    sgd,
)

OPTIMIZERS = pytest.mark.parametrize("make", [sgd, momentum, adamw])


def compressors(ranks: Ranks):
    for averager in ranks.averagers:
        assert isinstance(averager, ChangeAverager)
        yield averager.compressor


@OPTIMIZERS
@pytest.mark.parametrize(("num_ranks", "every"), [(1, 2), (3, 1), (5, 4), (6, 3), (7, 2)])
def test_local_sgd_is_the_mean_of_the_parameters_after_h_steps(num_ranks, every, make):
    found = Ranks(f"local-sgd:every={every}", num_ranks, make=make).train(2 * every)
    ranks = [Rank(number, make) for number in range(num_ranks)]
    for step in range(2 * every):
        for rank in ranks:
            rank.compute(step)
            rank.move()
        if (step + 1) % every == 0:
            with torch.no_grad():
                for name in ranks[0].parameters:
                    mean = torch.stack([rank.parameters[name] for rank in ranks]).mean(0)
                    for rank in ranks:
                        rank.parameters[name].copy_(mean)
    for own, expected in zip(found.ranks, ranks, strict=True):
        assert close(own.values(), expected.values())
        assert same(own.values(), found.ranks[0].values())


@pytest.mark.parametrize("num_ranks", [3, 4])
def test_local_sgd_with_an_exchange_in_every_step_is_data_parallel(num_ranks):
    found = Ranks("local-sgd:every=1", num_ranks).train(5)
    ranks = [Rank(number, sgd) for number in range(num_ranks)]
    for step in range(5):
        for rank in ranks:
            rank.compute(step)
        for name in ranks[0].parameters:
            mean = torch.stack([grad_of(rank.parameters[name]) for rank in ranks]).mean(0)
            for rank in ranks:
                rank.parameters[name].grad = mean.clone()
        for rank in ranks:
            rank.move()
    assert close(found.ranks[0].values(), ranks[0].values())


@OPTIMIZERS
@pytest.mark.parametrize(
    "rule",
    [
        "diloco:every=3,outer_learning_rate=1,outer_momentum=0",
        "sparse-loco:every=3,outer_learning_rate=1,outer_momentum=0",
        "updates:every=3",
    ],
)
def test_without_an_outer_rule_all_are_local_sgd_bit_for_bit(rule, make):
    expected = Ranks("local-sgd:every=3", 5, topology="butterfly", make=make).train(8)
    found = Ranks(rule, 5, topology="butterfly", make=make).train(8)
    for own, other in zip(found.ranks, expected.ranks, strict=True):
        assert same(own.values(), other.values())


@pytest.mark.parametrize("nesterov", [True, False])
def test_dilocos_outer_rule_is_torchs_sgd_on_minus_the_mean_change(nesterov):
    rule = f"diloco:every=4,outer_momentum=0.8,nesterov={str(nesterov).lower()}"
    found = Ranks(rule, 3, make=adamw).train(12)
    ranks = [Rank(number, adamw) for number in range(3)]
    anchor = Rank(0, sgd)
    outer = torch.optim.SGD(anchor.parameters.values(), lr=0.7, momentum=0.8, nesterov=nesterov)
    for step in range(12):
        for rank in ranks:
            rank.compute(step)
            rank.move()
        if (step + 1) % 4 == 0:
            for name, p in anchor.parameters.items():
                ends = torch.stack([rank.parameters[name].detach() for rank in ranks])
                p.grad = p.detach() - ends.mean(0)
            outer.step()
            with torch.no_grad():
                for rank in ranks:
                    for name, p in rank.parameters.items():
                        p.copy_(anchor.parameters[name])
    for rank in found.ranks:
        assert close(rank.values(), anchor.values())


@settings(max_examples=25)
@given(
    num_ranks=st.integers(1, 7),
    every=st.integers(1, 4),
    density=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    look_ahead=st.sampled_from([0.0, 0.5]),
    wire_dtype=st.sampled_from(["float32", "float16"]),
    rest=st.integers(0, 2),
)
def test_nothing_of_a_ranks_changes_is_lost(
    num_ranks, every, density, look_ahead, wire_dtype, rest
):
    """Sent + residuals = all changes / N, at any time; and all ranks hold the same anchor."""
    rule = f"sparse-loco:every={every},look_ahead={look_ahead}"
    ranks = Ranks(rule, num_ranks, density=density, wire_dtype=wire_dtype)
    start = ranks.averagers[0].shared()
    made = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
    for compressor in compressors(ranks):
        inner = compressor.compress

        def counted(updates, *, density, inner=inner):
            for name, update in updates.items():
                made[name] += update.double() / num_ranks
            return inner(updates, density=density)

        compressor.compress = counted
    ranks.train(3 * every)
    left = [compressor.residuals() for compressor in compressors(ranks)]
    moved = {
        name: ranks.averagers[0].shared()[name].double()
        - start[name].double()
        + sum(each[name].double() for each in left)
        for name in start
    }
    # Sums of 16 bits are rounded on their way.
    assert close(moved, made, atol=2e-5 if wire_dtype == "float32" else 1e-2)
    ranks.train(min(rest, every - 1))
    for averager in ranks.averagers:
        assert same(averager.common() or {}, ranks.averagers[0].common() or {})


def test_what_waits_decays_before_the_changes_of_a_round_come_to_it():
    ranks = Ranks("sparse-loco:every=2,residual_decay=0.5", 3, density=0.2, topology="tree")
    ranks.train(2)
    (compressor, *_) = compressors(ranks)
    left = {name: residual.clone() for name, residual in compressor.residuals().items()}
    assert any(residual.abs().max() > 1e-3 for residual in left.values())
    found = []
    inner = compressor.compress

    def watched(updates, *, density):
        found.append({name: own.clone() for name, own in compressor.residuals().items()})
        return inner(updates, density=density)

    compressor.compress = watched
    ranks.train(2)
    assert same(found[0], {name: 0.5 * residual for name, residual in left.items()})
    dense = Ranks("sparse-loco:every=2,residual_decay=0.5", 3).train(4)
    assert same(dense.shared(), Ranks("local-sgd:every=2", 3).train(4).shared())


def sent_of(waiting):
    """Take the largest fifth of the weight's 30 elements, and all of the bias, out of *waiting*."""
    flat = waiting["weight"].view(-1)
    largest = flat.abs().topk(6).indices
    part = torch.zeros(30)
    part[largest] = flat[largest]
    sent = {"weight": part.view(6, 5), "bias": waiting["bias"].clone()}
    for name, each in waiting.items():
        each.sub_(sent[name])
    return sent


@torch.no_grad()
def test_sparse_locos_round_is_the_published_one():
    """By hand: e = b e + d;  c = top-k(e);  e = e - c;  s = s + a mean(c), over all ranks."""
    rule = "sparse-loco:every=3,residual_decay=0.9,outer_learning_rate=0.8"
    found = Ranks(rule, 4, density=0.2, make=adamw)
    ranks = [Rank(number, adamw) for number in range(4)]
    shared = ranks[0].values()
    kept = [{name: torch.zeros_like(value) for name, value in shared.items()} for _ in ranks]
    for _ in range(4):
        for rank, waiting in zip(ranks, kept, strict=True):
            for step in range(3):
                rank.compute(found.iteration + step)
                rank.move()
            for name, p in rank.parameters.items():
                waiting[name].mul_(0.9).add_(p - shared[name])
        sent = [sent_of(waiting) for waiting in kept]
        for name, value in shared.items():
            value.add_(torch.stack([each[name] for each in sent]).mean(0), alpha=0.8)
            for rank in ranks:
                rank.parameters[name].copy_(value)
        found.train(3)
        assert close(found.shared(), shared, atol=1e-5)
    for compressor, waiting in zip(compressors(found), kept, strict=True):
        residual = {name: 4 * each for name, each in compressor.residuals().items()}
        assert close(residual, waiting, atol=1e-5)
        assert waiting["weight"].abs().max() > 1e-2


def test_what_is_evaluated_holds_the_steps_since_the_last_exchange():
    ranks = Ranks("local-sgd:every=5", 3).train(7)
    ends = [rank.values() for rank in ranks.ranks]
    mean = {name: torch.stack([each[name] for each in ends]).mean(0) for name in ends[0]}
    assert close(ranks.shared(), mean)
    assert not ranks.averagers[0].agrees


def test_a_dedicated_server_makes_no_steps_and_holds_the_same_anchor():
    topology = "parameter-server:server=dedicated"
    ranks = Ranks("diloco:every=2", 4, topology=topology, density=0.3).train(4)
    (server,) = set(range(4)) - set(ranks.workers)
    assert same(ranks.ranks[server].values(), ranks.ranks[ranks.workers[0]].values())
    ranks.train(1)
    assert same(ranks.averagers[server].common() or {}, ranks.ranks[server].values())


@OPTIMIZERS
@pytest.mark.parametrize("steps", [3, 4])
def test_a_snapshot_goes_on_with_the_same_bits(make, steps):
    """In the middle of a round, and after one."""
    rule, kind = "diloco:every=2", {"density": 0.3, "make": make}
    ranks = Ranks(rule, 3, **kind).train(steps)
    again = Ranks(rule, 3, **kind)
    for old, new, before, after in zip(
        ranks.averagers, again.averagers, ranks.ranks, again.ranks, strict=True
    ):
        after.optimizer.load_state_dict(deepcopy(before.optimizer.state_dict()))
        new._set(before.values())
        new.load_state_dict(old.state_dict())
    again.iteration = steps
    ranks.train(3)
    again.train(3)
    for before, after in zip(ranks.ranks, again.ranks, strict=True):
        assert same(before.values(), after.values())


def test_a_failed_exchange_loses_no_change():
    ranks = Ranks("local-sgd:every=3", 3).train(2)
    averager, rank = ranks.averagers[1], ranks.ranks[1]
    change = {name: value - averager.common()[name] for name, value in rank.values().items()}
    averager.outgoing(1.0)
    averager.missed()
    assert same(rank.values(), averager.common() or {})
    (_, compressor, _) = compressors(ranks)
    for name, residual in compressor.residuals().items():
        assert torch.allclose(residual * 3, change[name], atol=1e-6)


def test_parameters_of_16_bits_keep_a_wide_anchor():
    """Changes too small for the parameters' type add up in it."""
    ranks = Ranks("local-sgd:every=2", 3, dtype=torch.bfloat16).train(4)
    anchor = ranks.averagers[0].common()
    assert anchor is not None
    for name, value in ranks.ranks[0].values().items():
        assert anchor[name].dtype == torch.float32
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, anchor[name].to(torch.bfloat16))
