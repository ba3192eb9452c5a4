"""Sections ``[lab]`` and ``[validate]``: an emulated cluster, and the cases measured on it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dgc_topo.tables.keys import Bytes, Density, EachOnce, Rate
from dgc_topo.tables.table import Table
from dgc_topo.units import link_rate_from, seconds_from
from dgc_topo.workers.lab.spec import LabChange, LabSpec

_DEFAULT = LabSpec(num_hosts=1)

WorldSize = Annotated[int, Field(ge=2, le=64)]


def _is_rate(text: str) -> str:
    link_rate_from(text, "rate")
    return text


def _is_time(text: str) -> str:
    seconds_from(text, "time")
    return text


RateText = Annotated[str, AfterValidator(_is_rate)]
TimeText = Annotated[str, AfterValidator(_is_time)]


class LinkChangeChoice(Table):
    """Change of a host's link, at a time counted from the start of every training."""

    at: TimeText = Field(description="such as '5 s'")
    host: int = Field(ge=0, description="number of the host, which is the rank")
    action: Literal["rate", "cut", "restore"] = Field(
        description="another rate, nothing gets through any more, or as at the start"
    )
    rate: RateText | None = Field(default=None, description="with action = 'rate' only")

    def change(self) -> LabChange:
        """Return the change with its texts read as numbers."""
        rate = None if self.rate is None else link_rate_from(self.rate, "rate")
        return LabChange(
            at_s=seconds_from(self.at, "at"),
            host=self.host,
            action=self.action,
            rate_bits_per_s=rate,
        )

    @model_validator(mode="after")
    def _fits(self) -> LinkChangeChoice:
        if (self.action == "rate") != (self.rate is not None):
            raise ValueError(f"action {self.action!r}: expected a rate with 'rate', and only there")
        self.change()
        return self


class LabSection(Table):
    """An emulated cluster on this machine, one host per rank, as a `LabSpec` describes it."""

    rate: RateText = Field(description="of every link, such as '100 Mbit/s', or 'unshaped'")
    host_rates: dict[int, RateText] = Field(
        default_factory=dict, description="other rates of single hosts, by number"
    )
    queue: TimeText = Field(default="20 ms", description="that a full queue takes to drain")
    congestion_control: str | None = Field(
        default=_DEFAULT.congestion_control, description="of TCP, one that the kernel has"
    )
    scaled: float = Field(
        default=1.0,
        ge=1,
        description="how many times slower everything is than what this stands for: 10 for a "
        "tenth of the rate; computing then takes so many times as long, too",
    )
    changes: tuple[LinkChangeChoice, ...] = Field(
        default=(), description="of links while each training runs"
    )

    def spec(self, num_hosts: int) -> LabSpec:
        """Return the description of the lab with *num_hosts* hosts.

        Raises:
            ValueError: if a named host does not exist, or a number is out of range.
        """
        return LabSpec(
            num_hosts=num_hosts,
            rate_bits_per_s=link_rate_from(self.rate, "rate"),
            host_rates_bits_per_s={
                host: link_rate_from(rate, f"host_rates.{host}")
                for host, rate in self.host_rates.items()
            },
            queue_s=seconds_from(self.queue, "queue"),
            congestion_control=self.congestion_control,
            changes=tuple(change.change() for change in self.changes),
            time_scale=self.scaled,
        )


class ExtraRows(Table):
    """Additional cases to measure, for example at a rate between the calibrated ones."""

    rate_bits_per_s: Rate = Field(alias="rate", description="of every link, or 'unshaped'")
    world_sizes: Annotated[tuple[WorldSize, ...], EachOnce] = Field(
        min_length=1, description="numbers of ranks"
    )
    dense_bytes: Annotated[tuple[Bytes, ...], EachOnce] = Field(
        min_length=1, description="of each all-reduce"
    )


class ValidateSection(Table):
    """Cases to measure in labs on this machine, and rates at which the model is calibrated."""

    calibrate_rates_bits_per_s: Annotated[tuple[Rate, ...], EachOnce] = Field(
        alias="calibrate_rates", min_length=1, description="at which the probes run, or 'unshaped'"
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
    sparse_densities: Annotated[tuple[Density, ...], EachOnce] = Field(
        default=(), description="of compressed collectives"
    )
    rounds: int = Field(default=5, ge=3, description="behind each median")
    extra: tuple[ExtraRows, ...] = Field(
        default=(), description="more cases, such as at a rate between the calibrated ones"
    )

    @property
    def measures_collectives(self) -> bool:
        """True if anything but training steps is to be measured."""
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
