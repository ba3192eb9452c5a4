"""``[lab]``: the emulated cluster that a scenario trains on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dgc_topo.lab.spec import LabSpec, LinkChange, check_rate
from dgc_topo.scenario.step import Section
from dgc_topo.units import rate_from, seconds_from

_UNSHAPED = "unshaped"
_DEFAULT = LabSpec(num_hosts=1)


def rate_bits_per_s(text: str, name: str) -> float | None:
    """Return a rate in bit/s, or None for ``unshaped``.

    Raises:
        ValueError: if it isn't a bandwidth with a unit, or one that the lab cannot keep.
    """
    if text.strip() == _UNSHAPED:
        return None
    rate = 8 * rate_from(text, name)
    check_rate(rate, name)
    return rate


def _is_rate(text: str) -> str:
    rate_bits_per_s(text, "rate")
    return text


def _is_time(text: str) -> str:
    seconds_from(text, "time")
    return text


Rate = Annotated[str, AfterValidator(_is_rate)]
Time = Annotated[str, AfterValidator(_is_time)]


class LinkChangeChoice(Section):
    """Something that happens to a host's link, counted from the start of every training."""

    at: Time = Field(description="such as '5 s'")
    host: int = Field(ge=0, description="number of the host, which is the rank")
    action: Literal["rate", "cut", "restore"]
    rate: Rate | None = Field(default=None, description="with action = 'rate' only")

    def change(self) -> LinkChange:
        """Return it with its numbers read."""
        rate = None if self.rate is None else rate_bits_per_s(self.rate, "rate")
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


class LabSection(Section):
    """An emulated cluster on this machine, one host per rank; see `dgc_topo.lab.LabSpec`."""

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
            rate_bits_per_s=rate_bits_per_s(self.rate, "rate"),
            host_rates_bits_per_s={
                host: rate_bits_per_s(rate, f"host_rates.{host}")
                for host, rate in self.host_rates.items()
            },
            queue_s=seconds_from(self.queue, "queue"),
            congestion_control=self.congestion_control,
            changes=tuple(change.change() for change in self.changes),
            time_scale=self.scaled,
        )
