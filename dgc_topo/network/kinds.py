"""Kinds of networks in a network file: star, racks, fat tree, ring, torus, SimGrid, calibrated.

The tables stand at the top of a file of one network, or under ``[[networks]]`` in a file of several
or in a scenario.  A network grows with the number of ranks, unless its table gives a size.

A *host* is a machine, and takes one rank, or one for each of its GPUs.  Hosts are numbered from 0.
Links have the names ``host 3 up`` and ``host 3 down`` around one switch, otherwise ``host 3 -> rack
0``, ``rack 0 -> core`` and so on; ``host 3 GPU 0 up`` is inside a host.
"""

from __future__ import annotations

import warnings
from math import ceil, isqrt
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.costs import EndCosts
from dgc_topo.network.differences import (
    GBIT,
    Positive,
)
from dgc_topo.network.graph import from_graph
from dgc_topo.network.network import Network, star
from dgc_topo.network.shapes import draw_fat_tree, draw_racks, draw_torus
from dgc_topo.network.simgrid import read_simgrid
from dgc_topo.network.tables import Count, Link, NetworkTable, check_size
from dgc_topo.tables.keys import Rate, at_key, once_by
from dgc_topo.tables.places import File
from dgc_topo.tables.table import OldKeyWarning, Table


class Star(Link, NetworkTable):
    """Hosts around one switch that never blocks."""

    kind: Literal["star"] = Field(description="hosts around one switch")
    size_keys: ClassVar = ("num_hosts",)

    num_hosts: Count | None = Field(default=None, description="as many as needed if left out")

    def draw(self, num_hosts: int) -> Network:
        """Return the bare network; see `NetworkTable.draw`."""
        return star(self.num_hosts or num_hosts, *self.link())


class Uplink(Link):
    """The uplink of one rack, if it differs from the others."""

    rack: Annotated[int, Field(ge=0)] = Field(description="its number")


class Racks(Link, NetworkTable):
    """Racks of hosts whose switches are joined by one core switch."""

    kind: Literal["racks"] = Field(description="racks around a core switch")
    size_keys: ClassVar = ("num_racks",)

    hosts_per_rack: Count = Field(description="around the switch of each rack")
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
    def hosts_per_group(self) -> int:
        """Hosts of a rack."""
        return self.hosts_per_rack

    def draw(self, num_hosts: int) -> Network:
        """Return the bare network; see `NetworkTable.draw`."""
        bandwidth, latency_s = self.link()
        num_racks = self.num_racks or ceil(num_hosts / self.hosts_per_rack)
        check_size(num_racks * self.hosts_per_rack, "num_racks x hosts_per_rack")
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
        """Give the uplinks of a graph the numbers in the table.

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

    kind: Literal["fat-tree"] = Field(
        description="three levels of switches, nothing oversubscribed"
    )
    size_keys: ClassVar = ("ports",)

    ports: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description="of each switch, for ports^3 / 4 hosts; as many as needed if left out",
    )

    def draw(self, num_hosts: int) -> Network:
        """Return the bare network; see `NetworkTable.draw`."""
        ports = 2
        while ports**3 // 4 < num_hosts:
            ports += 2
        ports = self.ports or ports
        check_size(ports**3 // 4, "ports^3 / 4")
        return from_graph(draw_fat_tree(ports, *self.link()))


class Ring(Link, NetworkTable):
    """Hosts joined in a ring, without switches; hosts in between pass messages on."""

    kind: Literal["ring"] = Field(description="hosts joined in a circle")
    size_keys: ClassVar = ("num_hosts",)

    num_hosts: Count | None = Field(default=None, description="as many as needed if left out")

    def draw(self, num_hosts: int) -> Network:
        """Return the bare network; see `NetworkTable.draw`."""
        links = self.link(hosts_only=True)
        check_size(self.num_hosts or num_hosts, "num_hosts")
        return from_graph(draw_torus(1, self.num_hosts or num_hosts, *links))


class Torus(Link, NetworkTable):
    """Hosts joined to four neighbours, without switches; hosts in between pass messages on."""

    kind: Literal["torus"] = Field(description="hosts joined in rows and columns")
    size_keys: ClassVar = ("num_rows", "num_columns")

    num_rows: Count | None = Field(default=None, description="as square as can be if left out")
    num_columns: Count | None = Field(default=None, description="as many as needed if left out")

    def draw(self, num_hosts: int) -> Network:
        """Return the bare network; see `NetworkTable.draw`."""
        columns = self.num_columns or ceil(num_hosts / (self.num_rows or isqrt(num_hosts)))
        rows = self.num_rows or ceil(num_hosts / columns)
        check_size(rows * columns, "num_rows x num_columns")
        return from_graph(draw_torus(rows, columns, *self.link(hosts_only=True)))


class SimGrid(NetworkTable):
    """A network from a SimGrid platform file."""

    kind: Literal["simgrid"] = Field(description="a platform of SimGrid's")
    file: File = Field(description="XML, relative to this file")

    def draw(self, num_hosts: int) -> Network:
        """Return the bare network; see `NetworkTable.draw`."""
        del num_hosts
        with at_key("file"):
            return read_simgrid(self.file)


class Calibrated(NetworkTable):
    """A network that 'dgc-topo calibrate' measured: hosts around one switch, with end costs."""

    kind: Literal["calibrated"] = Field(description="what 'dgc-topo calibrate' measured")
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
        """Key that would say how large the network is: there is none."""
        return ""

    def load(self) -> CalibratedNetwork:
        """Return the file's calibrated network, with this table's rate if it has one."""
        with at_key("file"):
            network = CalibratedNetwork.load(self.file)
        return network if self.rate is None else network.at_rate(self.rate)

    def draw(self, num_hosts: int) -> Network:
        """Return the bare network; see `NetworkTable.draw`."""
        return self.load().network(num_hosts)

    def costs_on(self, network: Network) -> EndCosts:
        """Return the costs in the file."""
        return network.costs


_OF_CALIBRATION = {
    *EndCosts.model_fields,
    *("message_times_us", "duplex_limit_gbit_per_s", "cpu_cap_gbit_per_s", "gpus_per_host"),
}


#: Keys that counted GPUs as hosts in tables of kind gpu-hosts.
_COUNTED_GPUS = ("slow_hosts", "background", "changes", "hosts_per_machine")


def _without_gpu_hosts(table: object, info: ValidationInfo) -> object:
    """Return a table of the old kind gpu-hosts as a star with GPUs."""
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
