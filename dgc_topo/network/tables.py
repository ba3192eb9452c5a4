"""Keys common to all kinds of networks in a network file: GPUs, end costs, links."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from math import inf
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from dgc_topo.arrays import IntArray
from dgc_topo.network.changes import add_gpus, limit_hosts
from dgc_topo.network.costs import EndCosts, curve_from_times
from dgc_topo.network.differences import (
    FROM_MB,
    GBIT,
    Differences,
    NotNegative,
    Positive,
    WithBandwidth,
)
from dgc_topo.network.fabrics import find_fabric, like_fabric, load_fabric
from dgc_topo.network.network import Network
from dgc_topo.network.shapes import place_round_robin
from dgc_topo.tables.keys import at_key
from dgc_topo.tables.places import Name
from dgc_topo.tables.table import NewKey, times

Count = Annotated[int, Field(ge=1, le=2**20)]
_MOST_HOSTS = 2**16  # most hosts of a network that is drawn as a graph
_US, _FROM_US, _FROM_NS = 1e-6, times(1e-6), times(1e-9)


def _known_fabric(name: str) -> str:
    fabric = find_fabric(name)
    if fabric is None or fabric == "ideal":  # which has no numbers of its own
        raise ValueError(f"fabric {name!r}: unknown, expected one of {like_fabric(name)}")
    return fabric


def _inverse_gb(gb_per_s: float) -> float:
    if gb_per_s == 0:
        return inf  # which is refused, as 0 was
    return 1e-9 / gb_per_s if gb_per_s < inf else gb_per_s


class NetworkTable(EndCosts, Differences, ABC):
    """A network: its hosts and links, those that differ, and the costs at messages' ends."""

    name: Name = Field(description="for [simulate] networks, or after FILE:")
    gpus_per_host: Count = Field(default=1, description="ranks that a host takes, one per GPU")
    inside_base: str = Field(default="nvlink", description="fabric that joins the GPUs of a host")
    inside_bandwidth_gbit_per_s: Positive | None = Field(
        default=None, description="of a GPU's link inside its host, if not as the fabric's"
    )
    inside_latency_us: NotNegative | None = Field(
        default=None, description="of such a link; from one GPU to another is two links"
    )
    placement: Literal["in-order", "round-robin"] = Field(
        default="in-order", description="of ranks: round-robin deals them to racks or hosts in turn"
    )
    message_times_us: tuple[tuple[NotNegative, NotNegative], ...] = Field(
        default=(),
        description="pairs (bytes, microseconds) of measured single messages between hosts 0 and "
        "1, with growing bytes: what they took beyond latency and bandwidth is added to each "
        "message",
    )
    duplex_limit_gbit_per_s: Positive | None = Field(
        default=None, description="of what a host sends and receives together"
    )
    cpu_cap_gbit_per_s: Positive | None = Field(
        default=None, description="of what a rank's process can move, sent and received together"
    )

    old_keys: ClassVar = {
        "inside_bandwidth_gb_per_s": NewKey("inside_bandwidth_gbit_per_s", times(8)),
        "duplex_limit_mb_per_s": NewKey("duplex_limit_gbit_per_s", FROM_MB),
        "cpu_cap_mb_per_s": NewKey("cpu_cap_gbit_per_s", FROM_MB),
        "message_overhead_us": NewKey("overhead_s", _FROM_US),
        "step_overhead_us": NewKey("step_overhead_s", _FROM_US),
        "start_overhead_us": NewKey("start_overhead_s", _FROM_US),
        "reduce_gb_per_s": NewKey("reduce_s_per_byte", _inverse_gb),
        "cpu_send_ns_per_byte": NewKey("send_s_per_byte", _FROM_NS),
        "cpu_receive_ns_per_byte": NewKey("receive_s_per_byte", _FROM_NS),
    }

    #: Keys that say how large the network is; it grows with the ranks unless all are there.
    size_keys: ClassVar[tuple[str, ...]] = ()
    #: Keys that GPUs inside hosts have.
    _INSIDE: ClassVar = ("inside_base", "inside_bandwidth_gbit_per_s", "inside_latency_us")

    @field_validator("name")
    @classmethod
    def _is_no_fabric(cls, name: str) -> str:
        if find_fabric(name) is not None:
            raise ValueError(f"{name!r} is a fabric, expected a name of its own")
        return name

    @field_validator("inside_base")
    @classmethod
    def _inside_is_a_fabric(cls, base: str) -> str:
        return _known_fabric(base)

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        inside = [key for key in self._INSIDE if key in self.model_fields_set]
        if inside and self.gpus_per_host == 1:
            raise ValueError(f"{', '.join(inside)}: expected with gpus_per_host of 2 or more")
        if self.message_times_us and self.message_curve:
            raise ValueError("message_times_us and message_curve, expected one of them")
        return self

    @property
    def size_key(self) -> str | None:
        """Key that would say how large the network is; None if the table does say it."""
        said = all(getattr(self, key) for key in self.size_keys)
        return None if said else " and ".join(self.size_keys)

    @abstractmethod
    def draw(self, num_hosts: int) -> Network:
        """Return the bare network, without GPUs, with room for at least *num_hosts* hosts."""

    def build(self, num_hosts: int) -> Network:
        """Return the network with room for at least *num_hosts* hosts, with all differences.

        Raises:
            ValueError: naming the key that is impossible.
        """
        network = self.draw(num_hosts)
        if self.gpus_per_host > 1:
            check_size(network.num_hosts * self.gpus_per_host, "hosts x gpus_per_host", "GPUs")
            network = add_gpus(network, self.gpus_per_host, *self._inside())
        with at_key("message_times_us"):
            network = replace(network, costs=self.costs_on(network))
        network = self.slowed(network)
        if self.duplex_limit_gbit_per_s is not None:
            network = limit_hosts(network, self.duplex_limit_gbit_per_s * GBIT)
        if self.cpu_cap_gbit_per_s is not None:
            network = limit_hosts(network, self.cpu_cap_gbit_per_s * GBIT, "CPU", each="slot")
        return network

    def costs_on(self, network: Network) -> EndCosts:
        """Return the costs of messages at their ends on *network*."""
        costs = {name: getattr(self, name) for name in EndCosts.model_fields}
        if self.message_times_us and network.num_hosts > 1:
            [route] = network.routes(np.array([0]), np.array([network.slots_per_host]))
            links = route[route >= 0]
            times = tuple((size, time_us * _US) for size, time_us in self.message_times_us)
            bandwidth = float(network.bandwidth_bytes_per_s[links].min())
            latency_s = float(network.latency_s[links].sum())
            costs["message_curve"] = curve_from_times(times, bandwidth, latency_s)
        return EndCosts(**costs)

    def place(self, num_ranks: int, network: Network) -> IntArray:
        """Return the slot of each of *num_ranks* ranks on *network*."""
        if self.placement == "in-order":
            return np.arange(num_ranks)
        slots = self.hosts_per_group * network.slots_per_host
        return place_round_robin(num_ranks, network.num_slots // slots, slots)

    @property
    def hosts_per_group(self) -> int:
        """Number of hosts that round-robin placement treats as one group: a rack."""
        return 1

    def _inside(self) -> tuple[float, float]:
        """Return bandwidth (bytes per second) and latency (seconds) of a GPU's link."""
        inside = load_fabric(self.inside_base)
        given, given_us = self.inside_bandwidth_gbit_per_s, self.inside_latency_us
        return (
            inside.bandwidth_bytes_per_s if given is None else given * GBIT,
            inside.latency_s / 2 if given_us is None else given_us * _US,
        )


class Link(WithBandwidth):
    """A link: a fabric's, or with given numbers, or a fabric's with some numbers replaced."""

    base: str | None = Field(default=None, description="fabric to take bandwidth and latency from")
    latency_us: NotNegative | None = Field(
        default=None, description="of each link; host to host around one switch is two links"
    )

    @field_validator("base")
    @classmethod
    def _base_is_a_fabric(cls, base: str | None) -> str | None:
        return base if base is None else _known_fabric(base)

    def link(self, *, hosts_only: bool = False) -> tuple[float, float]:
        """Return bandwidth (bytes per second) and latency (seconds) of each link.

        Args:
            hosts_only: True if links join hosts without switches; each then has the fabric's whole
                latency, not half of it.

        Raises:
            ValueError: if neither a fabric nor a bandwidth is given.
        """
        bandwidth, latency_s = self.given_bytes_per_s, 0.0
        if self.base is not None:
            fabric = load_fabric(self.base)
            bandwidth = bandwidth or fabric.bandwidth_bytes_per_s
            latency_s = fabric.latency_s if hosts_only else fabric.latency_s / 2
        if bandwidth is None:
            raise ValueError("no bandwidth, expected base or bandwidth_gbit_per_s")
        return bandwidth, latency_s if self.latency_us is None else self.latency_us * _US


def check_size(num_hosts: int, keys: str, what: str = "hosts") -> None:
    """Refuse a network that would take too much memory to draw.

    Raises:
        ValueError: naming the keys.
    """
    if num_hosts > _MOST_HOSTS:
        raise ValueError(f"{keys}: {num_hosts:,} {what}, expected at most {_MOST_HOSTS:,}")
