"""Keys of a network file for single hosts and links that differ, and for other jobs' traffic.

Hosts are machines, numbered from 0.  Times count from the start of each simulated collective, not
of the training run.
"""

from __future__ import annotations

import difflib
from typing import Annotated, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from dgc_topo.network.changes import Background, LinkChange, links_of_host, slow_links
from dgc_topo.network.network import Network
from dgc_topo.tables.keys import at_key, once_by
from dgc_topo.tables.table import NewKey, Table, times

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
HostNumber = Annotated[int, Field(ge=0)]

GBIT = 1e9 / 8  #: bytes
FROM_MB = times(8e-3)  #: MB per Gbit


class WithBandwidth(Table):
    """Table with a bandwidth, which may be given in several units."""

    bandwidth_gbit_per_s: Positive | None = Field(default=None, description="10^9 bits per second")

    old_keys: ClassVar = {"bandwidth_mb_per_s": NewKey("bandwidth_gbit_per_s", FROM_MB)}

    @property
    def given_bytes_per_s(self) -> float | None:
        """Bandwidth in the table, or None."""
        return None if self.bandwidth_gbit_per_s is None else self.bandwidth_gbit_per_s * GBIT


class SlowHost(Table):
    """A host whose own links are slower (or faster) than the others'."""

    host: HostNumber = Field(description="its number")
    bandwidth_factor: Positive = Field(description="0.5 is half as fast")

    old_keys: ClassVar = {"factor": NewKey("bandwidth_factor", table="slow_hosts")}


class SlowLink(Table):
    """A link that is slower (or faster) than the others, one way."""

    link: str = Field(description="its name, such as 'host 3 up' or 'rack 0 -> core'")
    bandwidth_factor: Positive = Field(description="0.5 is half as fast")

    old_keys: ClassVar = {"factor": NewKey("bandwidth_factor", table="slow_links")}


class BackgroundFlow(Table):
    """A flow of another job between two hosts; if they have several GPUs, between the first."""

    src: HostNumber = Field(alias="from", description="sending host")
    dst: HostNumber = Field(alias="to", description="receiving host")
    bytes: Positive = Field(description="of the whole flow")
    start_s: NotNegative = Field(default=0.0, description="when it begins")


class Change(WithBandwidth):
    """A link, or all links of a host, that change while a collective runs."""

    at_s: NotNegative = Field(description="when, from the start of each collective")
    link: str | None = Field(default=None, description="its name; or give a host")
    host: HostNumber | None = Field(default=None, description="all its own links")
    bandwidth_factor: Positive | None = Field(default=None, description="1 is as before any change")
    down: bool = Field(default=False, description="nothing gets through until a later change")

    old_keys: ClassVar = {"factor": NewKey("bandwidth_factor", table="changes")}

    @model_validator(mode="after")
    def _says_what_and_how(self) -> Self:
        if (self.link is None) == (self.host is None):
            raise ValueError("expected link or host, one of them")
        left_out = [self.given_bytes_per_s is None, self.bandwidth_factor is None, not self.down]
        if left_out.count(False) != 1:
            raise ValueError(
                "expected one of bandwidth_factor, bandwidth_gbit_per_s, or down = true"
            )
        return self

    def on(self, network: Network) -> list[LinkChange]:
        """Return the change with the numbers of its links in *network*.

        Raises:
            ValueError: if there is no such link or host.
        """
        links = (
            (find_link(network, self.link),)
            if self.link is not None
            else find_host_links(network, self.host or 0)
        )
        if self.given_bytes_per_s is None:
            return [LinkChange(self.at_s, links, self.bandwidth_factor or 0.0)]  # 0: down
        before = network.bandwidth_bytes_per_s
        return [
            LinkChange(self.at_s, (link,), self.given_bytes_per_s / float(before[link]))
            for link in links
        ]


class Differences(Table):
    """Differences of single hosts and links, and other jobs' traffic."""

    slow_hosts: Annotated[tuple[SlowHost, ...], once_by("host")] = Field(
        default=(), description="hosts whose own links are slower or faster"
    )
    slow_links: Annotated[tuple[SlowLink, ...], once_by("link")] = Field(
        default=(), description="links that are slower or faster, one way"
    )
    background: tuple[BackgroundFlow, ...] = Field(
        default=(), description="flows of other jobs, which take their fair shares"
    )
    changes: tuple[Change, ...] = Field(default=(), description="of links while a collective runs")

    def slowed(self, network: Network) -> Network:
        """Return *network* with its slow hosts and links.

        Raises:
            ValueError: naming the key, if there is no such host or link.
        """
        for index, slow in enumerate(self.slow_hosts):
            with at_key(f"slow_hosts.{index}.host"):
                links = find_host_links(network, slow.host)
            network = slow_links(network, links, slow.bandwidth_factor)
        for index, slow_link in enumerate(self.slow_links):
            with at_key(f"slow_links.{index}.link"):
                link = find_link(network, slow_link.link)
            network = slow_links(network, (link,), slow_link.bandwidth_factor)
        return network

    def link_changes(self, network: Network) -> tuple[LinkChange, ...]:
        """Return the changes of links of *network* while a collective runs.

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
        of_each = network.slots_per_host
        return Background(
            np.array([flow.src * of_each for flow in self.background]),
            np.array([flow.dst * of_each for flow in self.background]),
            np.array([flow.bytes for flow in self.background]),
            np.array([flow.start_s for flow in self.background]),
        )

    def described(self) -> tuple[str, ...]:
        """Return one line of text per difference."""
        return (
            *(
                f"host {slow.host}: bandwidth x {slow.bandwidth_factor:g}"
                for slow in self.slow_hosts
            ),
            *(f"{slow.link}: bandwidth x {slow.bandwidth_factor:g}" for slow in self.slow_links),
        )


def check_host(network: Network, host: int) -> None:
    """Refuse a host that *network* does not have.

    Raises:
        ValueError: naming the hosts that there are.
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
        ValueError: if there is no such link; the error lists similar names.
    """
    names = [network.link_names(link) for link in range(network.num_links)]
    if name in names:
        return names.index(name)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.0)
    like = ", ".join(repr(other) for other in close)
    raise ValueError(f"link {name!r}: unknown, expected one of {len(names)} such as {like}")
