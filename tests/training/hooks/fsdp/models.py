"""A model, its shards, and steps of its training, for tests with FSDP2."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

REPLICAS, SHARDS = 2, 2


class Net(nn.Module):
    """Layers whose sizes no number of shards divides, a norm, and a part nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 13)
        self.frozen = nn.Linear(13, 13).requires_grad_(False)
        self.norm = nn.LayerNorm(13)
        self.last = nn.Linear(13, 1)
        self.factor = nn.Parameter(torch.ones(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.frozen(self.first(x).relu()).relu())
        out: Tensor = self.last(hidden) * self.factor
        return out


def mesh_of(replicas: int = REPLICAS, shards: int = SHARDS) -> DeviceMesh:
    return init_device_mesh("cpu", (replicas, shards), mesh_dim_names=("replicate", "shard"))


def sharded(mesh: DeviceMesh, **options: Any) -> Any:
    torch.manual_seed(1)
    model = Net()
    fully_shard([model.first, model.frozen], mesh=mesh, **options)
    fully_shard(model.norm, mesh=mesh, **options)
    fully_shard(model.last, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return this rank's own batch."""
    generator = torch.Generator().manual_seed(100 * step + dist.get_rank())
    return torch.randn(5, 7, generator=generator), torch.randn(5, 1, generator=generator)


def backward(model: Any, step: int, scale: float = 1.0) -> None:
    inputs, targets = batch(step)
    (nn.functional.mse_loss(model(inputs).float(), targets) * scale).backward()


def weights(model: Any) -> dict[str, Tensor]:
    return {name: each.full_tensor().detach().clone() for name, each in model.named_parameters()}


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.numel() else 0.0


def train(model: Any, steps: int, optimizer: Any, passes: int = 1) -> dict[str, Tensor]:
    for step in range(steps):
        for number in range(passes):
            model.set_requires_gradient_sync(number == passes - 1)
            backward(model, step * passes + number)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)
