"""Ranks that each minimise something simple of their own, together, by an averaging rule.

`Ranks` pull towards a target each, with any torch optimizer.  `Quadratics` minimise
``f_i(x) = 1/2 sum_k a_ik (x_k - c_ik)**2``; the sum of all is least at the mean of the centres c,
weighted with a.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn

from dgc_topo.topology import Topology
from tests.training.averaging.driver import Driver

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


class Ranks(Driver):
    """Ranks that pull towards a target each."""

    def __init__(  # noqa: PLR0913 - each has a name
        self,
        rule: str,
        num_ranks: int,
        *,
        topology: str = "ring",
        density: float = 1.0,
        make: Make = sgd,
        dtype: torch.dtype = torch.float32,
        wire_dtype: str = "float32",
        weights: Sequence[int] = (),
    ) -> None:
        self.ranks = [Rank(number, make, dtype) for number in range(num_ranks)]
        super().__init__(
            rule,
            topology,
            [rank.parameters for rank in self.ranks],
            self.ranks,
            density=density,
            weights=weights,
            warm_up="none",
            wire_dtype=wire_dtype,
        )

    def compute(self, rank: int) -> None:
        """See `Driver.compute`."""
        self.ranks[rank].compute(self.iteration)

    def shared(self) -> dict[str, Tensor]:
        """Return what is evaluated: what all agree on, or the mean over the workers."""
        if self.averagers[0].agrees:
            found: dict[str, Tensor] = self.averagers[0].shared()
            return found
        own = [self.averagers[number] for number in self.workers]
        parts = [(averager.counts, averager.shared()) for averager in own]
        return {
            name: torch.stack([count * p[name].double() for count, p in parts]).mean(0)
            for name in parts[0][1]
        }


SHAPES = {"weight": (5, 4), "bias": (3,)}  # one is compressed, the other travels dense
SIZE = sum(prod(shape) for shape in SHAPES.values())


class OwnSGD:
    """A rank's own SGD, as `LocalMove` wants it."""

    def __init__(
        self, parameters: dict[str, nn.Parameter], learning_rate: float, momentum: float
    ) -> None:
        self.learning_rate, self._momentum = learning_rate, momentum
        self._parameters = parameters
        self._velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def prepare(self):
        for name, velocity in self._velocity.items():
            velocity.mul_(self._momentum).add_(grad_of(self._parameters[name]))

    @torch.no_grad()
    def move(self):
        for name, velocity in self._velocity.items():
            self._parameters[name].sub_(velocity, alpha=self.learning_rate)

    def momenta(self):
        return self._velocity


class Quadratics(Driver):
    """Ranks that minimise a quadratic each.

    Args:
        averaging: See `Driver`.
        topology: See `Driver`.
        num_ranks: Their number.
        learning_rate: Of each rank's own SGD.
        momentum: Of the same.
        density: See `Driver`.
        seed: Of the quadratics, too.
        weights: See `Driver`.
        settings: Those of `DGCConfig`.
    """

    def __init__(  # noqa: PLR0913 - each has a name
        self,
        averaging: str,
        topology: str | Topology,
        num_ranks: int,
        *,
        learning_rate: float = 0.1,
        momentum: float = 0.0,
        density: float = 1.0,
        seed: int = 0,
        weights: Sequence[int] = (),
        **settings: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(SIZE, generator=generator)
        self.centres = torch.randn(num_ranks, SIZE, generator=generator)
        self.curvatures = 0.5 + torch.rand(num_ranks, SIZE, generator=generator)
        self.parameters = [_parameters(start) for _ in range(num_ranks)]
        self.local = [OwnSGD(own, learning_rate, momentum) for own in self.parameters]
        self._computes = True
        super().__init__(
            averaging,
            topology,
            self.parameters,
            self.local,
            density=density,
            seed=seed,
            weights=weights,
            **settings,
        )

    def mix(self) -> None:
        """Make a step in which nothing but the averaging moves anything."""
        self._computes = False
        self.step()
        self._computes = True

    def train(self, steps: int, learning_rates: Sequence[float] = ()) -> Self:
        """Make steps; the learning rate takes the values given, each for as many steps."""
        for step in range(steps):
            if learning_rates:
                rate = learning_rates[step * len(learning_rates) // steps]
                for local in self.local:
                    local.learning_rate = rate
            self.step()
        return self

    def compute(self, rank: int) -> None:
        """See `Driver.compute`."""
        own = self.parameters[rank]
        gradient = self.curvatures[rank] * (flat(own) - self.centres[rank]) * float(self._computes)
        for parameter, part in zip(own.values(), _parts(gradient), strict=True):
            parameter.grad = part

    def points(self) -> Tensor:
        """Return the point at which each rank's gradient is taken, shape (ranks, size)."""
        found = []
        for averager, own in zip(self.averagers, self.parameters, strict=True):
            with averager.turn():
                found.append(flat(own))
        return torch.stack(found)

    def shared(self) -> Tensor:
        """Return the ranks' parts of what is evaluated, shape (ranks, size)."""
        return torch.stack([flat(averager.shared()) for averager in self.averagers])

    def shared_mean(self) -> Tensor:
        """Return what is evaluated, shape (size,)."""
        counts = torch.tensor([averager.counts for averager in self.averagers])
        return (counts.view(-1, 1) * self.shared()).mean(0)

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


def _parts(flat: Tensor) -> list[Tensor]:
    sizes = [prod(shape) for shape in SHAPES.values()]
    return [
        part.clone().view(shape)
        for part, shape in zip(flat.split(sizes), SHAPES.values(), strict=True)
    ]


def _parameters(flat: Tensor) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(part) for name, part in zip(SHAPES, _parts(flat), strict=True)}


def flat(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return tensors end to end."""
    return torch.cat([p.detach().reshape(-1) for p in parameters.values()])


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
