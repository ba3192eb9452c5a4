"""Ranks that each pull towards a target of their own, driven by an averaging rule."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dgc_topo.averaging import load_averaging
from dgc_topo.compression.config import DGCConfig
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from dgc_topo.training.averaging import LocalAverager, Setup, local_averager

Make = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]


def sgd(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def momentum(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adamw(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1)


class Rank:
    """Parameters that pull towards *target*, with an optimizer of their own: a `LocalMove`."""

    def __init__(self, number: int, make: Make, dtype: torch.dtype = torch.float32) -> None:
        start = torch.Generator().manual_seed(7)
        own = torch.Generator().manual_seed(100 + number)
        shapes = {"weight": (6, 5), "bias": (5,)}
        self.parameters = {
            name: nn.Parameter(torch.randn(shape, generator=start).to(dtype))
            for name, shape in shapes.items()
        }
        self.target = {
            name: torch.randn(shape, generator=own).to(dtype) for name, shape in shapes.items()
        }
        self.optimizer = make(list(self.parameters.values()))

    def compute(self, step: int) -> None:
        for name, p in self.parameters.items():
            p.grad = (1 + step % 3) * (p.detach() - self.target[name])

    def prepare(self) -> None:
        pass

    def move(self) -> None:
        self.optimizer.step()

    def momenta(self) -> Mapping[str, Tensor]:
        return {}

    def values(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}


class Ranks:
    """All ranks of a training; *rule* is the text of an averaging rule."""

    def __init__(
        self,
        rule: str,
        num_ranks: int,
        *,
        topology: str = "ring",
        density: float = 1.0,
        make: Make = sgd,
        dtype: torch.dtype = torch.float32,
        wire_dtype: str = "float32",
    ) -> None:
        self.rule, self.topology = load_averaging(rule), load_topology(topology)
        assert self.rule.refusal_of(self.topology) is None
        contributors = self.topology.schedule(num_ranks).contributors.tolist()
        self.density, self.step = density, 0
        self.workers = contributors
        self.ranks = [Rank(number, make, dtype) for number in range(num_ranks)]
        config = DGCConfig(density=density, warm_up="none", wire_dtype=wire_dtype)  # type: ignore[arg-type]
        self.averagers: list[LocalAverager] = [
            local_averager(
                self.rule,
                rank.parameters,
                rank,
                Setup(num_workers=len(contributors), config=config, trains=number in contributors),
            )
            for number, rank in enumerate(self.ranks)
        ]

    def train(self, steps: int) -> "Ranks":
        for _ in range(steps):
            self._step()
        return self

    def _step(self) -> None:
        due = self.rule.is_due(self.step)
        outgoing = []
        for rank, averager in zip(self.ranks, self.averagers, strict=True):
            with averager.turn():
                rank.compute(self.step)
                averager.prepare()
            if averager.moves_first:
                averager.move()
            outgoing.append(averager.outgoing(self.density) if due else [])
        schedule = self.topology.schedule(
            len(self.ranks), iteration=self.step // self.rule.every, seed=1
        )
        for part in zip(*outgoing, strict=True):
            run_in_process(schedule, part)
        for averager, payloads in zip(self.averagers, outgoing, strict=True):
            if payloads:
                averager.incoming(payloads)
            if not averager.moves_first:
                averager.move()
        self.step += 1

    def shared(self) -> dict[str, Tensor]:
        """Return what is evaluated: what all agree on, or the mean over the workers."""
        if self.averagers[0].agrees:
            return self.averagers[0].shared()
        parts = [self.averagers[number].shared() for number in self.workers]
        return {name: torch.stack([p[name].double() for p in parts]).mean(0) for name in parts[0]}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def close(first: Mapping[str, Tensor], second: Mapping[str, Tensor], atol: float = 1e-6) -> bool:
    return all(
        torch.allclose(first[name].double(), second[name].double(), rtol=0, atol=atol)
        for name in first
    )


def grad_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
