"""Keys of a scenario that describe a ladder: variants of compression, sizes and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from dgc_topo.tables.keys import EachOnce, with_keys
from dgc_topo.tables.places import Label
from dgc_topo.tables.table import Table
from dgc_topo.training.compression import CompressionSection

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Rung(CompressionSection):
    """A variant: what it says of compression holds instead of what [compression] says."""

    name: Label = Field(description="in tables and plots")

    def over(self, base: CompressionSection, where: str = "rung") -> CompressionSection:
        """Return *base* with this rung's own keys instead.

        Raises:
            ValueError: that begins with *where*, if they do not go with the others.
        """
        keys = self.model_fields_set & CompressionSection.model_fields.keys()
        return with_keys(base, {key: getattr(self, key) for key in keys}, where)


def refuse_one_name_twice(variants: Sequence[Rung], kind: str) -> list[str]:
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
    rungs: tuple[Rung, ...] = Field(min_length=1)

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
