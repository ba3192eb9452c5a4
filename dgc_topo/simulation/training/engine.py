"""`simulate_training_step`: compute, compress, communicate, decompress, update, on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import simpy

from dgc_topo.network.cluster import Cluster, Source, load_cluster
from dgc_topo.network.fabrics import Fabric
from dgc_topo.schedule import Schedule
from dgc_topo.simulation.fluid import Fluid
from dgc_topo.simulation.lockstep import LockStep, find_lock_step, star_bounds
from dgc_topo.simulation.run import run_to_end
from dgc_topo.simulation.training.encoding import DenseEncoding, Encoding
from dgc_topo.simulation.training.result import SimulatedTraffic, StepRun
from dgc_topo.simulation.training.stream import BucketStream
from dgc_topo.simulation.training.timeline import (
    Codec,
    ComputeFactors,
    Timeline,
    compute_timeline,
    decode_times,
)
from dgc_topo.simulation.workload import LayerBucket, Workload, fill_buckets

#: Function from a bucket to its schedule; buckets may differ.
ScheduleOf = Callable[[LayerBucket], Schedule]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """Work of every worker in a step, and how its gradients are sent.

    Attributes:
        workload: Compute of one pass, and the gradients that it makes ready.
        encoding: Encoding of gradients.
        codec: Costs of compressing.
        bucket_bytes: Float32 bytes of a bucket, see `fill_buckets`; None overlaps nothing.
        accumulation_steps: Forward and backward passes per step; only the last one's gradients
            are sent.
        compute_factors: Factors on each rank's compute time.

    Raises:
        ValueError: if a number makes no sense.
    """

    workload: Workload
    encoding: Encoding = field(default_factory=DenseEncoding)
    codec: Codec = field(default_factory=Codec)
    bucket_bytes: float | None = None
    accumulation_steps: int = 1
    compute_factors: ComputeFactors = field(default_factory=ComputeFactors)

    def __post_init__(self) -> None:
        if self.accumulation_steps < 1:
            passes = self.accumulation_steps
            raise ValueError(f"training step: accumulation_steps {passes}, expected at least 1")
        fill_buckets(self.workload.layers, self.bucket_bytes)

    @property
    def buckets(self) -> tuple[LayerBucket, ...]:
        """The buckets, in the order they are sent."""
        return fill_buckets(self.workload.layers, self.bucket_bytes)

    @property
    def alone_s(self) -> float:
        """Seconds of a step of one worker that neither compresses nor communicates."""
        return self.accumulation_steps * self.workload.compute_s + self.workload.update_s

    @property
    def codec_s(self) -> float:
        """Seconds that a worker compresses and decompresses per step."""
        buckets = self.buckets
        return float((self.codec.encode_s(buckets) + self.codec.decode_s(buckets)).sum())

    def timeline(self, schedule: Schedule, iteration: int) -> Timeline:
        """Return the times of all ranks' processors before sending; servers have none."""
        factors = self.compute_factors.of_ranks(schedule.world_size, iteration)
        factors[list(schedule.servers)] = 0.0
        buckets = self.buckets
        encode_s = self.codec.encode_s(buckets)
        return compute_timeline(self.workload, buckets, encode_s, factors, self.accumulation_steps)


def simulate_training_step(
    step: TrainingStep,
    schedule: Schedule | ScheduleOf,
    cluster: Source,
    *,
    iteration: int = 0,
) -> StepRun:
    """Run one training step in simulated time, which all ranks begin together.

    Communication of a bucket begins on a rank when the bucket is ready there and the rank has
    finished the previous bucket (one communication stream, as in DDP).  A transfer begins when both
    of its ends have reached it.  Buckets that are under way at the same time share links.

    Args:
        step: Work of a worker.
        schedule: Schedule of each bucket, or a function that gives it for a bucket.
        cluster: Ranks on a network's hosts, or what `load_cluster` makes a cluster of.  On a
            fabric, schedules that keep equal ranks in step are summed up instead of simulated,
            with the same result.  Its links change at times since the step began.
        iteration: Which step it is, for jitter.

    Raises:
        ValueError: if schedules differ in their ranks, or the cluster has other ranks or too few
            hosts.
        UnreachableError: if links fail for good and ranks wait for ever.
    """
    buckets = step.buckets
    schedules = [schedule if isinstance(schedule, Schedule) else schedule(b) for b in buckets]
    first = schedules[0]
    for other in schedules:
        if (other.world_size, other.servers) != (first.world_size, first.servers):
            raise ValueError(
                f"training step: buckets of {first.world_size} and {other.world_size} ranks with "
                f"servers {first.servers} and {other.servers}, expected the same in all"
            )
    timeline = step.timeline(first, iteration)
    cluster = load_cluster(cluster, first.world_size)
    traffic = None
    if cluster.fabric is not None:
        traffic = _in_step(step, schedules, cluster.fabric, timeline)
    if traffic is None:
        traffic = _simulated(step, schedules, cluster, timeline)
    decode_s = step.codec.decode_s(buckets)
    decode_start_s, decode_end_s = decode_times(traffic.end_s, decode_s, timeline)
    return StepRun(
        step_time_s=float((decode_end_s[-1] + step.workload.update_s * timeline.factors).max()),
        buckets=buckets,
        workers=first.contributors,
        timeline=timeline,
        traffic=traffic,
        decode_start_s=decode_start_s,
        decode_end_s=decode_end_s,
        update_s=step.workload.update_s * timeline.factors,
    )


def _simulated(
    step: TrainingStep, schedules: Sequence[Schedule], cluster: Cluster, timeline: Timeline
) -> SimulatedTraffic:
    env = simpy.Environment()
    sizes = [
        step.encoding.sizes(bucket, schedule)
        for bucket, schedule in zip(step.buckets, schedules, strict=True)
    ]
    fluid = Fluid(env, cluster.network)
    stream = BucketStream(fluid, schedules, sizes, timeline.ready_s, cluster.placement)
    bounds = run_to_end(stream, fluid, cluster.background, cluster.changes)
    tally = stream.tally
    return SimulatedTraffic(
        stream.start_s, stream.end_s, tally.bytes_sent, tally.messages_sent, bounds
    )


def _in_step(
    step: TrainingStep, schedules: Sequence[Schedule], fabric: Fabric, timeline: Timeline
) -> SimulatedTraffic | None:
    """Return the sum over the buckets, if all ranks stay in step through all of them."""
    servers = list(schedules[0].servers)
    working = np.delete(timeline.factors, servers)
    if len(working) and working.min() != working.max():
        return None
    looks = [look_at(schedule) for schedule in schedules]
    kept = [look for look in looks if look is not None]
    if len(kept) < len(looks) or not all(look.ends_together for look in kept):
        return None
    if not isinstance(step.encoding, DenseEncoding) and any(k.contributors is None for k in kept):
        return None
    world_size = len(timeline.factors)
    start_s, end_s = np.zeros_like(timeline.ready_s), np.zeros_like(timeline.ready_s)
    link_bytes, messages = np.zeros(2 * world_size), np.zeros(world_size)
    now = 0.0
    for number, (bucket, look) in enumerate(zip(step.buckets, kept, strict=True)):
        num_chunks = schedules[number].num_chunks
        flow_bytes = look.flow_bytes(partial(step.encoding.message_bytes, bucket, num_chunks))
        start_s[number] = np.maximum(timeline.ready_s[number], now)
        now = float(start_s[number].max()) + look.time_s(fabric, flow_bytes)
        end_s[number] = now
        link_bytes += look.link_bytes(flow_bytes)
        messages += look.messages_sent
    bounds = star_bounds(fabric, link_bytes, sum(len(look.chunks) for look in kept))
    return SimulatedTraffic(start_s, end_s, link_bytes[:world_size], messages, bounds)


@lru_cache(maxsize=1024)  # a few KiB each; scenarios need them again for every network and model
def look_at(schedule: Schedule) -> LockStep | None:
    """Return `find_lock_step`, remembered for schedules that are kept."""
    return find_lock_step(schedule)
