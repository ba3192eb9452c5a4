"""`simulate_schedule`: one run of a schedule on a cluster, in simulated time."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import simpy

from dgc_topo.arrays import FloatArray
from dgc_topo.network.changes import Background, LinkChange
from dgc_topo.network.cluster import Cluster, Source, load_cluster
from dgc_topo.network.network import Network
from dgc_topo.schedule import Schedule
from dgc_topo.simulation.bulk import BulkRun
from dgc_topo.simulation.engines import Engine, UsedEngine, run_engine
from dgc_topo.simulation.flows import Flows
from dgc_topo.simulation.fluid import Fluid, change_links
from dgc_topo.simulation.progress import ScheduleProgress
from dgc_topo.simulation.step_sizes import Sizes
from dgc_topo.simulation.tally import Bounds, Tally
from dgc_topo.simulation.transfer_sizes import fit_sizes
from dgc_topo.simulation.watching import StepWatch

_SHOWN = 4  # links and pairs of ranks named in an error


class UnreachableError(ValueError):
    """Ranks wait for ever, because links have failed for good."""


@dataclass(frozen=True, slots=True, eq=False)
class ScheduleRun:
    """Run of a schedule in simulated time.

    Attributes:
        time_s: Seconds until the last rank finished.
        messages: Number of transfers.
        bytes_sent: Bytes sent by each rank, shape (world_size,).
        finish_s: Time at which each rank finished, shape (world_size,); 0 for a rank with nothing
            to do.
        bounds: Seconds that each resource alone needs; ``bounds.bound_by`` names the busiest.
        engine: Engine that was used: ``bulk`` or ``events``.
        wall_s: Seconds that the simulation itself took.
    """

    time_s: float
    messages: int
    bytes_sent: FloatArray
    finish_s: FloatArray
    bounds: Bounds
    engine: UsedEngine
    wall_s: float

    def algbw_bytes_per_s(self, total_bytes: float) -> float:
        """Return the bytes of the buffer over the time; infinite if the run took no time."""
        return total_bytes / self.time_s if self.time_s else math.inf

    def busbw_bytes_per_s(self, total_bytes: float) -> float:
        """Return the bandwidth of an all-reduce that compares with line rate at any world size.

        ``algbw * 2 (p - 1) / p``, see NVIDIA/nccl-tests, doc/PERFORMANCE.md.
        """
        num_ranks = len(self.finish_s)
        if num_ranks == 1:
            return 0.0
        return self.algbw_bytes_per_s(total_bytes) * 2 * (num_ranks - 1) / num_ranks


def simulate_schedule(
    schedule: Schedule,
    cluster: Source,
    sizes: Sizes | float,
    *,
    engine: Engine = "auto",
) -> ScheduleRun:
    """Run a schedule once, from time 0, in simulated time.

    The transfers of one step between one ordered pair of ranks share one connection: they are
    one flow with the sum of their bytes.  (Two steps of a pair never overlap.)

    Args:
        schedule: Schedule to run.
        cluster: Ranks on a network's hosts, or what `load_cluster` makes a cluster of.
        sizes: Bytes of each transfer, made for this schedule; a number is that of a dense buffer.
        engine: ``bulk`` takes whole steps at once, which is many times faster, but needs the proof
            that messages of different steps cannot meet; ``events`` takes anything.  ``auto`` is
            ``bulk`` where that is proved and faster.  Both give the same times.

    Raises:
        ValueError: if the cluster has other ranks or too few hosts, a size is not a number >= 0,
            the sizes were made for another schedule, or *engine* cannot be used.
        UnreachableError: if links fail for good and ranks wait for ever.
    """
    started = time.perf_counter()
    cluster = load_cluster(cluster, schedule.world_size)
    sized = fit_sizes(sizes, schedule)
    used, (finish_s, tally, bounds) = run_engine(
        engine,
        lambda: _run_bulk(schedule, cluster, sized, is_demanded=engine == "bulk"),
        lambda: _run_events(schedule, cluster, sized),
    )
    return ScheduleRun(
        float(finish_s.max()),
        tally.messages,
        tally.bytes_sent,
        finish_s,
        bounds,
        used,
        time.perf_counter() - started,
    )


_Outcome = tuple[FloatArray, Tally, Bounds]


def _run_bulk(schedule: Schedule, cluster: Cluster, sizes: Sizes, *, is_demanded: bool) -> _Outcome:
    run = BulkRun(cluster, StepWatch([schedule]), is_demanded=is_demanded)
    run.run(schedule, sizes)
    return run.clocks.times_s, run.tally, run.tally.bounds()


def _run_events(schedule: Schedule, cluster: Cluster, sizes: Sizes) -> _Outcome:
    fluid = Fluid(simpy.Environment(), cluster.network)
    progress = ScheduleProgress(fluid, schedule, sizes, cluster.placement)
    bounds = run_to_end(progress, fluid, cluster.background, cluster.changes)
    return progress.finish_s, progress.tally, bounds


def run_to_end(
    progress: ScheduleProgress,
    fluid: Fluid,
    background: Background | None,
    changes: Sequence[LinkChange],
) -> Bounds:
    """Let time pass until the last rank is done; return the bounds by resource.

    Raises:
        UnreachableError: if links fail for good and ranks wait for ever.
    """
    env = fluid.env
    if background is not None:
        Flows(fluid, *background)
    for change in changes:
        env.process(change_links(change, env, fluid))
    progress.settled()
    try:
        env.run(until=progress.finished)
    except RuntimeError as error:  # SimPy has no further events
        if progress.finished.triggered or env.peek() < math.inf:
            raise
        raise UnreachableError(_waiting_text(progress, fluid.network)) from error
    return progress.tally.bounds(changes, fluid.moved_at_once)


def _waiting_text(progress: ScheduleProgress, network: Network) -> str:
    """Return a text on the links that failed and the ranks that wait."""
    pairs, dead = progress.stalled()
    links = _some([f"{network.link_names(link)} (at {when:g} s)" for link, when in dead.items()])
    return (
        f"simulate: failed for good: {links}; no longer reached: "
        + _some([f"rank {dst} by rank {src}" for src, dst in pairs])
        + "; expected a later change that brings the links back"
    )


def _some(things: list[str]) -> str:
    """Return the first few of *things*, and the number of the others, as text."""
    more = len(things) - _SHOWN
    return ", ".join(things[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
