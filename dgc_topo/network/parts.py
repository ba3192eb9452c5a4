"""What all ``[[networks]]`` tables of a scenario share: numbers with units, and what differs.

Times count from the start of each simulated collective, not of the training run.
"""

from __future__ import annotations

import difflib
from math import inf
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from dgc_topo.network import (
    HostCosts,
    LinkChange,
    Network,
    curve_from_times,
    limit_hosts,
    links_of_host,
    slow_links,
)
from dgc_topo.network.changes import Background
from dgc_topo.tables.keys import at_key, once_by
from dgc_topo.tables.table import Table

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
HostNumber = Annotated[int, Field(ge=0)]

_MB, _GBIT, _US, _NS = 1e6, 1e9 / 8, 1e-6, 1e-9


class WithBandwidth(Table):
    """A table that may give a bandwidth, in one of two units."""

    bandwidth_mb_per_s: Positive | None = Field(default=None, description="10^6 bytes per second")
    bandwidth_gbit_per_s: Positive | None = Field(default=None, description="10^9 bits per second")

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if self.bandwidth_mb_per_s is not None and self.bandwidth_gbit_per_s is not None:
            raise ValueError("bandwidth_mb_per_s and bandwidth_gbit_per_s, expected one of them")
        return self

    @property
    def given_bytes_per_s(self) -> float | None:
        """The bandwidth that the table gives, if any."""
        if self.bandwidth_mb_per_s is not None:
            return self.bandwidth_mb_per_s * _MB
        return None if self.bandwidth_gbit_per_s is None else self.bandwidth_gbit_per_s * _GBIT


class SlowHost(Table):
    """A host whose own links are slower (or faster) than the others'."""

    host: HostNumber
    factor: Positive = Field(description="of the bandwidth; 0.5 is half as fast")


class SlowLink(Table):
    """A link that is slower (or faster) than the others, one way."""

    link: str = Field(description="its name, such as 'host 3 up' or 'rack 0 -> core'")
    factor: Positive = Field(description="of the bandwidth; 0.5 is half as fast")


class BackgroundFlow(Table):
    """A flow of another job."""

    src: HostNumber = Field(alias="from", description="sending host")
    dst: HostNumber = Field(alias="to", description="receiving host")
    bytes: Positive
    start_s: NotNegative = 0.0


class Change(WithBandwidth):
    """A link, or all links of a host, that change while a collective runs."""

    at_s: NotNegative
    link: str | None = Field(default=None, description="its name; or give a host")
    host: HostNumber | None = Field(default=None, description="all its own links")
    factor: Positive | None = Field(default=None, description="of the bandwidth before any change")
    down: bool = Field(default=False, description="nothing gets through until a later change")

    @model_validator(mode="after")
    def _says_what_and_how(self) -> Self:
        if (self.link is None) == (self.host is None):
            raise ValueError("expected link or host, one of them")
        if [self.given_bytes_per_s is None, self.factor is None, not self.down].count(False) != 1:
            raise ValueError("expected one of factor, a bandwidth, or down = true")
        return self

    def on(self, network: Network) -> list[LinkChange]:
        """Return what happens to which link of *network*.

        Raises:
            ValueError: if there is no such link or host.
        """
        links = (
            (find_link(network, self.link),)
            if self.link is not None
            else find_host_links(network, self.host or 0)
        )
        if self.given_bytes_per_s is None:
            return [LinkChange(self.at_s, links, 0.0 if self.down else self.factor or 0.0)]
        before = network.bandwidth_bytes_per_s
        return [
            LinkChange(self.at_s, (link,), self.given_bytes_per_s / float(before[link]))
            for link in links
        ]


class EndCosts(Table):
    """What a message costs at its ends, and how much a host can move."""

    message_overhead_us: NotNegative = Field(
        default=0.0, description="software time per message on each side, serial per rank"
    )
    step_overhead_us: NotNegative = Field(
        default=0.0, description="software time per step of a rank, before its messages"
    )
    start_overhead_us: NotNegative = Field(
        default=0.0, description="software time of a rank before its first step of a run"
    )
    reduce_gb_per_s: Positive | None = Field(
        default=None, description="10^9 received bytes that a rank adds up in a second"
    )
    message_times_us: tuple[tuple[NotNegative, NotNegative], ...] = Field(
        default=(),
        description="pairs (bytes, microseconds) of measured single messages between hosts 0 and "
        "1, with growing bytes: what they took beyond latency and bandwidth is added to each "
        "message",
    )
    duplex_limit_mb_per_s: Positive | None = Field(
        default=None, description="of what a host sends and receives together"
    )
    cpu_cap_mb_per_s: Positive | None = Field(
        default=None, description="of what a rank's process can move, sent and received together"
    )

    cpu_send_ns_per_byte: NotNegative = Field(
        default=0.0, description="CPU time of a rank's process to send a byte"
    )
    cpu_receive_ns_per_byte: NotNegative = Field(default=0.0, description="and to receive one")
    cores_per_process: Positive = Field(
        default=1.0, description="cores that one rank's process can use at once"
    )
    cores_per_machine: Positive | None = Field(
        default=None, description="cores that the processes on a machine share; enough by default"
    )
    hosts_per_machine: Annotated[int, Field(ge=1)] = Field(
        default=1, description="ranks' processes on one machine, which share its cores"
    )
    reverse_share: NotNegative = Field(
        default=0.0, description="bytes of acknowledgements on the way back, per byte sent"
    )
    burst_bytes: NotNegative = Field(
        default=0.0, description="that every link lets pass at once after a pause (token bucket)"
    )

    def costs(self, network: Network) -> HostCosts:
        """Return the costs per message and byte on *network*."""
        curve: tuple[tuple[float, float], ...] = ()
        if self.message_times_us and network.num_hosts > 1:
            [route] = network.routes(np.array([0]), np.array([1]))
            links = route[route >= 0]
            times = tuple((size, time_us * _US) for size, time_us in self.message_times_us)
            bandwidth = float(network.bandwidth_bytes_per_s[links].min())
            curve = curve_from_times(times, bandwidth, float(network.latency_s[links].sum()))
        return HostCosts(
            overhead_s=self.message_overhead_us * _US,
            reduce_s_per_byte=1e-9 / self.reduce_gb_per_s if self.reduce_gb_per_s else 0.0,
            message_curve=curve,
            step_overhead_s=self.step_overhead_us * _US,
            start_overhead_s=self.start_overhead_us * _US,
            send_s_per_byte=self.cpu_send_ns_per_byte * _NS,
            receive_s_per_byte=self.cpu_receive_ns_per_byte * _NS,
            cores_per_process=self.cores_per_process,
            cores_per_machine=self.cores_per_machine or inf,
            hosts_per_machine=self.hosts_per_machine,
            reverse_share=self.reverse_share,
            burst_bytes=self.burst_bytes,
        )

    def limited(self, network: Network) -> Network:
        """Return *network* with the limits on what a host moves."""
        if self.duplex_limit_mb_per_s is not None:
            network = limit_hosts(network, self.duplex_limit_mb_per_s * _MB)
        if self.cpu_cap_mb_per_s is not None:
            network = limit_hosts(network, self.cpu_cap_mb_per_s * _MB, "CPU")
        return network


class Differences(Table):
    """What is different on single hosts and links, and other jobs' traffic."""

    slow_hosts: Annotated[tuple[SlowHost, ...], once_by("host")] = ()
    slow_links: Annotated[tuple[SlowLink, ...], once_by("link")] = ()
    background: tuple[BackgroundFlow, ...] = ()
    changes: tuple[Change, ...] = ()

    def slowed(self, network: Network) -> Network:
        """Return *network* with its slow hosts and links.

        Raises:
            ValueError: naming the key, if there is no such host or link.
        """
        for index, slow in enumerate(self.slow_hosts):
            with at_key(f"slow_hosts.{index}.host"):
                links = find_host_links(network, slow.host)
            network = slow_links(network, links, slow.factor)
        for index, slow_link in enumerate(self.slow_links):
            with at_key(f"slow_links.{index}.link"):
                link = find_link(network, slow_link.link)
            network = slow_links(network, (link,), slow_link.factor)
        return network

    def link_changes(self, network: Network) -> tuple[LinkChange, ...]:
        """Return what changes on *network* while a collective runs.

        Raises:
            ValueError: naming the key, if there is no such host or link.
        """
        found: list[LinkChange] = []
        for index, change in enumerate(self.changes):
            with at_key(f"changes.{index}"):
                found += change.on(network)
        return tuple(found)

    def flows(self, network: Network) -> Background | None:
        """Return the other jobs' flows on *network*.

        Raises:
            ValueError: naming the key, if a host does not exist.
        """
        for index, flow in enumerate(self.background):
            for key, host in (("from", flow.src), ("to", flow.dst)):
                with at_key(f"background.{index}.{key}"):
                    check_host(network, host)
        if not self.background:
            return None
        return Background(
            np.array([flow.src for flow in self.background]),
            np.array([flow.dst for flow in self.background]),
            np.array([flow.bytes for flow in self.background]),
            np.array([flow.start_s for flow in self.background]),
        )


def check_host(network: Network, host: int) -> None:
    """Refuse a host that *network* does not have.

    Raises:
        ValueError: saying which there are.
    """
    if host >= network.num_hosts:
        raise ValueError(f"host {host}, expected 0 to {network.num_hosts - 1}")


def find_host_links(network: Network, host: int) -> tuple[int, ...]:
    """Return the links of a host.

    Raises:
        ValueError: if there is no such host.
    """
    check_host(network, host)
    return links_of_host(network, host)


def find_link(network: Network, name: str) -> int:
    """Return the number of the link called *name*.

    Raises:
        ValueError: if there is no such link, with names that are like it.
    """
    names = [network.link_names(link) for link in range(network.num_links)]
    if name in names:
        return names.index(name)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
    like = ", ".join(repr(other) for other in close)
    raise ValueError(f"link {name!r}: unknown, expected one of {len(names)} such as {like}")
