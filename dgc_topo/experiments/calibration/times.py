"""Simulated times of cases, by the engine that simulates all other runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import simpy

from dgc_topo.experiments.calibration.cases import Case, Collective, DenseBuffer, Probe
from dgc_topo.network import Network
from dgc_topo.network.calibrated import Parameters
from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulation import DenseSizes, Fluid, Sizes, UnionSizes
from dgc_topo.simulation.run import run_to_end
from dgc_topo.simulation.step_sizes import StepSizes
from dgc_topo.simulation.training.stream import BucketStream
from dgc_topo.simulation.work import count_products, merges_jointly
from dgc_topo.wire.coding import EntryCoding

_SIMULATED_RUNS = 4


class Prepared(NamedTuple):
    """Parts of a case that no parameter changes.

    Attributes:
        schedule: Schedule of one run; its steps are kept.
        sizes: Bytes of the transfers of one run.
        touched_bytes: Bytes of all ranks' buffers that one run reads or writes.
        unused: Names of the costs that its time does not depend on.
    """

    schedule: Schedule
    sizes: Sizes
    touched_bytes: float
    unused: frozenset[str]


def predict_case(
    case: Case,
    parameters: Parameters,
    rate_bits_per_s: float | None,
    coding: EntryCoding | None = None,
) -> float:
    """Return the mean simulated seconds of one of a case's runs.

    Args:
        case: Case to run.
        parameters: Parameters of the network.
        rate_bits_per_s: Rate of its links; None is unlimited.
        coding: Coding of sparse messages; that of real ones by default.
    """
    network = parameters.network(case.world_size, rate_bits_per_s, touched_bytes(case))
    return simulate_runs(case, network, coding)


def simulate_runs(case: Case, network: Network, coding: EntryCoding | None = None) -> float:
    """Return the mean seconds of one of a case's runs on a network.

    Runs follow each other as in the measurement: a rank that has finished one begins the next, so
    runs can overlap.  A few simulated runs stand for many.
    """
    schedule = case.schedule()
    return simulate_prepared(case, schedule, sizes_of(case, schedule, coding), network)


def simulate_prepared(case: Case, schedule: Schedule, sizes: Sizes, network: Network) -> float:
    """Return the mean seconds of one of a case's runs, whose schedule and sizes are known."""
    runs = min(case.runs, _SIMULATED_RUNS)
    fluid = Fluid(simpy.Environment(), network)
    stream = BucketStream(
        fluid,
        [schedule] * runs,
        [sizes] * runs,  # step numbers start again in each run
        np.zeros((runs, case.world_size)),
        np.arange(case.world_size),
    )
    run_to_end(stream, fluid, None, ())
    return float(stream.end_s.max()) / runs


def touched_bytes(case: Case) -> float:
    """Return the bytes of all ranks' buffers that one run reads or writes."""
    share = _touched_buffers(case.pattern, case.world_size)
    return share * case.buffer.held_bytes


@cache
def _touched_buffers(pattern: Probe | Collective, world_size: int) -> float:
    """Return the buffers whose chunks are sent or received, summed over all ranks."""
    schedule = pattern.schedule(world_size)
    touched = np.zeros((world_size, schedule.num_chunks), np.bool_)
    for step in schedule.steps():
        for transfer in step:
            touched[[transfer.src, transfer.dst], transfer.chunk : transfer.chunk_end] = True
    return float(touched.sum()) / schedule.num_chunks


def sizes_of(case: Case, schedule: Schedule, coding: EntryCoding | None = None) -> Sizes:
    """Return the bytes of the transfers of one run."""
    if isinstance(case.buffer, DenseBuffer):
        return DenseSizes(case.buffer.num_bytes, schedule.num_chunks)
    return UnionSizes(
        schedule,
        length=case.buffer.num_elements,
        entries=float(case.buffer.num_entries),
        coding=coding,
    )


def prepare(case: Case, coding: EntryCoding | None = None) -> Prepared:
    """Return the parts of a case that no parameter changes."""
    schedule = case.schedule()
    steps = tuple(schedule.steps())
    kept = Schedule(schedule.world_size, schedule.num_chunks, lambda _: iter(steps), goal="part")
    sizes = _KnownSizes(sizes_of(case, kept, coding), steps)
    unused = _UNUSED_IF_DENSE if isinstance(case.buffer, DenseBuffer) else _UNUSED_IF_SPARSE
    return Prepared(kept, sizes, touched_bytes(case), unused - _used_by_merging(steps, sizes))


class _KnownSizes:
    """Sizes of the transfers of some steps, and the work of merging them, found once."""

    def __init__(self, sizes: Sizes, steps: Sequence[Step]) -> None:
        self._found = [_found_once(sizes.of_step(*pair)) for pair in enumerate(steps)]

    def of_step(self, step_index: int, step: Step) -> StepSizes:
        """Return the sizes of a step's transfers."""
        return self._found[step_index]


def _found_once(sizes: StepSizes) -> StepSizes:
    if sizes.find_merging is None:
        return sizes
    merging = sizes.find_merging()
    return StepSizes(sizes.num_bytes, lambda: merging)


#: Costs that dense messages do not have, and those that sparse ones do not have; and costs of
#: merging, which only some cases have.
_MERGING_SPARSE = frozenset({"merge_s_per_message", "merge_s_per_byte", "sort_s_per_byte"})
_MERGING_DENSE = frozenset({"reduce_s_per_byte", "scale_s_per_byte", "joint_merge_s"})
_CODING = frozenset({"code_s_per_byte", "code_s_per_message", "cold_code_s", "cooling_s"})
_UNUSED_IF_DENSE = _MERGING_DENSE | _MERGING_SPARSE | _CODING
_UNUSED_IF_SPARSE = _MERGING_DENSE | _MERGING_SPARSE


def _used_by_merging(steps: Sequence[Step], sizes: Sizes) -> frozenset[str]:
    """Return the names of the costs of merging that some step has."""
    used: set[str] = set()
    for index, step in enumerate(steps):
        adds = (step.keep != 0) & (step.weight != 0)
        merging = sizes.of_step(index, step).find_merging
        if merging is None:
            used.update({"reduce_s_per_byte"} if adds.any() else ())
            used.update({"scale_s_per_byte"} if count_products(step).any() else ())
            used.update({"joint_merge_s"} if merges_jointly(step).any() else ())
        elif adds.any():
            is_sort = merging().is_sort[adds]
            used.add("merge_s_per_message")
            used.update({"sort_s_per_byte"} if is_sort.any() else ())
            used.update({"merge_s_per_byte"} if not is_sort.all() else ())
    return frozenset(used)
