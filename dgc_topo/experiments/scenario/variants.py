"""Variants of a training that are compared: rungs of a ladder, and ways to send gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from dgc_topo.tables.keys import BucketMiB, EachOnce, with_keys
from dgc_topo.tables.places import Label
from dgc_topo.tables.table import Table
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.settings import TrainSection

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Variant(CompressionSection):
    """Settings of compression that hold instead of those in [compression]."""

    name: Label = Field(description="in tables and plots")

    def over(self, base: CompressionSection, where: str = "rung") -> CompressionSection:
        """Return *base* with this variant's own keys instead.

        Raises:
            ValueError: that begins with *where*, if they do not go with the others.
        """
        keys = self.model_fields_set & CompressionSection.model_fields.keys()
        return with_keys(base, {key: getattr(self, key) for key in keys}, where)


def refuse_one_name_twice(variants: Sequence[Variant], kind: str) -> list[str]:
    """Return the names of variants, which tables tell apart by them.

    Raises:
        ValueError: if two have the same one.
    """
    names = [variant.name for variant in variants]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ValueError(f"{kind}s.{index}.name: {name!r} is that of another {kind}, too")
    return names


class LadderSection(Table):
    """A study: every rung at its densities, over world sizes and seeds.

    All share [train], so they take the same steps with the same learning rates; a step's global
    batch is that of [train] at its own world size, whatever the world size of a run.
    """

    seeds: Annotated[tuple[Seed, ...], EachOnce] = Field(min_length=1)
    world_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], EachOnce] = Field(
        default=(), description="instead of train.world_size"
    )
    baseline: str = Field(description="name of the rung that the others are compared with")
    rungs: tuple[Variant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        names = refuse_one_name_twice(self.rungs, "rung")
        if self.baseline not in names:
            raise ValueError(
                f"baseline = {self.baseline!r}: expected the name of a rung: {', '.join(names)}"
            )
        return self

    def check_baseline(self, base: CompressionSection) -> None:
        """Refuse a baseline that is not the first dense rung: at any density, the same is meant.

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
    """Settings that hold instead of those in [compression] and [train]."""

    overlap: bool | None = Field(default=None, description="instead of train.overlap")
    bucket_mib: BucketMiB = None
    over_topologies: Annotated[tuple[str, ...], EachOnce] = Field(
        default=(), description="names; all by default"
    )

    def training(self, base: TrainSection, where: str = "way") -> TrainSection:
        """Return *base* with this variant's own keys instead.

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
    ways: tuple[TrainingVariant, ...] = Field(min_length=1)

    def goes_over(self, topology: str) -> bool:
        """Return True if any way goes over that topology."""
        return any(not way.over_topologies or topology in way.over_topologies for way in self.ways)

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        refuse_one_name_twice(self.ways, "way")
        return self
