"""Keys of a scenario that say which measured runs are to check the predictions."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from dgc_topo.lab.spec import link_rate_from
from dgc_topo.scenario.step import Density, EachOnce, Section
from dgc_topo.units import bytes_from


def _rate(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("expected a rate such as '100Mbit/s', or 'unshaped'")  # noqa: TRY004
    return link_rate_from(value, "rate")


def _bytes(value: object) -> object:
    if isinstance(value, str):
        return round(bytes_from(value, "size"))
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("expected a size such as '10MB', or a number of bytes")


Rate = Annotated[float | None, BeforeValidator(_rate)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=4, le=2**34)]
WorldSize = Annotated[int, Field(ge=2, le=64)]


class ExtraRows(Section):
    """Further rows, such as at a rate between the calibrated ones."""

    rate_bits_per_s: Rate = Field(alias="rate")
    world_sizes: Annotated[tuple[WorldSize, ...], EachOnce] = Field(min_length=1)
    dense_bytes: Annotated[tuple[Bytes, ...], EachOnce] = Field(min_length=1)


class ValidateSection(Section):
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
