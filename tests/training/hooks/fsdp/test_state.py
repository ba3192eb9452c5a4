"""What the hook for FSDP2 keeps between steps: saved, resumed, refused; and ranks that differ."""

import copy
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import dgc_topo as dt
from dgc_topo.runtime import RanksDifferError
from tests.training.hooks.fsdp.models import Net, backward, batch, mesh_of, sharded, train, weights


def resumed(_: Any, settings: dict[str, Any]) -> bool:
    """Return True if training from a snapshot gives the bits of training without a stop."""
    mesh = mesh_of()
    model = sharded(mesh["shard"])
    state = dt.compress_fsdp(model, mesh["replicate"], "tree", "10%", **settings)
    train(model, 3, torch.optim.SGD(model.parameters(), 0.1))
    model.first.bias.requires_grad_(False)  # what waits for it waits on
    train(model, 3, torch.optim.SGD(model.parameters(), 0.1))
    local = {name: each.to_local().clone() for name, each in model.named_parameters()}
    saved = copy.deepcopy(state.state_dict())
    again = sharded(mesh["shard"])
    again.first.bias.requires_grad_(False)
    state_again = dt.compress_fsdp(again, mesh["replicate"], "tree", density="10%", **settings)
    with torch.no_grad():
        for name, each in again.named_parameters():
            each.to_local().copy_(local[name])
    state_again.load_state_dict(saved)
    for each in (model, again):
        each.frozen.requires_grad_(True)
        each.first.bias.requires_grad_(True)
        train(each, 3, torch.optim.SGD(each.parameters(), 0.1))
    one, other = weights(model), weights(again)
    return all(one[name].equal(other[name]) for name in one) and state_again.step == state.step == 9


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9, "warm_up_steps": 8}])
def test_a_resumed_training_has_the_same_bits(cluster, settings):
    assert cluster.run(4, resumed, settings) == [True] * 4


def interrupted(_: Any) -> bool:
    """Return True if a pass without gradients that ended early leaves no trace."""
    mesh, found = mesh_of(), []
    for fails in (False, True):
        model = sharded(mesh["shard"])
        state = dt.compress_fsdp(model, mesh["replicate"], density="10%")
        backward(model, 0)
        model.zero_grad()
        if fails:
            handle = model.frozen.register_full_backward_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                backward(model, 1, scale=0.0)
            handle.remove()
            model.reset_iter_state()
            model.zero_grad()
        backward(model, 2)
        gradients = {name: each.grad for name, each in model.named_parameters()}
        found.append(
            (state.step, {n: g.full_tensor() for n, g in gradients.items() if g is not None})
        )
    (step, plain), (step_again, other) = found
    return step == step_again == 2 and all(plain[name].equal(other[name]) for name in plain)


def test_a_pass_that_ended_early_takes_nothing_with_it(cluster):
    assert cluster.run(4, interrupted) == [True] * 4


class Heads(nn.Module):
    """A body, and two heads of which a pass uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(7, 13)
        self.heads = nn.ModuleList(nn.Linear(13, 4) for _ in range(2))

    def forward(self, x: Tensor, head: int) -> Tensor:
        out: Tensor = self.heads[head](self.body(x).relu())
        return out


def interrupted_then_elsewhere(_: Any) -> list[int]:
    """Return the steps counted: a whole pass, one that ended early, one through another head."""
    mesh, steps = mesh_of(), []
    model: Any = Heads()
    for each in (model.body, *model.heads):
        fully_shard(each, mesh=mesh["shard"])
    fully_shard(model, mesh=mesh["shard"])
    state = dt.compress_fsdp(model, mesh["replicate"], density="10%")
    for head, fails in ((0, False), (0, True), (1, False), (1, False)):
        model.zero_grad()
        if fails:  # in the body, behind the head
            handle = model.body.register_full_backward_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(batch(0)[0], head).square().sum().backward()
            handle.remove()
            model.reset_iter_state()
        else:
            model(batch(0)[0], head).square().sum().backward()
            steps.append(state.step)
            state.state_dict()  # no step is under way
    return steps


def test_after_a_pass_that_ended_early_another_may_begin_elsewhere(cluster):
    assert cluster.run(4, interrupted_then_elsewhere) == [[1, 2, 3]] * 4


def message(call: Callable[[], object]) -> str:
    """Return the text of the error that a call raises."""
    try:
        call()
    except (ValueError, RuntimeError, TypeError) as error:
        return str(error)
    return "no error"


def refusals(group: Any) -> list[str]:
    mesh = mesh_of()
    model = sharded(mesh["shard"])
    replicas = mesh["replicate"]
    compress = dt.compress_fsdp
    found = [
        message(lambda: compress(Net(), replicas)),
        message(lambda: compress(sharded(mesh), replicas)),
        message(lambda: compress(model, mesh)),
        message(lambda: compress(model, group)),
        message(lambda: compress(model, replicas, "gossip")),
        message(lambda: compress(model, replicas, "parameter-server:server=dedicated")),
        message(lambda: compress(model, replicas, clip_norm=1.0)),
        message(lambda: compress(model, replicas, densty=1.0)),
    ]
    state = compress(model, replicas, momentum=0.9)
    backward(model, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    found.append(message(optimizer.step))
    found.append(message(lambda: state.load_state_dict({"step": 1})))
    saved = state.state_dict()
    saved["parameters"] = {"first.weight": {"residual": torch.zeros(3, 3)}}
    found.append(message(lambda: state.load_state_dict(saved)))
    saved["parameters"] = {"nobody": {}}
    found.append(message(lambda: state.load_state_dict(saved)))
    found.append(message(lambda: backward(model, 1)))
    model.zero_grad()
    found.append(message(lambda: backward(model, 2)))
    return found


def test_nonsense_is_refused(cluster):
    expected = [
        "no parameter of the model is sharded",
        "a mesh of two dimensions",
        "a mesh of 2 dimensions",
        "replicas and shards of each other",
        "topology gossip is doubly-stochastic, expected an all-reduce",
        "ranks that only serve (1), but every rank trains here",
        "clip_norm is set, but the norm of the whole gradient is known only after",
        "did you mean 'density'",
        "dt.compress_fsdp applies momentum 0.9 already",
        "of another kind, expected what state_dict() returned",
        "residual of 'first.weight' does not fit: (3, 3), expected a tensor of shape (7, 7)",
        "parameter 'nobody', expected only those of this model",
        "momentum would count them twice",
        "unusable after an earlier error",
    ]
    for found in cluster.run(4, refusals):
        for text, part in zip(found, expected, strict=True):
            assert part in text


def told_apart(_: Any) -> list[str]:
    """Return why states of other ranks and settings are refused; everything stays."""
    mesh = mesh_of()

    def state_of(momentum: float) -> Any:
        model = sharded(mesh["shard"])
        found = dt.compress_fsdp(model, mesh["replicate"], density="10%", momentum=momentum)
        backward(model, 0)
        return found

    state = state_of(0.9)
    place = (saved := state.state_dict())["place"]
    again = state_of(0.9)
    before = copy.deepcopy(again.state_dict())
    found = []
    for change in ({"rank": 1 - place["rank"]}, {"shard": 1 - place["shard"]}, {"num_shards": 4}):
        other = {**saved, "place": {**place, **change}}
        found.append(message(partial(again.load_state_dict, other)))
    assert again.step == 1
    for name, sections in again.state_dict()["parameters"].items():
        for section, tensor in sections.items():
            assert tensor.equal(before["parameters"][name][section])
    found.append(message(lambda: state_of(0.5).load_state_dict(saved)))
    found.append(message(lambda: copy.deepcopy(state)))
    return found


def test_states_of_other_ranks_and_settings_are_refused(cluster):
    for found in cluster.run(4, told_apart):
        assert all("each rank has a state of its own" in text for text in found[:3])
        assert "momentum 0.9, expected 0.5 as here" in found[3]
        assert "use state_dict()" in found[4]


def shared_out(group: Any) -> tuple[float, bool]:
    """Return what is lost when a replica's state goes to the other; True if cuts are refused."""
    mesh = mesh_of()
    model = sharded(mesh["shard"])
    state = dt.compress_fsdp(model, mesh["replicate"], density="10%")
    for step in range(3):
        backward(model, step)
        model.zero_grad()
    own: Any = state.state_dict()
    states: list[Any] = [None] * 4
    dist.all_gather_object(states, own, group)
    # As if all of them had been replicas of two more machines.
    more = [
        *states,
        *({**s, "place": {**s["place"], "rank": s["place"]["rank"] + 2}} for s in states),
    ]
    found = state.state_for(more, dist.get_rank(), 4)
    worst = 0.0
    for name, sections in own["parameters"].items():
        for section in set(sections) & {"residual", "velocity"}:
            twice = found["parameters"][name][section] - 2 * sections[section]
            worst = max(worst, float(twice.abs().max()) if twice.numel() else 0.0)
    state.load_state_dict(found)
    cut = [{**s, "place": {**s["place"], "num_shards": 3}} for s in states]
    refused = "only the number of replicas may change"
    return worst, refused in message(lambda: state.state_for(cut, 0, 4))


def test_another_number_of_replicas_goes_on_with_all_that_was_not_sent(cluster):
    assert cluster.run(4, shared_out) == [(0.0, True)] * 4


def error_of(_: Any, kind: str, density: float) -> str:
    """Let one replica go another way after two steps; return the error."""
    mesh = mesh_of()
    model = sharded(mesh["shard"])
    state = dt.compress_fsdp(
        model, mesh["replicate"], density=density, timeout=timedelta(seconds=30)
    )
    for step in range(4):
        if step == 2 and mesh["replicate"].get_local_rank() == 1:
            if kind == "frozen":
                model.last.weight.requires_grad_(False)
            else:
                state.step = 1
        try:
            backward(model, step)
        except RanksDifferError as error:
            return str(error)
        model.zero_grad()
    return ""


@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize("kind", ["frozen", "step"])
def test_a_replica_that_goes_another_way_is_named_on_all(cluster, kind, density):
    expected = {
        "frozen": ("last.weight is ", "trained", "on rank 1"),
        "step": ("step is 1 on rank 1, 2 on rank 0",),
    }
    for text in cluster.run(4, error_of, kind, density):
        assert all(part in text for part in expected[kind])
