"""Sections ``[ladder]`` and ``[throughput]``: variants of one training that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from dgc_topo.averaging import Averaging, AveragingChoice
from dgc_topo.tables.keys import BucketMiB, EachOnce, with_keys
from dgc_topo.tables.places import Label
from dgc_topo.tables.table import Table
from dgc_topo.topology import Topology
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.settings import TrainSection

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Variant(CompressionSection):
    """Settings that replace those of ``[compression]`` in one variant."""

    is_part: ClassVar[bool] = True

    name: Label = Field(description="in tables and plots")
    averaging: AveragingChoice | None = Field(
        default=None, description="the averaging rule, instead of those of the scenario"
    )

    def averagings(self, base: Sequence[Averaging]) -> tuple[Averaging, ...]:
        """Return the variant's rule, or those of the scenario."""
        return tuple(base) if self.averaging is None else (self.averaging,)

    def over(self, base: CompressionSection, where: str = "rung") -> CompressionSection:
        """Return *base* with this variant's keys in place of its own.

        Raises:
            ValueError: that begins with *where*, if they do not go with the others.
        """
        keys = self.model_fields_set & CompressionSection.model_fields.keys()
        return with_keys(base, {key: getattr(self, key) for key in keys}, where)


def refuse_one_name_twice(variants: Sequence[Variant], kind: str) -> list[str]:
    """Return the variants' names; tables need them to differ.

    Raises:
        ValueError: if two variants have the same name.
    """
    names = [variant.name for variant in variants]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"{kind}s.{index}.name: {name!r} is that of another {kind}, too")
    return names


class LadderSection(Table):
    """Section ``[ladder]``: every rung at its densities, over world sizes and seeds.

    All rungs share [train], so they take the same steps with the same learning rates.  The global
    batch is that of [train] at its own world size, whatever the world size of a run.
    """

    seeds: Annotated[tuple[Seed, ...], EachOnce] = Field(
        min_length=1, description="each is a run of every rung, in the place of the scenario's seed"
    )
    world_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], EachOnce] = Field(
        default=(), description="instead of train.world_size"
    )
    baseline: str = Field(description="name of the rung that the others are compared with")
    rungs: tuple[Variant, ...] = Field(
        min_length=1, description="variants of [compression], from the plain one up"
    )

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        names = refuse_one_name_twice(self.rungs, "rung")
        if self.baseline not in names:
            raise ValueError(
                f"baseline = {self.baseline!r}: expected the name of a rung: {', '.join(names)}"
            )
        return self

    def check_baseline(self, base: CompressionSection) -> None:
        """Refuse a *base* other than the first dense rung, which is the baseline at every density.

        Raises:
            ValueError: if it is another.
        """
        variants = [rung.over(base, f"ladder.rungs.{i}") for i, rung in enumerate(self.rungs)]
        names = [rung.name for rung in self.rungs]
        dense = [name for name, own in zip(names, variants, strict=True) if own.is_dense]
        if self.baseline not in dense[:1]:
            first = repr(dense[0]) if dense else "one with densities = [1.0]"
            raise ValueError(
                f"ladder.baseline = {self.baseline!r}: expected the first dense rung, {first}"
            )


class TrainingVariant(Variant):
    """Settings that replace those of ``[compression]`` and ``[train]`` in one variant."""

    overlap: bool | None = Field(default=None, description="instead of train.overlap")
    bucket_mib: BucketMiB = None
    over_topologies: Annotated[tuple[str, ...], EachOnce] = Field(
        default=(), description="names; all by default"
    )

    def topologies(self, base: Sequence[Topology]) -> tuple[Topology, ...]:
        """Return those of the scenario's topologies that it goes over."""
        names = self.over_topologies
        return tuple(each for each in base if not names or each.name in names)

    def training(self, base: TrainSection, where: str = "way") -> TrainSection:
        """Return *base* with this variant's keys in place of its own.

        Raises:
            ValueError: that begins with *where*, if they do not go with the others.
        """
        keys = {"overlap", "bucket_mib"} & self.model_fields_set
        own = {key: getattr(self, key) for key in keys}
        if self.overlap is False:
            own["bucket_mib"] = self.bucket_mib  # no buckets, whatever [train] says
        if not own:
            return base
        return with_keys(base, own, where)


class ThroughputSection(Table):
    """Section ``[throughput]``: every way to train, over its topologies, beside a lone worker.

    A worker's batch is the same for all (weak scaling).
    """

    world_sizes: Annotated[tuple[Annotated[int, Field(ge=2, le=64)], ...], EachOnce] = Field(
        min_length=1, description="instead of train.world_size"
    )
    rounds: int = Field(default=3, ge=1, description="in which all are run, one after the other")
    ways: tuple[TrainingVariant, ...] = Field(
        min_length=1, description="variants of [compression] and [train]"
    )

    def goes_over(self, topology: str) -> bool:
        """Return True if any way uses *topology*."""
        return any(not way.over_topologies or topology in way.over_topologies for way in self.ways)

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        refuse_one_name_twice(self.ways, "way")
        return self
