"""Jobs for `test_differing`: scripts that go other ways on one rank."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

import dgc_topo as dt
from dgc_topo.runtime import RanksDifferError
from tests.training.optimizer.training import Net, begin, data, loss_of, sgd

LONG = timedelta(seconds=30)  #: for nobody to wait


def error_of(
    group: dist.ProcessGroup, make: Any, options: Mapping[str, Any], kind: str, odd: int
) -> tuple[str, int]:
    """Train, and do something on one rank after two steps; return the error, and the steps."""
    model, optimizer = begin(group, make, {**options, "timeout": LONG})
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    before = None
    for step in range(4):
        if step == 1:
            before = optimizer.state_dict()
        if step == 2 and rank == odd:
            change(kind, model, optimizer, before)
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        try:
            optimizer.step()
        except RanksDifferError as error:
            return str(error), optimizer.steps
    return "", optimizer.steps


def change(kind: str, model: Net, optimizer: Optimizer, before: Any) -> None:
    if kind == "frozen":
        model.last.weight.requires_grad_(False)
    elif kind == "loaded":
        optimizer.load_state_dict(before)
    elif kind == "set":
        torch.nn.init.ones_(model.last.weight)
    elif kind == "rate":
        optimizer.param_groups[0]["lr"] = 0.5


def head_only(model: torch.nn.Module) -> Optimizer:
    """Train one layer, to which another may be added."""
    return torch.optim.SGD(model.get_submodule("last").parameters(), lr=0.01)


def added(group: dist.ProcessGroup, density: float, odd: int | None) -> tuple[str, bool]:
    """Add a layer on one rank alone, or None for all; return the error, and if it was trained."""
    model = Net()
    optimizer = dt.DistributedOptimizer(
        head_only(model), model, "tree", density, group=group, timeout=LONG
    )
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    before = model.first.weight.detach().clone()
    for step in range(4):
        if step == 2 and odd in {None, rank}:
            optimizer.add_param_group({"params": model.first.parameters(), "lr": 0.01})
        model.zero_grad()
        loss_of(model, given, step, rank).backward()
        try:
            optimizer.step()
        except RanksDifferError as error:
            return str(error), False
    return "", not torch.equal(before, model.first.weight)


def made_with_others(group: dist.ProcessGroup) -> list[str]:
    """Make optimizers with other rates, settings and rules on rank 1; return the errors."""
    is_odd, found = dist.get_rank(group) == 1, []
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"clip_norm": 1.0}, {"clip_norm": 2.0}),
        ({"averaging": "diloco:every=2"}, {"averaging": "diloco:every=3"}),
    ]
    for settings, differences in cases:
        model = Net()
        own = sgd(model)
        if is_odd and not settings:
            own.param_groups[1]["lr"] = 0.4
        chosen = {**settings, **(differences if is_odd else {})}
        try:
            dt.DistributedOptimizer(own, model, group=group, timeout=LONG, **chosen)
        except RanksDifferError as error:
            found.append(str(error))
    return found


def scheduled(group: dist.ProcessGroup) -> int:
    """Train with rates that change in every step, alike on all but in their last digits."""
    model = Net()
    own = sgd(model)
    optimizer = dt.DistributedOptimizer(own, model, "ring", 0.1, group=group, timeout=LONG)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        for each in own.param_groups:
            each["lr"] = 0.1 / (step + 1) * (1 + rank * 1e-15)
        optimizer.step()
    return optimizer.steps
