"""The facade is an optimizer like any other, and refuses what cannot work, with the reason."""

import copy
import logging
import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR, StepLR

import dgc_topo as dt
from tests.training.optimizer.snapshots import alike

pytestmark = pytest.mark.usefixtures("alone")


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))


def backward(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(torch.ones(2, 6)).square().sum()
    loss.backward()
    return loss


def wrapped(kind: Any = SGD, density: float = 0.5, **settings):
    model = net()
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    return model, optimizer, dt.DistributedOptimizer(optimizer, model, "ring", density)


def test_without_a_process_group_nothing_trains_alone_by_mistake():
    torch.distributed.destroy_process_group()
    model = net()
    with pytest.raises(ValueError, match=r"no process group, expected.*init_process_group"):
        dt.DistributedOptimizer(SGD(model.parameters(), 0.1), model)
    torch.distributed.init_process_group(
        "gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1
    )


@pytest.mark.parametrize(
    ("kind", "density", "rule"),
    [
        (SGD, 1, "average"),
        (AdamW, 1.0, "average"),
        (SGD, "10%", "momentum correction"),
        (AdamW, 0.1, "update"),
        (torch.optim.Adagrad, 0.1, "update"),
        (type("MySGD", (SGD,), {}), 0.1, "update"),
    ],
)
def test_the_rule_follows_from_optimizer_and_density(kind, density, rule, caplog):
    with caplog.at_level(logging.INFO, "dgc_topo"):
        _, _, optimizer = wrapped(kind, density)
    assert optimizer.rule == rule
    assert rule in repr(optimizer)
    assert rule in caplog.text
    assert ("0.weight" in caplog.text) == (rule in {"momentum correction", "update"})


def settings_of(name: str, value: object):
    return pytest.param(SGD, {"density": 0.1, name: value}, f"{name}", id=f"{name}={value}")


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        settings_of("momentum", 0.5),
        settings_of("weight_decay", 0.5),
        settings_of("warm_up_epochs", 3),
        settings_of("warm_up_steps", -1),
        settings_of("warm_up", "paper"),
        settings_of("clip_norm", 0),
        settings_of("selektion", "exact"),
        pytest.param(SGD, {"density": 0}, "density", id="density=0"),
        pytest.param(SGD, {"topology": "rong"}, "rong", id="topology"),
        pytest.param(AdamW, {"density": 0.1, "masking": False}, "masking", id="masking"),
        pytest.param(AdamW, {"density": 0.1, "warm_up": "paper", "warm_up_steps": 5}, "warm_up"),
        pytest.param(AdamW, {"density": 0.1, "look_ahead": 2}, "look_ahead = 2: expected"),
        pytest.param(SGD, {"density": 0.1, "look_ahead": 0.5}, "look_ahead 0.5, expected 0"),
        pytest.param(torch.optim.LBFGS, {}, "several times in a step", id="LBFGS"),
        pytest.param(torch.optim.SparseAdam, {}, "sparse gradients", id="SparseAdam"),
        pytest.param(
            SGD,
            {"topology": "gossip:graph=ring", "density": 0.1},
            r"density 0.1 over gossip.*expected 1",
            id="sparse gossip",
        ),
        pytest.param(SGD, {"averaging": "dilocco"}, "did you mean 'diloco'", id="averaging"),
        pytest.param(SGD, {"averaging": "d-psgd"}, "d-psgd over ring.*expected", id="misfit"),
        pytest.param(
            AdamW,
            {"averaging": "gradients", "density": 0.1},
            "expected updates or sparse-loco",
            id="compressed gradients",
        ),
        pytest.param(
            AdamW,
            {"averaging": "sparse-loco", "density": 0.1, "masking": False},
            "masking = False with averaging sparse-loco",
            id="masking of changes",
        ),
        pytest.param(
            SGD, {"averaging": "local-sgd", "look_ahead": 0.5}, "have one of their own", id="ahead"
        ),
    ],
)
def test_what_cannot_work_is_refused(kind, options, reason):
    model = net()
    optimizer = kind(model.parameters())
    with pytest.raises(ValueError, match=reason):
        dt.DistributedOptimizer(optimizer, model, **options)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"momentum": 0.9, "dampening": 0.1}, "dampening = 0.1"),
        ({"momentum": 0.9, "maximize": True}, "maximize = True"),
    ],
)
def test_sgd_that_dgc_does_not_know_is_refused_below_density_1(settings, reason):
    with pytest.raises(ValueError, match=reason):
        wrapped(SGD, 0.1, **settings)
    wrapped(SGD, 1, **settings)
    model = net()
    groups: list[dict[str, Any]] = [
        {"params": model[0].parameters(), "momentum": 0.5},
        {"params": model[2].parameters()},
    ]
    with pytest.raises(ValueError, match="expected one for all"):
        dt.DistributedOptimizer(SGD(groups, 0.1), model, density=0.1)


@pytest.mark.parametrize(
    ("buffer", "reason"),
    [
        (torch.empty(2, device="meta"), "'1.odd' is on meta, expected memory"),
        (torch.eye(3).to_sparse(), "'1.odd' is torch.sparse_coo, expected a dense tensor"),
        (nn.UninitializedBuffer(), "'1.odd' has no shape yet"),
    ],
    ids=["meta", "sparse", "lazy"],
)
def test_buffers_that_cannot_be_made_equal_are_refused_by_name(buffer, reason):
    model = net()
    model[1].register_buffer("odd", buffer)
    with pytest.raises(ValueError, match=reason):
        dt.DistributedOptimizer(SGD(model.parameters(), 0.1), model)


def test_wrapped_models_and_strange_parameters_are_refused():
    model, other = net(), net()
    with pytest.raises(
        ValueError, match="4 of the optimizer's parameters are not those of the model"
    ):
        dt.DistributedOptimizer(SGD(other.parameters(), 0.1), model)
    ddp = DistributedDataParallel(model)
    with pytest.raises(ValueError, match="DistributedDataParallel, which averages"):
        dt.DistributedOptimizer(SGD(ddp.parameters(), 0.1), ddp)
    with pytest.raises(ValueError, match=r"optimizer is Sequential.*expected"):
        dt.DistributedOptimizer(model, model)  # type: ignore[arg-type]
    optimizer = dt.DistributedOptimizer(SGD(model.parameters(), 0.1), model)
    with pytest.raises(ValueError, match="averages already"):
        dt.DistributedOptimizer(optimizer, model)
    with pytest.raises(ValueError, match="1 of the optimizer's"):
        optimizer.add_param_group({"params": other[0].weight})


def test_a_momentum_that_changes_is_refused_before_anything_is_touched():
    model, _, optimizer = wrapped(SGD, 0.5, momentum=0.9)
    before = copy.deepcopy(model.state_dict())
    backward(model)
    OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    with pytest.raises(ValueError, match=r"momentum is 0\.95 now.*cycle_momentum=False"):
        optimizer.step()
    assert alike(before, model.state_dict())
    for group in optimizer.param_groups:
        group["momentum"] = 0.9
    optimizer.step()
    assert not alike(before, model.state_dict())


@pytest.mark.parametrize("density", [1, 0.5])
def test_schedules_see_its_steps_whichever_optimizer_they_were_made_for(density):
    """A warning of "step before step" would be an error here."""
    for number in (1, 2):
        model, own, optimizer = wrapped(SGD, density, momentum=0.9)
        schedule = StepLR([own, optimizer][number - 1], 1, 0.1)
        backward(model)
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == own.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_a_closure_is_called_once_and_its_loss_returned(kind):
    model, _, optimizer = wrapped(kind)
    calls = []

    def closure() -> float:
        optimizer.zero_grad()
        calls.append(1)
        return backward(model).item()

    first, second = optimizer.step(closure), optimizer.step(closure)
    assert len(calls) == 2
    assert second < first


def test_hooks_groups_and_state_are_those_of_an_optimizer():
    model, own, optimizer = wrapped(AdamW, 1)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "mine": 1})
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("saving"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    backward(model)
    optimizer.step()
    assert isinstance(optimizer, Optimizer)
    assert optimizer.state[model[0].weight]["step"] == 1
    state = optimizer.state_dict()
    assert state["mine"] == 1
    optimizer.load_state_dict(state)
    assert seen == ["before", "after", "saving", "loading", "loaded"]
    assert optimizer.param_groups is own.param_groups
    assert optimizer.state is own.state
    optimizer.zero_grad()
    assert model[0].weight.grad is None


def test_it_cannot_be_copied_with_its_connections():
    _, _, optimizer = wrapped()
    with pytest.raises(TypeError, match=r"use state_dict\(\)"):
        pickle.dumps(optimizer)


def test_momentum_gathered_before_goes_on_in_the_compressor():
    """That of an optimizer that has trained, and that of its snapshot."""
    model = net()
    plain = SGD(model.parameters(), lr=0.1, momentum=0.9)
    backward(model)
    plain.step()
    saved = copy.deepcopy(plain.state_dict())
    buffers = {name: plain.state[p]["momentum_buffer"] for name, p in model.named_parameters()}
    first = dt.DistributedOptimizer(plain, model, density=0.5)
    second = dt.DistributedOptimizer(
        SGD(model.parameters(), lr=0.1, momentum=0.9), model, density=0.5
    )
    second.load_state_dict(saved)
    for optimizer in (first, second):
        compressor = optimizer.state_dict()["dgc_topo"]["compressor"]
        found = {**compressor["velocity"], **compressor["momentum"]}
        assert alike(found, {name: buffers[name] for name in found})
        assert found.keys() == buffers.keys()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("option", [{"masking": False}, {"momentum_correction": False}], ids=str)
def test_momentum_gathered_before_is_worth_the_same_in_the_compressor(nesterov, option):
    """Whatever the compressor does with it: all is sent here, so training goes on as before."""
    ends = []
    for changes_over in (False, True):
        model = net()
        optimizer: Optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=nesterov)
        for step in range(6):
            if changes_over and step == 3:
                optimizer = dt.DistributedOptimizer(optimizer, model, density=0.9999, **option)
            optimizer.zero_grad()
            backward(model)
            optimizer.step()
        ends.append({name: each.detach() for name, each in model.named_parameters()})
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-6) for name in ends[0])


def test_a_snapshot_of_another_rule_or_model_is_refused_and_changes_nothing():
    model, _, optimizer = wrapped(SGD, 0.5, momentum=0.9)
    backward(model)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    _, _, other_rule = wrapped(SGD, 1, momentum=0.9)
    other_model = nn.Linear(6, 5)
    other = dt.DistributedOptimizer(
        SGD(other_model.parameters(), lr=0.1, momentum=0.9), other_model, density=0.5
    )
    broken = {**before, "param_groups": []}
    own = before["dgc_topo"]
    lame = {**before, "dgc_topo": {**own, "steps": "many"}}
    empty = {**before, "dgc_topo": {k: v for k, v in own.items() if k != "compressor"}}
    only_there = "parameters 'bias' only in the snapshot, 'weight' only in the snapshot, "
    expected = ["rule 'average'", only_there, "param", "steps", "compressor"]
    states = [other_rule.state_dict(), other.state_dict(), broken, lame, empty]
    for state, reason in zip(states, expected, strict=True):
        with pytest.raises(ValueError, match=re.escape(reason)):
            optimizer.load_state_dict(state)
        assert alike(before, optimizer.state_dict())


def test_all_parameters_frozen_is_an_error():
    model, _, optimizer = wrapped()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameters, expected at least one"):
        optimizer.step()


@pytest.mark.parametrize(("kind", "density"), [(SGD, 1), (SGD, 0.5), (AdamW, 0.5)])
def test_the_first_skipped_step_is_told_where_no_scaler_expects_it(kind, density):
    model, _, optimizer = wrapped(kind, density)
    with pytest.warns(UserWarning, match="not finite in step 0.*skipped"):
        step_with_nan(model, optimizer)
    step_with_nan(model, optimizer)
    assert (optimizer.steps, optimizer.skipped_steps) == (2, 2)

    model, _, optimizer = wrapped(kind, density)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.full((1, 6), torch.inf)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert (optimizer.skipped_steps, scaler.get_scale()) == (1, 2**15)


def step_with_nan(model: nn.Module, optimizer: Optimizer) -> None:
    model(torch.full((1, 6), torch.nan)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(("kind", "density"), [(SGD, 1), (SGD, 0.5), (AdamW, 0.5)])
def test_a_frozen_layer_stays_though_it_has_a_gradient_from_before(kind, density):
    """That gradient is of one rank alone; the layer would come apart."""
    model, _, optimizer = wrapped(kind, density)
    backward(model)
    before = copy.deepcopy(model[0].state_dict())
    model[0].requires_grad_(False)
    optimizer.step()
    assert alike(before, model[0].state_dict())


@pytest.mark.parametrize(("kind", "density"), [(SGD, 0.5), (AdamW, 0.5), (SGD, 1)])
def test_what_another_rank_has_not_sent_is_refused(kind, density):
    """At density 1 nothing waits: a snapshot of rank 0 is for all."""
    model, _, optimizer = wrapped(kind, density)
    backward(model)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    if density == 1:
        assert "place" not in saved["dgc_topo"]
        return
    for place in ({"rank": 0, "world_size": 2}, {"rank": 1, "world_size": 1}, None):
        other = {**saved, "dgc_topo": {**saved["dgc_topo"], "place": place}}
        with pytest.raises(ValueError, match=r"each rank has a state of its own.*dt\.load"):
            optimizer.load_state_dict(other)
        assert alike(optimizer.state_dict(), saved)
    pair = [
        {**saved, "dgc_topo": {**saved["dgc_topo"], "place": {"rank": rank, "world_size": 2}}}
        for rank in range(2)
    ]
    optimizer.load_state_dict(optimizer.state_for(pair, 0, 1))
