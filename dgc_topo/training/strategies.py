"""The ranks of a training in this process, and the strategy that its job asks for."""

from __future__ import annotations

from collections.abc import Sequence

from dgc_topo.topology import Topology
from dgc_topo.training.ddp import DdpStep, check_powersgd
from dgc_topo.training.job import Job
from dgc_topo.training.overlap import OverlappedStep
from dgc_topo.training.rank import TrainingRank
from dgc_topo.training.steps import AveragingStep, ExchangePlan, Strategy
from dgc_topo.training.world import World


def ranks_of(job: Job, world: World, contributors: Sequence[int]) -> list[TrainingRank]:
    """Return the ranks of a world that are in this process.

    Those that sum gradients share their parameters; those that average changes, their anchor.
    """
    ranks: list[TrainingRank] = []
    for number in world.ranks:
        shared = ranks[0].parameters if ranks and not job.rule.is_local else None
        ranks.append(TrainingRank(job, number, contributors, world.device, parameters=shared))
        if len(ranks) > 1:
            ranks[-1].averager.share(ranks[0].averager)
    return ranks


def strategy_of(
    job: Job, topology: Topology, world: World, ranks: Sequence[TrainingRank], num_steps: int
) -> Strategy:
    """Return the strategy of a job.

    Args:
        job: The job.
        topology: The job's, or what is left of it.
        world: All ranks.
        ranks: Those in this process.
        num_steps: Number of steps of the whole training.
    """
    rank, scale = ranks[0], world.time_scale
    if job.compression.uses_ddp:
        check_powersgd(job, num_steps)
        return DdpStep(rank.model, job.train, job.compression, rank.task, scale)
    attendance = job.attendance(world.world_size)
    exchange = world.connect(job, attendance.arranged(topology))
    if job.bucket_bytes is not None and world.kind == "processes":
        return OverlappedStep(rank, exchange, rank.task, time_scale=scale)
    # Virtual workers send the same buckets, one after the other.
    finish_all = job.compression.learns_from_sums
    catch_up = None if attendance.is_full else world.connect(job, attendance.catching_up())
    plan = ExchangePlan(exchange, attendance, catch_up)
    return AveragingStep(ranks, job.rule, plan, finish_all=finish_all, time_scale=scale)
