"""Simulation of schedules and training steps on a modelled network (SimPy owns the clock).

Start at `simulate` (a topology on a cluster).  Below it are `simulate_schedule` and
`simulate_flows` (independent flows).  `bulk` takes whole steps at once where `meetings` proves that
this is exact: read `clocks` (ranks that wait for each other) and `inside_step` (flows of one step)
beside it.  For the event engine read `progress` (ranks and steps), `fluid` (flows and time) and
`sharing` (fair rates) in this order.  Whole training steps of a `Workload` are in
`dgc_topo.simulation.training`.
"""

from dgc_topo.simulation.bounds import goal_bound_s, lower_bound_s, network_bound_s
from dgc_topo.simulation.buffer import Buffer
from dgc_topo.simulation.collective import Simulation, simulate
from dgc_topo.simulation.flows import Flows, simulate_flows
from dgc_topo.simulation.fluid import Fluid
from dgc_topo.simulation.goal import write_goal
from dgc_topo.simulation.maxmin import max_min_rates
from dgc_topo.simulation.progress import ScheduleProgress
from dgc_topo.simulation.run import ScheduleRun, UnreachableError, simulate_schedule
from dgc_topo.simulation.step_sizes import Sizes
from dgc_topo.simulation.tally import Bounds
from dgc_topo.simulation.transfer_sizes import DenseSizes, UnionSizes
from dgc_topo.simulation.unions import independent_growth, power_growth
from dgc_topo.simulation.workload import Workload
from dgc_topo.simulation.workload_sources import load_workload

__all__ = [
    "Bounds",
    "Buffer",
    "DenseSizes",
    "Flows",
    "Fluid",
    "ScheduleProgress",
    "ScheduleRun",
    "Simulation",
    "Sizes",
    "UnionSizes",
    "UnreachableError",
    "Workload",
    "goal_bound_s",
    "independent_growth",
    "load_workload",
    "lower_bound_s",
    "max_min_rates",
    "network_bound_s",
    "power_growth",
    "simulate",
    "simulate_flows",
    "simulate_schedule",
    "write_goal",
]
