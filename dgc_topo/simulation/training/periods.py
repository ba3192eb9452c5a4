"""`average_steps`: several steps, or periods of them, in a row, each rank at its own pace.

A rank goes on with its next period as soon as it has ended the one before, so that ranks drift
apart as far as their exchanges let them.  Messages of different periods never share a link here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.averaging import Attendance
from dgc_topo.network.cluster import Cluster
from dgc_topo.schedule import Schedule
from dgc_topo.simulation.arguments import schedule_of, topology_text
from dgc_topo.simulation.engines import Engine
from dgc_topo.simulation.training.engine import Entry, TrainingStep, simulate_training_step
from dgc_topo.simulation.training.result import StepRun
from dgc_topo.simulation.training.step_simulation import StepSimulation
from dgc_topo.topology import Topology

#: Number of steps to average over if the topology changes from step to step.
VARYING_ITERATIONS = 8
#: Number of steps to average over if compute times are random.
JITTER_STEPS = 8


def average_steps(  # noqa: PLR0913 - what differs between calls stays apart from the step
    step: TrainingStep,
    topology: Topology | Schedule,
    cluster: Cluster,
    *,
    density: float,
    seed: int = 0,
    num_steps: int | None = None,
    num_draws: int = JITTER_STEPS,
    engine: Engine = "auto",
) -> StepSimulation:
    """Return the means over several steps, or a single step if all are alike.

    Args:
        step: Work of every worker.
        topology: Topology, which may change from step to step, or a schedule.
        cluster: Ranks on a network.
        density: Fraction of the compressible elements that *step* sends.
        seed: Seed of a topology that draws at random.
        num_steps: Steps to average over, whatever varies.
        num_draws: Steps to average over with jitter, otherwise; 8 of a topology that varies.
        engine: See `simulate_schedule`.
    """
    varies = isinstance(topology, Topology) and topology.varies
    if num_steps is None:
        num_steps = max(
            VARYING_ITERATIONS if varies else 1,
            num_draws if step.compute_factors.varies or step.leaves_out else 1,
        )
    size, text = cluster.num_ranks, topology_text(topology)
    first = kept_schedule(topology, size, 0, seed)
    who = Attendance(size, step.participation, first.goal, seed, absences=step.absences)
    if not who.is_full:
        topology = who.arranged(_as_topology(topology))
    begin_s, runs = np.zeros(size), list[StepRun]()
    for number in range(num_steps):
        schedule = kept_schedule(topology, size, number if varies or not who.is_full else 0, seed)
        entry = _entry(step, who, begin_s, number)
        run = simulate_training_step(
            step, schedule, cluster, iteration=number, engine=engine, entry=entry
        )
        runs.append(_behind(run, runs[-1] if runs else None, is_last=number == num_steps - 1))
        begin_s = run.end_s
    return StepSimulation(text, cluster.name, first.goal, density, step, tuple(runs))


def _entry(step: TrainingStep, who: Attendance, begin_s: FloatArray, number: int) -> Entry:
    """Return how ranks come into a period: each when it has ended the one before."""
    out = np.setdiff1d(np.arange(who.world_size), who.of(number)).tolist()
    catches_up = step.alike_vectors and len(who.behind(number))
    schedule = who.catching_up().schedule(who.world_size, iteration=number) if catches_up else None
    return Entry(begin_s=begin_s, left_out=tuple(out), catch_up=schedule)


def _behind(run: StepRun, before: StepRun | None, *, is_last: bool) -> StepRun:
    """Return a period's run as one of several in a row: ranks go on without waiting for others."""
    began_s = 0.0 if before is None else float(before.end_s.max())
    waits = run.last_wait_s if is_last else np.zeros_like(run.last_wait_s)
    return replace(run, period_s=float(run.end_s.max()) - began_s, last_wait_s=waits)


def _as_topology(topology: Topology | Schedule) -> Topology:
    if isinstance(topology, Topology):
        return topology
    raise ValueError(
        "ranks are left out over a schedule, which is for all of its ranks, expected a topology"
    )


@lru_cache(maxsize=1024)  # scenarios ask again for every network and model
def kept_schedule(
    topology: Topology | Schedule, world_size: int, iteration: int, seed: int
) -> Schedule:
    """Return `schedule_of`, remembered."""
    return schedule_of(topology, world_size, iteration, seed)
