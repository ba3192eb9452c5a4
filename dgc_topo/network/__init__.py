"""Networks and clusters: hosts, links, costs at the ends of messages, and places of ranks."""

from dgc_topo.network.changes import (
    Background,
    LinkChange,
    add_gpus,
    limit_hosts,
    links_of_host,
    slow_host,
    slow_links,
)
from dgc_topo.network.cluster import Cluster, load_cluster
from dgc_topo.network.costs import EndCosts, curve_from_times
from dgc_topo.network.fabrics import Fabric, known_fabrics, load_fabric
from dgc_topo.network.graph import from_graph
from dgc_topo.network.network import Network, star
from dgc_topo.network.shapes import (
    draw_fat_tree,
    draw_racks,
    draw_ring,
    draw_star,
    draw_torus,
    place_round_robin,
)
from dgc_topo.network.simgrid import read_simgrid

__all__ = [
    "Background",
    "Cluster",
    "EndCosts",
    "Fabric",
    "LinkChange",
    "Network",
    "add_gpus",
    "curve_from_times",
    "draw_fat_tree",
    "draw_racks",
    "draw_ring",
    "draw_star",
    "draw_torus",
    "from_graph",
    "known_fabrics",
    "limit_hosts",
    "links_of_host",
    "load_cluster",
    "load_fabric",
    "place_round_robin",
    "read_simgrid",
    "slow_host",
    "slow_links",
    "star",
]
