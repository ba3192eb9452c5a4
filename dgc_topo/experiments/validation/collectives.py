"""Validation of collectives: measured in labs, and predicted from the calibration alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from dgc_topo.experiments.calibration.calibrate import reference_for
from dgc_topo.experiments.calibration.cases import (
    Buffer,
    Case,
    Collective,
    DenseBuffer,
    SparseBuffer,
    runs_in_a_row,
)
from dgc_topo.experiments.calibration.codings import CODINGS, WithoutRice
from dgc_topo.experiments.calibration.measure import Measured, measure_cases, timeout_s
from dgc_topo.experiments.calibration.times import predict_case
from dgc_topo.experiments.scenario import Scenario
from dgc_topo.experiments.scenario.lab import ValidateSection
from dgc_topo.experiments.validation.records import COLLECTIVES, ValidationRow
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.schedule.cost import count_cost
from dgc_topo.sizes import FLOAT_BYTES
from dgc_topo.topology import Topology
from dgc_topo.wire.coding import WireCoding
from dgc_topo.workers import Session
from dgc_topo.workers.lab import Lab, LabSpec

_TODAY = WireCoding()


def validate(
    scenario: Scenario,
    network: CalibratedNetwork,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[ValidationRow]:
    """Yield a row per collective that ``[validate]`` lists, lab after lab.

    Args:
        scenario: Scenario that names topologies, sizes and rates.
        network: Calibrated network that predicts; it is not changed.
        advance: Called with the number of cases measured since the last call.

    Raises:
        ValueError: if the scenario has no ``[validate]``.
        LabError: if this machine cannot have a lab.
        LaunchError: if a worker fails.
    """
    section = section_of(scenario)
    for rate, cases in cases_of(scenario).items():
        if not cases:
            continue
        num_hosts = max(case.world_size for case in cases)
        with (
            Lab(LabSpec(num_hosts=num_hosts, rate_bits_per_s=rate)) as lab,
            Session(lab, num_hosts, timeout_s=timeout_s(cases, rate)) as session,
        ):
            reference = reference_for(rate, network.reference_s)
            for size in dict.fromkeys(case.world_size for case in cases):
                some = [case for case in cases if case.world_size == size]
                # Predict first: a case that cannot be predicted then wastes no measurement.
                predicted_s = [predict_case(case, network.parameters, rate) for case in some]
                found = measure_cases(session, some, section.rounds, advance, reference, lab)
                for measured, predicted in zip(found, predicted_s, strict=True):
                    yield _row(measured, rate, predicted)


def predict_again(
    scenario: Scenario, network: CalibratedNetwork, rows: Sequence[ValidationRow]
) -> Iterator[ValidationRow]:
    """Yield earlier rows with the predictions of another calibration.

    Sparse ones are predicted with the coding whose bytes they have: messages may have been measured
    before there were Rice codes.

    Args:
        scenario: Scenario of the rows.
        network: Calibrated network that predicts.
        rows: Rows of collectives; for training steps see `predict_trainings`.

    Raises:
        ValueError: if the scenario has no ``[validate]``, or a row is none of its collectives.
    """
    known = {
        (case.label, case.world_size, rate, _payload(case), _own_bytes(case.buffer, coding)): (
            case,
            coding,
        )
        for coding in CODINGS
        for rate, cases in cases_of(scenario).items()
        for case in cases
    }
    for row in rows:
        rate = row.rate_bits_per_s
        case, coding = known.get(
            (row.name, row.world_size, rate, row.payload, row.num_bytes), (None, None)
        )
        if case is None or row.group != COLLECTIVES:
            raise ValueError(
                f"{row.group}: {row.name}, {row.world_size} ranks, {row.payload}, "
                f"{row.num_bytes:.0f} bytes: expected a collective of scenario {scenario.name}"
            )
        predicted_s = predict_case(case, network.parameters, rate, coding)
        yield row.model_copy(update={"predicted_s": predicted_s})


def section_of(scenario: Scenario) -> ValidateSection:
    """Return a scenario's ``[validate]``.

    Raises:
        ValueError: if there is none.
    """
    if scenario.validation is None:
        raise ValueError(f"scenario {scenario.name}: no [validate], expected one")
    return scenario.validation


def cases_of(scenario: Scenario) -> dict[float | None, list[Case]]:
    """Return the cases of a scenario by the rate of their links (bit/s; None is unshaped)."""
    section = section_of(scenario)
    cases: dict[float | None, list[Case]] = {rate: [] for rate in section.rates_bits_per_s}
    for topology in scenario.topologies:
        for rate in cases:
            cases[rate] += _cases(topology, rate, section.world_sizes, _buffers(section))
    for extra in section.extra:
        more = cases.setdefault(extra.rate_bits_per_s, [])
        for topology in scenario.topologies:
            buffers = [_dense(num_bytes) for num_bytes in extra.dense_bytes]
            more += _cases(topology, extra.rate_bits_per_s, extra.world_sizes, buffers)
    return cases


def _cases(
    topology: Topology, rate: float | None, sizes: Sequence[int], buffers: Sequence[Buffer]
) -> Iterator[Case]:
    for size in sizes:
        for buffer in buffers:
            if topology.gossips and buffer.kind == "sparse":
                continue  # gossip averages whole parameters
            pattern = Collective(topology=topology)
            runs = 1  # merging more sparse entries would take too long
            if isinstance(buffer, DenseBuffer):
                steps = count_cost(pattern.schedule(size)).num_steps
                runs = runs_in_a_row(max(1, steps), buffer.num_bytes / size, rate)
            yield Case(pattern=pattern, world_size=size, buffer=buffer, runs=runs)


def _buffers(section: ValidateSection) -> list[Buffer]:
    sparse: list[Buffer] = [
        SparseBuffer(num_elements=section.sparse_elements, density=density)
        for density in section.sparse_densities
    ]
    return [*(_dense(num_bytes) for num_bytes in section.dense_bytes), *sparse]


def _dense(num_bytes: int) -> Buffer:
    return DenseBuffer(num_elements=max(1, num_bytes // FLOAT_BYTES))


def _own_bytes(buffer: Buffer, coding: WireCoding | WithoutRice = _TODAY) -> float:
    """Return the bytes of a buffer, or of one rank's sparse message."""
    if isinstance(buffer, DenseBuffer):
        return buffer.num_bytes
    return _coded_bytes(buffer.num_elements, buffer.num_entries, coding)


@cache
def _coded_bytes(num_elements: int, num_entries: int, coding: WireCoding | WithoutRice) -> float:
    length, entries = np.array([num_elements], np.float64), np.array([num_entries], np.float64)
    return float(coding.expected_bytes(length, entries)[0])


def _payload(case: Case) -> str:
    buffer = case.buffer
    if isinstance(buffer, SparseBuffer):
        return f"{100 * buffer.density:g} % of {buffer.num_elements:,}"
    return "dense"


def _row(measured: Measured, rate: float | None, predicted_s: float) -> ValidationRow:
    case = measured.case
    return ValidationRow(
        group=COLLECTIVES,
        name=case.label,
        world_size=case.world_size,
        rate_bits_per_s=rate,
        payload=_payload(case),
        num_bytes=_own_bytes(case.buffer),
        bytes_sent=measured.bytes_sent,
        measured_s=measured.time_s,
        spread=measured.spread,
        attempts=measured.attempts,
        rounds=measured.rounds,
        in_usual_state=measured.in_usual_state,
        load=measured.load,
        predicted_s=predicted_s,
    )
