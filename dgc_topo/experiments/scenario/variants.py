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
from dgc_topo.training.settings import EMULATED, TrainSection

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

    def check_training(self, train: TrainSection, base: CompressionSection) -> None:
        """Refuse a training that cannot climb the ladder, or whose baseline is no dense rung.

        Args:
            train: Section that all rungs share.
            base: Compression that the rungs vary.

        Raises:
            ValueError: naming the key, and what was expected.
        """
        if train.emulates:
            raise ValueError(
                f"ladder: is about what is learnt, expected another dataset than {EMULATED!r}"
            )
        self._check_baseline(base)
        whole = train.world_size * train.batch_size_per_worker
        for size in self.world_sizes:
            if whole % size:
                raise ValueError(
                    f"ladder.world_sizes: {size} workers cannot share a global batch of {whole} "
                    "(train.world_size x train.batch_size_per_worker), expected a divisor"
                )

    def _check_baseline(self, base: CompressionSection) -> None:
        """Refuse a baseline other than the first dense rung; it is that of every density."""
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

    def check_training(self, train: TrainSection, topologies: Sequence[Topology]) -> None:
        """Refuse a training without times, and ways over topologies that there are not.

        Args:
            train: Section that all ways share.
            topologies: Those of the scenario.

        Raises:
            ValueError: naming the key, and what was expected.
        """
        if train.workers != "processes":
            raise ValueError(
                f"throughput: train.workers = {train.workers!r} has no times of a cluster, "
                "expected 'processes'"
            )
        there = {topology.name for topology in topologies}
        for index, way in enumerate(self.ways):
            unknown = sorted(set(way.over_topologies) - there)
            if unknown:
                raise ValueError(
                    f"throughput.ways.{index}.over_topologies: {', '.join(unknown)}, expected "
                    f"names under [[topologies]]: {', '.join(sorted(there))}"
                )

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        refuse_one_name_twice(self.ways, "way")
        return self
