"""Trials: times of all probes under parameters that a fit tries, each simulated only once.

A parameter changes few of the times: that of a byte's sorting, say, only those of three ranks that
meet.  A simulation is known by what it depends on, and looked up if that is all as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.experiments.calibration.cases import Case
from dgc_topo.experiments.calibration.times import Prepared, prepare, simulate_prepared
from dgc_topo.network import Network
from dgc_topo.network.calibrated import Parameters
from dgc_topo.network.costs import EndCosts
from dgc_topo.records.environment import num_cores
from dgc_topo.wire.coding import EntryCoding
from dgc_topo.workers.children import end_with_parent, safe_path

_AT_ONCE = 4  #: simulations that a process takes at a time


@dataclass(frozen=True, slots=True)
class Observation:
    """A measured probe.

    Attributes:
        case: Case that was run.
        rate_bits_per_s: Rate of the links; None for unshaped ones.
        time_s: Measured time of one run.
        coding: Coding of its sparse messages; that of real ones by default.
    """

    case: Case
    rate_bits_per_s: float | None
    time_s: float
    coding: EntryCoding | None = None


#: Everything that a simulated time depends on, as numbers.
_Key = tuple[int | float | None, ...]

#: A simulation: number of the observation, and the parameters.
_Task = tuple[int, Parameters]

_Simulate = Callable[[Sequence[_Task]], Iterable[float]]


class Trials:
    """Simulated times of observations, each simulated once for all that it depends on.

    Args:
        observations: Probes to simulate.
        simulate: Function that runs simulations; see `simulating`.
    """

    def __init__(self, observations: Sequence[Observation], simulate: _Simulate) -> None:
        self._observations = observations
        self._prepared = [prepare(each.case, each.coding) for each in observations]
        self._simulate = simulate
        self._known: dict[_Key, float] = {}

    def times_s(self, trials: Sequence[Parameters]) -> FloatArray:
        """Return the seconds of all observations, shape (num_trials, num_observations)."""
        keys = [[*self._keys(parameters)] for parameters in trials]
        tasks = {
            key: (number, parameters)
            for parameters, row in zip(trials, keys, strict=True)
            for number, key in enumerate(row)
            if key not in self._known
        }
        found = dict(zip(tasks, self._simulate([*tasks.values()]), strict=True))
        known = self._known | found
        # The next trials are near these ones, or nowhere near any.
        self._known = {key: known[key] for row in keys for key in row}
        return np.array([[self._known[key] for key in row] for row in keys])

    def _keys(self, parameters: Parameters) -> Iterator[_Key]:
        networks: dict[tuple[object, ...], Network] = {}
        for number, each in enumerate(self._observations):
            prepared = self._prepared[number]
            where = each.case.world_size, each.rate_bits_per_s, prepared.touched_bytes
            if where not in networks:
                networks[where] = parameters.network(*where)
            yield number, *_decisive(networks[where], prepared, each.rate_bits_per_s)


def _decisive(
    network: Network, prepared: Prepared, rate_bits_per_s: float | None
) -> Iterator[float | None]:
    """Yield what the simulated time depends on."""
    costs = network.costs
    unused = prepared.unused if costs.has_coding else frozenset()
    if rate_bits_per_s is None:
        unused |= {"reverse_share"}  # acknowledgements take no part of unlimited links
    yield float(network.bandwidth_bytes_per_s[0])
    yield float(network.latency_s[0])
    for name in _NUMBERS:
        if name not in unused:
            yield getattr(costs, name)


_NUMBERS = tuple(name for name in EndCosts.model_fields if name != "message_curve")


@contextmanager
def simulating(observations: Sequence[Observation]) -> Iterator[_Simulate]:
    """Yield a function that simulates observations on all cores."""
    # Spawned, not forked: a worker of a process group has threads, which a fork would lose.
    spawned = partial(ProcessPoolExecutor, mp_context=get_context("spawn"))
    with (
        safe_path(),
        spawned(num_cores(), initializer=_begin, initargs=(observations,)) as pool,
    ):
        yield lambda tasks: pool.map(_simulate_one, tasks, chunksize=_AT_ONCE)


#: Of a process that simulates: its observations, and their parts that no parameter changes.
_MINE: list[tuple[Observation, Prepared]] = []


def _begin(observations: Sequence[Observation]) -> None:
    end_with_parent()
    _MINE[:] = [(each, prepare(each.case, each.coding)) for each in observations]


def _simulate_one(task: _Task) -> float:
    number, parameters = task
    observation, prepared = _MINE[number]
    case, rate = observation.case, observation.rate_bits_per_s
    network = parameters.network(case.world_size, rate, prepared.touched_bytes)
    return simulate_prepared(case, prepared.schedule, prepared.sizes, network)
