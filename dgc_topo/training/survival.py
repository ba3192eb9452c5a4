"""Gossip that goes on without the ranks that were lost."""

from __future__ import annotations

from typing import NamedTuple

from dgc_topo.proof import prove
from dgc_topo.records.quality import LostRank
from dgc_topo.survivors import without
from dgc_topo.topology import Topology
from dgc_topo.training.checkpoints.state import Progress
from dgc_topo.training.job import Job
from dgc_topo.training.world import World


class Survival(NamedTuple):
    """Schedules and position with which the ranks that are left go on.

    Attributes:
        topology: Their topology, proved anew.
        progress: That of the furthest of them, from which all go on.
    """

    topology: Topology
    progress: Progress


def go_on_without(job: Job, world: World, progress: Progress) -> Survival | None:
    """Join those that are left, and agree on the step from which they go on.

    Parameters stay as each rank has them: those of its last whole step.  Ranks that are behind the
    furthest leave out the steps between; nobody has used half of a message.

    Args:
        job: The training.
        world: Its ranks; becomes the world of those that are left.
        progress: This rank's.

    Returns:
        None if the training is not to go on.

    Raises:
        RuntimeError: if another rank is lost meanwhile.
        ScheduleError: if those that are left do not average any more.
    """
    living = world.go_on() if job.train.on_lost_rank == "continue" else None
    if living is None:
        return None
    lost = sorted(set(range(job.train.world_size)) - set(living))
    topology = without(job.topology, lost, job.train.world_size)
    prove(topology, len(living), seed=job.seed)
    what = f"topology {topology.label}, agreeing on a step"
    found = world.gather(Progress, [progress], what)
    furthest = max(found, key=lambda each: (each.step, len(each.points)))
    earlier = max((one.lost for one in found), key=len)
    known = {each.rank for each in earlier}
    newly = [LostRank(rank=rank, step=furthest.step) for rank in lost if rank not in known]
    return Survival(topology, furthest.model_copy(update={"lost": [*earlier, *newly]}))
