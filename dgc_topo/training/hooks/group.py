"""The group and topology of a hook."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from dgc_topo.topology import Topology, load_topology
from dgc_topo.training.own_group import OwnGroup, check_process_group


def group_of(
    where: str,
    topology: Topology | str | Path,
    group: dist.ProcessGroup | None,
    *,
    seed: int,
    timeout: timedelta,
) -> OwnGroup:
    """Return a group of its own with a topology that sums what every rank contributes.

    Every rank of *group* calls this, and all in the same order.

    Raises:
        TopologyError: if there is no such topology, or it cannot run with this world size.
        ValueError: if there is no process group, the topology gossips, or has servers that do not
            train.
    """
    check_process_group(where)
    if dist.get_rank(group) < 0:
        raise ValueError(f"{where}: this process is not in the group, expected a member")
    if not isinstance(topology, Topology):
        topology = load_topology(str(topology))
    schedule = topology.schedule(dist.get_world_size(group), seed=seed)
    if schedule.goal != "all-reduce":
        raise ValueError(
            f"{where}: topology {topology.label} is {schedule.goal}, expected an all-reduce such "
            "as ring, butterfly or tree: gossip averages parameters, which dt.DistributedOptimizer "
            "does"
        )
    if schedule.servers:
        ranks = ", ".join(map(str, schedule.servers))
        raise ValueError(
            f"{where}: topology {topology.label} has ranks that only serve ({ranks}), but every "
            "rank trains here, expected one without, such as parameter-server:server=colocated"
        )
    return OwnGroup(where, topology, group, seed=seed, timeout=timeout)
