"""Predictions beside measurements, with their 90 % intervals: rows, a picture, a part of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgc_topo.experiments.advice.errors import Interval, interval_of_row, interval_of_step
from dgc_topo.experiments.scenario import Scenario
from dgc_topo.experiments.scenario.emulated import is_emulated
from dgc_topo.experiments.validation.records import ValidationRow
from dgc_topo.records.configuration import Configuration, by_configuration, measured, predicted
from dgc_topo.records.measurement import Measurement
from dgc_topo.report.pages import svg_source
from dgc_topo.report.style import (
    FAINT,
    TEXT,
    TIME,
    empty_figure,
    legend_name,
    new_figure,
    scale_by_powers,
    style_axes,
)
from dgc_topo.units import bytes_text, rate_text, seconds_text

_TITLE = "Predicted against measured"
_LOOKS = (("#3b6fb6", "o"), ("#b8571b", "s"), ("#3f8a60", "^"), ("#8e5ea2", "D"), ("#777777", "v"))
_PERCENT = 100


class Agreement(NamedTuple):
    """A predicted time beside the measured one.

    Attributes:
        names: Texts that tell the row from others, by the heading of their column.
        series: Name of what shares a colour and a marker in the picture.
        measured_s: Measured seconds.
        predicted_s: Predicted seconds.
        interval: 90 % interval of the prediction.
    """

    names: Mapping[str, str]
    series: str
    measured_s: float
    predicted_s: float
    interval: Interval

    @property
    def error(self) -> float:
        """Signed relative error: above 0 if the prediction was too slow."""
        return self.predicted_s / self.measured_s - 1

    @property
    def is_held(self) -> bool:
        """True if the measured time lies in the interval."""
        return self.interval.holds(self.measured_s)

    @property
    def place(self) -> str:
        """Place of the measured time: inside the interval, above it or below it."""
        if self.is_held:
            return "inside"
        return "\u25b2 above" if self.measured_s > self.interval.high_s else "\u25bc below"


class AgreementPart(NamedTuple):
    """Part of a page: predictions beside measurements.

    Attributes:
        summary: Number of rows whose interval holds, in a sentence.
        headings: Names of the first columns.
        rows: Texts of these columns, of the numbers, and False if the interval does not hold.
        picture: The picture, as a data URI.
    """

    summary: str
    headings: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[str, ...], bool], ...]
    picture: str


def agreement_part(rows: Sequence[Agreement]) -> AgreementPart | None:
    """Return what a page shows of *rows*; None if there are none.

    A column of names in which all rows agree is left out, but for the first.
    """
    if not rows:
        return None
    first, *others = rows[0].names
    kept = [name for name in others if len({row.names[name] for row in rows}) > 1]
    headings = (first, *kept)
    shown = tuple(
        (tuple(row.names[name] for name in headings), _numbers(row), row.is_held) for row in rows
    )
    return AgreementPart(held_text(rows), headings, shown, svg_source(agreement_figure(rows)))


def held_text(rows: Sequence[Agreement]) -> str:
    """Return how many intervals hold what was measured, as a sentence."""
    held = sum(row.is_held for row in rows)
    return (
        f"Measured: {held} of {len(rows)} times lie in the 90 % interval of their prediction "
        f"({held / len(rows):.0%})."
    )


def _numbers(row: Agreement) -> tuple[str, ...]:
    low, high = map(seconds_text, row.interval)
    return (
        seconds_text(row.measured_s),
        seconds_text(row.predicted_s),
        f"{low} to {high}",
        f"{_PERCENT * row.error:+.1f} %",
        row.place,
    )


def of_validation(rows: Sequence[ValidationRow]) -> list[Agreement]:
    """Return the rows of a validation, with the intervals of their classes."""
    return [
        Agreement(
            {
                "Topology": row.name,
                "Of": row.group,
                "Ranks": str(row.world_size),
                "Links": rate_text(row.rate_bits_per_s),
                "Payload": row.payload,
                "Bytes": bytes_text(row.num_bytes),
            },
            f"{row.group}, {rate_text(row.rate_bits_per_s)}",
            row.measured_s,
            row.predicted_s,
            interval_of_row(row),
        )
        for row in rows
    ]


def of_results(scenario: Scenario, records: Sequence[Measurement]) -> list[Agreement]:
    """Return the training steps that were measured in a lab and predicted for what it emulates.

    Runs that differ only in their seeds become one row of means.  Times of a scaled lab are divided
    by its scale.
    """
    if scenario.lab is None:
        return []
    places = _emulated(scenario, records)
    found = []
    for configuration, group in by_configuration(records).items():
        for network, size in places:
            lab = scenario.lab.spec(size).name
            runs = [
                run
                for run in measured(group)
                if (run.network, run.world_size, run.workers) == (lab, size, "processes")
            ]
            forecast = [r for r in predicted(group) if (r.network, r.world_size) == (network, size)]
            if runs and forecast:
                found.append(_of_runs(configuration, runs, forecast))
    return found


def _emulated(scenario: Scenario, records: Sequence[Measurement]) -> list[tuple[str, int]]:
    """Return the predicted networks and world sizes that the lab was, or stood for."""
    assert scenario.lab is not None
    known = scenario.simulate.networks if scenario.simulate else ()
    ran = {record.world_size for record in measured(records)}
    places = dict.fromkeys((r.network, r.world_size) for r in predicted(records))
    return [
        (network, size)
        for network, size in places
        if size in ran
        and network in known
        and is_emulated(scenario.cluster(network, size), scenario.lab.spec(size))
    ]


def _of_runs(
    configuration: Configuration, runs: Sequence[Measurement], forecast: Sequence[Measurement]
) -> Agreement:
    intervals = [_interval_of(record) for record in forecast]
    return Agreement(
        {
            "Topology": configuration.topology_label,
            "Density": configuration.density_label,
            "Workload": configuration.workload,
            "Ranks": str(runs[0].world_size),
            "Measured on": runs[0].network,
            "Predicted for": forecast[0].network,
        },
        configuration.density_label,
        fmean(run.step_time_s / run.time_scale for run in runs),
        fmean(record.step_time_s for record in forecast),
        Interval(*(fmean(ends) for ends in zip(*intervals, strict=True))),
    )


def _interval_of(record: Measurement) -> Interval:
    solo, phases = record.solo_phases, record.phases
    communication_s = record.communication_s
    return interval_of_step(
        record.step_time_s,
        communication_s=(
            phases.communicate_s + phases.wait_s if communication_s is None else communication_s
        ),
        alone_s=0.0 if solo is None else solo.compute_s + solo.update_s,
        num_bytes=record.compressed_bytes,
        sparse=not record.is_dense,
    )


def agreement_figure(rows: Sequence[Agreement]) -> Figure:
    """Draw predicted over measured times, and the error of each prediction, with intervals."""
    if not rows:
        return empty_figure(_TITLE, "no rows in these results")
    figure = new_figure(11, 5, _TITLE)
    times, errors = figure.subplots(1, 2)
    style_axes(times, x="measured", y="predicted, with its 90 % interval")
    style_axes(errors, x="predicted", y="error, and what the 90 % interval allows, %")
    named: dict[str, list[Agreement]] = {}
    for row in rows:
        named.setdefault(row.series, []).append(row)
    for (name, here), (colour, marker) in zip(named.items(), cycle(_LOOKS), strict=False):
        _draw(times, list(map(_on_times, here)), colour, marker, legend_name(name))
        _draw(errors, list(map(_on_errors, here)), colour, marker)
    outside = [row for row in rows if not row.is_held]
    for axes, place in ((times, _on_times), (errors, _on_errors)) if outside else ():
        points = [place(row) for row in outside]
        axes.scatter([p.x for p in points], [p.y for p in points], s=70, marker="x", color=TEXT,
                     lw=1.2, zorder=4, label="outside its interval")  # fmt: skip
    ends = [end(time for row in rows for time in (row.measured_s, row.predicted_s))
             for end in (min, max)]  # fmt: skip
    times.plot(ends, ends, color=FAINT, lw=1, zorder=0)
    errors.axhline(0, color=FAINT, lw=1, zorder=0)
    for axes in (times, errors):
        scale_by_powers(axes, "x", TIME)
    scale_by_powers(times, "y", TIME)
    handles, labels = times.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


class _Point(NamedTuple):
    """A point with a vertical bar from *low* to *high*."""

    x: float
    y: float
    low: float
    high: float


def _on_times(row: Agreement) -> _Point:
    return _Point(row.measured_s, row.predicted_s, row.interval.low_s, row.interval.high_s)


def _on_errors(row: Agreement) -> _Point:
    """Return the error beside those that it could have with the measured time in the interval."""
    low, high = (_PERCENT * (row.predicted_s / end - 1) for end in reversed(row.interval))
    return _Point(row.predicted_s, _PERCENT * row.error, low, high)


def _draw(
    axes: Axes, points: Sequence[_Point], colour: str, marker: str, label: str | None = None
) -> None:
    xs = [point.x for point in points]
    axes.vlines(xs, [p.low for p in points], [p.high for p in points], color=colour, lw=2.5,
                alpha=0.25)  # fmt: skip
    axes.scatter(xs, [p.y for p in points], s=20, marker=marker, color=colour, alpha=0.8,
                 label=label)  # fmt: skip
