"""`simulate_step`: a workload's training step over a topology on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dgc_topo.averaging import Averaging, load_averaging
from dgc_topo.averaging.absences import absences_in
from dgc_topo.network.cluster import Source, load_cluster
from dgc_topo.scalars import plain_bool, plain_float, plain_int
from dgc_topo.schedule import Schedule
from dgc_topo.simulation.arguments import (
    as_bytes,
    as_fraction,
    as_merge,
    as_topology,
    check_balance,
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
from dgc_topo.simulation.training.engine import TrainingStep
from dgc_topo.simulation.training.periods import average_steps
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
    averaging: Averaging | str | None = None,
    codec: Codec | float | str | None = None,
    jitter: Jitter | float = 0.0,
    slow_ranks: Mapping[int, float] | None = None,
    batch_shares: Sequence[int] = (),
    union_exponent: float | None = None,
    index_encoding: str = "auto",
    wire_dtype: str = "float32",
    merge: str = "union",
    balance: bool = False,
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
        averaging: An averaging rule or its text form, such as ``diloco:every=50``.  It says *every*
            and *sends*, the order of one's own step and the exchange, and who takes part.
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
        balance: True if exact sparse sums take two passes, places first, as in `DGCConfig`.
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
    rule = None if averaging is None else load_averaging(averaging)
    if rule is None:
        sends = what_is_sent(topology, schedule, fraction, every=every, sends=sends)
    else:
        if every != 1 or sends is not None:
            raise ValueError(
                f"averaging {rule.label} with every={every}, sends={sends!r}: the rule says both, "
                "expected neither"
            )
        check_rule(rule, topology, fraction)
        every, sends = rule.every, rule.sends
    if overlap and (every > 1 or sends == "changes" or (rule and rule.is_local)):
        raise ValueError(
            f"overlap=True with every={every}, sends={sends!r}: what is sent is known only after "
            "the last update, expected overlap=False"
        )
    step = TrainingStep(
        workload=load_workload(workload),
        encoding=encoding_for(
            fraction,
            WireCoding.named(index_encoding, wire_dtype),
            union_exponent,
            merge,
            balance=plain_bool("balance", balance),
        ),
        codec=as_codec(codec),
        bucket_bytes=_bucket_bytes(bucket_bytes, overlap=overlap),
        accumulation_steps=plain_int("accumulation_steps", accumulation_steps, least=1),
        compute_factors=ComputeFactors(factors_of(slow_ranks, num_ranks), as_jitter(jitter), seed),
        every=every,
        moves_first=sends == "changes",
        batch_shares=tuple(plain_int("batch_shares", each, least=1) for each in batch_shares),
    )
    if rule is not None:
        step = by_rule(step, rule)
    if num_steps is not None:
        num_steps = plain_int("num_steps", num_steps, least=1)
    loaded = load_cluster(cluster, num_ranks)
    return average_steps(
        step, topology, loaded, density=fraction, seed=seed, num_steps=num_steps, engine=engine
    )


def check_rule(rule: Averaging, topology: Topology | Schedule, density: float) -> None:
    """Refuse a rule that a topology or a density does not go with.

    Raises:
        ValueError: saying what was expected.
    """
    refusal = rule.refusal_of(topology) if isinstance(topology, Topology) else None
    if refusal is not None:
        raise ValueError(f"averaging: {refusal}")
    if is_sparse(density) and not rule.compresses:
        raise ValueError(f"density {density:g}: {rule.label} sends all elements, expected 1")


def by_rule(step: TrainingStep, rule: Averaging) -> TrainingStep:
    """Return a step in the order, and with the messages, of an averaging rule."""
    encoding = step.encoding
    if isinstance(encoding, DenseEncoding):
        encoding = replace(encoding, vectors=rule.vectors, extra_elements=rule.extra_elements)
    return replace(
        step,
        encoding=encoding,
        moves_first=rule.moves_first,
        participation=rule.participation,
        alike_vectors=rule.alike_vectors,
        absences=absences_in(rule.left_out),
    )


def as_codec(codec: Codec | float | str | None) -> Codec:
    """Return the costs of compressing that *codec* says; none by default."""
    if isinstance(codec, Codec):
        return codec
    if isinstance(codec, str):
        return Codec(fixed_s=seconds_from(codec, "codec"))
    return Codec(fixed_s=0.0 if codec is None else plain_float("codec", codec))


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
    density: float,
    coding: WireCoding,
    union_exponent: float | None,
    merge: str = "union",
    *,
    balance: bool = False,
) -> Encoding:
    """Return the encoding of gradients at a density; all but the coding is for sparse ones only.

    Raises:
        ValueError: if they have nothing to act on, or there is no such policy.
    """
    policy = as_merge(merge)
    check_balance(policy, density, balance=balance)
    value_bytes = DENSE_BYTES[coding.wire_dtype]
    if is_sparse(density):
        union = (
            independent_growth
            if union_exponent is None
            else power_rule(plain_float("union_exponent", union_exponent))
        )
        return SparseEncoding(density, coding, value_bytes, union, merge=policy, balance=balance)
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
