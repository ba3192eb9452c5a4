"""Small trainings over several ranks: the net, its data, the optimizers and the loop."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

import dgc_topo as dt

STEPS, BATCH = 6, 8


def sgd(model: nn.Module, **settings: Any) -> Optimizer:
    """SGD whose biases do not decay and learn faster."""
    return torch.optim.SGD(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.05},
            {"params": [p for p in model.parameters() if p.dim() == 1], "lr": 0.2},
        ],
        **{"lr": 0.1, "momentum": 0.8, **settings},
    )


def nesterov(model: nn.Module) -> Optimizer:
    return sgd(model, nesterov=True)


def one_group(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8, weight_decay=0.05)


def backwards(make: Callable[[nn.Module], Optimizer], model: nn.Module) -> Optimizer:
    """Make an optimizer whose parameters are in another order on the last rank, as of a set."""
    made = make(model)
    if dist.get_rank() == dist.get_world_size() - 1:
        for group in made.param_groups:
            group["params"] = group["params"][::-1]
    return made


def adamw(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1, eps=1e-4)


def rmsprop(model: nn.Module) -> Optimizer:
    return torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.5, eps=1e-2)


class Net(nn.Module):
    """Odd shapes, running statistics, tied, frozen and unused parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(10, 12)
        self.norm = nn.BatchNorm1d(12)
        self.middle = nn.Linear(12, 12, bias=False)
        self.again = nn.Linear(12, 12)
        self.again.weight = self.middle.weight  # tied
        self.last = nn.Linear(12, 5)
        self.frozen = nn.Linear(5, 5)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.sometimes = nn.Linear(12, 5)
        self.register_buffer("flags", torch.tensor([True, False]))

    def forward(self, x: Tensor, sometimes: bool) -> Tensor:
        hidden = torch.tanh(self.norm(self.first(x)))
        hidden = torch.tanh(self.again(torch.tanh(self.middle(hidden))))
        found = self.last(hidden) + (self.sometimes(hidden) if sometimes else 0.0)
        result: Tensor = self.frozen(found)
        return result


class Data(NamedTuple):
    """Inputs and targets of every step and rank."""

    inputs: Tensor
    targets: Tensor


def data(world_size: int, steps: int = STEPS, device: str = "cpu") -> Data:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(steps, world_size, BATCH, 10, generator=generator)
    targets = torch.randint(0, 5, (steps, world_size, BATCH), generator=generator)
    return Data(inputs.to(device), targets.to(device))


def loss_of(model: nn.Module, given: Data, step: int, rank: int) -> Tensor:
    """One rank's loss; rank 1 never uses the part that is used sometimes."""
    found = model(given.inputs[step, rank], rank != 1)
    loss: Tensor = nn.functional.cross_entropy(found, given.targets[step, rank])
    return loss


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def begin(
    group: dist.ProcessGroup | None,
    make: Callable[[nn.Module], Optimizer],
    options: Mapping[str, Any],
    device: str = "cpu",
) -> tuple[Net, "dt.DistributedOptimizer"]:
    """Return a model that begins elsewhere on each rank, and its optimizer."""
    model = Net().to(device)
    model.norm.eval()
    rank = dist.get_rank(group)
    if rank:
        with torch.no_grad():
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor.fill_(rank)
    optimizer = dt.DistributedOptimizer(make(model), model, group=group, **options)
    first = Net().to(device).state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())
    return model, optimizer


def train(
    group: dist.ProcessGroup,
    make: Callable[[nn.Module], Optimizer],
    options: Mapping[str, Any],
    device: str = "cpu",
    data_of: int | None = None,
) -> dict[str, Tensor]:
    """Train over the ranks of a group, on the data of the first ranks of *data_of*."""
    own, _ = train_shared(group, make, options, device, data_of)
    return {name: weight.cpu() for name, weight in own.items()}


def train_shared(
    group: dist.ProcessGroup,
    make: Callable[[nn.Module], Optimizer],
    options: Mapping[str, Any],
    device: str = "cpu",
    data_of: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train; return this rank's own weights, and those that all ranks share."""
    model, optimizer = begin(group, make, options, device)
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    given = data(data_of or size, device=device)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        optimizer.step()
    assert optimizer.steps == STEPS
    own = weights_of(model)
    with optimizer.shared_parameters():
        shared = weights_of(model)
    again = weights_of(model)
    assert all(torch.equal(own[name], again[name]) for name in own)
    return own, shared
