"""One training run: a topology and a density of a scenario, ready to be sent to workers."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict, TypeAdapter

from dgc_topo.coding import compression_name
from dgc_topo.scenario import (
    CompressionSection,
    Scenario,
    ScenarioError,
    TopologyChoice,
    TrainSection,
)


class Job(BaseModel):
    """Everything that a worker needs to know of one run; the same on every rank."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: str
    seed: int
    topology: TopologyChoice
    density: float
    train: TrainSection
    compression: CompressionSection
    rung: str | None = None

    @property
    def key(self) -> str:
        """Fingerprint of everything that decides the result, for finding its record again."""
        return hashlib.sha256(self.model_dump_json(exclude={"scenario"}).encode()).hexdigest()[:16]

    @property
    def num_processes(self) -> int:
        """Worker processes that run it."""
        return 1 if self.train.workers == "virtual" else self.train.world_size

    @property
    def compressor_name(self) -> str:
        """What the records call the compression."""
        return compression_name(self.density, self.compression.wire_dtype)

    @property
    def label(self) -> str:
        """Topology and density, for progress bars and errors."""
        density = f"density {self.density:g}" if self.density < 1 else self.compressor_name
        return f"{self.topology.load().label}, {density}"


#: Reads and writes jobs, by number, as JSON.
JOBS = TypeAdapter(dict[int, Job])


def plan_jobs(scenario: Scenario) -> tuple[list[Job], list[str]]:
    """Return the runs that *scenario* asks for, and a line for each that is left out.

    Gossip averages parameters (D-PSGD), which DGC does not compress: it is run dense only.

    Raises:
        ScenarioError: if the scenario has no [train] section.
    """
    if scenario.train is None:
        raise ScenarioError(f"{scenario.name}: has no [train] section, there is nothing to train")
    jobs, left_out = [], []
    for choice in scenario.topologies:
        for density in scenario.compression.densities:
            job = Job(
                scenario=scenario.name,
                seed=scenario.seed,
                topology=choice,
                density=density,
                train=scenario.train,
                compression=scenario.compression,
            )
            if choice.gossips and density < 1:
                left_out.append(f"{job.label}: gossip averages whole parameters, dense only")
            else:
                jobs.append(job)
    return jobs, left_out
