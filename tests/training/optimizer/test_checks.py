"""Optimizers beside a hook: those that count momentum twice are refused, poor ones warned of."""

import gc
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

import dgc_topo as dt
from dgc_topo.training.optimizer.checks import watch_optimizers


class Owner:
    """Stands for a hook's state."""


def model_with_gradients() -> nn.Linear:
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    return model


@pytest.fixture
def model():
    return model_with_gradients()


@pytest.fixture
def owner():
    return Owner()


def watch(owner: Owner, model: nn.Module, momentum: float = 0.0, *, is_sparse: bool = True) -> None:
    watch_optimizers(owner, dict(model.named_parameters()), momentum=momentum, is_sparse=is_sparse)


def test_momentum_in_both_is_refused_at_the_first_step_before_anything_moves(owner, model):
    watch(owner, model, 0.9)
    before = model.weight.detach().clone()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(2):  # also if the first error was caught
        with pytest.raises(
            ValueError, match=r"momentum 0.9 in parameter group 0.*count twice; momentum belongs"
        ):
            optimizer.step()
    with pytest.raises(ValueError, match=r"AdamW has momentum 0\.9"):
        AdamW(model.parameters()).step()
    assert torch.equal(model.weight, before)
    SGD(model.parameters(), 0.1).step()


def test_momentum_that_comes_back_later_is_refused_with_what_to_do(owner, model):
    watch(owner, model, 0.9)
    optimizer = SGD(model.parameters(), 0.1)
    optimizer.step()
    had = SGD(model.parameters(), 0.1, momentum=0.9).state_dict()
    for bring_back in (
        lambda: optimizer.load_state_dict(had),
        lambda: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10),
    ):
        bring_back()
        with pytest.raises(ValueError, match=r"cycle_momentum=False.*load_state_dict.*before"):
            optimizer.step()
        optimizer.param_groups[0]["momentum"] = 0
        optimizer.step()


def test_a_scaler_of_the_loss_that_the_hook_does_not_know_is_refused(owner, model):
    watch(owner, model)
    optimizer = SGD(model.parameters(), 0.1)
    before = model.weight.detach().clone()

    def step(**scaling):
        scaler = torch.amp.GradScaler("cpu", **scaling)
        scaler.scale(model(torch.ones(1, 3)).sum()).backward()
        scaler.step(optimizer)

    with pytest.raises(ValueError, match=r"a GradScaler scales the loss, expected scaler="):
        step()
    assert torch.equal(model.weight, before)
    step(enabled=False)
    told, owner_of_told = model_with_gradients(), Owner()
    scaler = torch.amp.GradScaler("cpu")
    watch_optimizers(
        owner_of_told,
        dict(told.named_parameters()),
        momentum=0.0,
        is_sparse=True,
        scaler=scaler,
    )
    model, optimizer = told, SGD(told.parameters(), 0.1)
    with pytest.raises(ValueError, match="another GradScaler scales the loss"):
        step()
    scaler.scale(model(torch.ones(1, 3)).sum()).backward()
    scaler.step(optimizer)


def test_momentum_after_compressed_gradients_is_warned_of_once(owner, model):
    watch(owner, model)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    with pytest.warns(UserWarning, match=r"momentum 0\.9 after.*optimizer=optimizer"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_only_groups_that_the_hook_averages_are_looked_at(owner, model):
    watch(owner, model, 0.9)
    other = model_with_gradients()
    groups = [{"params": model.parameters()}, {"params": other.parameters(), "momentum": 0.9}]
    SGD(groups, 0.1).step()
    SGD(other.parameters(), 0.1, momentum=0.9).step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdamW(other.parameters()).step()


@pytest.mark.parametrize("kind", [AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_adaptive_optimizer_on_compressed_gradients_is_warned_of_once(owner, model, kind):
    watch(owner, model)
    optimizer = kind(model.parameters())
    with pytest.warns(UserWarning, match=f"{kind.__name__} after.*dt.DistributedOptimizer"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_nothing_is_said_where_gradients_are_dense(owner, model):
    watch(owner, model, is_sparse=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdamW(model.parameters()).step()
        SGD(model.parameters(), 0.1, momentum=0.9).step()


def test_the_watch_ends_with_its_owner(model):
    owner = Owner()
    watch(owner, model, 0.9)
    del owner
    gc.collect()
    SGD(model.parameters(), 0.1, momentum=0.9).step()


@pytest.mark.usefixtures("alone")
def test_averaging_twice_is_refused(owner, model):
    watch(owner, model)
    optimizer = dt.DistributedOptimizer(SGD(model.parameters(), 0.1), model)
    with pytest.raises(ValueError, match=r"averages what dt\.hook has averaged already"):
        optimizer.step()
