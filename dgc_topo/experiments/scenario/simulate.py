"""Section ``[simulate]``: predictions to make."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from dgc_topo.experiments.scenario.step import StepKeys, WorkloadChoice
from dgc_topo.tables.keys import EachOnce
from dgc_topo.tables.table import NewKey


class SimulateSection(StepKeys):
    """Networks and sizes to predict for."""

    old_keys: ClassVar = {"overlap_exponent": NewKey("union_exponent", table="simulate")}

    networks: Annotated[tuple[str, ...], EachOnce] = Field(
        min_length=1, description="fabrics, or of [[networks]]"
    )
    world_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], EachOnce] = Field(
        min_length=1
    )
    workloads: tuple[WorkloadChoice, ...] = Field(
        default=(), description="without these, what [train] measured is scaled"
    )
    union_exponent: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="growth of sparse unions for [[simulate.workloads]]: c workers' entries merge "
        "into c**exponent times one worker's (1: disjoint, 0: identical)",
    )

    @model_validator(mode="after")
    def _workloads_have_names_of_their_own(self) -> Self:
        labels = [workload.label for workload in self.workloads]
        for index, label in enumerate(labels):
            if label in labels[:index]:
                first = labels.index(label)
                raise ValueError(
                    f"workloads.{index}.name: {label!r} is that of workloads.{first}, too; "
                    "expected a name of its own, such as "
                    f"name = '{label}-{self.workloads[index].batch_size_per_worker or index}'"
                )
        return self

    @model_validator(mode="after")
    def _what_overlaps_has_layers(self) -> Self:
        for index, workload in enumerate(self.workloads):
            if self.overlap and workload.model is None:
                raise ValueError(
                    f"overlap = true: workloads.{index} ({workload.label}) is given by counts, "
                    "without layers, so nobody knows when which gradients are ready; expected a "
                    "model of the zoo there, or overlap = false"
                )
        return self

    @model_validator(mode="after")
    def _slow_ranks_exist(self) -> Self:
        for index, each in enumerate(self.slow_ranks):
            if each.rank >= max(self.world_sizes):
                raise ValueError(
                    f"slow_ranks.{index}.rank: {each.rank} is in none of the worlds, expected 0 to "
                    f"{max(self.world_sizes) - 1}"
                )
        return self
