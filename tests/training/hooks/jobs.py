"""What the workers do in tests of hooks."""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dgc_topo as dt

SMALL = 0.002  # MB of a bucket: a layer or two


class Plain(nn.Module):
    """A network whose every parameter gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.LayerNorm(40))
        self.head = nn.Linear(40, 4)

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.body(inputs))


class Odd(nn.Module):
    """Tied, frozen and unused parameters, a convolution in channels-last format, running means."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Conv2d(2, 5, 3, padding=1)
        weight = self.picture.weight.detach().contiguous(memory_format=torch.channels_last)
        self.picture.weight = nn.Parameter(weight)
        self.norm = nn.BatchNorm2d(5)
        self.first, self.tied = nn.Linear(50, 50), nn.Linear(50, 50)
        self.tied.weight = self.first.weight
        self.frozen, self.unused = nn.Linear(50, 50), nn.Linear(50, 4)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(50, 4)

    def forward(self, inputs: Tensor) -> Any:
        pictures = inputs.view(-1, 2, 2, 5)
        hidden = self.norm(self.picture(pictures)).mean(2).flatten(1).repeat(1, 2)
        hidden = self.tied(torch.tanh(self.first(hidden)))
        return self.head(torch.tanh(hidden + self.frozen(hidden)))


class Trained(NamedTuple):
    """A model, with what trained it."""

    model: nn.Module
    parameters: dict[str, Tensor]
    state: Any  #: HookState, or None
    optimizer: torch.optim.Optimizer


def batches(rank: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets, other ones on each rank."""
    generator = torch.Generator().manual_seed(100 * seed + rank)
    while True:
        inputs = torch.randn(8, 20, generator=generator)
        yield inputs, inputs[:, :4].sin()


def trained(  # noqa: PLR0913
    group: dist.ProcessGroup,
    hook: dict[str, Any] | None = None,
    *,
    net: Callable[[], nn.Module] = Plain,
    optimizer: str = "SGD",
    settings: dict[str, Any] | None = None,
    steps: int = 20,
    micro_steps: int = 1,
    clip: float | None = None,
    **ddp: Any,
) -> Trained:
    """Train on the ranks of a group, with DDP's own all-reduce or with a hook."""
    torch.manual_seed(0)
    model = DistributedDataParallel(net(), process_group=group, **{"bucket_cap_mb": SMALL, **ddp})
    trains = [p for p in model.parameters() if p.requires_grad]
    settings = {"lr": 0.05, **(settings or {})}
    made = getattr(torch.optim, optimizer)(trains, **settings)
    state = None
    if hook is not None:
        state = dt.HookState(model, **{"optimizer": made, **hook})
        model.register_comm_hook(state, dt.hook)
    data = batches(dist.get_rank(group))
    for _ in range(steps):
        made.zero_grad()
        for micro in range(micro_steps):
            last = micro == micro_steps - 1
            with nullcontext() if last else model.no_sync():
                inputs, targets = next(data)
                (model(inputs) - targets).square().mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        made.step()
    parameters = {name: each.detach().clone() for name, each in model.module.named_parameters()}
    return Trained(model, parameters, state, made)


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the largest difference of two models."""
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def same_on_all(group: dist.ProcessGroup, parameters: dict[str, Tensor]) -> bool:
    """Return True if all ranks have the same bits."""
    flat = torch.cat([each.flatten() for each in parameters.values()])
    found = [torch.empty_like(flat) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, flat, group)
    return all(each.equal(flat) for each in found)


class Likeness(NamedTuple):
    """A run with a hook beside plain DDP.

    Attributes:
        difference: Largest difference of parameters.
        noise: The same between plain DDP and plain DDP with other buckets.
        same: True if all ranks ended with the same bits.
    """

    difference: float
    noise: float
    same: bool


def likeness(
    group: dist.ProcessGroup, hooks: list[dict[str, Any]], **settings: Any
) -> list[Likeness]:
    """Compare runs with hooks to plain DDP."""
    logging.getLogger("dgc_topo.hook").setLevel(logging.ERROR)
    plain = trained(group, **settings).parameters
    other = trained(group, **{**settings, "bucket_cap_mb": 25}).parameters
    noise = difference(plain, other)
    found = []
    for hook in hooks:
        ours = trained(group, hook, **settings).parameters
        found.append(Likeness(difference(plain, ours), noise, same_on_all(group, ours)))
    return found


def likeness_of(
    group: dist.ProcessGroup, hooks: list[dict[str, Any]], settings: dict[str, Any]
) -> list[Likeness]:
    """Call `likeness` with keywords."""
    return likeness(group, hooks, **settings)
