"""Results of one simulated training step, or period of steps: phases, traffic and bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.simulation.engines import UsedEngine
from dgc_topo.simulation.tally import SAME, Bounds
from dgc_topo.simulation.training.timeline import Timeline
from dgc_topo.simulation.workload import LayerBucket


class StepPhases(NamedTuple):
    """Seconds of one step (means over the workers); they add up to the step.

    Attributes:
        compute_s: Forward and backward passes.
        compress_s: Compressing and decompressing.
        exposed_s: Communication that no computing hides.
        wait_s: Waiting for ranks that compute longer or end later than this one.
        update_s: The optimizer step.
    """

    compute_s: float
    compress_s: float
    exposed_s: float
    wait_s: float
    update_s: float


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedTraffic:
    """Traffic of a training step, or of a period's one exchange.

    Attributes:
        start_s: Time at which each rank began each bucket, shape (num_buckets, world_size).
        end_s: Time at which each rank finished its part in it, same shape.
        bytes_sent: By each rank, shape (world_size,).
        messages_sent: By each rank, same shape.
        bounds: Seconds that each resource of the network alone needs for all buckets.
    """

    start_s: FloatArray
    end_s: FloatArray
    bytes_sent: FloatArray
    messages_sent: FloatArray
    bounds: Bounds

    def in_buckets(self, passes: Sequence[int]) -> SimulatedTraffic:
        """Return the traffic with the times of buckets whose passes are the last rows.

        Args:
            passes: Number of each bucket's passes, one after the other.
        """
        rows = np.array(passes)
        ends = len(self.start_s) - rows.sum() + rows.cumsum()
        return replace(self, start_s=self.start_s[ends - rows], end_s=self.end_s[ends - 1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepRun:
    """Run of one training step of all ranks, or of a period: local steps and one exchange.

    Times are on one clock, which several periods in a row may share; those per step are shares of
    this period.

    Attributes:
        every: Number of steps in the period.
        period_s: From the common begin to the end of the last rank; of several periods in a row,
            from the last rank's end of the one before.
        last_wait_s: Seconds for which each rank waits at the end, shape (world_size,): none, if it
            goes on with another period.
        buckets: Layers that were sent together, in this order.
        workers: Ranks that train; dedicated servers do not.
        timeline: Times of the processors before sending.
        traffic: Times and bytes on the network.
        engine: Engine that was used: ``bulk`` or ``events``.
        decode_start_s: Begin of decompressing each bucket, shape (num_buckets, world_size).
        decode_end_s: End of it, same shape.
        update_s: Length of each rank's update after the exchange, shape (world_size,).
    """

    every: int
    period_s: float
    last_wait_s: FloatArray
    buckets: tuple[LayerBucket, ...]
    workers: IntArray
    timeline: Timeline
    traffic: SimulatedTraffic
    engine: UsedEngine
    decode_start_s: FloatArray
    decode_end_s: FloatArray
    update_s: FloatArray

    @property
    def end_s(self) -> FloatArray:
        """Time at which each rank has updated, shape (world_size,)."""
        return np.asarray(self.decode_end_s[-1] + self.update_s)

    @property
    def step_time_s(self) -> float:
        """Seconds per step: from the common begin to the last rank's end, over the steps."""
        return self.period_s / self.every

    @property
    def phases(self) -> StepPhases:
        """Seconds per step by what they were spent on (means over the workers).

        A rank's waiting is separated from its communication by the times at which gradients were
        ready: it waits from its own ready time to the slowest rank's, but not longer than it was
        idle.
        """
        ranks, timeline = self.workers, self.timeline
        encode_s = (timeline.ready_s - timeline.encode_start_s).sum(axis=0)[ranks]
        decode_s = (self.decode_end_s - self.decode_start_s).sum(axis=0)[ranks]
        ready_s = timeline.ready_s[-1, ranks]
        idle_s = np.maximum(self.decode_end_s[-1, ranks] - ready_s - decode_s, 0.0)
        late_s = np.minimum(ready_s.max(initial=0.0) - ready_s, idle_s)
        updates_s = timeline.updates_s[ranks]
        spent_s = (
            ready_s - timeline.start_s[ranks] - encode_s - updates_s,
            encode_s + decode_s,
            idle_s - late_s,
            late_s + self.last_wait_s[ranks],
            updates_s + self.update_s[ranks],
        )
        return StepPhases(*(float(each.mean()) / self.every for each in spent_s))

    @property
    def communication_s(self) -> float:
        """Seconds per step in which a bucket was under way, late peers included (workers' mean)."""
        under_way = self.traffic.end_s - self.traffic.start_s
        return float(under_way[:, self.workers].sum(axis=0).mean()) / self.every

    @property
    def bound_by(self) -> str:
        """Name of the bound of the run: ``compute`` (of the slowest rank), or a network resource.

        No overlap can make the step shorter than the time of the busiest processor, or of the
        network's busiest resource (a link, a host's CPU, latency); the larger one is the bound.
        """
        ready_s, starts = self.timeline.ready_s, self.decode_start_s
        busy_s = (
            ready_s[-1]
            - self.timeline.start_s
            + (self.decode_end_s - starts).sum(axis=0)
            + self.update_s
        )
        least_s = busy_s.max() * (1 - SAME)
        if busy_s.max() < self.traffic.bounds.largest_s * (1 - SAME):
            return self.traffic.bounds.bound_by
        alike = (busy_s[self.workers] >= least_s).all()
        return "compute" if alike else f"rank {int(np.argmax(busy_s >= least_s))} compute"
