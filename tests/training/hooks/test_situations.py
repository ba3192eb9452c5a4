"""Situations that training scripts bring about, beside what a hook does in them."""

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore

import dgc_topo as dt
from dgc_topo.compression.resharding import state_for
from tests.training.hooks import jobs


def test_scaling_the_loss_changes_no_bit(workers):
    """Residuals are in the units of the gradient, whatever the scale was when they arose."""
    assert workers.run(3, jobs.scales) == [[0.0]] * 3


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_saved_state_goes_on_bit_for_bit_in_other_buckets(workers, optimizer):
    assert workers.run(2, jobs.resumed, optimizer) == [0.0] * 2


def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded(alone):
    state = dt.HookState(net(), momentum=0.9)
    zeros = {"velocity": torch.zeros(30, 30), "residual": torch.zeros(30, 30)}
    fits = {**state.state_dict(), "step": 7, "parameters": {"0.weight": zeros}}
    for wrong, message in (
        ({}, "of another kind"),
        ({**fits, "step": -1}, "step"),
        ({**fits, "parameters": None}, "no parameters"),
        ({**fits, "parameters": {"other": {}}}, "'other'"),
        ({**fits, "parameters": {"0.bias": zeros}}, "velocity of '0.bias' does not fit"),
        ({**fits, "parameters": {"0.weight": {"weight": zeros}}}, "'0.weight', expected tensors"),
    ):
        with pytest.raises(ValueError, match=message):
            state.load_state_dict(wrong)
        assert state.state_dict()["parameters"] == {}
        assert state.step == 0
    state.load_state_dict(fits)
    assert state.step == 7
    parameters: Any = state.state_dict()["parameters"]
    assert parameters["0.weight"]["velocity"].shape == (30, 30)


def test_a_state_whose_momentum_or_residual_has_no_place_is_refused(alone):
    """Momentum that moved into a hook is 0 in the optimizer's snapshot, and so in the next hook."""
    model = net()
    made = optimizer(model, momentum=0.9)
    state = dt.HookState(model, density=0.1, optimizer=made)
    ones = {"velocity": torch.ones(30, 30), "residual": torch.ones(30, 30)}
    saved = {**state.state_dict(), "step": 7, "parameters": {"0.weight": ones}}
    for settings in (
        {"density": 0.1, "optimizer": optimizer(model)},
        {"density": 0.1, "momentum": 0.9, "momentum_correction": False},
        {"density": 1.0},
    ):
        other = dt.HookState(model, **settings)
        with pytest.raises(ValueError, match=r"'velocity'\] of '0.weight', expected tensors by"):
            other.load_state_dict(saved)
        assert (other.step, other.state_dict()["parameters"]) == (0, {})
    state.load_state_dict(saved)
    assert state.step == 7


@pytest.mark.parametrize("density", [0.1, 1.0])
def test_sparse_gradients_are_refused_where_they_are_trained(alone, density):
    words = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"layer '0' has sparse gradients, expected sparse=False"):
        dt.HookState(words, density=density)
    words[0].requires_grad_(False)
    dt.HookState(words, density=density)


def test_a_state_goes_on_with_its_momentum_and_on_its_rank_or_is_refused(alone):
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = net()
        return model, optimizer(model, momentum=0.9, weight_decay=0.1)

    model, first = made()
    saved = dt.HookState(model, optimizer=first).state_dict()
    for other in ({"momentum": 0.5}, {"momentum": 0.9, "weight_decay": 0.2}, {}):
        state = dt.HookState(model, optimizer=optimizer(model, **other))
        with pytest.raises(ValueError, match=r"expected \S+.* as here.*only then load"):
            state.load_state_dict(saved)
    model, loaded = made()
    state = dt.HookState(model, optimizer=loaded)
    loaded.load_state_dict(first.state_dict())
    state.load_state_dict(saved)
    foreign = {**saved, "place": {"rank": 1, "world_size": 2}}
    with pytest.raises(ValueError, match=r"'rank': 1.*expected.*'rank': 0.*dt\.load"):
        state.load_state_dict(foreign)
    pair = [{**saved, "place": {"rank": rank, "world_size": 2}} for rank in range(2)]
    state.load_state_dict(state_for(pair, 0, 1))  # for another number of ranks


def test_momentum_that_moved_before_goes_on_in_the_next_hook_which_says_so(alone, caplog):
    """Also of an optimizer whose snapshot was loaded before the hook was made."""
    model = net()
    settings: dict[str, Any] = {"momentum": 0.9, "nesterov": True}
    groups: list[dict[str, Any]] = [
        {"params": model[0].parameters(), "weight_decay": 0.1},
        {"params": model[1].parameters()},
    ]
    made = torch.optim.SGD(groups, lr=0.1, **settings)
    saved = dt.HookState(model, density=0.1, optimizer=made).state_dict()
    again = torch.optim.SGD([{"params": g["params"]} for g in made.param_groups], lr=0.1)
    again.load_state_dict(made.state_dict())
    for each in (made, again):
        caplog.clear()
        state = dt.HookState(model, density=0.1, optimizer=each)
        assert "moved into another HookState before" in caplog.text
        assert "unless its state_dict() is loaded here" in caplog.text
        assert (state.config.momentum, state.config.nesterov) == (0.9, True)
        assert state.state_dict()["settings"] == saved["settings"]
        state.load_state_dict(saved)
        assert {group["momentum"] for group in each.param_groups} == {0}


def test_a_state_can_be_neither_copied_nor_pickled_and_says_so(alone):
    model = net()
    ddp = nn.parallel.DistributedDataParallel(model)
    state = dt.HookState(ddp)
    ddp.register_comm_hook(state, dt.hook)
    for make in (copy.deepcopy, pickle.dumps):
        for each in (state, ddp):
            with pytest.raises(TypeError, match=r"HookState: has connections.*use state_dict\(\)"):
                make(each)
    copy.deepcopy(ddp.module)
    del ddp


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_that_an_optimizer_has_collected_moves_along(workers, nesterov):
    assert max(workers.run(3, jobs.taken_over, nesterov)) < 1e-6


def test_a_step_is_one_step_however_many_buckets_and_backward_passes(workers):
    (found,) = workers.run(1, jobs.entries_by_step)
    assert found == [2500] * 2 + [625] * 2 + [156] * 2 + [40] * 2 + [10] * 2


def test_hooks_of_several_models_and_groups_do_not_meet(workers):
    assert workers.run(3, jobs.several) == [0.0] * 3


def test_a_failure_reaches_the_user_and_nothing_goes_on_after_it(workers):
    for found in workers.run(2, jobs.errors, "lost"):
        first, *others = found
        assert "ConnectionError: rank 1 is gone" in first
        assert "step 2" in first
        assert len(others) == 1
        assert "failed before" in others[0]
        assert "rank 1 is gone" in others[0]


def test_ranks_with_other_settings_are_told_before_anything_is_changed(workers):
    expected = "density is 0.2 on rank 1, 0.1 on ranks 0, 2", "lr of parameter group 0 is 0.3 on "
    for found in workers.run(3, jobs.made_with_others):
        assert all(text in each for text, each in zip(expected, found[:2], strict=True))
        assert found[2] == "0.8"  # momentum that stayed in the optimizer


def test_a_rank_at_another_step_is_named_on_all(workers):
    """As after a state that was loaded there alone."""
    for found in workers.run(2, jobs.errors, "another step"):
        assert "step is 1 on rank 1, 2 on rank 0" in found[0]


@pytest.mark.parametrize(
    ("kind", "told", "steps"),
    [
        ("rate", "lr of parameter group 0 is 0.5 on rank 1, 0.1 on ranks 0, 2", "333"),
        ("no_sync", "optimizer steps is 3 on rank 1, 2 on ranks 0, 2", "232"),
        ("left out", "optimizer steps is 2 on rank 1, 3 on ranks 0, 2", "333"),
        ("nothing", "", "nnn"),
    ],
)
def test_a_rank_whose_parameters_part_is_named_on_all_in_the_next_pass(workers, kind, told, steps):
    found = workers.run(3, jobs.parting, kind)
    assert "".join(each[0] for each in found) == steps
    assert all(told in each for each in found)


def test_at_density_1_a_rank_at_another_step_is_named_if_steps_differ_in_their_schedules(workers):
    found = workers.run(2, jobs.another_step_at_density_1)
    for changes, same in found:
        assert "step is 1 on rank 1, 2 on rank 0" in changes
        assert same == ""


def test_a_gradient_that_was_averaged_before_is_refused(workers):
    for found in workers.run(2, jobs.errors, "no zero_grad"):
        assert (
            "gradients that were averaged in an earlier backward pass are still there" in found[0]
        )
        assert len(found) == 3


@pytest.fixture
def alone():
    """Make a group of this process alone."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 3))


def optimizer(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"averaging": "diloco"}, "averages gradients in every step; expected dt.Distributed"),
        ({"clip_norm": 1.0}, "clip_norm is set, but the norm of the whole gradient is known only"),
        ({"scope": "model"}, "scope 'model' selects from the whole gradient"),
        ({"warm_up_epochs": 3}, "warm_up_epochs is set, but a hook sees steps"),
        ({"warm_up": "paper"}, "warm_up 'paper' with warm_up_steps 0"),
        ({"warm_up": "none", "warm_up_steps": 9}, "warm_up 'none' with warm_up_steps 9"),
        ({"warm_up_steps": -1}, "warm_up_steps"),
        ({"density": 1.0, "momentum": 0.9}, "momentum 0.9 at density 1"),
        ({"density": 2.0}, "density"),
        ({"momentun": 0.9}, "did you mean 'momentum'"),
        ({"warmup_steps": 5}, "did you mean 'warm_up_steps'.*one of (?!.*clip_norm).*momentum"),
        ({"topology": "gossip"}, "is doubly-stochastic, expected an all-reduce"),
        ({"topology": "rong"}, "ring"),
        ({"optimizer": 3}, "optimizer is int, expected a torch.optim.Optimizer"),
        ({"scaler": 1024.0}, "scaler is float, expected a torch.amp.GradScaler"),
        ({"timeout": 5}, "timeout 5, expected a datetime.timedelta"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused(alone, settings, message):
    with pytest.raises(ValueError, match=message):
        dt.HookState(net(), **settings)


def test_an_optimizer_that_cannot_give_up_its_momentum_is_refused_unchanged(alone):
    model, other = net(), net()
    first, second = list(model[0].parameters()), list(model[1].parameters())
    mixed = optimizer(nn.Sequential(model, other), momentum=0.9)
    halves: list[dict[str, Any]] = [{"params": first, "momentum": 0.5}, {"params": second}]
    groups = torch.optim.SGD(halves, lr=0.1)
    refused: list[tuple[torch.optim.Optimizer, dict[str, Any], str]] = [
        (mixed, {}, "holds parameters of the model and others"),
        (groups, {}, "parameter groups with momentum 0, 0.5"),
        (optimizer(model, momentum=0.9, dampening=0.1), {}, "SGD with dampening = 0.1"),
        (optimizer(model, momentum=0.9), {"momentum": 0.5}, "momentum 0.5 and that of the opt"),
        (optimizer(other), {}, "holds no parameter of the model"),
    ]
    for made, settings, message in refused:
        before = [{**group, "params": []} for group in made.param_groups]
        with pytest.raises(ValueError, match=message):
            dt.HookState(model, optimizer=made, **settings)
        assert before == [{**group, "params": []} for group in made.param_groups]


def test_each_parameter_keeps_its_own_weight_decay(alone):
    model = net()
    biases = [each for each in model.parameters() if each.dim() == 1]
    weights = [each for each in model.parameters() if each.dim() > 1]
    groups = [{"params": biases, "weight_decay": 0.0}, {"params": weights, "weight_decay": 0.1}]
    made = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    ddp = nn.parallel.DistributedDataParallel(model)
    ddp.register_comm_hook(
        dt.HookState(ddp, density=0.9999, masking=False, optimizer=made), dt.hook
    )
    begun = [each.detach().clone() for each in model.parameters()]
    (0 * ddp(torch.ones(1, 30))).sum().backward()
    made.step()
    for before, parameter in zip(begun, model.parameters(), strict=True):
        factor = 0.9 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before)
    del ddp


def test_the_log_says_once_what_is_compressed_and_warns_if_nothing_is(alone, caplog):
    with caplog.at_level(logging.INFO, logger="dgc_topo.hook"):
        model = net()
        state = dt.HookState(model, density=0.01, optimizer=optimizer(model, momentum=0.9))
        assert len(caplog.records) == 2
        assert "compresses 2 of 4 tensors" in caplog.text
        assert "dense: 0.bias, 1.bias" in caplog.text
        assert "momentum 0.9 moved from the optimizer into DGC" in caplog.text
        caplog.clear()
        dt.HookState(nn.LayerNorm(5), density=0.01)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "Nothing is compressed" in record.getMessage()
    assert "0.weight" in state.describe()
