"""Density over training: the warm-up from dense to the target density.

Density is a function of the epoch, which every rank knows, so no messages are needed to agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from dgc_topo.compression.values import make_plain
from dgc_topo.scalars import plain_float

#: The paper's warm-up: sparsity 75, 93.75, 98.4375 and 99.6 %, one epoch each, then 99.9 %
#: (Lin et al., ICLR 2018, section 3.3).
PAPER_STAGES = (0.25, 0.0625, 0.015625, 0.004)


class DensitySchedule(Protocol):
    """Fraction of the elements to send, as a function of the epoch."""

    @property
    def target(self) -> float:
        """Density once the warm-up is over."""

    @property
    def warm_up_epochs(self) -> float:
        """The epoch from which on density is *target*; 0 if there is no warm-up."""

    def density_at(self, epoch: float) -> float:
        """Return the density, above 0 and at most 1, at *epoch* >= 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedDensity:
    """Stages of equal length, one density each, then the target.

    Args:
        target: Density after the warm-up, above 0 and at most 1.
        stages: Density of each stage; a stage below the target is raised to it.
        warm_up_epochs: Length of all stages together, in epochs; fractions are fine.

    Raises:
        ValueError: if a density is out of range, or there are stages without a length or a
            length without stages.
    """

    target: float
    stages: tuple[float, ...] = ()
    warm_up_epochs: float = 0.0

    def __post_init__(self) -> None:
        make_plain("density schedule", self)
        stages = tuple(plain_float("density schedule: stage", stage) for stage in self.stages)
        object.__setattr__(self, "stages", stages)
        for density in (self.target, *self.stages):
            if not 0 < density <= 1:
                raise ValueError(f"density schedule: density {density}, expected 0 < density <= 1")
        if not 0 <= self.warm_up_epochs < math.inf or bool(self.stages) != (
            self.warm_up_epochs > 0
        ):
            raise ValueError(
                f"density schedule: {len(self.stages)} stages in {self.warm_up_epochs} epochs, "
                "expected both above 0 and finite, or neither"
            )

    def density_at(self, epoch: float) -> float:
        """Return the density of the stage that *epoch* falls into."""
        if epoch >= self.warm_up_epochs:
            return self.target
        stage = int(epoch * len(self.stages) / self.warm_up_epochs)
        # An epoch just below the end may round up to the number of stages.
        return max(self.stages[min(stage, len(self.stages) - 1)], self.target)


def constant_density(target: float) -> StagedDensity:
    """Return a schedule without warm-up."""
    return StagedDensity(target=target)


def paper_warm_up(target: float, epochs: float = 4.0) -> StagedDensity:
    """Return the paper's four stages, spread over *epochs* (the paper: one epoch each)."""
    return StagedDensity(target=target, stages=PAPER_STAGES, warm_up_epochs=epochs)


def geometric_warm_up(target: float, epochs: float = 4.0, stages: int = 4) -> StagedDensity:
    """Return E stages with densities ``target ** (e / (E + 1))``, e from 1 to E.

    The warm-up of the authors' code (synxlin/deep-gradient-compression), where a stage is one
    epoch.

    Args:
        target: Density after the warm-up.
        epochs: Length of all stages together.
        stages: E, at least 1.
    """
    densities = tuple(target ** (stage / (stages + 1)) for stage in range(1, stages + 1))
    return StagedDensity(target=target, stages=densities, warm_up_epochs=epochs)
