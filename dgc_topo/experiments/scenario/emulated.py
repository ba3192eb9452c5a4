"""Networks that a lab emulates: those whose predictions can be set beside runs in it."""

from __future__ import annotations

import numpy as np

from dgc_topo.network.cluster import Cluster
from dgc_topo.workers.lab.spec import LabSpec

_LEFT = 0.9  # of a link's rate, at least, after the headers of frames: 1 GbE's payload is 0.93


def is_emulated(cluster: Cluster, lab: LabSpec) -> bool:
    """Return True if a message finds in a cluster the links that a lab has, or stands for.

    The rates between any two ranks decide.  A cluster gives the payload of its links, which is up
    to a tenth below the rate of the lab's.  A scaled lab stands for links that are so many times
    faster.  No network is emulated by a lab that has unshaped links or changes them.

    Args:
        cluster: Ranks of a predicted network.
        lab: A lab with a rank on each host.
    """
    rates = [lab.rate_of(host) for host in range(lab.num_hosts)]
    changes = lab.changes or cluster.changes or cluster.background is not None
    if changes or None in rates or cluster.num_ranks != lab.num_hosts:
        return False
    src, dst = np.nonzero(~np.eye(lab.num_hosts, dtype=bool))
    links = cluster.network.routes(cluster.placement[src], cluster.placement[dst])
    # A route is padded with -1, which finds the last: no link, so no limit.
    bandwidths = np.append(cluster.network.bandwidth_bytes_per_s, np.inf)
    bytes_per_s = bandwidths[links].min(axis=1)
    ports = np.array(rates, np.float64) * lab.time_scale / 8
    share = bytes_per_s / np.minimum(ports[src], ports[dst])
    return bool(((share >= _LEFT) & (share <= 1)).all())
