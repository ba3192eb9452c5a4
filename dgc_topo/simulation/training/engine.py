"""`simulate_training_step`: compute, compress, communicate, decompress, update, on all ranks.

With local steps, what is simulated is a period: so many computations, and one exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import simpy

from dgc_topo.arrays import FloatArray
from dgc_topo.averaging.absences import Absence
from dgc_topo.network.cluster import Cluster, Source, load_cluster
from dgc_topo.schedule import Schedule
from dgc_topo.simulation.bulk import BulkRun
from dgc_topo.simulation.engines import Engine, run_engine
from dgc_topo.simulation.fluid import Fluid
from dgc_topo.simulation.run import run_to_end
from dgc_topo.simulation.step_sizes import Sizes
from dgc_topo.simulation.tally import Bounds, Tally
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
from dgc_topo.simulation.transfer_sizes import DenseSizes, fit_sizes
from dgc_topo.simulation.watching import StepWatch
from dgc_topo.simulation.workload import LayerBucket, Workload, fill_buckets
from dgc_topo.sizes import FLOAT_BYTES

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
        every: Local steps per exchange, each with an update: those from the last exchange on.
        batch_shares: Shares of unequal workers, in the order of ranks: the largest has the
            workload's batch; all have it by default.
        moves_first: True if the ranks update before the exchange, as for changes of parameters,
            instead of after it.
        participation: Share of the ranks that takes part in an exchange.
        alike_vectors: Vectors of the model's size that all ranks hold alike, which those get that
            were left out before.
        absences: Ranks that are left out of exchanges.

    Raises:
        ValueError: if a number makes no sense, or buckets should overlap the computing that
            decides what they hold.
    """

    workload: Workload
    encoding: Encoding = field(default_factory=DenseEncoding)
    codec: Codec = field(default_factory=Codec)
    bucket_bytes: float | None = None
    accumulation_steps: int = 1
    compute_factors: ComputeFactors = field(default_factory=ComputeFactors)
    every: int = 1
    moves_first: bool = False
    batch_shares: tuple[int, ...] = ()
    participation: float = 1.0
    alike_vectors: int = 0
    absences: tuple[Absence, ...] = ()

    def __post_init__(self) -> None:
        if self.accumulation_steps < 1:
            passes = self.accumulation_steps
            raise ValueError(f"training step: accumulation_steps {passes}, expected at least 1")
        if self.every < 1:
            raise ValueError(f"training step: every {self.every}, expected at least 1")
        if self.bucket_bytes is not None and (self.every > 1 or self.moves_first):
            raise ValueError(
                f"training step: every {self.every}, with buckets that overlap: what is sent is "
                "known only after the last update; expected no overlap"
            )
        if not 0 < self.participation <= 1:
            share = self.participation
            raise ValueError(f"training step: participation {share}, expected above 0, up to 1")
        if min(self.batch_shares, default=1) < 1:
            shares = list(self.batch_shares)
            raise ValueError(f"training step: batch_shares {shares}, expected 1 or more each")
        fill_buckets(self.workload.layers, self.bucket_bytes)

    @property
    def leaves_out(self) -> bool:
        """True if not all ranks take part in every exchange."""
        return self.participation < 1 or bool(self.absences)

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
        """Seconds that a worker compresses and decompresses per exchange."""
        buckets = self.buckets
        return float((self.codec.encode_s(buckets) + self.codec.decode_s(buckets)).sum())

    def num_batches(self, num_workers: int) -> float:
        """Return how many of the workload's batches all workers have together."""
        shares = self.batch_shares
        return sum(shares) / max(shares) if shares else num_workers

    def _shares_of_ranks(self, schedule: Schedule, entry: Entry) -> FloatArray:
        """Return each rank's batch over the workload's; servers have none."""
        found = np.ones(schedule.world_size)
        workers = np.union1d(schedule.contributors, np.array(entry.left_out, np.int64))
        if self.batch_shares:
            if len(self.batch_shares) != len(workers):
                raise ValueError(
                    f"training step: batch_shares {list(self.batch_shares)}, expected "
                    f"{len(workers)}, one per worker"
                )
            found[workers] = np.array(self.batch_shares) / max(self.batch_shares)
        return found

    def catch_up_sizes(self) -> Sizes:
        """Return the size of what ranks get that were left out before."""
        elements = sum(bucket.num_elements for bucket in self.buckets)
        return DenseSizes(FLOAT_BYTES * self.alike_vectors * elements, 1)

    def timeline(self, schedule: Schedule, iteration: int, entry: Entry) -> Timeline:
        """Return the times of all ranks' processors before sending; servers have none."""
        factors = self.compute_factors.of_period(schedule.world_size, iteration, self.every)
        serving = sorted(set(schedule.servers) - set(entry.left_out))
        for each in factors:
            each[serving] = 0.0
        codes = np.ones(schedule.world_size)
        codes[list(entry.left_out)] = 0.0
        buckets = self.buckets
        return compute_timeline(
            self.workload,
            buckets,
            self.codec.encode_s(buckets),
            factors,
            self.accumulation_steps,
            moves_first=self.moves_first,
            shares=self._shares_of_ranks(schedule, entry),
            start_s=entry.begin_s,
            codes=codes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Begin of a step, or a period, that ranks come into one after the other.

    Attributes:
        begin_s: Time at which each rank begins, shape (world_size,).
        left_out: Ranks that train, but take no part in the exchange; its schedule counts them among
            the servers.
        catch_up: Schedule that brings ranks that were left out before what the others hold alike,
            before the exchange; None if there are none.
    """

    begin_s: FloatArray
    left_out: tuple[int, ...] = ()
    catch_up: Schedule | None = None


def simulate_training_step(
    step: TrainingStep,
    schedule: Schedule | ScheduleOf,
    cluster: Source,
    *,
    iteration: int = 0,
    engine: Engine = "auto",
    entry: Entry | None = None,
) -> StepRun:
    """Run one training step, or a period of local steps, which all ranks begin together.

    Communication of a bucket begins on a rank when the bucket is ready there and the rank has
    finished the previous bucket (one communication stream, as in DDP).  A transfer begins when both
    of its ends have reached it.  Buckets that are under way at the same time share links.

    Args:
        step: Work of a worker.
        schedule: Schedule of each bucket, or a function that gives it for a bucket.
        cluster: Ranks on a network's hosts, or what `load_cluster` makes a cluster of.  Its links
            change at times since the step began.
        iteration: Which step, or period, it is, for jitter.
        engine: See `simulate_schedule`.
        entry: Ranks that begin at other times, or are left out; times are on one clock then.

    Raises:
        ValueError: if schedules differ in their ranks, the cluster has other ranks or too few
            hosts, or *engine* cannot be used.
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
    entry = entry or Entry(begin_s=np.zeros(first.world_size))
    timeline = step.timeline(first, iteration, entry)
    cluster = load_cluster(cluster, first.world_size)
    passes = [
        step.encoding.passes(bucket, each) for bucket, each in zip(buckets, schedules, strict=True)
    ]
    counts = [len(each) for each in passes]
    schedules = [each for each, count in zip(schedules, counts, strict=True) for _ in range(count)]
    sizes = [fit_sizes(*pair) for pair in zip(chain(*passes), schedules, strict=True)]
    ready_s = np.repeat(timeline.ready_s, counts, axis=0)
    if entry.catch_up is not None:  # as a bucket before the others
        schedules, sizes = [entry.catch_up, *schedules], [step.catch_up_sizes(), *sizes]
        ready_s = np.concatenate([ready_s[:1], ready_s])
    used, traffic = run_engine(
        engine,
        lambda: _run_bulk(schedules, sizes, cluster, ready_s, is_demanded=engine == "bulk"),
        lambda: _run_events(schedules, sizes, cluster, ready_s),
    )
    traffic = traffic.in_buckets(counts)
    decode_s = step.codec.decode_s(buckets)
    decode_start_s, decode_end_s = decode_times(traffic.end_s, decode_s, timeline)
    update_s = (0.0 if step.moves_first else step.workload.update_s) * timeline.factors
    end_s = decode_end_s[-1] + update_s
    return StepRun(
        every=step.every,
        period_s=float(end_s.max()),
        last_wait_s=end_s.max() - end_s,
        buckets=buckets,
        workers=np.union1d(first.contributors, np.array(entry.left_out, np.int64)),
        timeline=timeline,
        traffic=traffic,
        engine=used,
        decode_start_s=decode_start_s,
        decode_end_s=decode_end_s,
        update_s=update_s,
    )


def _run_bulk(
    schedules: Sequence[Schedule],
    sizes: Sequence[Sizes],
    cluster: Cluster,
    ready_s: FloatArray,
    *,
    is_demanded: bool,
) -> SimulatedTraffic:
    run = BulkRun(cluster, StepWatch(schedules), is_demanded=is_demanded)
    start_s, end_s = np.zeros_like(ready_s), np.zeros_like(ready_s)
    for bucket, (schedule, sized) in enumerate(zip(schedules, sizes, strict=True)):
        run.clocks.wait_until(ready_s[bucket])
        start_s[bucket] = run.clocks.times_s
        run.run(schedule, sized)
        end_s[bucket] = run.clocks.times_s
    return _traffic(start_s, end_s, run.tally, run.tally.bounds())


def _run_events(
    schedules: Sequence[Schedule], sizes: Sequence[Sizes], cluster: Cluster, ready_s: FloatArray
) -> SimulatedTraffic:
    fluid = Fluid(simpy.Environment(), cluster.network)
    stream = BucketStream(fluid, schedules, sizes, ready_s, cluster.placement)
    stream.watch = StepWatch(schedules)
    bounds = run_to_end(stream, fluid, cluster.background, cluster.changes)
    return _traffic(stream.start_s, stream.end_s, stream.tally, bounds)


def _traffic(
    start_s: FloatArray, end_s: FloatArray, tally: Tally, bounds: Bounds
) -> SimulatedTraffic:
    return SimulatedTraffic(start_s, end_s, tally.bytes_sent, tally.messages_sent, bounds)
