"""Keys of a scenario that say which measured runs are to check the predictions."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from dgc_topo.tables.keys import Bytes, Density, EachOnce, Rate
from dgc_topo.tables.table import Table

WorldSize = Annotated[int, Field(ge=2, le=64)]


class ExtraRows(Table):
    """Further rows, such as at a rate between the calibrated ones."""

    rate_bits_per_s: Rate = Field(alias="rate")
    world_sizes: Annotated[tuple[WorldSize, ...], EachOnce] = Field(min_length=1)
    dense_bytes: Annotated[tuple[Bytes, ...], EachOnce] = Field(min_length=1)


class ValidateSection(Table):
    """What is measured in labs on this machine, and at which rates the model is calibrated."""

    calibrate_rates_bits_per_s: Annotated[tuple[Rate, ...], EachOnce] = Field(
        alias="calibrate_rates", min_length=1
    )
    rates_bits_per_s: Annotated[tuple[Rate, ...], EachOnce] = Field(
        default=(), alias="rates", description="at which collectives are measured"
    )
    num_hosts: int = Field(default=8, ge=2, le=64, description="of the labs that calibrate")
    world_sizes: Annotated[tuple[WorldSize, ...], EachOnce] = Field(
        default=(), description="of collectives"
    )
    dense_bytes: Annotated[tuple[Bytes, ...], EachOnce] = Field(
        default=(), description="of collectives; there need be none beside [train] and [lab]"
    )
    sparse_elements: int = Field(default=25_000_000, ge=1, description="of the gradient")
    sparse_densities: Annotated[tuple[Density, ...], EachOnce] = ()
    rounds: int = Field(default=5, ge=3, description="behind each median")
    extra: tuple[ExtraRows, ...] = ()

    @property
    def measures_collectives(self) -> bool:
        """Whether anything is to be measured but training steps."""
        return bool(self.dense_bytes or self.sparse_densities or self.extra)

    @model_validator(mode="after")
    def _collectives_are_whole(self) -> Self:
        sizes = bool(self.dense_bytes or self.sparse_densities)
        said = {"rates": self.rates_bits_per_s, "world_sizes": self.world_sizes}
        wrong = [key for key, values in said.items() if bool(values) != sizes]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}: expected with dense_bytes or sparse_densities, and only then"
            )
        return self
