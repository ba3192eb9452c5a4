"""Training steps to predict: from recorded runs, or from a scenario's workloads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dgc_topo.averaging import Averaging, load_averaging
from dgc_topo.averaging.absences import absences_in
from dgc_topo.compression.config import Scope
from dgc_topo.experiments.scenario import Scenario, SimulateSection
from dgc_topo.experiments.scenario.step_keys import WorkloadChoice
from dgc_topo.records.measurement import Measurement, Phases
from dgc_topo.records.measurement import SparseSizes as RecordedSparse
from dgc_topo.simulation.training import (
    Codec,
    ComputeFactors,
    DenseEncoding,
    Encoding,
    SparseEncoding,
    TrainingStep,
    power_rule,
)
from dgc_topo.simulation.training.periods import JITTER_STEPS
from dgc_topo.simulation.unions import independent_growth
from dgc_topo.simulation.workload import Workload
from dgc_topo.simulation.workload_sources import lone_phases, of_record
from dgc_topo.sizes import count_entries, is_sparse
from dgc_topo.topology import Topology
from dgc_topo.wire.coding import DENSE_BYTES, WireCoding, WireDtype, compression_name


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCase:
    """One configuration to predict: a workload, compressed or not, over a topology.

    Attributes:
        topology: Topology with its options.
        compression: Name of the compression in records.
        density: Fraction of elements sent.
        seed: Seed of random topologies and of random compute times.
        step: Step of every worker, with its workload.
        sparse: Sizes of the sparse gradient for the record, if it is sparse.
        union_exponent: Growth of sparse unions, see `power_growth`.
        num_draws: Steps to average over if compute times are drawn at random.
        averaging: Text form of the averaging rule, if it is said.
    """

    topology: Topology
    compression: str
    density: float
    seed: int
    step: TrainingStep
    sparse: RecordedSparse | None
    union_exponent: float
    num_draws: int = JITTER_STEPS
    averaging: str | None = None

    @property
    def phases(self) -> Phases:
        """Phases of one worker alone, without communication."""
        return Phases.alone(
            compute_s=self.step.accumulation_steps * self.workload.compute_s,
            compress_s=self.step.codec_s / self.step.every,
            update_s=self.workload.update_s,
        )

    @property
    def workload(self) -> Workload:
        """Workload of one worker in one step."""
        return self.step.workload

    @property
    def batch_size_per_worker(self) -> int:
        """Images, or streams of text, per worker and step."""
        return self.step.accumulation_steps * self.workload.batch_size

    @property
    def batch_samples(self) -> float:
        """Images or tokens per worker and step."""
        return self.step.accumulation_steps * self.workload.batch_samples

    @property
    def compressed_bytes(self) -> float:
        """Bytes of what one worker sends of its own in an exchange."""
        return sum(self.step.encoding.own_bytes(bucket) for bucket in self.step.buckets)


def cases_of_runs(
    records: Iterable[Measurement],
    simulate: SimulateSection | None = None,
    topologies: Sequence[Topology] = (),
    rules: Sequence[Averaging] = (),
) -> list[TrainingCase]:
    """Return the steps of recorded runs, ready to be predicted elsewhere.

    Each run is predicted from its own record only.  Buckets are sent when the recorded profile says
    that they are ready, if the run overlapped or *simulate* asks for it.

    Args:
        records: Records of training runs.
        simulate: Section that says how the machines differ; without it all are alike.
        topologies: Topologies of the trainings; others are found by the recorded name, which may be
            a file in the current folder.
        rules: Their averaging rules; others are found likewise.

    Raises:
        ValueError: if a record lacks the phases of a worker alone, or overlaps without a profile.
    """
    return [
        _case_of_run(each, simulate, _topology_of(each, topologies), _rule_of(each, rules))
        for each in records
    ]


def _topology_of(record: Measurement, topologies: Sequence[Topology]) -> Topology:
    for known in topologies:
        if (known.name, known.plain_options) == (record.topology, record.options):
            return known
    return Topology.named(record.topology, record.options)


def _rule_of(record: Measurement, rules: Sequence[Averaging]) -> Averaging | None:
    if not record.averaging:
        return None
    known = (rule for rule in rules if str(rule) == record.averaging)
    return next(known, None) or load_averaging(record.averaging)


def _case_of_run(
    measured: Measurement,
    simulate: SimulateSection | None,
    topology: Topology,
    rule: Averaging | None,
) -> TrainingCase:
    workload = of_record(measured)
    elements = measured.gradient_bytes // DENSE_BYTES["float32"]
    exponent = union_exponent(measured.sparse, measured.num_workers)
    encoding: Encoding
    if measured.sparse is None:
        encoding = DenseEncoding(measured.compressed_bytes / max(elements, 1))
    else:
        sparse = measured.sparse
        density, dense_bytes = sparse.entries / sparse.length, DENSE_BYTES[sparse.wire_dtype]
        # Of a sum that was cut, the record does not say how far the ranks' entries overlapped.
        was_cut = sparse.merge != "union" and sparse.merged_entries <= sparse.entries
        union = independent_growth if was_cut else power_rule(exponent)
        encoding = SparseEncoding(
            min(density, 1.0),
            sparse.coding,
            dense_bytes,
            union,
            "measured",
            sparse.merge,
            balance=sparse.balance,
        )
    step = TrainingStep(
        workload=workload,
        encoding=encoding,
        codec=Codec(fixed_s=measured.every * lone_phases(measured).compress_s),
        bucket_bytes=_bucket_bytes(measured, simulate),
        compute_factors=simulate.compute_factors(measured.seed) if simulate else ComputeFactors(),
        batch_shares=measured.batch_shares,
        **({"every": measured.every} | _exchanges(rule)),
    )
    return TrainingCase(
        topology=topology,
        compression=measured.compression,
        density=measured.density,
        seed=measured.seed,
        step=step,
        sparse=measured.sparse,
        union_exponent=exponent,
        num_draws=simulate.num_draws if simulate else JITTER_STEPS,
        averaging=measured.averaging,
    )


def _exchanges(rule: Averaging | None) -> dict[str, Any]:
    """Return what a rule says of the order and the number of exchanges, as a step holds it."""
    if rule is None:
        return {}
    return {
        "every": rule.every,
        "moves_first": rule.moves_first,
        "participation": rule.participation,
        "alike_vectors": rule.alike_vectors,
        "absences": absences_in(rule.left_out),
    }


def _bucket_bytes(measured: Measurement, simulate: SimulateSection | None) -> float | None:
    trained = measured.bucket_bytes
    bucket_bytes = trained if simulate is None else simulate.bucket_bytes(trained)
    if measured.profile is None and bucket_bytes is not None:
        raise ValueError(
            f"record of {measured.topology} at density {measured.density:g}: has no profile that "
            "says when which gradients are ready, expected simulate.overlap = false"
        )
    return bucket_bytes


def union_exponent(sparse: RecordedSparse | None, num_workers: int) -> float:
    """Return e such that the union of all workers has ``num_workers ** e`` times one's entries.

    e is 1 if the workers' entries are disjoint, and 0 if they are the same.
    """
    if sparse is None or num_workers == 1 or not sparse.entries:
        return 1.0
    growth = max(sparse.merged_entries / sparse.entries, 1.0)
    return min(math.log(growth) / math.log(num_workers), 1.0)


def cases_of_scenario(scenario: Scenario) -> Iterator[TrainingCase]:
    """Yield the cases of a scenario that describes its workloads itself.

    Averaging rules are predicted over the topologies that they fit.  What averages whole parameters
    is predicted dense only.
    """
    if scenario.simulate is None:
        return
    dtypes = scenario.simulate.dense_dtypes or (scenario.compression.wire_dtype,)
    ways = [
        way
        for density in scenario.compression.densities
        for way in (
            [(density, None)] if is_sparse(density) else [(density, dtype) for dtype in dtypes]
        )
    ]
    for choice in scenario.simulate.workloads:
        for topology, rule in product(scenario.topologies, scenario.averaging or (None,)):
            if rule is not None and rule.refusal_of(topology):
                continue
            compresses = not topology.gossips if rule is None else rule.compresses
            for density, dtype in ways:
                if compresses or not is_sparse(density):  # nor can it be trained
                    yield _case(scenario, choice, topology, rule, density, dtype)


def _case(
    scenario: Scenario,
    choice: WorkloadChoice,
    topology: Topology,
    rule: Averaging | None,
    density: float,
    dtype: WireDtype | None,
) -> TrainingCase:
    assert scenario.simulate is not None
    simulate = scenario.simulate
    workload, exponent = choice.load(), simulate.union_exponent
    if choice.union_exponent is not None:
        exponent = choice.union_exponent
    coding, scope = scenario.compression.coding, scenario.compression.scope
    sparse = _sparse_of(workload, density, coding, scope) if dtype is None else None
    dense_bytes = DENSE_BYTES[dtype or coding.wire_dtype]
    step = TrainingStep(
        workload=workload,
        encoding=_dense(rule, dense_bytes)
        if dtype
        else SparseEncoding(
            density,
            coding,
            dense_bytes,
            power_rule(exponent),
            scope,
            scenario.compression.merge,
            balance=scenario.compression.balance,
        ),
        codec=simulate.codec if dtype is None else Codec(),
        bucket_bytes=simulate.bucket_bytes(),
        accumulation_steps=simulate.accumulation_steps,
        compute_factors=simulate.compute_factors(scenario.seed),
        **_exchanges(rule),
    )
    return TrainingCase(
        topology=topology,
        compression=compression_name(density, dtype or coding.wire_dtype),
        density=density,
        seed=scenario.seed,
        step=step,
        sparse=sparse,
        union_exponent=exponent,
        num_draws=simulate.num_draws,
        averaging=None if rule is None else str(rule),
    )


def _dense(rule: Averaging | None, bytes_per_element: float) -> DenseEncoding:
    """Return the encoding of all that a rule sends."""
    if rule is None:
        return DenseEncoding(bytes_per_element)
    return DenseEncoding(bytes_per_element, rule.vectors, rule.extra_elements)


def _sparse_of(
    workload: Workload, density: float, coding: WireCoding, scope: Scope
) -> RecordedSparse:
    sizes = workload.tensor_sizes
    length = sum(sizes)
    entries = count_entries(sizes if scope == "layer" else [length], density)
    message = coding.expected_bytes(
        np.array([max(length, 1)]), np.array([entries]), float(len(sizes))
    )
    return RecordedSparse(
        length=length,
        dense_elements=workload.dense_elements,
        entries=entries,
        merged_entries=entries,
        bytes_per_entry=float(message[0]) / max(entries, 1),
        index_encoding=coding.index_encoding,
        wire_dtype=coding.wire_dtype,
    )
