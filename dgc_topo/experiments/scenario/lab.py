"""``[lab]``: the emulated cluster that a scenario trains on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dgc_topo.tables.table import Table
from dgc_topo.units import link_rate_from, seconds_from
from dgc_topo.workers.lab.spec import LabSpec, LinkChange

_DEFAULT = LabSpec(num_hosts=1)


def _is_rate(text: str) -> str:
    link_rate_from(text, "rate")
    return text


def _is_time(text: str) -> str:
    seconds_from(text, "time")
    return text


Rate = Annotated[str, AfterValidator(_is_rate)]
Time = Annotated[str, AfterValidator(_is_time)]


class LinkChangeChoice(Table):
    """Something that happens to a host's link, counted from the start of every training."""

    at: Time = Field(description="such as '5 s'")
    host: int = Field(ge=0, description="number of the host, which is the rank")
    action: Literal["rate", "cut", "restore"]
    rate: Rate | None = Field(default=None, description="with action = 'rate' only")

    def change(self) -> LinkChange:
        """Return it with its numbers read."""
        rate = None if self.rate is None else link_rate_from(self.rate, "rate")
        return LinkChange(
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

    rate: Rate = Field(description="of every link, such as '100 Mbit/s', or 'unshaped'")
    host_rates: dict[int, Rate] = Field(
        default_factory=dict, description="other rates of single hosts, by number"
    )
    queue: Time = Field(default="20 ms", description="that a full queue takes to drain")
    congestion_control: str | None = _DEFAULT.congestion_control
    scaled: float = Field(
        default=1.0,
        ge=1,
        description="how many times slower everything is than what this stands for: 10 for a "
        "tenth of the rate; computing then takes so many times as long, too",
    )
    changes: tuple[LinkChangeChoice, ...] = ()

    def spec(self, num_hosts: int) -> LabSpec:
        """Return the lab with so many hosts.

        Raises:
            ValueError: if a host is named that there is not, or a number is out of range.
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
