"""Keys of a scenario that ask how fast training is, one way of communicating beside the other."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from dgc_topo.experiments.scenario.ladder import Rung, refuse_one_name_twice
from dgc_topo.tables.keys import BucketMiB, EachOnce, with_keys
from dgc_topo.tables.table import Table
from dgc_topo.training.settings import TrainSection


class Way(Rung):
    """A way to train; what it says holds instead of what [compression] and [train] say."""

    overlap: bool | None = Field(default=None, description="instead of train.overlap")
    bucket_mib: BucketMiB = None
    over_topologies: Annotated[tuple[str, ...], EachOnce] = Field(
        default=(), description="names; all by default"
    )

    def training(self, base: TrainSection, where: str = "way") -> TrainSection:
        """Return *base* with this way's own keys instead.

        Raises:
            ValueError: that begins with *where*, if they do not go with the others.
        """
        keys = {"overlap", "bucket_mib"} & self.model_fields_set
        own = {key: getattr(self, key) for key in keys}
        if self.overlap is False:
            own["bucket_mib"] = self.bucket_mib  # none, whatever [train] says
        if not own:
            return base
        return with_keys(base, own, where)


class ThroughputSection(Table):
    """Every way, over every topology that it goes over, beside one worker alone.

    A worker's batch is the same for all (weak scaling).
    """

    world_sizes: Annotated[tuple[Annotated[int, Field(ge=2, le=64)], ...], EachOnce] = Field(
        min_length=1
    )
    rounds: int = Field(default=3, ge=1, description="in which all are run, one after the other")
    ways: tuple[Way, ...] = Field(min_length=1)

    def goes_over(self, topology: str) -> bool:
        """Return whether any way goes over that topology."""
        return any(not way.over_topologies or topology in way.over_topologies for way in self.ways)

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        refuse_one_name_twice(self.ways, "way")
        return self
