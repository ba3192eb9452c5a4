"""How fast each rank computes: slow hosts, and jitter drawn anew for every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import numpy as np

from dgc_topo.arrays import FloatArray


class Jitter(Protocol):
    """A distribution of the time of a step's compute over its usual time."""

    def draw(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Return *count* factors, 1 for the usual time."""


@dataclass(frozen=True, slots=True)
class LognormalJitter:
    """Factors whose logarithm is normal, with mean 1.

    Attributes:
        sigma: Standard deviation of the logarithm; small ones are the relative spread.

    Raises:
        ValueError: if *sigma* is negative or not finite.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < inf:
            raise ValueError(f"jitter: sigma {self.sigma}, expected 0 or more")

    def draw(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Return *count* factors."""
        return generator.lognormal(-(self.sigma**2) / 2, self.sigma, count)


@dataclass(frozen=True, slots=True)
class TailJitter:
    """Now and then a step takes longer: 1, plus an exponential delay with some probability.

    Attributes:
        probability: That a rank is late in a step.
        mean_delay: Mean of the delay, in units of the usual time.

    Raises:
        ValueError: if a number makes no sense.
    """

    probability: float
    mean_delay: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"jitter: probability {self.probability}, expected 0 to 1")
        if not 0 <= self.mean_delay < inf:
            raise ValueError(f"jitter: mean_delay {self.mean_delay}, expected 0 or more")

    def draw(self, generator: np.random.Generator, count: int) -> FloatArray:
        """Return *count* factors."""
        late = generator.random(count) < self.probability
        return 1 + late * generator.exponential(self.mean_delay, count)


@dataclass(frozen=True, slots=True)
class Pace:
    """Time that each rank's computing takes, over that of the profile.

    Attributes:
        slow: Factor of single ranks, 1 for all others; ranks beyond the world are ignored.
        jitter: Drawn for every rank and step, on top of it; None for none.
        seed: Of the draws: the same seed and iteration give the same factors.

    Raises:
        ValueError: if a factor is not above 0.
    """

    slow: Mapping[int, float] = field(default_factory=dict)
    jitter: Jitter | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for rank, factor in self.slow.items():
            if rank < 0 or not 0 < factor < inf:
                raise ValueError(f"pace: rank {rank} takes {factor} times as long, expected > 0")

    @property
    def varies(self) -> bool:
        """Whether steps differ."""
        return self.jitter is not None

    def factors(self, world_size: int, iteration: int = 0) -> FloatArray:
        """Return each rank's factor in a step, shape (world_size,)."""
        factors = np.ones(world_size)
        for rank, factor in self.slow.items():
            if rank < world_size:
                factors[rank] = factor
        if self.jitter is not None:
            generator = np.random.default_rng([self.seed, iteration])
            factors *= self.jitter.draw(generator, world_size)
        return factors
