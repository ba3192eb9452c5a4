"""Clusters: a network with ranks on its hosts; `load_cluster` makes one from any source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, isinf
from pathlib import Path

import networkx as nx
import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.changes import Background, LinkChange
from dgc_topo.network.fabrics import Fabric, find_fabric, load_fabric
from dgc_topo.network.graph import from_graph
from dgc_topo.network.kinds import Calibrated, SimGrid
from dgc_topo.network.network import Network
from dgc_topo.network.network_files import read_file
from dgc_topo.network.tables import NetworkTable
from dgc_topo.scalars import plain_int
from dgc_topo.tables.keys import at_key
from dgc_topo.text import html_facts
from dgc_topo.topology import MAX_WORLD_SIZE
from dgc_topo.units import seconds_text


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cluster:
    """Ranks on the hosts of a network, with other jobs' traffic and changes of links.

    Attributes:
        name: Name for people: a fabric, a file, or ``FILE:NAME``.
        network: Hosts, links, and the costs of messages at their ends.
        placement: Slot of each rank, shape (num_ranks,).
        background: Flows of other jobs, if any.
        changes: Links that fail, or change their bandwidth, while a collective runs.
        differs: A line of text for each host and link that differs from the others.
        fabric: The fabric, if the cluster is a plain star of one; else None.

    Raises:
        ValueError: if a rank has no slot.
    """

    name: str
    network: Network
    placement: IntArray
    background: Background | None = None
    changes: tuple[LinkChange, ...] = ()
    differs: tuple[str, ...] = ()
    fabric: Fabric | None = None

    def __post_init__(self) -> None:
        shape, last = self.placement.shape, self.network.num_slots - 1
        if len(shape) != 1 or not len(self.placement):
            raise ValueError(f"cluster {self.name}: placement of shape {shape}, expected (ranks,)")
        if self.placement.min() < 0 or self.placement.max() > last:
            raise ValueError(
                f"cluster {self.name}: placement on slots {self.placement.min()} to "
                f"{self.placement.max()}, expected 0 to {last}"
            )

    @property
    def num_ranks(self) -> int:
        """Number of ranks."""
        return len(self.placement)

    @property
    def num_hosts(self) -> int:
        """Number of hosts."""
        return self.network.num_hosts

    def __repr__(self) -> str:
        return f"Cluster({self.name!r}, {_count(self.num_ranks, 'rank')}, {self._hosts_text()})"

    def _hosts_text(self) -> str:
        gpus = self.network.slots_per_host
        return _count(self.num_hosts, "host") + (f" of {gpus} GPUs" if gpus > 1 else "")

    def _repr_html_(self) -> str:
        network = self.network
        costs = network.costs.model_dump(exclude_defaults=True)
        rows = {
            "ranks": str(self.num_ranks),
            "hosts": self._hosts_text(),
            "links": str(network.num_links),
            "bandwidth of a link": _span(network.bandwidth_bytes_per_s, _gbit_text),
            "latency of a link": _span(network.latency_s, seconds_text),
            "costs at the ends": ", ".join(f"{key} = {cost}" for key, cost in costs.items()),
            "what differs": "; ".join(self._differences()),
        }
        return html_facts(self.name, {key: text or "nothing" for key, text in rows.items()})

    def _differences(self) -> list[str]:
        found = list(self.differs)
        if not np.array_equal(self.placement, np.arange(self.num_ranks)):
            found.append("ranks are not placed in order")
        if self.background is not None:
            found.append(_count(len(self.background.src), "flow") + " of other jobs")
        if self.changes:
            found.append(_count(len(self.changes), "change") + " on the way")
        return found


class NoSizeError(ValueError):
    """A network that grows with the number of ranks was loaded without one."""


#: Anything that `load_cluster` accepts.
Source = str | Path | Cluster | NetworkTable | Network | Fabric | nx.Graph  # type: ignore[type-arg]


def load_cluster(
    source: Source, num_ranks: int | None = None, *, folder: str | Path = ""
) -> Cluster:
    """Return the cluster that *source* names or describes.

    Args:
        source: One of

            - the name of a fabric, such as ``1gbe`` (see `known_fabrics`), or a `Fabric`;
            - a network file: ``lab.toml`` of this package's keys, or as ``dgc-topo calibrate``
              writes it; ``platform.xml`` of SimGrid;
            - ``FILE.toml:NAME``, a network of a file that has several, or of a scenario;
            - a networkx graph, as `from_graph` takes it, or a `Network`;
            - a `Cluster`, which is returned as it is.
        num_ranks: Number of ranks.  By default as many as the network has room for, if the network
            has a size of its own.
        folder: Folder in which relative paths begin.

    Raises:
        ValueError: if there is no such network, the number of ranks is missing or does not fit, or
            a file has an impossible value (the error names the file and the key).

    Example:
        >>> dt.load_cluster("1gbe", 64)
        Cluster('1gbe', 64 ranks, 64 hosts)
    """
    if num_ranks is not None:
        num_ranks = _checked_size(num_ranks)
    if isinstance(source, Cluster):
        if num_ranks not in {None, source.num_ranks}:
            raise ValueError(f"{source!r}: has its ranks already, expected no others ({num_ranks})")
        return source
    if isinstance(source, NetworkTable):
        return _of_table(source.name, source, num_ranks)
    if isinstance(source, Fabric):
        return _of_fabric(source, num_ranks)
    if isinstance(source, str | Path):
        named = str(source)
        if find_fabric(named) is not None:
            return _of_fabric(load_fabric(named), num_ranks)
        return _of_file(named, folder, num_ranks)
    return _of_network(*_network_of(source), num_ranks)


def _checked_size(num_ranks: object) -> int:
    size = plain_int("num_ranks", num_ranks)
    if not 1 <= size <= MAX_WORLD_SIZE:
        most = f"at most {MAX_WORLD_SIZE}" if size > 1 else "at least 1"
        raise ValueError(f"num_ranks {size}: expected {most}")
    return size


def _network_of(source: object) -> tuple[str, Network]:
    """Return a network that was made in Python, and a name for it."""
    if isinstance(source, nx.Graph):
        return str(source.name or "graph"), from_graph(source)
    if isinstance(source, Network):
        return "network", source
    raise ValueError(
        f"network {source!r}: expected a fabric's name, a file, a networkx graph or a Network"
    )


def _of_fabric(fabric: Fabric, num_ranks: int | None) -> Cluster:
    size = _needed(fabric.name, num_ranks)
    return Cluster(fabric.name, fabric.star(size), np.arange(size), fabric=fabric)


def _of_file(source: str, folder: str | Path, num_ranks: int | None) -> Cluster:
    found = read_file(source, folder)
    if isinstance(found, Fabric):
        return _of_fabric(found, num_ranks)
    with at_key(source):
        if isinstance(found, Network):
            return _of_network(source, found, num_ranks)
        if isinstance(found, CalibratedNetwork):
            size = _needed("a calibrated network", num_ranks)
            return _of_network(source, found.network(size), size)
        return _of_table(source, found, num_ranks)


def _of_network(name: str, network: Network, num_ranks: int | None) -> Cluster:
    num_ranks = num_ranks or network.num_slots
    _refuse_too_many(num_ranks, network)
    return Cluster(name, network, np.arange(num_ranks))


def _of_table(name: str, table: NetworkTable, num_ranks: int | None) -> Cluster:
    if table.size_key is not None:
        num_ranks = _needed(name, num_ranks, table.size_key)
    num_hosts = ceil((num_ranks or 1) / table.gpus_per_host)
    reads = isinstance(table, SimGrid | Calibrated)  # a file that may change
    network = table.build(num_hosts) if reads else _kept_network(table, num_hosts)
    num_ranks = num_ranks or network.num_slots
    _refuse_too_many(num_ranks, network)
    return Cluster(
        name,
        network,
        table.place(num_ranks, network),
        table.flows(network),
        table.link_changes(network),
        table.described(),
    )


@lru_cache(maxsize=32)  # a network caches its routes, so one is kept for all runs of a size
def _kept_network(table: NetworkTable, num_hosts: int) -> Network:
    return table.build(num_hosts)


def _needed(name: str, num_ranks: int | None, key: str = "") -> int:
    """Return the number of ranks, which a network without a size of its own needs.

    Raises:
        NoSizeError: if there is none.
    """
    if num_ranks is None:
        more = f", or {key} in its table" if key else ""
        raise NoSizeError(f"{name}: grows with the number of ranks, expected num_ranks{more}")
    return num_ranks


def _refuse_too_many(num_ranks: int, network: Network) -> None:
    if num_ranks > network.num_slots:
        gpus = network.slots_per_host
        each = f" of {gpus} GPUs, expected at most {network.num_slots}"
        raise ValueError(
            f"{num_ranks} ranks on {network.num_hosts} hosts"
            + (each if gpus > 1 else ", expected no more ranks than hosts")
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _gbit_text(bytes_per_s: float) -> str:
    return "not shared" if isinf(bytes_per_s) else f"{8e-9 * bytes_per_s:.4g} Gbit/s"


def _span(values: FloatArray, text: Callable[[float], str]) -> str:
    if not len(values):
        return ""
    lowest, highest = text(float(values.min())), text(float(values.max()))
    return lowest if lowest == highest else f"{lowest} to {highest}"
