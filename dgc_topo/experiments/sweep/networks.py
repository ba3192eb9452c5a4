"""Networks of a sweep: a base, and the same with other bandwidth, latency, racks or a slow host."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.network.changes import slow_host
from dgc_topo.network.cluster import Cluster, Source, load_cluster
from dgc_topo.network.differences import GBIT
from dgc_topo.network.fabrics import FABRICS, Fabric, find_fabric, load_fabric
from dgc_topo.network.kinds import Calibrated, Racks, Ring, SimGrid, Torus
from dgc_topo.network.network_files import file_of, names_file, read_file
from dgc_topo.network.tables import Link, NetworkTable

_US = 1e-6
_UPLINK = "uplink_bandwidth_gbit_per_s"


class NetworkNumbers(NamedTuple):
    """Numbers that replace those of a base network; None is as in the base.

    Attributes:
        bandwidth_bytes_per_s: Of each host's link.
        latency_s: Of each link.
        hosts_per_rack: Hosts that share a rack's uplink.
        oversubscription: Bandwidth of a rack's hosts over that of its uplink.
        slow_host_factor: On the bandwidth of the links of the last rank's host.
    """

    bandwidth_bytes_per_s: float | None = None
    latency_s: float | None = None
    hosts_per_rack: int | None = None
    oversubscription: float | None = None
    slow_host_factor: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class BaseNetwork:
    """Network that a sweep starts from.

    Attributes:
        name: Name in rows.
        source: Fabric, table or whatever else `load_cluster` takes.
        digest: Text that tells it from all others; "" if there is none.
    """

    name: str
    source: Source | CalibratedNetwork
    digest: str

    def with_numbers(self, variant: NetworkNumbers) -> Source | CalibratedNetwork:
        """Return the network with other numbers, without its slow host.

        Raises:
            ValueError: naming the axis that this kind of network does not take.
        """
        given = [key for key in NetworkNumbers._fields[:4] if getattr(variant, key) is not None]
        if self.source == "ideal":
            return _ideal(variant)
        if not given:
            return self.source
        if isinstance(self.source, Fabric):
            return _of_fabric(self.source, variant)
        if isinstance(self.source, NetworkTable) and not isinstance(self.source, SimGrid):
            return _of_table(self.source, variant)
        if isinstance(self.source, CalibratedNetwork) and given == ["bandwidth_bytes_per_s"]:
            return self.source.at_rate(8 * (variant.bandwidth_bytes_per_s or 0.0))
        raise ValueError(
            f"{_AXES[given[0]]}: network {self.name} has its own, expected a fabric, or a network "
            "file with such a key"
        )

    def numbers(self, variant: NetworkNumbers) -> NetworkNumbers:
        """Return the variant with the base's own numbers, as far as they are one for all links."""
        found = self.with_numbers(variant)
        if isinstance(found, Fabric):
            own = NetworkNumbers(found.bandwidth_bytes_per_s, found.latency_s / 2)
        elif isinstance(found, Link):
            own = NetworkNumbers(*found.link(hosts_only=isinstance(found, Ring | Torus)))
        else:
            own = NetworkNumbers()
        if isinstance(found, Racks):
            share = found.oversubscription if found.uplink_bandwidth_gbit_per_s is None else None
            own = own._replace(hosts_per_rack=found.hosts_per_rack, oversubscription=share)
        said = {key: value for key, value in variant._asdict().items() if value is not None}
        return own._replace(**said)

    def cluster(self, variant: NetworkNumbers, num_ranks: int) -> Cluster:
        """Return a cluster of *num_ranks* ranks on the network.

        Raises:
            ValueError: as `with_numbers`, or if so many ranks do not fit.
        """
        found = self.with_numbers(variant)
        source = found.network(num_ranks) if isinstance(found, CalibratedNetwork) else found
        cluster = load_cluster(source, num_ranks)
        if variant.slow_host_factor == 1:
            return cluster
        network, factor = cluster.network, variant.slow_host_factor
        host = int(cluster.placement[-1]) // network.slots_per_host
        return replace(
            cluster,
            network=slow_host(network, host, factor),
            differs=(*cluster.differs, f"host {host}: bandwidth x {factor:g}"),
            fabric=None,
        )


#: Axis of each number, for errors.
_AXES = {
    "bandwidth_bytes_per_s": "bandwidth",
    "latency_s": "latency",
    "hosts_per_rack": "hosts_per_rack",
    "oversubscription": "oversubscription",
}


def base_network(source: Source, folder: str | Path = "") -> BaseNetwork:
    """Return the network that a name, a file or anything else means.

    Args:
        source: See `load_cluster`.
        folder: Folder in which relative paths begin.

    Raises:
        ValueError: if there is no such network.
    """
    if isinstance(source, str | Path):
        return _named(str(source), folder)
    if isinstance(source, NetworkTable):
        return BaseNetwork(source.name, source, _digest(source.model_dump_json(), *_files(source)))
    if isinstance(source, Fabric):
        return BaseNetwork(source.name, source, _digest(repr(source)))
    name = source.name if isinstance(source, Cluster) else str(getattr(source, "name", ""))
    return BaseNetwork(name or type(source).__name__.lower(), source, "")


def _named(name: str, folder: str | Path) -> BaseNetwork:
    fabric = find_fabric(name)
    if fabric == "ideal":  # which has no numbers of its own
        return BaseNetwork("ideal", "ideal", "ideal")
    if fabric is not None:
        return base_network(load_fabric(fabric))
    found = read_file(name, folder)
    if isinstance(found, Fabric | NetworkTable):
        return replace(base_network(found), name=name)
    return BaseNetwork(name, found, _digest("", Path(folder, file_of(name))))


def is_name(source: object) -> bool:
    """Return True for a text that is neither a fabric nor a file: one of [[networks]]."""
    return isinstance(source, str) and find_fabric(source) is None and not names_file(source)


def _ideal(variant: NetworkNumbers) -> Source:
    if variant.bandwidth_bytes_per_s is None:
        raise ValueError("bandwidth: missing, expected one for network 'ideal'")
    latency_s = variant.latency_s or 0.0
    fabric = Fabric("ideal", variant.bandwidth_bytes_per_s, 2 * latency_s, "given")
    return _of_fabric(fabric, variant._replace(bandwidth_bytes_per_s=None, latency_s=None))


def _of_fabric(fabric: Fabric, variant: NetworkNumbers) -> Source:
    bandwidth, latency_s = variant.bandwidth_bytes_per_s, variant.latency_s
    if bandwidth is not None:
        fabric = replace(fabric, bandwidth_bytes_per_s=bandwidth)
    if latency_s is not None:
        fabric = replace(fabric, latency_s=2 * latency_s)
    if variant.hosts_per_rack is None:
        if variant.oversubscription is not None:
            raise ValueError(
                f"oversubscription: {fabric.name} has no racks, expected hosts_per_rack as well"
            )
        return fabric
    known = FABRICS.get(fabric.name)
    own: dict[str, object] = {} if known is None else {"base": known.name}
    if known is None or known.bandwidth_bytes_per_s != fabric.bandwidth_bytes_per_s:
        own["bandwidth_gbit_per_s"] = fabric.bandwidth_bytes_per_s / GBIT
    if known is None or known.latency_s != fabric.latency_s:
        own["latency_us"] = fabric.latency_s / 2 / _US
    racks = {"hosts_per_rack": variant.hosts_per_rack} | _but_none(
        oversubscription=variant.oversubscription
    )
    return Racks.model_validate({"kind": "racks", "name": f"{fabric.name}-racks"} | own | racks)


def _of_table(table: NetworkTable, variant: NetworkNumbers) -> NetworkTable:
    """Return the table with other values for keys that it has, all of which have been checked."""
    bandwidth, latency_s = variant.bandwidth_bytes_per_s, variant.latency_s
    is_calibrated = isinstance(table, Calibrated)
    own = {
        "bandwidth": None if bandwidth is None else bandwidth / GBIT,
        "latency": None if latency_s is None else latency_s / _US,
        "hosts_per_rack": variant.hosts_per_rack,
        "oversubscription": variant.oversubscription,
    }
    keys = {"bandwidth": "bandwidth_gbit_per_s", "latency": "latency_us"}
    if is_calibrated and bandwidth is not None:
        keys["bandwidth"], own["bandwidth"] = "rate", 8 * bandwidth  # in bit/s
    changed = {}
    for axis, value in _but_none(**own).items():
        key = keys.get(axis, axis)
        if key not in type(table).model_fields:
            raise ValueError(
                f"{axis}: network {table.name} has no such key ({key}), expected another kind"
            )
        changed[key] = value
    if "oversubscription" in changed and getattr(table, _UPLINK) is not None:
        raise ValueError(f"oversubscription: network {table.name} has {_UPLINK}, expected one")
    return table.model_copy(update=changed)


def _but_none(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _files(table: NetworkTable) -> list[Path]:
    """Return the files that a table names, whose content decides as well."""
    return [table.file] if isinstance(table, SimGrid | Calibrated) else []


def _digest(text: str, *files: Path) -> str:
    content = hashlib.sha256(text.encode())
    for file in files:
        content.update(file.read_bytes())
    return content.hexdigest()
