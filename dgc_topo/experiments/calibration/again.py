"""Fit of an earlier calibration's probes by the model as it is now; nothing is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import median

import numpy as np

from dgc_topo.experiments.calibration.cases import Case, probes
from dgc_topo.experiments.calibration.codings import CODINGS
from dgc_topo.experiments.calibration.fit import fit_parameters, fitted_s
from dgc_topo.experiments.calibration.times import prepare
from dgc_topo.experiments.calibration.trials import Observation
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters, ProbeRow

#: Parameters that are not fitted.
_FIXED = ("cores_per_process", "cores_per_machine", "hosts_per_machine")
#: Relative; entries are drawn, so that a half has more or less of them, and gaps are wider or not.
_SAME_BYTES = 0.06


def fit_again(network: CalibratedNetwork) -> CalibratedNetwork:
    """Return a calibrated network with parameters that its probes have in today's model.

    Args:
        network: Calibrated network, with the probes that it was fitted to.

    Raises:
        ValueError: if it has no probes, or one is not among those that are measured today.
    """
    if not network.probes:
        raise ValueError(f"network {network.name}: no probes, expected those of a calibration")
    observations = [_observation(row, known) for row, known in _with_cases(network.probes)]
    fixed = Parameters(**{name: getattr(network.parameters, name) for name in _FIXED})
    parameters = fit_parameters(observations, fixed)
    rows = tuple(
        row.model_copy(update={"fitted_s": fitted_s(parameters, each)})
        for row, each in zip(network.probes, observations, strict=True)
    )
    errors = [abs(row.error) for row in rows]
    found = {"median_fit_error": median(errors), "worst_fit_error": max(errors)}
    return network.model_copy(update={"parameters": parameters, "probes": rows, **found})


def _with_cases(rows: Sequence[ProbeRow]) -> Iterator[tuple[ProbeRow, list[Case]]]:
    """Yield each row with the cases of its kind, size and rate."""
    num_hosts = max(row.world_size for row in rows)
    cases = {rate: probes(num_hosts, rate) for rate in {row.rate_bits_per_s for row in rows}}
    for row in rows:
        alike = [
            case
            for case in cases[row.rate_bits_per_s]
            if (case.label, case.world_size) == (row.probe, row.world_size)
        ]
        yield row, alike


def _observation(row: ProbeRow, cases: Sequence[Case]) -> Observation:
    """Return the observation of a row: of the case, and the coding, that has its bytes."""
    found = [
        Observation(case, row.rate_bits_per_s, row.measured_s, coding)
        for case, coding in product(cases, CODINGS)
    ]
    nearest = min(found, key=lambda each: _misses(each, row), default=None)
    if nearest is not None and _misses(nearest, row) <= _SAME_BYTES:
        return nearest
    raise ValueError(
        f"probe {row.probe}, {row.world_size} ranks, {row.num_bytes} bytes: "
        "expected one of those that a calibration measures"
    )


def _misses(observation: Observation, row: ProbeRow) -> float:
    """Return how far the busiest rank's bytes in a run are from those of a row, relative."""
    case = observation.case
    schedule, sizes, *_ = prepare(case, observation.coding)
    sent = np.zeros(case.world_size)
    for index, step in enumerate(schedule.steps()):
        np.add.at(sent, step.src, sizes.of_step(index, step).num_bytes)
    return abs(float(sent.max()) / row.num_bytes - 1)
