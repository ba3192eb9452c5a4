"""Making of a job's record from the records of its ranks' steps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dgc_topo.compression.accumulation import Staleness
from dgc_topo.proof import prove
from dgc_topo.records.environment import describe_environment
from dgc_topo.records.measurement import EMULATED_COMPUTE, Measurement, Phases, SparseSizes
from dgc_topo.records.quality import LostRank, ModelFiles, Quality, StalenessCounts
from dgc_topo.schedule import Schedule
from dgc_topo.sizes import FLOAT_BYTES, count_elements, is_sparse
from dgc_topo.training.buckets import add_up
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.job import GLOO, Job
from dgc_topo.training.rank import FIELDS, StepRecord
from dgc_topo.training.settings import TrainSection
from dgc_topo.training.solo import Solo
from dgc_topo.training.world import World
from dgc_topo.wire.coding import DENSE_BYTES

_MOST_PROVED = 128  # ranks
_SETTLING_STEPS = 3  # the first steps allocate, connect and warm caches up
_PHASES = tuple(Phases.model_fields)

#: Columns by name, each of shape (ranks, steps).
Columns = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Results of a finished job, beside its settings.

    Attributes:
        schedule: Schedule of the first iteration.
        congestion_control: Of all TCP connections, if there are any.
        records: Per rank, per step, servers included.
        first_recorded: First step with a record.
        steps_per_epoch: Number of steps in an epoch.
        solo: Times of a worker alone.
        crowd_phases: Times of a worker while all others work on the same machine, if measured.
        quality: Of the evaluations, if anything is learnt.
        models: Names of the models' files, if they are kept.
        lost: Ranks that were lost, while the others went on.
        resumed_at: Steps after which the training went on from a checkpoint.
        diverged_at_step: Step whose loss is no longer finite, if one is.
        batch_samples: Images or tokens of all workers per step.
        parameters: The model's, by name.
        fingerprint: Digest of them, if all ranks have the same.
        staleness: Of all workers together, if counted.
    """

    schedule: Schedule
    congestion_control: str | None
    records: Sequence[Sequence[StepRecord]]
    first_recorded: int
    steps_per_epoch: int
    solo: Solo
    crowd_phases: Phases | None
    quality: Quality | None
    models: ModelFiles | None
    lost: Sequence[LostRank]
    resumed_at: Sequence[int]
    diverged_at_step: int | None
    batch_samples: float
    parameters: Mapping[str, Tensor]
    fingerprint: str | None
    staleness: StalenessCounts | None


def make_measurement(job: Job, world: World, found: Findings) -> Measurement:
    """Return the record of a finished job.

    Times are medians over the steps at the final density, averaged over the workers; bytes are
    means over those steps, of the busiest worker.  Where steps differ by design, times are means:
    a median of them says nothing of how long many steps take.  If ranks exchange only in every H-th
    step, these are means over whole rounds, and sizes of messages those of one exchange.
    """
    schedule, rule = found.schedule, job.rule
    recorded = _columns(_in_step(found.records))
    counted = {**recorded, "interface_bytes": _sent_in_steps(recorded, found)}
    everyone = _typical_steps(counted, rule.every)
    columns = {name: values[schedule.contributors] for name, values in everyone.items()}
    elements = sum(p.numel() for p in found.parameters.values())
    typical = np.mean if _steps_differ(job) else np.median
    step_time_s = float(typical(columns["total_s"], axis=1).mean())
    num_workers = len(schedule.contributors)
    exchanges = _exchanges(columns)
    wire_bytes = float(everyone["bytes_sent"].mean(axis=1).max())
    sparse = None
    if is_sparse(job.density):
        sparse = _sparse_sizes(exchanges, found.parameters, job.compression)
    return Measurement(
        kind="measured",
        scenario=job.scenario,
        machine=str(describe_environment()),
        topology=GLOO if job.compression.uses_ddp else job.topology.name,
        options={} if job.compression.uses_ddp else job.topology.plain_options,
        goal=schedule.goal,
        spectral_gap=_spectral_gap(job),
        world_size=job.train.world_size,
        num_workers=num_workers,
        network=world.network,
        time_scale=world.time_scale,
        congestion_control=found.congestion_control,
        workload=_workload(job.train),
        compression=job.compressor_name,
        density=job.density,
        averaging=None if job.compression.uses_ddp else str(rule),
        every=rule.every,
        seed=job.seed,
        batch_size_per_worker=job.train.batch_size_per_worker,
        batch_shares=job.train.batch_shares,
        rung=job.rung,
        job=job.key,
        workers=world.kind,
        load=os.getloadavg()[0],
        num_steps=recorded["total_s"].shape[1],
        step_time_s=step_time_s,
        phases=Phases(**{name: float(typical(columns[name], axis=1).mean()) for name in _PHASES}),
        samples_per_s=found.batch_samples / step_time_s,
        gradient_bytes=FLOAT_BYTES * elements,
        compressed_bytes=float(exchanges["encoded_bytes"].mean()),
        wire_bytes_per_step=wire_bytes,
        wire_bytes_per_sample=num_workers * wire_bytes / found.batch_samples,
        interface_bytes_per_step=_busiest(everyone["interface_bytes"]),
        messages_per_step=_known(float(everyone["messages_sent"].mean(axis=1).max())),
        sparse=sparse,
        solo_phases=found.solo.phases,
        crowd_phases=found.crowd_phases,
        bucket_bytes=job.bucket_bytes,
        profile=found.solo.profile,
        quality=found.quality,
        models=found.models,
        lost_ranks=tuple(found.lost),
        resumed_at=tuple(found.resumed_at),
        diverged_at_step=found.diverged_at_step,
        staleness=found.staleness,
        parameters=found.fingerprint,
    )


def _steps_differ(job: Job) -> bool:
    """Return True if steps differ by design: in their exchanges, or in who takes part in them."""
    rule, changes = job.rule, not job.compression.uses_ddp and job.topology.changes
    return rule.every > 1 or rule.leaves_out or changes


def add_staleness(found: Sequence[Staleness]) -> StalenessCounts | None:
    """Return the counts of all workers together; None if they were not counted."""
    if not found:
        return None
    sent, waiting = add_up(found)
    return StalenessCounts(sent=tuple(sent), waiting=tuple(waiting))


def _spectral_gap(job: Job) -> float | None:
    """Return that of a topology that gossips, unless a proof would take long."""
    world_size = job.train.world_size
    if not job.topology.gossips or world_size > _MOST_PROVED:
        return None
    return prove(job.topology, world_size, seed=job.seed).spectral_gap


def _workload(train: TrainSection) -> str:
    return f"{train.model} {EMULATED_COMPUTE if train.emulates else f'on {train.dataset}'}"


def _known(value: float) -> float | None:
    """Return a count, or None for NaN: a rank could not count."""
    return None if math.isnan(value) else value


def _in_step(records: Sequence[Sequence[StepRecord]]) -> Sequence[Sequence[StepRecord]]:
    """Keep the last steps, of which all ranks have records.

    Those behind when a rank was lost go on with the furthest, and have none of the steps between.
    """
    fewest = min(map(len, records))
    return [rank[len(rank) - fewest :] for rank in records]


def _columns(records: Sequence[Sequence[StepRecord]]) -> Columns:
    return {
        name: np.array([[getattr(step, name) for step in rank] for rank in records], np.float64)
        for name in (*FIELDS, "total_s")
    }


def _sent_in_steps(columns: Columns, found: Findings) -> npt.NDArray[np.float64]:
    """Return the bytes each rank's interface sent from a step's beginning to that of the next.

    An epoch's last step is not known, because the evaluation comes before the next one.
    """
    counted = columns["interface_bytes"]
    sent = np.full_like(counted, np.nan)
    if np.isnan(counted).all() or found.lost:  # ranks that were lost have fewer steps
        return sent
    sent[:, :-1] = np.diff(counted)
    steps = found.first_recorded + 1 + np.arange(counted.shape[1])
    sent[:, steps % found.steps_per_epoch == 0] = np.nan
    return sent


def _busiest(sent: npt.NDArray[np.float64]) -> float | None:
    """Return the largest mean over the steps, None if nothing was counted."""
    known = ~np.isnan(sent[0])
    return float(sent[:, known].mean(axis=1).max()) if known.any() else None


def _typical_steps(columns: Columns, every: int) -> Columns:
    """Keep the steps at the final density: whole rounds, without the first few steps of the run.

    A run that is too short for both keeps its first steps: a part of a round, with the exchange,
    would pass for many times as much as it is.
    """
    density = columns["density"][0]
    keep = density == density[-1]
    settled = keep.copy()
    settled[:_SETTLING_STEPS] = False
    for steps in (settled, keep):
        found = {name: values[:, steps] for name, values in columns.items()}
        rounds = _whole_rounds(found, every)
        if rounds["density"].size:
            return rounds
    return found


def _whole_rounds(columns: Columns, every: int) -> Columns:
    """Keep the last whole rounds of steps that end with an exchange."""
    if every == 1:
        return columns
    ends = np.flatnonzero(columns["encoded_bytes"].any(axis=0)) + 1
    last = int(ends[-1]) if ends.size else 0
    return {name: values[:, last % every : last] for name, values in columns.items()}


def _exchanges(columns: Columns) -> Columns:
    """Keep what the workers did in steps in which they sent something, if there are any."""
    sends = columns["encoded_bytes"] > 0
    return {name: values[sends] for name, values in columns.items()} if sends.any() else columns


def _sparse_sizes(
    columns: Columns, parameters: Mapping[str, Tensor], compression: CompressionSection
) -> SparseSizes | None:
    if not columns["entries"].any():
        return None
    compressed, dense = count_elements(p.shape for p in parameters.values())
    dense_bytes = DENSE_BYTES[compression.wire_dtype] * dense
    return SparseSizes(
        length=compressed,
        dense_elements=dense,
        entries=float(columns["entries"].mean()),
        merged_entries=float(columns["merged_entries"].mean()),
        bytes_per_entry=float(
            (columns["encoded_bytes"].mean() - dense_bytes) / columns["entries"].mean()
        ),
        index_encoding=compression.index_encoding,
        wire_dtype=compression.wire_dtype,
        merge=compression.merge,
        balance=compression.balance,
    )
