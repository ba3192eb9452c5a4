"""Fit of the model's parameters to measured probes, by the simulator that also predicts.

Every probe's time is simulated with trial parameters.  Bounded least squares (scipy) minimise the
squared logarithms of simulated over measured times.  The parameters describe links, processes and
cores; none belongs to a topology.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import simpy
from scipy.optimize import least_squares

from dgc_topo.experiments.calibration.cases import (
    Case,
    Collective,
    DenseBuffer,
    Probe,
    ProbeKind,
)
from dgc_topo.network import Network
from dgc_topo.network.calibrated import Parameters
from dgc_topo.records.environment import num_cores
from dgc_topo.schedule import Schedule
from dgc_topo.simulation import DenseSizes, Fluid, Sizes, UnionSizes
from dgc_topo.simulation.run import run_to_end
from dgc_topo.simulation.training.stream import BucketStream
from dgc_topo.wire.coding import EntryCoding
from dgc_topo.workers.children import end_with_parent, safe_path

_BITS = 8
#: Ridge weight: a parameter e times its prior costs as much as a 1 % error in one probe.  It hardly
#: moves parameters that the probes determine; the others (such as the cost of a byte where links
#: are slow) stay near their priors.
_RIDGE_WEIGHT = 0.01
#: Buffers that pass one after the other in a run: two of a ping-pong, half of one of an exchange.
_BUFFERS_IN_A_ROW: dict[ProbeKind, float] = {"ping-pong": 2, "exchange": 0.5}

_SIMULATED_RUNS = 4
MOST_STEPS = 30  #: of the solver


@dataclass(frozen=True, slots=True)
class Observation:
    """A measured probe.

    Attributes:
        case: Case that was run.
        rate_bits_per_s: Rate of the links; None for unshaped ones.
        time_s: Measured time of one run.
    """

    case: Case
    rate_bits_per_s: float | None
    time_s: float


@dataclass(frozen=True, slots=True)
class _Free:
    """Fitted parameter, and the range of its values."""

    name: str
    start: float
    lowest: float
    highest: float


_LINK = (
    _Free("goodput", 0.95, 0.3, 1.2),
    _Free("latency_bytes", 1500.0, 1.0, 20_000.0),
    _Free("reverse_share", 0.03, 1e-4, 0.3),
    _Free("burst_bytes", 500.0, 1.0, 1e6),
    _Free("burst_s", 1e-4, 1e-9, 1e-2),
)
_ENDS = (
    _Free("latency_s", 30e-6, 1e-7, 5e-3),
    _Free("overhead_s", 30e-6, 1e-7, 5e-3),
    _Free("receive_overhead_s", 30e-6, 1e-7, 5e-3),
    _Free("step_overhead_s", 30e-6, 1e-7, 5e-3),
    _Free("start_overhead_s", 30e-6, 1e-7, 5e-3),
    _Free("send_s_per_byte", 0.3e-9, 1e-12, 1e-7),
    _Free("receive_s_per_byte", 0.3e-9, 1e-12, 1e-7),
    _Free("reduce_s_per_byte", 0.2e-9, 1e-12, 1e-7),
    _Free("scale_s_per_byte", 0.2e-9, 1e-12, 1e-7),
    _Free("uncached_factor", 1.5, 1.0, 5.0),
    _Free("cache_bytes", 3e6, 1e5, 1e9),
    _Free("crowded_latency_s", 3e-5, 1e-7, 5e-3),
    _Free("crowded_overhead_s", 3e-5, 1e-7, 5e-3),
    _Free("busy_core_speed", 0.8, 0.3, 1.0),
    _Free("code_s_per_message", 1e-4, 1e-6, 1e-2),
    _Free("cold_code_s", 3e-4, 1e-6, 1e-2),
    _Free("cooling_s", 2e-3, 1e-4, 1e-1),
    _Free("merge_s_per_message", 1e-3, 1e-6, 1e-1),
    _Free("code_s_per_byte", 2e-9, 1e-12, 1e-6),
    _Free("merge_s_per_byte", 3e-9, 1e-12, 1e-6),
    _Free("sort_s_per_byte", 5e-9, 1e-12, 1e-6),
)


def fit_parameters(
    observations: Sequence[Observation], fixed: Parameters, *, most_steps: int = MOST_STEPS
) -> Parameters:
    """Return the parameters under which the simulated times are closest to the measured ones.

    Args:
        observations: Measured probes; several rates separate costs that depend on the rate from
            costs that do not.
        fixed: Values of all parameters that are not fitted: of cores and machines and, if no
            link is shaped, of links.
        most_steps: Steps of the solver, at most.

    Raises:
        ValueError: if there are no observations.
    """
    if not observations:
        raise ValueError("calibration: no probes, expected at least one")
    has_rate = any(each.rate_bits_per_s is not None for each in observations)
    free = (*_LINK, *_ENDS) if has_rate else _ENDS
    usual = np.log(_starts(free, observations))
    # Spawned, not forked: a worker of a process group has threads, which a fork would lose.
    spawned = partial(ProcessPoolExecutor, mp_context=get_context("spawn"))
    with safe_path(), spawned(num_cores(), initializer=end_with_parent) as pool:
        solution = least_squares(
            partial(_misfits, free, usual, observations, fixed),
            usual,
            bounds=(
                [math.log(each.lowest) for each in free],
                [math.log(each.highest) for each in free],
            ),
            diff_step=[1e-3]
            * len(free),  # the model has kinks: take finite differences over larger steps
            loss="soft_l1",  # a disturbed probe counts less
            f_scale=0.05,
            ftol=1e-4,
            xtol=1e-3,
            max_nfev=most_steps,
            workers=pool.map,
        )
    return _with(fixed, free, solution.x)


def _starts(free: Sequence[_Free], observations: Sequence[Observation]) -> list[float]:
    """Return starting values; those of the links come from the largest messages.

    The model has kinks, and a solver that starts far away stops at one of them.
    """
    starts = {each.name: each.start for each in free}
    one_way = _largest("ping-pong", observations)
    if one_way is not None and "goodput" in starts:
        starts["goodput"] = min(1.0, _wire_s(one_way) / one_way.time_s)
        both_ways = _largest("exchange", observations)
        if both_ways is not None:
            slower = starts["goodput"] * both_ways.time_s / _wire_s(both_ways)
            starts["reverse_share"] = min(max(slower - 1, 1e-3), 0.3)
    return [starts[each.name] for each in free]


def _largest(kind: ProbeKind, observations: Sequence[Observation]) -> Observation | None:
    """Return the dense probe of *kind* with the most bytes at the lowest rate, or None."""
    found = [
        each
        for each in observations
        if isinstance(each.case.pattern, Probe)
        and isinstance(each.case.buffer, DenseBuffer)
        and each.case.pattern.kind == kind
        and each.rate_bits_per_s is not None
    ]
    return max(found, key=_wire_s, default=None)


def _wire_s(observation: Observation) -> float:
    """Return the seconds that the messages of one direction take on an otherwise idle link."""
    case, rate = observation.case, observation.rate_bits_per_s
    assert isinstance(case.pattern, Probe)
    assert isinstance(case.buffer, DenseBuffer)
    assert rate is not None
    return _BUFFERS_IN_A_ROW[case.pattern.kind] * case.buffer.num_bytes * _BITS / rate


def _misfits(
    free: Sequence[_Free],
    usual: npt.NDArray[np.float64],
    observations: Sequence[Observation],
    fixed: Parameters,
    logarithms: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return log(simulated / measured) of each observation, then the ridge residuals.

    The ridge residuals are the weighted distances of the parameters from the *usual* ones.
    """
    parameters = _with(fixed, free, logarithms)
    errors = [math.log(fitted_s(parameters, each) / each.time_s) for each in observations]
    return np.concatenate([errors, _RIDGE_WEIGHT * (logarithms - usual)])


def fitted_s(parameters: Parameters, observation: Observation) -> float:
    """Return the simulated seconds of an observation."""
    case = observation.case
    return predict_case(case, parameters, observation.rate_bits_per_s)


def _with(
    fixed: Parameters, free: Sequence[_Free], logarithms: npt.NDArray[np.float64]
) -> Parameters:
    values = {each.name: math.exp(x) for each, x in zip(free, logarithms.tolist(), strict=True)}
    return fixed.model_copy(update=values)


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
    schedule, runs = case.schedule(), min(case.runs, _SIMULATED_RUNS)
    fluid = Fluid(simpy.Environment(), network)
    stream = BucketStream(
        fluid,
        [schedule] * runs,
        [sizes_of(case, schedule, coding)] * runs,  # step numbers start again in each run
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
