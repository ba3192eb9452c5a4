"""Jobs for `test_snapshots`: trainings that stop and go on, on every rank of a group."""

import copy
import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

import dgc_topo as dt
from tests.training.optimizer.training import STEPS, Net, begin, data, loss_of, weights_of

Make = Callable[[nn.Module], Optimizer]
Options = Mapping[str, Any]


def alike(one: Any, other: Any) -> bool:
    """Return True if two snapshots are equal bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def resumed(
    group: dist.ProcessGroup, make: Make, options: Options, device: str = "cpu"
) -> tuple[bool, bool]:
    """Train without a stop, and stopped in the middle; return if weights and state are equal."""
    rank, given = dist.get_rank(group), data(dist.get_world_size(group), device=device)

    def go_on(model: Net, optimizer: "dt.DistributedOptimizer", steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            loss_of(model, given, step, rank).backward()
            optimizer.step()

    model, optimizer = begin(group, make, options, device)
    go_on(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    go_on(model, optimizer, range(3, STEPS))

    file.seek(0)
    found = torch.load(file, weights_only=True)
    again, its_optimizer = begin(group, make, options, device)
    again.load_state_dict(found["model"])
    its_optimizer.load_state_dict(found["optimizer"])
    go_on(again, its_optimizer, range(3, STEPS))
    return (
        alike(weights_of(model), weights_of(again)),
        alike(optimizer.state_dict(), its_optimizer.state_dict()),
    )


def half_trained(
    group: dist.ProcessGroup, make: Make, options: Options
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and snapshot after a few steps, some of them with a layer frozen."""
    model, optimizer = begin(group, make, options)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    for step in range(3):
        model.first.requires_grad_(step < 2)
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        optimizer.step()
    return weights_of(model), optimizer.state_dict()


def gone_on(
    group: dist.ProcessGroup,
    make: Make,
    options: Options,
    weights: dict[str, Tensor],
    states: list[dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Go on from the snapshots of another number of ranks; return ours, before and after."""
    model, optimizer = begin(group, make, options)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    model.load_state_dict(weights, strict=False)
    own = copy.deepcopy(states)  # what came through the pipe is memory that all ranks share
    optimizer.load_state_dict(optimizer.state_for(own, rank, size))
    loaded = copy.deepcopy(optimizer.state_dict())
    loss_of(model, data(size), 0, rank).backward()
    optimizer.step()
    return loaded, weights_of(model)


def between_exchanges(
    group: dist.ProcessGroup, make: Make, options: Options, steps: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and snapshot after some steps."""
    model, optimizer = begin(group, make, options)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        optimizer.step()
    return weights_of(model), optimizer.state_dict()


def gone_on_between(
    group: dist.ProcessGroup,
    make: Make,
    options: Options,
    weights: dict[str, Tensor],
    states: list[dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Go on as another number of ranks: snapshot and weights at first, and shared ones later."""
    model, optimizer = begin(group, make, options)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    model.load_state_dict(weights, strict=False)
    optimizer.load_state_dict(optimizer.state_for(copy.deepcopy(states), rank, size))
    first = copy.deepcopy(optimizer.state_dict()), weights_of(model)
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, data(size), step, rank).backward()
        optimizer.step()
    with optimizer.shared_parameters():
        return *first, weights_of(model)
