"""What a case takes on a network, by the model."""

from __future__ import annotations

from functools import cache

import numpy as np
import simpy

from dgc_topo.experiments.calibration.cases import Case, Collective, DenseBuffer, Probe
from dgc_topo.network import Network
from dgc_topo.network.calibrated import Parameters
from dgc_topo.schedule import Schedule
from dgc_topo.simulation import DenseSizes, Fluid, Sizes, UnionSizes
from dgc_topo.simulation.run import run_to_end
from dgc_topo.simulation.training.stream import BucketStream

_SIMULATED_RUNS = 4


def predict_case(case: Case, parameters: Parameters, rate_bits_per_s: float | None) -> float:
    """Return the seconds that one of a case's runs takes on average, by the model.

    Args:
        case: What is run.
        parameters: Of the network.
        rate_bits_per_s: Of its links; None is unlimited.
    """
    network = parameters.network(case.world_size, rate_bits_per_s, touched_bytes(case))
    return simulate_runs(case, network)


def simulate_runs(case: Case, network: Network) -> float:
    """Return the mean seconds of one of a case's runs on a network.

    Several runs are simulated one after the other, as they are timed: a rank that is done with one
    begins the next, so that runs may overlap.  A few of them tell what many would take.
    """
    schedule, runs = case.schedule(), min(case.runs, _SIMULATED_RUNS)
    fluid = Fluid(simpy.Environment(), network)
    stream = BucketStream(
        fluid,
        [schedule] * runs,
        [sizes_of(case, schedule)] * runs,  # they start anew with the first step
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
    """Return of how many buffers a schedule sends or receives the chunks, over all ranks."""
    schedule = pattern.schedule(world_size)
    touched = np.zeros((world_size, schedule.num_chunks), np.bool_)
    for step in schedule.steps():
        for transfer in step:
            touched[[transfer.src, transfer.dst], transfer.chunk : transfer.chunk_end] = True
    return float(touched.sum()) / schedule.num_chunks


def sizes_of(case: Case, schedule: Schedule) -> Sizes:
    """Return the bytes of the transfers of one run."""
    if isinstance(case.buffer, DenseBuffer):
        return DenseSizes(case.buffer.num_bytes, schedule.num_chunks)
    return UnionSizes(
        schedule, length=case.buffer.num_elements, entries=float(case.buffer.num_entries)
    )
