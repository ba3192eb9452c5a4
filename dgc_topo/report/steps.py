"""Simulated steps inside a report: a timeline of the fastest, and the bytes on each edge."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from math import isclose
from typing import NamedTuple

from dgc_topo.experiments.prediction import simulated
from dgc_topo.experiments.scenario import Scenario
from dgc_topo.experiments.training_cases import TrainingCase, cases_of_runs, cases_of_scenario
from dgc_topo.records.configuration import Configuration, measured, networks, predicted
from dgc_topo.records.measurement import Measurement
from dgc_topo.report.draw import step_figure
from dgc_topo.report.draw_traffic import traffic_figure
from dgc_topo.report.pages import svg_source
from dgc_topo.simulation.training.periods import kept_schedule
from dgc_topo.simulation.training.traffic import bytes_per_edge
from dgc_topo.units import bytes_text, seconds_text

_MOST_RANKS = 16  # of a picture in which every rank can be told from the others
_SAME = 1e-6  # relative difference from a record that rounding explains


class StepPicture(NamedTuple):
    """Pictures of one predicted step.

    Attributes:
        title: The configuration and the network.
        text: Instructions for reading them.
        timeline: Timeline, as a data URI.
        traffic: The drawn network, as a data URI.
    """

    title: str
    text: str
    timeline: str
    traffic: str


def step_pictures(scenario: Scenario, records: Sequence[Measurement]) -> Iterator[StepPicture]:
    """Yield the fastest predicted all-reduce of each network, simulated again.

    A step that is not what its record says, as another version made it, is left out.
    """
    for network in networks(records):
        record = _fastest(network, records)
        if record is None:
            continue
        case = _case_of(record, scenario, records)
        if case is not None and (picture := _picture(scenario, case, record)) is not None:
            yield picture


def _fastest(network: str, records: Sequence[Measurement]) -> Measurement | None:
    """Return the fastest all-reduce on a network, with as many ranks as were measured or fewest."""
    there = [
        record
        for record in predicted(records)
        if record.network == network
        and record.goal == "all-reduce"
        and record.world_size <= _MOST_RANKS
    ]
    sizes = {record.world_size for record in there}
    if not sizes:
        return None
    ran = sizes & {record.world_size for record in measured(records)}
    size = min(ran or sizes)
    return min((r for r in there if r.world_size == size), key=lambda record: record.step_time_s)


def _case_of(
    record: Measurement, scenario: Scenario, records: Sequence[Measurement]
) -> TrainingCase | None:
    """Return the case behind a prediction: that of the run, or of the scenario's workloads."""
    configuration = Configuration.of(record)
    runs = [
        run
        for run in measured(records)
        if Configuration.of(run) == configuration and run.seed == record.seed
    ]
    if runs:
        return cases_of_runs(runs[:1], scenario.simulate, scenario.topologies)[0]
    for case in cases_of_scenario(scenario):
        if (case.topology.name, case.topology.plain_options) == (record.topology, record.options):
            same = (case.compression, case.density, case.workload.name, case.seed)
            if same == (record.compression, record.density, record.workload, record.seed):
                return case
    return None


def _picture(scenario: Scenario, case: TrainingCase, record: Measurement) -> StepPicture | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the prediction has said it already
        simulation = simulated(scenario, case, record.network, record.world_size)
    if not isclose(simulation.step_time_s, record.step_time_s, rel_tol=_SAME):
        return None
    run = simulation.runs[0]
    schedule = kept_schedule(case.topology, record.world_size, 0, case.seed)
    edges = bytes_per_edge(case.step, schedule)
    label = Configuration.of(record).label
    widest = bytes_text(max(edges.values(), default=0.0))
    text = (
        f"{record.world_size} ranks, {seconds_text(record.step_time_s)} per step; on the drawn "
        f"network the widest arrow carries {widest} in a step."
    )
    return StepPicture(
        f"{label} on {record.network}",
        text,
        svg_source(step_figure(run)),
        svg_source(traffic_figure(edges, schedule)),
    )
