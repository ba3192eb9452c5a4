"""The cluster that advice is asked about: hosts, and how many workers each has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dgc_topo.network.changes import add_gpus
from dgc_topo.network.cluster import Cluster, load_cluster
from dgc_topo.network.fabrics import find_fabric, load_fabric
from dgc_topo.network.network_files import calibration_in
from dgc_topo.scalars import plain_int

if TYPE_CHECKING:
    from pathlib import Path

    from dgc_topo.network.calibrated import CalibratedNetwork


def cluster_of(network: str | Path | Cluster, hosts: int, gpus_per_host: int) -> Cluster:
    """Return the cluster of so many hosts with so many GPUs.

    Raises:
        ValueError: if there are too few hosts, or the network's own hosts have another number of
            GPUs, or are fewer.
    """
    hosts = plain_int("hosts", hosts, least=2)
    gpus_per_host = plain_int("gpus_per_host", gpus_per_host, least=1)
    if gpus_per_host > 1 and not isinstance(network, Cluster):
        plain = load_cluster(network, hosts)
        if plain.network.slots_per_host == 1:
            return with_gpus(plain, gpus_per_host)
    cluster = load_cluster(network, hosts * gpus_per_host)
    own = cluster.network.slots_per_host
    if own != gpus_per_host:
        raise ValueError(
            f"gpus_per_host {gpus_per_host}: hosts of {cluster.name} have {own}, expected as many"
        )
    return cluster


def with_gpus(cluster: Cluster, gpus_per_host: int) -> Cluster:
    """Return a cluster of hosts with so many GPUs each, which NVLink joins; one GPU is none more.

    Raises:
        ValueError: if ranks are not placed in order, there is other traffic, or links change.
    """
    if gpus_per_host == 1:
        return cluster
    in_order = np.array_equal(cluster.placement, np.arange(cluster.network.num_slots))
    if not in_order or cluster.background is not None or cluster.changes:
        raise ValueError(
            f"gpus_per_host {gpus_per_host}: hosts of {cluster.name} have 1 and more than links "
            "(a placement, other traffic or changes), expected a network file with gpus_per_host"
        )
    inside = load_fabric("nvlink")
    network = add_gpus(
        cluster.network, gpus_per_host, inside.bandwidth_bytes_per_s, inside.latency_s / 2
    )
    return Cluster(
        f"{cluster.name}-{gpus_per_host}gpus",
        network,
        np.arange(network.num_slots),
        differs=cluster.differs,
    )


def fabric_of(network: str | Path | Cluster) -> str | None:
    """Return the name of the fabric that *network* names; None if it is anything else."""
    return find_fabric(network) if isinstance(network, str) else None


def calibration_of(network: str | Path | Cluster) -> CalibratedNetwork | None:
    """Return the calibration in the file that *network* names; None if it is anything else."""
    return None if isinstance(network, Cluster) else calibration_in(str(network))
