"""Run a schedule in simulated time on a modelled network (SimPy owns the clock).

The way in is `simulate` (a schedule) or `simulate_flows` (independent flows) on a `Network`.
Read `run`, `progress` (ranks and steps), `fluid` (flows and time) and `sharing` (who gets how much)
in this order.  Whole training steps are in `dgc_topo.simulate.training`.
"""

from dgc_topo.simulate.bounds import goal_bound_s, lower_bound_s, network_bound_s
from dgc_topo.simulate.changes import (
    LinkChange,
    limit_hosts,
    links_of_host,
    slow_host,
    slow_links,
)
from dgc_topo.simulate.clusters import (
    draw_fat_tree,
    draw_gpu_hosts,
    draw_racks,
    draw_ring,
    draw_star,
    draw_torus,
    place_round_robin,
)
from dgc_topo.simulate.fabrics import Fabric, known_fabrics, load_fabric
from dgc_topo.simulate.flows import Background, Flows, simulate_flows
from dgc_topo.simulate.fluid import Fluid
from dgc_topo.simulate.goal import write_goal
from dgc_topo.simulate.graph import from_graph
from dgc_topo.simulate.growth import independent_growth, power_growth
from dgc_topo.simulate.hosts import HostCosts, curve_from_times
from dgc_topo.simulate.maxmin import max_min_rates
from dgc_topo.simulate.network import Network, star
from dgc_topo.simulate.progress import Progress
from dgc_topo.simulate.run import Result, UnreachableError, simulate
from dgc_topo.simulate.simgrid import read_simgrid
from dgc_topo.simulate.sizes import DenseSizes, Sizes, SparseSizes
from dgc_topo.simulate.tally import Bounds

__all__ = [
    "Background",
    "Bounds",
    "DenseSizes",
    "Fabric",
    "Flows",
    "Fluid",
    "HostCosts",
    "LinkChange",
    "Network",
    "Progress",
    "Result",
    "Sizes",
    "SparseSizes",
    "UnreachableError",
    "curve_from_times",
    "draw_fat_tree",
    "draw_gpu_hosts",
    "draw_racks",
    "draw_ring",
    "draw_star",
    "draw_torus",
    "from_graph",
    "goal_bound_s",
    "independent_growth",
    "known_fabrics",
    "limit_hosts",
    "links_of_host",
    "load_fabric",
    "lower_bound_s",
    "max_min_rates",
    "network_bound_s",
    "place_round_robin",
    "power_growth",
    "read_simgrid",
    "simulate",
    "simulate_flows",
    "slow_host",
    "slow_links",
    "star",
    "write_goal",
]
