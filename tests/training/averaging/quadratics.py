"""Ranks that each minimise a quadratic of their own, together, by an averaging rule.

Rank i has ``f_i(x) = 1/2 sum_k a_ik (x_k - c_ik)**2``; the sum of all is least at the mean of the
centres c, weighted with a.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dgc_topo.averaging import load_averaging
from dgc_topo.compression.config import DGCConfig
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import Topology, load_topology
from dgc_topo.training.averaging.base import Setup
from dgc_topo.training.averaging.making import local_averager

SHAPES = {"weight": (5, 4), "bias": (3,)}  # one is compressed, the other travels dense
SIZE = sum(prod(shape) for shape in SHAPES.values())


class OwnSGD:
    """A rank's own SGD, as `LocalMove` wants it."""

    def __init__(self, parameters, learning_rate, momentum):
        self.learning_rate, self._momentum = learning_rate, momentum
        self._parameters = parameters
        self._velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def prepare(self):
        for name, velocity in self._velocity.items():
            velocity.mul_(self._momentum).add_(self._parameters[name].grad)

    @torch.no_grad()
    def move(self):
        for name, velocity in self._velocity.items():
            self._parameters[name].sub_(velocity, alpha=self.learning_rate)

    def momenta(self):
        return self._velocity


class Ranks:
    """All ranks of a training, in this process.

    Args:
        averaging: The rule's text form.
        topology: Over which they mix.
        num_ranks: Their number.
        learning_rate: Of each rank's own SGD.
        momentum: Of the same.
        density: Fraction that is sent.
        seed: Of the quadratics, and of topologies that draw at random.
        settings: Those of `DGCConfig`.
    """

    def __init__(
        self,
        averaging: str,
        topology: str | Topology,
        num_ranks: int,
        *,
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        density: float = 1.0,
        seed: int = 0,
        **settings,
    ):
        self.averaging, self.topology = load_averaging(averaging), load_topology(topology)
        assert self.averaging.refusal_of(self.topology) is None
        self.num_ranks, self.density, self.seed = num_ranks, density, seed
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(SIZE, generator=generator)
        self.centres = torch.randn(num_ranks, SIZE, generator=generator)
        self.curvatures = 0.5 + torch.rand(num_ranks, SIZE, generator=generator)
        self.parameters = [_parameters(start) for _ in range(num_ranks)]
        self.local = [OwnSGD(own, learning_rate, momentum) for own in self.parameters]
        config = DGCConfig(density=density, **settings)
        self.averagers: list[Any] = [
            local_averager(
                self.averaging, own, local, Setup(num_workers=num_ranks, config=config, place=place)
            )
            for place, (own, local) in enumerate(zip(self.parameters, self.local, strict=True))
        ]
        self.iteration = 0

    def step(self, *, computes: bool = True) -> None:
        """Make one step; without computing nothing but the averaging moves anything."""
        for rank, averager in enumerate(self.averagers):
            with averager.turn():
                self._set_gradient(rank, computes=computes)
                averager.prepare()
            if averager.moves_first:
                averager.move()
        if self.averaging.is_due(self.iteration):
            self.exchange(self.iteration // self.averaging.every)
        for averager in self.averagers:
            if not averager.moves_first:
                averager.move()
        self.iteration += 1

    def exchange(self, number: int) -> None:
        """Make one exchange of all ranks."""
        schedule = self.topology.schedule(self.num_ranks, iteration=number, seed=self.seed)
        sent = [averager.outgoing(self.density) for averager in self.averagers]
        for part in zip(*sent, strict=True):
            run_in_process(schedule, part)
        for averager, payloads in zip(self.averagers, sent, strict=True):
            averager.incoming(payloads)

    def train(self, num_steps: int, learning_rates: Sequence[float] = ()) -> None:
        """Make steps; the learning rate takes the values given, each for as many steps."""
        for step in range(num_steps):
            if learning_rates:
                rate = learning_rates[step * len(learning_rates) // num_steps]
                for local in self.local:
                    local.learning_rate = rate
            self.step()

    def points(self) -> Tensor:
        """Return the point at which each rank's gradient is taken, shape (ranks, size)."""
        found = []
        for averager, own in zip(self.averagers, self.parameters, strict=True):
            with averager.turn():
                found.append(_flat(own))
        return torch.stack(found)

    def shared(self) -> Tensor:
        """Return the ranks' parts of what is evaluated, shape (ranks, size)."""
        return torch.stack([_flat(averager.shared()) for averager in self.averagers])

    def optimum(self) -> Tensor:
        """Return the point where the sum of all quadratics is least."""
        return (self.curvatures * self.centres).sum(0) / self.curvatures.sum(0)

    def apart(self) -> float:
        """Return the largest distance of an element from its mean over the ranks."""
        points = self.points()
        return float((points - points.mean(0)).abs().max())

    def off(self) -> float:
        """Return the largest distance of an element of any rank from the optimum."""
        return float((self.points() - self.optimum()).abs().max())

    def _set_gradient(self, rank: int, *, computes: bool) -> None:
        point = _flat(self.parameters[rank])
        flat = self.curvatures[rank] * (point - self.centres[rank]) * float(computes)
        for parameter, part in zip(self.parameters[rank].values(), _parts(flat), strict=True):
            parameter.grad = part


def _parts(flat: Tensor) -> list[Tensor]:
    sizes = [prod(shape) for shape in SHAPES.values()]
    return [
        part.clone().view(shape)
        for part, shape in zip(flat.split(sizes), SHAPES.values(), strict=True)
    ]


def _parameters(flat: Tensor) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(part) for name, part in zip(SHAPES, _parts(flat), strict=True)}


def _flat(parameters) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in parameters.values()])
