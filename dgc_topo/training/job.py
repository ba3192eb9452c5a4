"""One training run: a topology and a density of a scenario, ready to be sent to workers."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict, TypeAdapter

from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.settings import TrainSection
from dgc_topo.training.topologies import TopologyChoice
from dgc_topo.wire.coding import compression_name

GLOO = "gloo"  #: what records call the backend's own all-reduce


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
        """Fingerprint of everything that decides the result, for finding its record again.

        Defaults are left out, so that a setting added later does not change it; so is what only
        adds to the record, which other densities are run, and where the scenario lies.
        """
        settings = self.model_dump_json(
            exclude={
                "scenario": True,
                "topology": {"folder"},
                "train": {"folder"},
                "compression": {"track_ages", "densities"},
            },
            exclude_defaults=True,
        )
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    @property
    def num_processes(self) -> int:
        """Worker processes that run it."""
        return 1 if self.train.workers == "virtual" else self.train.world_size

    @property
    def bucket_bytes(self) -> float | None:
        """Float32 bytes of a bucket that we send while the backward pass goes on; else None."""
        if self.compression.uses_ddp or self.topology.gossips:
            return None
        return self.train.bucket_bytes

    @property
    def compressor_name(self) -> str:
        """What the records call the compression."""
        if self.compression.method != "dgc":
            return self.compression.method
        return compression_name(self.density, self.compression.wire_dtype)

    @property
    def label(self) -> str:
        """Topology and density, for progress bars and errors."""
        density = f"density {self.density:g}" if self.density < 1 else self.compressor_name
        if self.density < 1 and self.compression.method != "dgc":
            density = f"{self.compression.method}, {density}"
        topology = GLOO if self.compression.uses_ddp else self.topology.load().label
        if self.rung is None:
            return f"{topology}, {density}"
        return f"{self.rung}, {density}, {self.train.world_size} x {topology}, seed {self.seed}"


#: Reads and writes jobs, by number, as JSON.
JOBS = TypeAdapter(dict[int, Job])
