"""Ranks on a network as tests place them, beside other jobs and with links that change."""

import numpy as np

from dgc_topo.network import Cluster, Network, load_cluster


def placed(network, num_ranks, placement=None, background=None, changes=()):
    """Return the cluster; rank r is on slot r if *placement* is left out."""
    if not isinstance(network, Network):
        network = load_cluster(network, num_ranks).network
    slots = np.arange(num_ranks) if placement is None else placement
    return Cluster("network", network, slots, background=background, changes=tuple(changes))
