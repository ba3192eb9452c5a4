"""`simulate_step`: a workload's training step over a topology on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dgc_topo.network.cluster import Cluster, Source, load_cluster
from dgc_topo.scalars import plain_bool, plain_float, plain_int
from dgc_topo.schedule import Schedule
from dgc_topo.simulation.arguments import (
    as_bytes,
    as_fraction,
    as_merge,
    as_topology,
    check_density,
    check_density_of,
    factors_of,
    number_of_ranks,
    schedule_of,
    topology_text,
)
from dgc_topo.simulation.engines import Engine
from dgc_topo.simulation.training.encoding import (
    DenseEncoding,
    Encoding,
    SparseEncoding,
    power_rule,
)
from dgc_topo.simulation.training.engine import TrainingStep, simulate_training_step
from dgc_topo.simulation.training.step_simulation import StepSimulation
from dgc_topo.simulation.training.timeline import Codec, ComputeFactors, Jitter, LognormalJitter
from dgc_topo.simulation.unions import independent_growth
from dgc_topo.simulation.workload_sources import load_workload
from dgc_topo.sizes import is_sparse
from dgc_topo.tables.keys import bucket_bytes_of
from dgc_topo.topology import Topology
from dgc_topo.units import seconds_from
from dgc_topo.wire.coding import DENSE_BYTES, WireCoding, check_dense_dtype

if TYPE_CHECKING:
    from dgc_topo.simulation.workload_sources import Source as WorkloadSource

#: Kinds of values that ranks average.
Sends = Literal["gradients", "parameters", "changes"]

#: Number of steps to average over if the topology changes from step to step.
VARYING_ITERATIONS = 8
#: Number of steps to average over if compute times are random.
JITTER_STEPS = 8


def simulate_step(  # noqa: PLR0913 - one argument per fact that a user may want to set
    workload: WorkloadSource,
    topology: Topology | Schedule | str | Path,
    cluster: Source,
    *,
    density: float | str = 1.0,
    overlap: bool = False,
    bucket_bytes: float | str | None = None,
    world_size: int | None = None,
    accumulation_steps: int = 1,
    every: int = 1,
    sends: Sends | None = None,
    codec: Codec | float | str | None = None,
    jitter: Jitter | float = 0.0,
    slow_ranks: Mapping[int, float] | None = None,
    batch_shares: Sequence[int] = (),
    union_exponent: float | None = None,
    index_encoding: str = "auto",
    wire_dtype: str = "float32",
    merge: str = "union",
    seed: int = 0,
    num_steps: int | None = None,
    engine: Engine = "auto",
) -> StepSimulation:
    """Simulate a training step: computing, compressing, communicating and updating.

    Args:
        workload: Workload, or a source for `load_workload`, such as ``resnet50``.
        topology: Topology, its text such as ``ring`` or ``gossip:graph=ring``, or a schedule.
        cluster: Cluster, or a source for `load_cluster`, such as ``1gbe``.
        density: Fraction of the compressible elements that are sent, such as 0.001 or ``0.1%``.
        overlap: Send gradients while the backward pass goes on.
        bucket_bytes: Size of a bucket of gradients that overlaps, such as ``25MiB``, the default.
        world_size: Number of ranks, if neither a schedule nor the cluster has it.
        accumulation_steps: Forward and backward passes per step.
        every: Local steps per exchange: each rank computes and updates so often by itself.  Times
            and bytes of the result are per step.
        sends: What the ranks average: their ``gradients``, their ``parameters``, or the ``changes``
            of these since the last exchange.  By default gradients; over gossip, parameters; with
            *every* over 1, changes.  Gossip can be compressed if it sends changes.
        codec: Seconds that compressing takes per exchange, measured, such as ``"4ms"``; or a
            `Codec`.  Compressing is assumed to be free if left out.
        jitter: Relative spread of compute times, drawn in each step; or its distribution.
        slow_ranks: Factor on the compute time of single ranks.
        batch_shares: Whole numbers, one per worker: the largest takes the workload's batch, the
            others as much less as their numbers; all take it by default.
        union_exponent: See `simulate`.
        index_encoding: Coding of indices in sparse messages.
        wire_dtype: Type of values on the wire.
        merge: Policy of sparse sums: ``union``, ``reselect`` or ``auto``, as in `DGCConfig`.
        seed: Seed of topologies and of jitter.
        num_steps: Steps, or periods of them, to average over; 8 if they differ, else 1.
        engine: ``bulk`` takes whole steps at once and is fast, but refuses what it cannot prove to
            be exact: messages of different steps that could meet on a link or a processor, other
            jobs' traffic, links that change.  ``events`` takes anything.  ``auto``, the default,
            is the faster one that is exact.

    Raises:
        ValueError: if an argument is out of range or does not fit the others, naming it.
        UnreachableError: if links fail for good and ranks wait for ever.

    Example:
        >>> step = dt.simulate_step("resnet50", "ring", "10gbe", world_size=64, overlap=True)
        >>> step
        StepSimulation(resnet50, dense, ring, 64 ranks on 10gbe: ...)
        >>> step.step_time_s > step.phases.compute_s
        True
        >>> slow = dt.simulate_step("resnet50", "ring", "1gbe", world_size=8)
        >>> rare = dt.simulate_step("resnet50", "ring", "1gbe", world_size=8, every=50)
        >>> f"{slow.utilisation:.0%}, {rare.utilisation:.0%}"
        '16%, 90%'
    """
    fraction, overlap = as_fraction(density), plain_bool("overlap", overlap)
    seed = plain_int("seed", seed, least=0)
    num_ranks = number_of_ranks(topology, cluster, world_size)
    topology = as_topology(topology)
    every = plain_int("every", every, least=1)
    schedule = schedule_of(topology, num_ranks, 0, seed)
    sends = what_is_sent(topology, schedule, fraction, every=every, sends=sends)
    if overlap and (every > 1 or sends == "changes"):
        raise ValueError(
            f"overlap=True with every={every}, sends={sends!r}: what is sent is known only after "
            "the last update, expected overlap=False"
        )
    step = TrainingStep(
        workload=load_workload(workload),
        encoding=encoding_for(
            fraction, WireCoding.named(index_encoding, wire_dtype), union_exponent, merge
        ),
        codec=as_codec(codec),
        bucket_bytes=_bucket_bytes(bucket_bytes, overlap=overlap),
        accumulation_steps=plain_int("accumulation_steps", accumulation_steps, least=1),
        compute_factors=ComputeFactors(factors_of(slow_ranks, num_ranks), as_jitter(jitter), seed),
        every=every,
        moves_first=sends == "changes",
        batch_shares=tuple(plain_int("batch_shares", each, least=1) for each in batch_shares),
    )
    if num_steps is not None:
        num_steps = plain_int("num_steps", num_steps, least=1)
    loaded = load_cluster(cluster, num_ranks)
    return average_steps(
        step, topology, loaded, density=fraction, seed=seed, num_steps=num_steps, engine=engine
    )


def as_codec(codec: Codec | float | str | None) -> Codec:
    """Return the costs of compressing that *codec* says; none by default."""
    if isinstance(codec, Codec):
        return codec
    if isinstance(codec, str):
        return Codec(fixed_s=seconds_from(codec, "codec"))
    return Codec(fixed_s=0.0 if codec is None else plain_float("codec", codec))


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
            num_draws if step.compute_factors.varies else 1,
        )
    runs = []
    for iteration in range(num_steps):
        schedule = kept_schedule(topology, cluster.num_ranks, iteration if varies else 0, seed)
        runs.append(
            simulate_training_step(step, schedule, cluster, iteration=iteration, engine=engine)
        )
    text, goal = topology_text(topology), schedule.goal
    return StepSimulation(text, cluster.name, goal, density, step, tuple(runs))


@lru_cache(maxsize=1024)  # scenarios ask again for every network and model
def kept_schedule(
    topology: Topology | Schedule, world_size: int, iteration: int, seed: int
) -> Schedule:
    """Return `schedule_of`, remembered."""
    return schedule_of(topology, world_size, iteration, seed)


def as_jitter(jitter: Jitter | float) -> Jitter | None:
    """Return the distribution of a relative spread; a distribution as it is."""
    if isinstance(jitter, Jitter):
        return jitter
    spread = plain_float("jitter", jitter)
    return LognormalJitter(spread) if spread else None


def what_is_sent(
    topology: Topology | Schedule,
    schedule: Schedule,
    density: float,
    *,
    every: int = 1,
    sends: Sends | None = None,
) -> Sends:
    """Return what the ranks average, and refuse what cannot be sent.

    Args:
        topology: For errors.
        schedule: One of its schedules.
        density: Fraction of the compressible elements that is sent.
        every: Local steps per exchange.
        sends: What the user asks for; None takes what is usual.

    Raises:
        ValueError: if the density is no fraction, there is no such thing to send, gradients of
            several steps or over gossip are asked for, or parameters are to be compressed.
    """
    check_density(density)
    gossips, known = schedule.goal != "all-reduce", get_args(Sends)
    if sends is None:
        usual: Sends = "gradients" if every == 1 else "changes"
        sends = "parameters" if gossips else usual
    if sends not in known:
        raise ValueError(f"sends {sends!r}: expected one of {', '.join(known)}")
    if sends == "parameters" and is_sparse(density):
        raise ValueError(
            f"density {density:g}: {topology_text(topology)} averages parameters, which travel "
            "dense; expected 1, or sends='changes'"
        )
    if sends == "gradients" and gossips:
        raise ValueError(
            f"sends 'gradients' over {topology_text(topology)}: gossip averages parameters or "
            "changes, expected one of these"
        )
    if sends == "gradients" and every > 1:
        raise ValueError(
            f"every {every} with sends 'gradients': local steps move the parameters, expected "
            "'changes' or 'parameters'; accumulation_steps adds gradients up"
        )
    return sends


def encoding_for(
    density: float, coding: WireCoding, union_exponent: float | None, merge: str = "union"
) -> Encoding:
    """Return the encoding of gradients at a density; exponent and merge are for sparse ones only.

    Raises:
        ValueError: if they have nothing to act on, or there is no such policy.
    """
    policy = as_merge(merge)
    value_bytes = DENSE_BYTES[coding.wire_dtype]
    if is_sparse(density):
        union = (
            independent_growth
            if union_exponent is None
            else power_rule(plain_float("union_exponent", union_exponent))
        )
        return SparseEncoding(density, coding, value_bytes, union, merge=policy)
    if union_exponent is not None:
        raise ValueError("union_exponent: is for sparse sizes, expected density below 1")
    check_density_of(policy)
    check_dense_dtype("density 1", coding.wire_dtype)
    return DenseEncoding(value_bytes)


def _bucket_bytes(bucket_bytes: float | str | None, *, overlap: bool) -> float | None:
    if bucket_bytes is None:
        return bucket_bytes_of(overlap=overlap, bucket_mib=None)
    if not overlap:
        raise ValueError("bucket_bytes: without overlap there is one bucket, expected overlap=True")
    return as_bytes(bucket_bytes, "bucket_bytes")
