"""Other networks: what faster ones would buy, and up to which bandwidth compressing pays."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from dgc_topo.experiments.advice.advice import Better
from dgc_topo.experiments.advice.clusters import cluster_of, with_gpus
from dgc_topo.experiments.advice.verdict import WORTH, best_dense, best_sparse
from dgc_topo.experiments.advice.ways import (
    DENSE,
    TrainingWay,
    topologies_for,
    way_of,
    ways_over,
)
from dgc_topo.network.cluster import load_cluster
from dgc_topo.network.fabrics import Fabric, load_fabric
from dgc_topo.simulation import Workload
from dgc_topo.simulation.training.timeline import Codec
from dgc_topo.topology import load_topology

#: Better networks to compare with, by what a host's port carries.
_LADDER = ("1gbe", "10gbe", "25gbe", "100gbe", "ib-hdr")
_LEAST_RATE, _MOST_RATE = 1e5, 1e12  #: bytes per second, between which ways may break even
_HALVINGS = 24  #: of that range's logarithm, to a millionth


def better_networks(
    workload: Workload, fabric: str | None, hosts: int, gpus_per_host: int, *, overlap: bool
) -> tuple[Better, ...]:
    """Return dense training over each faster fabric, over the topologies that suit."""
    if fabric is None:
        return ()
    own = load_fabric(fabric).bandwidth_bytes_per_s
    found = []
    for name in _LADDER:
        if load_fabric(name).bandwidth_bytes_per_s > own:
            cluster = cluster_of(name, hosts, gpus_per_host)
            topologies = topologies_for(cluster.num_ranks, gpus_per_host)
            ways = ways_over(topologies, DENSE, workload, cluster, overlap=overlap, codec=Codec())
            found.append(Better(name, min(ways, key=lambda way: way.step_time_s)))
    return tuple(found)


def break_even(
    ways: Sequence[TrainingWay],
    workload: Workload,
    fabric: Fabric | None,
    hosts: int,
    gpus_per_host: int,
    *,
    overlap: bool,
    codec: Codec,
) -> float | None:
    """Return the bandwidth at which compressing is just worth while, see `WORTH`.

    The ways stay those that are best on the network itself.  None without a fabric, or if
    compressing always or never is worth while.
    """
    sparse = best_sparse(ways)
    if fabric is None or sparse is None:
        return None
    pair = best_dense(ways), sparse

    def gain(bandwidth_bytes_per_s: float) -> float:
        """Return a number above 0 where compressing is worth while."""
        other = Fabric(fabric.name, bandwidth_bytes_per_s, fabric.latency_s, fabric.source)
        there = with_gpus(load_cluster(other, hosts), gpus_per_host)
        dense_s, sparse_s = (
            way_of(
                load_topology(way.topology),
                way.form,
                workload,
                there,
                overlap=overlap,
                codec=codec,
            ).step_time_s
            for way in pair
        )
        return dense_s - WORTH * sparse_s

    low, high = _LEAST_RATE, _MOST_RATE
    if gain(low) <= 0 or gain(high) >= 0:
        return None
    for _ in range(_HALVINGS):
        middle = exp((log(low) + log(high)) / 2)
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return low
