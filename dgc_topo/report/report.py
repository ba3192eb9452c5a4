"""The HTML report: one file that contains everything it shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from dgc_topo.experiments.scenario import Scenario, load_scenario
from dgc_topo.files import write_whole
from dgc_topo.records.configuration import by_configuration, measured, predicted
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement, Phases
from dgc_topo.report.agreement import agreement_part, of_results
from dgc_topo.report.comparison import Comparison
from dgc_topo.report.ladder_plots import curves_figure, density_figure, endings_figure
from dgc_topo.report.pages import again_command, findings_by_kind, render, svg_source
from dgc_topo.report.plots import (
    phases_figure,
    quality_figure,
    speedup_figure,
    step_time_figure,
    wire_bytes_figure,
)
from dgc_topo.report.steps import step_pictures
from dgc_topo.report.summary import is_ladder, summarise
from dgc_topo.units import seconds_text

_TEMPLATE = "report.html.j2"
_PYTHON = ".py"
_PHASES = tuple(Phases.model_fields)


class Plot(NamedTuple):
    """A plot inside the report.

    Attributes:
        kind: "measured" or "predicted".
        text: Instructions for reading it.
        source: The image, as a data URI.
    """

    kind: str
    text: str
    source: str


class PhaseRow(NamedTuple):
    """Phases of one configuration's step.

    Attributes:
        topology: Label of the topology.
        density: Label of the density.
        phases: Time of each phase, and its share of the step.
        step: Time of the whole step.
    """

    topology: str
    density: str
    phases: tuple[tuple[str, float], ...]
    step: str


class Column(NamedTuple):
    """Heading of a column of the page's table.

    Attributes:
        column: Its index.
        name: Name of the column's quantity.
        detail: Detail such as "4 ranks".
        meaning: Explanation in one sentence.
    """

    column: int
    name: str
    detail: str
    meaning: str


class PlacedCell(NamedTuple):
    """Cell of the page's table.

    Attributes:
        text: Content.
        best: True for the fastest of its column.
        place: Classes that say what the column is.
    """

    text: str
    best: bool
    place: str


class PageRow(NamedTuple):
    """Row of the page's table.

    Attributes:
        begins: True for the first of several rows with the same name.
        cells: One per column.
    """

    begins: bool
    cells: tuple[PlacedCell, ...]


class ColumnGroup(NamedTuple):
    """Neighbouring columns of one kind.

    Attributes:
        kind: "measured", "predicted", or "" for columns that name the row.
        name: Name such as "predicted 1gbe".
        headings: One per column.
    """

    kind: str
    name: str
    headings: tuple[Column, ...]


def write_report(folder: ResultsFolder | str | Path) -> Path:
    """Write ``report.html`` into a results folder, over an earlier one, and return its path.

    Raises:
        ResultsError: if it is not a results folder, or one of its files is unreadable.
    """
    folder = folder if isinstance(folder, ResultsFolder) else ResultsFolder(folder)
    records = folder.measurements()
    origin, scenario_text = folder.known_origin(), folder.known_scenario_text()
    scenario = _scenario_of(folder, scenario_text)
    comparison, lines = summarise(records, scenario_text)
    page = render(
        _TEMPLATE,
        name=origin.scenario,
        origin=origin,
        scenario_text=scenario_text,
        again=again_command(folder.path, origin),
        num_measured=len(measured(records)),
        num_predicted=len(predicted(records)),
        machines=sorted({(record.kind, record.machine) for record in records}),
        findings=findings_by_kind(lines),
        groups=_groups(comparison),
        rows=_rows(comparison),
        plots=_plots(records),
        agreement=agreement_part(of_results(scenario, records)) if scenario else None,
        measured_on=sorted({r.network for r in measured(records) if r.workers == "processes"}),
        steps=list(step_pictures(scenario, records)) if scenario else [],
        phases={
            name.removesuffix("_s"): field.description or ""
            for name, field in Phases.model_fields.items()
        },
        phase_rows=_phase_rows([r for r in measured(records) if r.workers == "processes"]),
    )
    write_whole(folder.report_path, page)
    return folder.report_path


def _scenario_of(folder: ResultsFolder, text: str) -> Scenario | None:
    """Return the scenario; None if it cannot be read any more, or names Python files.

    A report runs no code that a folder of somebody else may hold.
    """
    if not text or _PYTHON in text:
        return None
    try:
        return load_scenario(folder.scenario_path)
    except (ValueError, OSError):
        return None


def _groups(comparison: Comparison) -> list[ColumnGroup]:
    columns = enumerate(comparison.headings)
    return [
        ColumnGroup(
            group.split(" ")[0],
            group,
            tuple(Column(i, each.name, each.detail, each.meaning) for i, each in found),
        )
        for group, found in groupby(columns, key=lambda pair: pair[1].group)
    ]


def _rows(comparison: Comparison) -> list[PageRow]:
    """Return the rows; the first of those with one name says so, as the page shows it once."""
    places, group = [], ""
    for index, heading in enumerate(comparison.headings):
        names = "name key" if index == 0 else "name density"
        places.append(names if not heading.group else "first" if heading.group != group else "")
        group = heading.group
    return [
        PageRow(
            number == 0,
            tuple(
                PlacedCell(cell.text, cell.best, place)
                for cell, place in zip(row, places, strict=True)
            ),
        )
        for _, rows in groupby(comparison.rows, key=lambda row: row[0].text)
        for number, row in enumerate(rows)
    ]


def _plots(records: Sequence[Measurement]) -> list[Plot]:
    if is_ladder(records):
        return _ladder_plots(records)
    ran, plots = measured(records), []
    if any(record.quality for record in ran):
        text = "Quality on the test set after every epoch, and after the last one."
        plots.append(Plot("measured", text, svg_source(quality_figure(records))))
    timed = [record for record in ran if record.workers == "processes"]
    if timed:
        text = (
            "Median time of one training step, by what it was spent on; the line marks the whole "
            "step, to which medians of phases need not add up."
        )
        plots.append(Plot("measured", text, svg_source(phases_figure(timed))))
    if ran:
        text = "Bytes that the busiest rank sends in one training step; shorter is better."
        plots.append(Plot("measured", text, svg_source(wire_bytes_figure(records))))
    names = dict.fromkeys(record.workload for record in predicted(records))
    for name in names:
        alike = [record for record in records if record.workload == name]
        of = f" of {name}" if len(names) > 1 else ""
        text = f"Speed-up{of} over the number of ranks, on every network; higher is better."
        plots.append(Plot("predicted", text, svg_source(speedup_figure(alike))))
        text = f"Time of one training step{of} over the number of ranks; lower is better."
        plots.append(Plot("predicted", text, svg_source(step_time_figure(alike))))
    return plots


def _ladder_plots(records: Sequence[Measurement]) -> list[Plot]:
    return [
        Plot(
            "measured",
            "Quality on the test set while training.",
            svg_source(curves_figure(records)),
        ),
        Plot(
            "measured",
            "What every seed ends with, its mean (line) and the baseline's range (band).",
            svg_source(endings_figure(records)),
        ),
        Plot("measured", "What is sent, by epoch.", svg_source(density_figure(records))),
    ]


def _phase_rows(records: Sequence[Measurement]) -> list[PhaseRow]:
    rows = []
    for configuration, group in by_configuration(records).items():
        spent = [fmean(getattr(record.phases, name) for record in group) for name in _PHASES]
        whole = max(sum(spent), 1e-12)
        rows.append(
            PhaseRow(
                configuration.topology_label,
                configuration.density_label,
                tuple((seconds_text(seconds), seconds / whole) for seconds in spent),
                seconds_text(fmean(record.step_time_s for record in group)),
            )
        )
    return rows
