"""Calibration of a lab or cluster: measure the probes, fit the parameters, report the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from dgc_topo.experiments.calibration.cases import Case, DenseBuffer, Probe, probes
from dgc_topo.experiments.calibration.fit import MOST_STEPS, fit_parameters, fitted_s
from dgc_topo.experiments.calibration.measure import Measured, Reference, measure_cases, timeout_s
from dgc_topo.experiments.calibration.trials import Observation
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters, ProbeRow
from dgc_topo.records.environment import describe_environment
from dgc_topo.workers import Session
from dgc_topo.workers.lab import Lab, LabSpec

ROUNDS = 5

_REFERENCE_ELEMENTS = 16_000_000  #: far more bytes than caches hold

#: Measured probes and the rate of the links they were measured on; None is unshaped.
ProbesAtRate = tuple[float | None, Sequence[Measured]]


def calibrate_lab(
    rates_bits_per_s: Sequence[float | None],
    num_hosts: int = 8,
    *,
    name: str = "lab",
    rounds: int = ROUNDS,
    advance: Callable[[int], None] = lambda _: None,
) -> CalibratedNetwork:
    """Return the network of labs on this machine, valid at and between the given rates.

    Args:
        rates_bits_per_s: Rates of the labs to measure; None is unshaped.
        num_hosts: Hosts of each lab.  The effect of several processes on few cores can only be
            measured with that many hosts.
        name: Name for the network.
        rounds: Rounds behind each median.
        advance: Called with the number of probes measured since the last call.

    Raises:
        LabError: if this machine cannot have a lab.
        LaunchError: if a worker fails.
        ValueError: if there is no rate, or there are fewer than 2 hosts.
    """
    found: list[ProbesAtRate] = []
    reference_s: float | None = None
    for rate in rates_bits_per_s:
        cases = probes(num_hosts, rate)
        spec = LabSpec(num_hosts=num_hosts, rate_bits_per_s=rate)
        reference = reference_for(rate)
        patience_s = timeout_s(cases, rate)
        with Lab(spec) as lab, Session(lab, num_hosts, timeout_s=patience_s) as session:
            found.append((rate, measure_cases(session, cases, rounds, advance, reference, lab)))
        reference_s = reference.expected_s if reference is not None else reference_s
    environment = describe_environment()
    fixed = Parameters(
        cores_per_machine=float(environment.num_cores), hosts_per_machine=max(num_hosts, 64)
    )
    rate = next((rate for rate in rates_bits_per_s if rate is not None), None)
    network = fit_network(name, found, fixed, rate)
    return network.model_copy(update={"reference_s": reference_s})


def reference_for(
    rate_bits_per_s: float | None, expected_s: float | None = None
) -> Reference | None:
    """Return the case that shows the machine's state; None if links are slower than cores."""
    if rate_bits_per_s is not None:
        return None
    buffer = DenseBuffer(num_elements=_REFERENCE_ELEMENTS)
    case = Case(pattern=Probe(kind="ping-pong"), world_size=2, buffer=buffer)
    return Reference(case, expected_s)


def num_probes(num_hosts: int, rates_bits_per_s: Sequence[float | None]) -> int:
    """Return the number of probes that `calibrate_lab` measures."""
    return sum(len(probes(num_hosts, rate)) for rate in rates_bits_per_s)


def fit_network(
    name: str,
    found: Sequence[ProbesAtRate],
    fixed: Parameters,
    rate_bits_per_s: float | None,
    *,
    most_steps: int = MOST_STEPS,
) -> CalibratedNetwork:
    """Return the network that fits measured probes.

    Args:
        name: Name for the network.
        found: Measured probes, at one rate or several.
        fixed: Parameters of cores and machines, which are not fitted.
        rate_bits_per_s: Rate of the network's links, unless a scenario gives another.
        most_steps: Steps of the solver, at most.
    """
    observations = [Observation(row.case, rate, row.time_s) for rate, rows in found for row in rows]
    parameters = fit_parameters(observations, fixed, most_steps=most_steps)
    rows = tuple(
        _probe_row(row, rate, fitted_s(parameters, Observation(row.case, rate, row.time_s)))
        for rate, measured in found
        for row in measured
    )
    errors = [abs(row.error) for row in rows]
    return CalibratedNetwork(
        name=name,
        machine=str(describe_environment()),
        rate_bits_per_s=rate_bits_per_s,
        parameters=parameters,
        median_fit_error=median(errors),
        worst_fit_error=max(errors),
        probes=rows,
    )


def _probe_row(row: Measured, rate: float | None, fitted: float) -> ProbeRow:
    return ProbeRow(
        probe=row.case.label,
        world_size=row.case.world_size,
        rate_bits_per_s=rate,
        num_bytes=round(row.bytes_sent),
        measured_s=row.time_s,
        spread=row.spread,
        fitted_s=fitted,
    )
