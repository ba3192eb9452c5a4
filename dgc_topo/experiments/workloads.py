"""What there is to predict: the step of a recorded run, of a zoo model, or of given sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dgc_topo.experiments.scenario import Scenario, SimulateSection
from dgc_topo.experiments.scenario.step import WorkloadChoice
from dgc_topo.records.measurement import Measurement, Phases
from dgc_topo.records.measurement import SparseSizes as RecordedSparse
from dgc_topo.simulation.training import (
    Codec,
    ComputeFactors,
    DenseEncoding,
    Encoding,
    Profile,
    ReadyLayer,
    SparseEncoding,
    TrainingStep,
    power_rule,
)
from dgc_topo.sizes import count_entries
from dgc_topo.topology import Topology
from dgc_topo.training.compression import Scope
from dgc_topo.wire.coding import VALUE_BYTES, WireCoding, WireDtype, compression_name
from dgc_topo.zoo import load_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One configuration to predict: what a worker computes and sends in a step.

    Attributes:
        topology: With its options.
        name: Model and data set.
        compression: What the records call it.
        density: Fraction of elements sent.
        seed: For topologies that draw at random.
        batch_size_per_worker: Images, or streams of text, per worker and step.
        batch_samples: Images or tokens per worker and step.
        step: What a worker does.
        sparse: For the record, if it is sent sparse.
        union_exponent: How sparse unions grow, see `power_growth`.
        num_draws: Steps to average over if compute times are drawn at random.
    """

    topology: Topology
    name: str
    compression: str
    density: float
    seed: int
    batch_size_per_worker: int
    batch_samples: float
    step: TrainingStep
    sparse: RecordedSparse | None
    union_exponent: float
    num_draws: int = 1

    @property
    def phases(self) -> Phases:
        """A step of one worker alone: no communication."""
        return Phases.alone(
            compute_s=self.step.accumulation_steps * self.step.profile.compute_s,
            compress_s=self.step.codec_s,
            update_s=self.step.update_s,
        )

    @property
    def gradient_bytes(self) -> int:
        """Dense fp32 gradient."""
        return VALUE_BYTES["float32"] * self.step.profile.num_elements

    @property
    def compressed_bytes(self) -> float:
        """One worker's own gradient as encoded."""
        return sum(self.step.encoding.own_bytes(bucket) for bucket in self.step.buckets)


def workloads_of_runs(
    records: Iterable[Measurement],
    simulate: SimulateSection | None = None,
    topologies: Sequence[Topology] = (),
) -> list[Workload]:
    """Return what the runs recorded, ready to be predicted elsewhere.

    Each run stands for itself: what is predicted of it depends on no other record.  Buckets are
    sent as the recorded profile says that they are ready, if the run did that, or *simulate* asks
    for it.

    Args:
        records: Of training runs.
        simulate: Says how the machines differ; all are alike if left out.
        topologies: Those that were trained over; others are found by the name that is recorded,
            a file in the current folder.

    Raises:
        ValueError: if a record lacks the phases of a worker alone, or overlaps without a profile.
    """
    return [_workload_of_run(each, simulate, _topology_of(each, topologies)) for each in records]


def _lone_phases(record: Measurement) -> Phases:
    """Return what one worker alone does in a step; it communicates with nobody."""
    if record.solo_phases is None:
        raise ValueError(
            f"record of {record.topology} at density {record.density:g}: has no solo_phases, "
            "expected a record of a training run"
        )
    # A scaled lab stands for a faster cluster, and so do predictions from it.
    solo, scale = record.solo_phases, record.time_scale
    return Phases.alone(
        compute_s=solo.compute_s / scale,
        compress_s=solo.compress_s / scale,
        update_s=solo.update_s / scale,
    )


def _topology_of(record: Measurement, topologies: Sequence[Topology]) -> Topology:
    for known in topologies:
        if (known.name, known.plain_options) == (record.topology, record.options):
            return known
    return Topology.named(record.topology, record.options)


def _workload_of_run(
    measured: Measurement, simulate: SimulateSection | None, topology: Topology
) -> Workload:
    phases = _lone_phases(measured)
    elements = measured.gradient_bytes // VALUE_BYTES["float32"]
    exponent = union_exponent(measured.sparse, measured.num_workers)
    encoding: Encoding
    if measured.sparse is None:
        encoding = DenseEncoding(measured.compressed_bytes / max(elements, 1))
    else:
        sparse = measured.sparse
        density, dense_bytes = sparse.entries / sparse.length, VALUE_BYTES[sparse.wire_dtype]
        union = power_rule(exponent)
        encoding = SparseEncoding(min(density, 1.0), sparse.coding, dense_bytes, union, "measured")
    step = TrainingStep(
        profile=_profile_of_run(measured, phases.compute_s),
        encoding=encoding,
        codec=Codec(fixed_s=phases.compress_s),
        update_s=phases.update_s,
        bucket_bytes=_bucket_bytes(measured, simulate),
        compute_factors=simulate.pace(measured.seed) if simulate else ComputeFactors(),
    )
    return Workload(
        topology=topology,
        name=measured.workload,
        compression=measured.compression,
        density=measured.density,
        seed=measured.seed,
        batch_size_per_worker=measured.batch_size_per_worker,
        batch_samples=measured.samples_per_s * measured.step_time_s / measured.num_workers,
        step=step,
        sparse=measured.sparse,
        union_exponent=exponent,
        num_draws=simulate.num_draws if simulate else 1,
    )


def _bucket_bytes(measured: Measurement, simulate: SimulateSection | None) -> float | None:
    trained = measured.bucket_bytes
    bucket_bytes = trained if simulate is None else simulate.bucket_bytes(trained)
    if measured.profile is None and bucket_bytes is not None:
        raise ValueError(
            f"record of {measured.topology} at density {measured.density:g}: has no profile that "
            "says when which gradients are ready, expected simulate.overlap = false"
        )
    return bucket_bytes


def _profile_of_run(measured: Measurement, compute_s: float) -> Profile:
    recorded, sparse = measured.profile, measured.sparse
    if recorded is None:
        elements = measured.gradient_bytes // VALUE_BYTES["float32"]
        dense = sparse.dense_elements if sparse else 0
        return Profile.of_whole(compute_s, elements - dense, dense)
    layers = tuple(
        ReadyLayer(each.name, each.ready_s, (each.compressible_elements,), each.dense_elements)
        for each in recorded.layers
    )
    return Profile(recorded.forward_s, layers).lasting(compute_s)


def union_exponent(sparse: RecordedSparse | None, num_workers: int) -> float:
    """Return e such that the recorded union of all workers is ``num_workers ** e`` times one's.

    1 if the workers' entries are disjoint, 0 if they are the same ones.
    """
    if sparse is None or num_workers == 1 or not sparse.entries:
        return 1.0
    growth = max(sparse.merged_entries / sparse.entries, 1.0)
    return min(math.log(growth) / math.log(num_workers), 1.0)


def workloads_of_scenario(scenario: Scenario) -> Iterator[Workload]:
    """Yield the configurations of a scenario that describes its workloads itself.

    Gossip averages whole parameters, so it comes dense only.
    """
    if scenario.simulate is None:
        return
    dtypes = scenario.simulate.dense_dtypes or (scenario.compression.wire_dtype,)
    ways = [
        way
        for density in scenario.compression.densities
        for way in ([(density, None)] if density < 1 else [(density, dtype) for dtype in dtypes])
    ]
    for choice in scenario.simulate.workloads:
        for topology in scenario.topologies:
            for density, dtype in ways:
                if density < 1 and topology.gossips:
                    continue  # nor can it be trained
                yield _workload(scenario, scenario.simulate, choice, topology, density, dtype)


def _workload(
    scenario: Scenario,
    simulate: SimulateSection,
    choice: WorkloadChoice,
    topology: Topology,
    density: float,
    dtype: WireDtype | None,
) -> Workload:
    profile, batch_size, batch_samples = profile_of(choice)
    passes, exponent = simulate.accumulation_steps, simulate.overlap_exponent
    if choice.overlap_exponent is not None:
        exponent = choice.overlap_exponent
    coding, scope = scenario.compression.coding, scenario.compression.scope
    sparse = _sparse_of(profile, density, coding, scope) if dtype is None else None
    dense_bytes = VALUE_BYTES[dtype or coding.wire_dtype]
    step = TrainingStep(
        profile=profile,
        encoding=DenseEncoding(dense_bytes)
        if dtype
        else SparseEncoding(density, coding, dense_bytes, power_rule(exponent), scope),
        codec=simulate.codec if dtype is None else Codec(),
        update_s=choice.update_s,
        bucket_bytes=simulate.bucket_bytes(),
        accumulation_steps=passes,
        compute_factors=simulate.pace(scenario.seed),
    )
    return Workload(
        topology=topology,
        name=choice.label,
        compression=compression_name(density, dtype or coding.wire_dtype),
        density=density,
        seed=scenario.seed,
        batch_size_per_worker=passes * batch_size,
        batch_samples=passes * batch_samples,
        step=step,
        sparse=sparse,
        union_exponent=exponent,
        num_draws=simulate.num_draws,
    )


def profile_of(choice: WorkloadChoice) -> tuple[Profile, int, float]:
    """Return a workload's profile, and its items and samples per worker and pass."""
    if choice.model is not None:
        model = load_model(choice.model)
        if choice.batch_size_per_worker is not None:
            model = model.at_batch(choice.batch_size_per_worker)
        return Profile.of_model(model), model.batch_size, model.batch_samples
    assert choice.compute_s is not None
    assert choice.batch_size_per_worker is not None
    assert choice.compressible_elements is not None
    assert choice.dense_elements is not None
    sizes = choice.compressible_elements, choice.dense_elements
    profile = Profile.of_whole(choice.compute_s, *sizes)
    return profile, choice.batch_size_per_worker, choice.batch_size_per_worker


def _sparse_of(
    profile: Profile, density: float, coding: WireCoding, scope: Scope
) -> RecordedSparse:
    sizes = [size for layer in profile.layers for size in layer.tensor_sizes]
    length = sum(sizes)
    entries = count_entries(sizes if scope == "layer" else [length], density)
    message = coding.expected_bytes(np.array([max(length, 1)]), np.array([entries]))
    return RecordedSparse(
        length=length,
        dense_elements=profile.num_elements - length,
        entries=entries,
        merged_entries=entries,
        bytes_per_entry=float(message[0]) / max(entries, 1),
        index_encoding=coding.index_encoding,
        wire_dtype=coding.wire_dtype,
    )
