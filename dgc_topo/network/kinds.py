"""The kinds of ``[[networks]]`` tables in a scenario file, and the networks that they draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from math import ceil, isqrt
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, field_validator

from dgc_topo.arrays import IntArray
from dgc_topo.network import (
    LinkChange,
    Network,
    draw_fat_tree,
    draw_gpu_hosts,
    draw_racks,
    draw_torus,
    from_graph,
    known_fabrics,
    load_fabric,
    place_round_robin,
    star,
)
from dgc_topo.network.changes import Background
from dgc_topo.network.parts import Differences, EndCosts, NotNegative, Positive, WithBandwidth
from dgc_topo.tables.keys import at_key
from dgc_topo.tables.places import Name

Count = Annotated[int, Field(ge=1, le=2**20)]
Placement = Literal["in-order", "round-robin"]
_MOST_HOSTS = 2**16  # of a network that is drawn as a graph


class BuiltNetwork(NamedTuple):
    """What `dgc_topo.simulation.simulate` takes beside a schedule and its sizes."""

    network: Network
    placement: IntArray | None  #: host of each rank; rank r is on host r if None
    background: Background | None
    changes: tuple[LinkChange, ...]


class NetworkTable(EndCosts, Differences, ABC):
    """A network: its hosts and links, what differs on some of them, and what its ends cost."""

    name: Name = Field(description="for [simulate] networks")

    @field_validator("name")
    @classmethod
    def _is_no_fabric(cls, name: str) -> str:
        if name in known_fabrics():
            raise ValueError(f"{name!r} is a fabric, expected a name of its own")
        return name

    @abstractmethod
    def draw(self, world_size: int) -> Network:
        """Return the bare network for *world_size* ranks."""

    def place(self, world_size: int) -> IntArray | None:
        """Return the host of each rank, or None for rank r on host r."""
        del world_size
        return None

    def build(self, world_size: int) -> BuiltNetwork:
        """Return the network for *world_size* ranks, with everything that differs.

        Raises:
            ValueError: naming the key that makes no sense, or if there are too few hosts.
        """
        network = self.draw(world_size)
        if world_size > network.num_hosts:
            raise ValueError(
                f"{world_size} ranks on {network.num_hosts} hosts, expected no more ranks than "
                "hosts"
            )
        with at_key("message_times_us"):
            network = replace(network, costs=self.costs(network))
        network = self.slowed(network)
        changes, background = self.link_changes(network), self.flows(network)
        return BuiltNetwork(self.limited(network), self.place(world_size), background, changes)


class LinkedTable(WithBandwidth, NetworkTable):
    """A network whose links are alike: those of a fabric, or given, or a fabric's but for some."""

    base: str | None = Field(default=None, description="fabric to take bandwidth and latency from")
    latency_us: NotNegative | None = Field(
        default=None, description="of each link; host to host around one switch is two links"
    )

    @field_validator("base")
    @classmethod
    def _is_a_fabric(cls, base: str | None) -> str | None:
        return base if base is None else _checked_fabric(base)

    def link(self, *, hosts_only: bool = False) -> tuple[float, float]:
        """Return bandwidth (bytes per second) and latency (seconds) of each link.

        Args:
            hosts_only: Whether links join hosts without switches: each then has a fabric's whole
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
            raise ValueError(
                "no bandwidth, expected base, bandwidth_mb_per_s or bandwidth_gbit_per_s"
            )
        return bandwidth, latency_s if self.latency_us is None else self.latency_us * 1e-6


class Star(LinkedTable):
    """Hosts around one switch that never blocks."""

    kind: Literal["star"]
    num_hosts: Count | None = Field(default=None, description="as many as ranks if left out")

    def draw(self, world_size: int) -> Network:
        """As `NetworkTable.draw`."""
        return star(self.num_hosts or world_size, *self.link())


class Racks(LinkedTable):
    """Racks of hosts whose switches are joined by one core switch."""

    kind: Literal["racks"]
    hosts_per_rack: Count
    num_racks: Count | None = Field(default=None, description="as many as needed if left out")
    oversubscription: Positive = Field(
        default=1.0, description="bandwidth of a rack's hosts over that of its uplink"
    )
    placement: Placement = "in-order"

    def draw(self, world_size: int) -> Network:
        """As `NetworkTable.draw`."""
        bandwidth, latency_s = self.link()
        _check_size(self._racks(world_size) * self.hosts_per_rack, "num_racks x hosts_per_rack")
        return from_graph(
            draw_racks(
                self._racks(world_size),
                self.hosts_per_rack,
                bandwidth,
                oversubscription=self.oversubscription,
                latency_s=latency_s,
            )
        )

    def place(self, world_size: int) -> IntArray | None:
        """As `NetworkTable.place`."""
        if self.placement == "in-order":
            return None
        return place_round_robin(world_size, self._racks(world_size), self.hosts_per_rack)

    def _racks(self, world_size: int) -> int:
        return self.num_racks or ceil(world_size / self.hosts_per_rack)


class FatTree(LinkedTable):
    """A three-level fat tree: nothing is oversubscribed."""

    kind: Literal["fat-tree"]
    ports: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description="of each switch, for ports^3 / 4 hosts; as many as needed if left out",
    )

    def draw(self, world_size: int) -> Network:
        """As `NetworkTable.draw`."""
        ports = 2
        while ports**3 // 4 < world_size:
            ports += 2
        ports = self.ports or ports
        _check_size(ports**3 // 4, "ports^3 / 4")
        return from_graph(draw_fat_tree(ports, *self.link()))


class Ring(LinkedTable):
    """Hosts joined in a ring, without switches; hosts in between pass messages on."""

    kind: Literal["ring"]
    num_hosts: Count | None = Field(default=None, description="as many as ranks if left out")

    def draw(self, world_size: int) -> Network:
        """As `NetworkTable.draw`."""
        links = self.link(hosts_only=True)
        _check_size(self.num_hosts or world_size, "num_hosts")
        return from_graph(draw_torus(1, self.num_hosts or world_size, *links))


class Torus(LinkedTable):
    """Hosts joined to four neighbours, without switches; hosts in between pass messages on."""

    kind: Literal["torus"]
    num_rows: Count | None = Field(default=None, description="as square as can be if left out")
    num_columns: Count | None = Field(default=None, description="as many as needed if left out")

    def draw(self, world_size: int) -> Network:
        """As `NetworkTable.draw`."""
        columns = self.num_columns or ceil(world_size / (self.num_rows or isqrt(world_size)))
        rows = self.num_rows or ceil(world_size / columns)
        _check_size(rows * columns, "num_rows x num_columns")
        return from_graph(draw_torus(rows, columns, *self.link(hosts_only=True)))


class GpuHosts(LinkedTable):
    """Machines of several GPUs, a rank each: a switch inside, one NIC (the links above) out.

    A *host* is a GPU: number ``machine * gpus_per_host + gpu``.
    """

    kind: Literal["gpu-hosts"]
    gpus_per_host: Count
    num_machines: Count | None = Field(default=None, description="as many as needed if left out")
    inside_base: str = Field(default="nvlink", description="fabric inside a machine")
    inside_bandwidth_gb_per_s: Positive | None = Field(
        default=None, description="of a GPU's link inside, 10^9 bytes per second"
    )
    inside_latency_us: NotNegative | None = Field(default=None, description="of a link inside")
    placement: Placement = "in-order"

    @field_validator("inside_base")
    @classmethod
    def _inside_is_a_fabric(cls, base: str) -> str:
        return _checked_fabric(base)

    def draw(self, world_size: int) -> Network:
        """As `NetworkTable.draw`."""
        nic, nic_latency_s = self.link()
        _check_size(self._machines(world_size) * self.gpus_per_host, "num_machines x gpus_per_host")
        inside = load_fabric(self.inside_base)
        given, given_us = self.inside_bandwidth_gb_per_s, self.inside_latency_us
        return from_graph(
            draw_gpu_hosts(
                self._machines(world_size),
                self.gpus_per_host,
                inside_bytes_per_s=inside.bandwidth_bytes_per_s if given is None else given * 1e9,
                nic_bytes_per_s=nic,
                inside_latency_s=inside.latency_s / 2 if given_us is None else given_us * 1e-6,
                nic_latency_s=nic_latency_s,
            )
        )

    def place(self, world_size: int) -> IntArray | None:
        """As `NetworkTable.place`."""
        if self.placement == "in-order":
            return None
        return place_round_robin(world_size, self._machines(world_size), self.gpus_per_host)

    def _machines(self, world_size: int) -> int:
        return self.num_machines or ceil(world_size / self.gpus_per_host)


def _check_size(num_hosts: int, keys: str) -> None:
    """Refuse what would take all memory to draw.

    Raises:
        ValueError: naming the keys.
    """
    if num_hosts > _MOST_HOSTS:
        raise ValueError(f"{keys}: {num_hosts:,} hosts, expected at most {_MOST_HOSTS:,}")


def _checked_fabric(name: str) -> str:
    if name not in usable_fabrics():
        raise ValueError(f"fabric {name!r}: unknown, expected one of {', '.join(usable_fabrics())}")
    return name


def usable_fabrics() -> list[str]:
    """Return the fabrics that a scenario may name: ``ideal`` has no numbers of its own."""
    return [name for name in known_fabrics() if name != "ideal"]
