"""What to predict: ``[simulate]``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from dgc_topo.scenario.step import StepKeys, WorkloadChoice


class SimulateSection(StepKeys):
    """For which networks and sizes to predict."""

    networks: tuple[str, ...] = Field(min_length=1, description="fabrics, or of [[networks]]")
    world_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    workloads: tuple[WorkloadChoice, ...] = Field(
        default=(), description="without these, what [train] measured is scaled"
    )
    overlap_exponent: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="growth of sparse unions for [[simulate.workloads]]: c workers' entries merge "
        "into c**exponent times one worker's (1: disjoint, 0: identical)",
    )
