"""Networks: hosts and links, what messages cost at their ends, and what changes over time."""

from dgc_topo.network.changes import (
    Background,
    LinkChange,
    limit_hosts,
    links_of_host,
    slow_host,
    slow_links,
)
from dgc_topo.network.clusters import (
    draw_fat_tree,
    draw_gpu_hosts,
    draw_racks,
    draw_ring,
    draw_star,
    draw_torus,
    place_round_robin,
)
from dgc_topo.network.fabrics import Fabric, known_fabrics, load_fabric
from dgc_topo.network.graph import from_graph
from dgc_topo.network.hosts import HostCosts, curve_from_times
from dgc_topo.network.network import Network, star
from dgc_topo.network.simgrid import read_simgrid

__all__ = [
    "Background",
    "Fabric",
    "HostCosts",
    "LinkChange",
    "Network",
    "curve_from_times",
    "draw_fat_tree",
    "draw_gpu_hosts",
    "draw_racks",
    "draw_ring",
    "draw_star",
    "draw_torus",
    "from_graph",
    "known_fabrics",
    "limit_hosts",
    "links_of_host",
    "load_fabric",
    "place_round_robin",
    "read_simgrid",
    "slow_host",
    "slow_links",
    "star",
]
