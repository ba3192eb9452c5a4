"""What a case takes on a network, by the model."""

from __future__ import annotations

import numpy as np
import simpy

from dgc_topo.calibration.cases import Case, DenseBuffer
from dgc_topo.schedule import Schedule
from dgc_topo.simulate import DenseSizes, Fluid, Network, Sizes, SparseSizes
from dgc_topo.simulate.run import run_to_end
from dgc_topo.simulate.training.stream import BucketStream

_SIMULATED_RUNS = 4


def predict_case(case: Case, network: Network) -> float:
    """Return the seconds that one of a case's runs takes on average, by the model.

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


def sizes_of(case: Case, schedule: Schedule) -> Sizes:
    """Return the bytes of the transfers of one run."""
    if isinstance(case.buffer, DenseBuffer):
        return DenseSizes(case.buffer.num_bytes, schedule.num_chunks)
    return SparseSizes(
        schedule, length=case.buffer.num_elements, entries=float(case.buffer.num_entries)
    )
