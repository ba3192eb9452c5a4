"""Checks of process groups and schedules that a user chose, before anything is made of them."""

from __future__ import annotations

import torch.distributed as dist

from dgc_topo.schedule import Schedule


def check_process_group(where: str, group: dist.ProcessGroup | None) -> None:
    """Refuse to work without torch.distributed, or in a group of others.

    Args:
        where: Name of the owner in the error.
        group: The group; None is the default one.

    Raises:
        ValueError: if there is no process group, or this process is not in it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"{where}: no process group, expected torch.distributed.init_process_group to have "
            "been called (torchrun sets the variables that it reads)"
        )
    if dist.get_rank(group) < 0:
        raise ValueError(f"{where}: this process is not in the group, expected a member")


def check_schedule(where: str, schedule: Schedule, *, sums_all: bool) -> None:
    """Refuse a schedule that does not do what the owner of the group needs.

    Args:
        where: Names of the owner and the topology in the error.
        schedule: The schedule.
        sums_all: True if it has to sum what every rank contributes.

    Raises:
        ValueError: if it neither all-reduces nor averages; with *sums_all* also if it gossips, or
            has servers that do not train.
    """
    fit, others = "an all-reduce such as ring, butterfly or tree", ", or an average such as gossip"
    if sums_all:
        others = ": gossip averages parameters, which dt.DistributedOptimizer does"
    if schedule.goal not in ({"all-reduce"} if sums_all else {"all-reduce", "doubly-stochastic"}):
        raise ValueError(f"{where} is {schedule.goal}, expected {fit}{others}")
    if sums_all and schedule.servers:
        ranks = ", ".join(map(str, schedule.servers))
        raise ValueError(
            f"{where} has ranks that only serve ({ranks}), but every rank trains here, expected "
            "one without, such as parameter-server:server=colocated"
        )
