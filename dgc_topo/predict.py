"""Predict training steps on networks nobody has here, from what a run recorded.

A step is the compute, compression and update of a worker that has its machine to itself, then the
simulated schedule with the sizes that were recorded; nothing overlaps in this first model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from dgc_topo.cost import count_cost
from dgc_topo.results.environment import describe_environment
from dgc_topo.results.measurement import Measurement, Phases
from dgc_topo.results.measurement import SparseSizes as RecordedSparse
from dgc_topo.scenario import Scenario, TopologyChoice, WorkloadChoice
from dgc_topo.scenario_network_parts import at_key
from dgc_topo.scenario_networks import BuiltNetwork, build_network
from dgc_topo.schedule import Schedule
from dgc_topo.simulate import (
    DenseSizes,
    Result,
    Sizes,
    SparseSizes,
    simulate,
)

_VARYING_ITERATIONS = 8  # a topology that changes is averaged over so many iterations
_FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_ENTRY_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One configuration to predict: what a worker computes and sends in a step.

    Attributes:
        topology: With its options.
        name: Model and data set.
        compression: What the records call it.
        density: Fraction of elements sent.
        seed: For topologies that draw at random.
        batch_size_per_worker: Images, or streams of text.
        batch_samples: Images or tokens per worker and step.
        phases: Of one worker alone; no communication.
        baseline_s: A step of one worker that neither compresses nor communicates.
        gradient_bytes: Dense fp32 gradient.
        dense_wire_bytes: Bytes of one worker's payload if it is sent dense.
        sparse: Sizes if it is sent sparse.
        overlap_exponent: How sparse unions grow, see `power_growth`.
    """

    topology: TopologyChoice
    name: str
    compression: str
    density: float
    seed: int
    batch_size_per_worker: int
    batch_samples: float
    phases: Phases
    baseline_s: float
    gradient_bytes: int
    dense_wire_bytes: float
    sparse: RecordedSparse | None
    overlap_exponent: float

    @property
    def compressed_bytes(self) -> float:
        """One worker's own gradient as encoded."""
        if self.sparse is None:
            return self.dense_wire_bytes
        own = self.sparse.entries * self.sparse.bytes_per_entry
        return own + _FLOAT_BYTES["float32"] * self.sparse.dense_elements

    def sizes(self, schedule: Schedule) -> Sizes:
        """Return the bytes of every transfer of *schedule*."""
        if self.sparse is None:
            return DenseSizes(self.dense_wire_bytes, schedule.num_chunks)
        return SparseSizes(
            schedule,
            length=self.sparse.length,
            entries=min(self.sparse.entries, self.sparse.length),
            bytes_per_entry=self.sparse.bytes_per_entry,
            dense_bytes=_FLOAT_BYTES["float32"] * self.sparse.dense_elements,
            overlap_exponent=self.overlap_exponent,
        )


def workloads_of_runs(records: Sequence[Measurement]) -> list[Workload]:
    """Return what the runs recorded, ready to be predicted elsewhere.

    A lone worker's time does not depend on the topology, and only compressing depends on the
    density, so runs share medians over all that did the same; all share one dense worker as the
    baseline of speed-ups.

    Raises:
        ValueError: if a record lacks the phases of a worker alone.
    """
    workloads = []
    for record in records:
        same = [r for r in records if r.workload == record.workload]
        alike = [
            r for r in same if (r.compression, r.density) == (record.compression, record.density)
        ]
        dense = [r for r in same if r.sparse is None]
        baseline_s = _lone_step_s(_lone_phases(same, dense or same))
        workloads.append(_workload_of_run(record, _lone_phases(same, alike), baseline_s))
    return workloads


def _lone_phases(same: Sequence[Measurement], alike: Sequence[Measurement]) -> Phases:
    """Return medians over the *same* workload, and of compressing over the runs *alike*."""
    return Phases(
        compute_s=median(_solo(record).compute_s for record in same),
        compress_s=median(_solo(record).compress_s for record in alike),
        communicate_s=0.0,
        wait_s=0.0,
        update_s=median(_solo(record).update_s for record in same),
    )


def _solo(record: Measurement) -> Phases:
    if record.solo_phases is None:
        raise ValueError(
            f"record of {record.topology} at density {record.density:g}: has no solo_phases, "
            "expected a record of a training run"
        )
    return record.solo_phases


def _workload_of_run(measured: Measurement, phases: Phases, baseline_s: float) -> Workload:
    return Workload(
        topology=TopologyChoice(name=measured.topology, options=measured.options),
        name=measured.workload,
        compression=measured.compression,
        density=measured.density,
        seed=measured.seed,
        batch_size_per_worker=measured.batch_size_per_worker,
        batch_samples=measured.samples_per_s * measured.step_time_s / measured.num_workers,
        phases=phases,
        baseline_s=baseline_s,
        gradient_bytes=measured.gradient_bytes,
        dense_wire_bytes=measured.compressed_bytes,
        sparse=measured.sparse,
        overlap_exponent=overlap_exponent(measured.sparse, measured.num_workers),
    )


def overlap_exponent(sparse: RecordedSparse | None, num_workers: int) -> float:
    """Return e such that the recorded union of all workers is ``num_workers ** e`` times one's.

    1 if the workers' entries are disjoint, 0 if they are the same ones.
    """
    if sparse is None or num_workers == 1 or not sparse.entries:
        return 1.0
    growth = max(sparse.merged_entries / sparse.entries, 1.0)
    return min(math.log(growth) / math.log(num_workers), 1.0)


def workloads_of_scenario(scenario: Scenario) -> Iterator[Workload]:
    """Yield the configurations of a scenario that describes its workloads itself."""
    if scenario.simulate is None:
        return
    for choice in scenario.simulate.workloads:
        for topology in scenario.topologies:
            for density in scenario.compression.densities:
                yield _workload(scenario, choice, topology, density)


def _workload(
    scenario: Scenario, choice: WorkloadChoice, topology: TopologyChoice, density: float
) -> Workload:
    elements = choice.compressible_elements + choice.dense_elements
    dtype = scenario.compression.wire_dtype
    entries = max(1.0, density * choice.compressible_elements)
    exponent = scenario.simulate.overlap_exponent if scenario.simulate else 1.0
    sparse = RecordedSparse(
        length=choice.compressible_elements,
        dense_elements=choice.dense_elements,
        entries=entries,
        merged_entries=entries,
        bytes_per_entry=_ENTRY_BYTES,
    )
    return Workload(
        topology=topology,
        name=choice.name,
        compression="dgc" if density < 1 else f"dense-{dtype}".replace("-float32", ""),
        density=density,
        seed=scenario.seed,
        batch_size_per_worker=choice.batch_size_per_worker,
        batch_samples=choice.batch_size_per_worker,
        phases=Phases(
            compute_s=choice.compute_s, compress_s=0, communicate_s=0, wait_s=0, update_s=0
        ),
        baseline_s=choice.compute_s,
        gradient_bytes=4 * elements,
        dense_wire_bytes=_FLOAT_BYTES[dtype] * elements,
        sparse=sparse if density < 1 else None,
        overlap_exponent=exponent,
    )


def predict(
    scenario: Scenario, workloads: Iterable[Workload], advance: Callable[[], None] = lambda: None
) -> Iterator[Measurement]:
    """Yield one predicted record per workload, network and world size.

    Args:
        scenario: Names the networks and world sizes.
        workloads: What is run on them.
        advance: Called after each record, for a progress bar.
    """
    if scenario.simulate is None:
        return
    for workload in workloads:
        for network in scenario.simulate.networks:
            for world_size in scenario.simulate.world_sizes:
                yield predict_one(scenario, workload, network, world_size)
                advance()


def num_predictions(scenario: Scenario, num_workloads: int) -> int:
    """Return how many records `predict` yields."""
    if scenario.simulate is None:
        return 0
    return num_workloads * len(scenario.simulate.networks) * len(scenario.simulate.world_sizes)


def predict_one(
    scenario: Scenario, workload: Workload, network: str, world_size: int
) -> Measurement:
    """Return the predicted record of one workload on one network with *world_size* ranks."""
    topology = workload.topology.load()
    iterations = _VARYING_ITERATIONS if topology.varies else 1
    schedules = [
        topology.schedule(world_size, iteration=i, seed=workload.seed) for i in range(iterations)
    ]
    hosts = build_network(network, scenario, world_size)
    with at_key(f"network {network} with {world_size} ranks"):
        runs = [_simulate(schedule, hosts, workload) for schedule in schedules]
    num_workers = len(schedules[0].contributors)
    communication_s = fmean(run.time_s for run in runs)
    phases = workload.phases.model_copy(update={"wait_s": communication_s})
    step_time_s = _lone_step_s(workload.phases) + communication_s
    return Measurement(
        kind="predicted",
        scenario=scenario.name,
        machine=str(describe_environment()),
        topology=workload.topology.name,
        options=workload.topology.options,
        world_size=world_size,
        num_workers=num_workers,
        network=network,
        workload=workload.name,
        compression=workload.compression,
        density=workload.density,
        seed=workload.seed,
        batch_size_per_worker=workload.batch_size_per_worker,
        num_steps=0,
        step_time_s=step_time_s,
        phases=phases,
        samples_per_s=num_workers * workload.batch_samples / step_time_s,
        gradient_bytes=workload.gradient_bytes,
        compressed_bytes=workload.compressed_bytes,
        wire_bytes_per_step=fmean(float(run.bytes_sent.max()) for run in runs),
        messages_per_step=fmean(int(count_cost(s).messages_sent.max()) for s in schedules),
        sparse=workload.sparse,
        solo_phases=workload.phases,
        speedup=num_workers * workload.baseline_s / step_time_s,
    )


def _simulate(schedule: Schedule, hosts: BuiltNetwork, workload: Workload) -> Result:
    return simulate(
        schedule,
        hosts.network,
        workload.sizes(schedule),
        placement=hosts.placement,
        background=hosts.background,
        changes=hosts.changes,
    )


def _lone_step_s(phases: Phases) -> float:
    return phases.compute_s + phases.compress_s + phases.update_s
