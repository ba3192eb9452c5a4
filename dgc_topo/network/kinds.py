"""Tables of a network file: the kinds of networks, and what they have in common.

They stand at the top of a file of one network, or under ``[[networks]]`` in a file of several or in
a scenario.  A network grows with the number of ranks, unless its table says how large it is.

A *host* is a machine, and takes one rank, or one for each of its GPUs.  Hosts are numbered from 0.
Links are named as the network names them: ``host 3 up`` and ``host 3 down`` around one switch, else
``host 3 -> rack 0``, ``rack 0 -> core`` and so on; ``host 3 GPU 0 up`` inside a host.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from math import ceil, isqrt
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from dgc_topo.arrays import IntArray
from dgc_topo.network.calibrated import CalibratedNetwork
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
from dgc_topo.network.graph import from_graph
from dgc_topo.network.network import Network, star
from dgc_topo.network.shapes import draw_fat_tree, draw_racks, draw_torus, place_round_robin
from dgc_topo.network.simgrid import read_simgrid
from dgc_topo.tables.keys import Rate, at_key, once_by
from dgc_topo.tables.places import File, Name
from dgc_topo.tables.table import NewKey, OldKeyWarning, Table, times

Count = Annotated[int, Field(ge=1, le=2**20)]
_MOST_HOSTS = 2**16  # of a network that is drawn as a graph
_US, _FROM_US, _FROM_NS = 1e-6, times(1e-6), times(1e-9)


def _known_fabric(name: str) -> str:
    fabric = find_fabric(name)
    if fabric is None or fabric == "ideal":  # which has no numbers of its own
        raise ValueError(f"fabric {name!r}: unknown, expected one of {like_fabric(name)}")
    return fabric


def _inverse_gb(gb_per_s: float) -> float:
    return 1e-9 / gb_per_s if gb_per_s < float("inf") else gb_per_s


class NetworkTable(EndCosts, Differences, ABC):
    """A network: its hosts and links, what differs on some of them, and what its ends cost."""

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
    @abstractmethod
    def size_key(self) -> str | None:
        """Key that would say how large the network is; None if the table does say it."""

    @abstractmethod
    def draw(self, num_hosts: int) -> Network:
        """Return the bare network, without GPUs, for *num_hosts* hosts that are needed."""

    def build(self, num_hosts: int) -> Network:
        """Return the network for *num_hosts* hosts that are needed, with everything that differs.

        Raises:
            ValueError: naming the key that makes no sense.
        """
        network = self.draw(num_hosts)
        if self.gpus_per_host > 1:
            _check_size(network.num_hosts * self.gpus_per_host, "hosts x gpus_per_host", "GPUs")
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
        """Return what messages cost at their ends on *network*."""
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
        """Hosts that round-robin placement takes together: those of a rack."""
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
    """A link: that of a fabric, or given, or a fabric's but for some numbers."""

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
            hosts_only: Links join hosts without switches: each then has a fabric's whole latency,
                not half of it.

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


class Star(Link, NetworkTable):
    """Hosts around one switch that never blocks."""

    kind: Literal["star"]
    num_hosts: Count | None = Field(default=None, description="as many as needed if left out")

    @property
    def size_key(self) -> str | None:
        """As `NetworkTable.size_key`."""
        return None if self.num_hosts else "num_hosts"

    def draw(self, num_hosts: int) -> Network:
        """As `NetworkTable.draw`."""
        return star(self.num_hosts or num_hosts, *self.link())


class Uplink(Link):
    """The uplink of one rack, where it is not like the others."""

    rack: Annotated[int, Field(ge=0)]


class Racks(Link, NetworkTable):
    """Racks of hosts whose switches are joined by one core switch."""

    kind: Literal["racks"]
    hosts_per_rack: Count
    num_racks: Count | None = Field(default=None, description="as many as needed if left out")
    oversubscription: Positive = Field(
        default=1.0, description="bandwidth of a rack's hosts over that of its uplink"
    )
    uplink_bandwidth_gbit_per_s: Positive | None = Field(
        default=None, description="of every uplink, in the place of oversubscription"
    )
    uplinks: Annotated[tuple[Uplink, ...], once_by("rack")] = Field(
        default=(), description="of single racks that are not like the others"
    )

    @model_validator(mode="after")
    def _uplinks_are_said_once(self) -> Self:
        both = {"oversubscription", "uplink_bandwidth_gbit_per_s"} <= self.model_fields_set
        if both:
            raise ValueError(
                "oversubscription and uplink_bandwidth_gbit_per_s, expected one of them"
            )
        return self

    @property
    def size_key(self) -> str | None:
        """As `NetworkTable.size_key`."""
        return None if self.num_racks else "num_racks"

    @property
    def hosts_per_group(self) -> int:
        """As `NetworkTable.hosts_per_group`."""
        return self.hosts_per_rack

    def draw(self, num_hosts: int) -> Network:
        """As `NetworkTable.draw`."""
        bandwidth, latency_s = self.link()
        num_racks = self.num_racks or ceil(num_hosts / self.hosts_per_rack)
        _check_size(num_racks * self.hosts_per_rack, "num_racks x hosts_per_rack")
        graph = draw_racks(
            num_racks,
            self.hosts_per_rack,
            bandwidth,
            oversubscription=self.oversubscription,
            latency_s=latency_s,
        )
        if num_racks > 1:  # one rack has no uplink
            self._set_uplinks([graph.edges[f"rack {rack}", "core"] for rack in range(num_racks)])
        return from_graph(graph)

    def _set_uplinks(self, uplinks: list[dict[str, float]]) -> None:
        """Give uplinks, the edges of a graph, the numbers that the table has for them.

        Raises:
            ValueError: naming the key of an uplink that does not exist.
        """
        if self.uplink_bandwidth_gbit_per_s is not None:
            for uplink in uplinks:
                uplink["bandwidth_bytes_per_s"] = self.uplink_bandwidth_gbit_per_s * GBIT
        for index, other in enumerate(self.uplinks):
            with at_key(f"uplinks.{index}"):
                if other.rack >= len(uplinks):
                    raise ValueError(f"rack {other.rack}, expected 0 to {len(uplinks) - 1}")
                bandwidth, latency_s = other.link()
            uplinks[other.rack]["bandwidth_bytes_per_s"] = bandwidth
            if other.base is not None or other.latency_us is not None:
                uplinks[other.rack]["latency_s"] = latency_s


class FatTree(Link, NetworkTable):
    """A three-level fat tree: nothing is oversubscribed."""

    kind: Literal["fat-tree"]
    ports: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description="of each switch, for ports^3 / 4 hosts; as many as needed if left out",
    )

    @property
    def size_key(self) -> str | None:
        """As `NetworkTable.size_key`."""
        return None if self.ports else "ports"

    def draw(self, num_hosts: int) -> Network:
        """As `NetworkTable.draw`."""
        ports = 2
        while ports**3 // 4 < num_hosts:
            ports += 2
        ports = self.ports or ports
        _check_size(ports**3 // 4, "ports^3 / 4")
        return from_graph(draw_fat_tree(ports, *self.link()))


class Ring(Link, NetworkTable):
    """Hosts joined in a ring, without switches; hosts in between pass messages on."""

    kind: Literal["ring"]
    num_hosts: Count | None = Field(default=None, description="as many as needed if left out")

    @property
    def size_key(self) -> str | None:
        """As `NetworkTable.size_key`."""
        return None if self.num_hosts else "num_hosts"

    def draw(self, num_hosts: int) -> Network:
        """As `NetworkTable.draw`."""
        links = self.link(hosts_only=True)
        _check_size(self.num_hosts or num_hosts, "num_hosts")
        return from_graph(draw_torus(1, self.num_hosts or num_hosts, *links))


class Torus(Link, NetworkTable):
    """Hosts joined to four neighbours, without switches; hosts in between pass messages on."""

    kind: Literal["torus"]
    num_rows: Count | None = Field(default=None, description="as square as can be if left out")
    num_columns: Count | None = Field(default=None, description="as many as needed if left out")

    @property
    def size_key(self) -> str | None:
        """As `NetworkTable.size_key`."""
        return None if self.num_rows and self.num_columns else "num_rows and num_columns"

    def draw(self, num_hosts: int) -> Network:
        """As `NetworkTable.draw`."""
        columns = self.num_columns or ceil(num_hosts / (self.num_rows or isqrt(num_hosts)))
        rows = self.num_rows or ceil(num_hosts / columns)
        _check_size(rows * columns, "num_rows x num_columns")
        return from_graph(draw_torus(rows, columns, *self.link(hosts_only=True)))


class SimGrid(NetworkTable):
    """What a SimGrid platform file describes."""

    kind: Literal["simgrid"]
    file: File = Field(description="XML, relative to this file")

    @property
    def size_key(self) -> str | None:
        """As `NetworkTable.size_key`."""
        return None

    def draw(self, num_hosts: int) -> Network:
        """As `NetworkTable.draw`."""
        del num_hosts
        with at_key("file"):
            return read_simgrid(self.file)


class Calibrated(NetworkTable):
    """What 'dgc-topo calibrate' found: hosts around one switch, with what their messages cost."""

    kind: Literal["calibrated"]
    file: File = Field(description="what was calibrated, relative to this file")
    rate: Rate = Field(default=None, description="of every link; that of the file if left out")

    @model_validator(mode="after")
    def _costs_come_from_the_file(self) -> Self:
        said = sorted(self.model_fields_set & _OF_CALIBRATION)
        if said:
            raise ValueError(f"{', '.join(said)}: come from the network file, expected none here")
        return self

    @property
    def size_key(self) -> str | None:
        """As `NetworkTable.size_key`: the file does not say it, either."""
        return ""

    def load(self) -> CalibratedNetwork:
        """Return what the file says, with another rate if there is one here."""
        with at_key("file"):
            network = CalibratedNetwork.load(self.file)
        return network if self.rate is None else network.at_rate(self.rate)

    def draw(self, num_hosts: int) -> Network:
        """As `NetworkTable.draw`."""
        return self.load().network(num_hosts)

    def costs_on(self, network: Network) -> EndCosts:
        """Return what the file says."""
        return network.costs


_OF_CALIBRATION = {
    *EndCosts.model_fields,
    *("message_times_us", "duplex_limit_gbit_per_s", "cpu_cap_gbit_per_s", "gpus_per_host"),
}


def _check_size(num_hosts: int, keys: str, what: str = "hosts") -> None:
    """Refuse what would take all memory to draw.

    Raises:
        ValueError: naming the keys.
    """
    if num_hosts > _MOST_HOSTS:
        raise ValueError(f"{keys}: {num_hosts:,} {what}, expected at most {_MOST_HOSTS:,}")


#: What counted GPUs as hosts in tables of kind gpu-hosts.
_COUNTED_GPUS = ("slow_hosts", "background", "changes", "hosts_per_machine")


def _without_gpu_hosts(table: object, info: ValidationInfo) -> object:
    """Return a table of the kind gpu-hosts, which earlier releases had, as a star."""
    if not isinstance(table, dict) or table.get("kind") != "gpu-hosts":
        return table
    changed = [key for key in _COUNTED_GPUS if key in table]
    if changed:
        raise ValueError(
            f"{', '.join(changed)} with kind = 'gpu-hosts', where a host was a GPU: a host is a "
            "machine now, expected kind = 'star' with gpus_per_host"
        )
    file = f"{info.context['file']}: " if info.context and "file" in info.context else ""
    warnings.warn(
        f"{file}kind = 'gpu-hosts' has a new name, write kind = 'star' (num_hosts instead of "
        "num_machines); the old one goes with the next release",
        OldKeyWarning,
        stacklevel=1,
    )
    renamed = {"num_hosts" if key == "num_machines" else key: table[key] for key in table}
    return renamed | {"kind": "star"}


NetworkChoice = Annotated[
    Annotated[
        Star | Racks | FatTree | Ring | Torus | SimGrid | Calibrated, Field(discriminator="kind")
    ],
    BeforeValidator(_without_gpu_hosts),
]


#: Networks by names of their own.
Networks = Annotated[tuple[NetworkChoice, ...], once_by("name")]


class NetworkFile(Table):
    """A file of networks; a scenario has the same tables among its own."""

    networks: Networks = Field(min_length=1)
