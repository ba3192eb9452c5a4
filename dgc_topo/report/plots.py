"""Plots of a comparison, as matplotlib figures that touch no global state.

Every function takes all records, so that a topology keeps its colour from plot to plot, and draws
only the records that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dgc_topo.records.configuration import (
    Configuration,
    by_configuration,
    measured,
    networks,
    predicted,
)
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.quality import Quality
from dgc_topo.report.style import (
    BYTES,
    FACTOR,
    FAINT,
    PALE,
    PHASES,
    PLAIN,
    QUALITY_LABELS,
    TEXT,
    TIME,
    Styles,
    add_density_legend,
    empty_figure,
    name_rows,
    nested_widths,
    new_figure,
    panels_of,
    rows_of_panels,
    scale_by_powers,
    style_axes,
)
from dgc_topo.units import bytes_text, seconds_text

_ROW = 0.34  # inches per topology in a bar plot

_Line = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Quantity:
    """Quantity plotted over world size; growth in proportion to the ranks may be ideal."""

    label: str
    value: Callable[[Measurement], float | None]
    texts: FuncFormatter

    @property
    def has_ideal(self) -> bool:
        return self.texts is FACTOR


_SPEEDUP = _Quantity("speed-up", lambda record: record.speedup, FACTOR)
_STEP_TIME = _Quantity("step time", lambda record: record.step_time_s, TIME)


def quality_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw quality over epochs, one panel per density, and the final quality of every run.

    The last panel names the topologies and is the legend of the others.
    """
    records = list(measurements)
    runs = [
        (Configuration.of(record), _quality_line(record.quality))
        for record in measured(records)
        if record.quality
    ]
    title = "Measured: quality on the test set"
    if not runs:
        return empty_figure(title, "no measured quality in these results")
    styles = Styles.of(records)
    found = [configuration for configuration, _ in runs]
    topologies, densities = _topologies_of(found), _densities_of(found, styles)
    num_panels = len(densities) + 1
    height = max(3.8, 1.6 + _ROW * len(topologies))
    figure = new_figure(11, rows_of_panels(num_panels) * height, title)
    *panels, last = panels_of(figure, num_panels)
    metrics = dict.fromkeys(record.quality.metric for record in records if record.quality)
    label = " or ".join(QUALITY_LABELS[metric] for metric in metrics)
    for axes, density in zip(panels, densities, strict=True):
        axes.sharey(panels[0])
        style_axes(axes, x="epoch", title=density)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for configuration, line in runs:
            if configuration.density_label != density:
                axes.plot(*zip(*line, strict=True), color=PALE, lw=1.4, zorder=1)
        _draw_lines(axes, [run for run in runs if run[0].density_label == density], styles)
    panels[0].set_ylabel(label)
    endings = [(configuration, line[-1][1]) for configuration, line in runs]
    _draw_endings(last, endings, styles, x=label, title="after the last epoch")
    add_density_legend(figure, densities, others=True)
    return figure


def phases_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw the phases of a measured step: stacked bars, one panel per density."""
    records = list(measurements)
    runs = by_configuration(measured(records))
    title = "Measured: time of one training step, by phase"
    if not runs:
        return empty_figure(title, "no measured steps in these results")
    topologies, densities = _topologies_of(runs), _densities_of(runs, Styles.of(records))
    height = rows_of_panels(len(densities)) * (1.7 + _ROW * len(topologies))
    figure = new_figure(10.5, height, title)
    panels = panels_of(figure, len(densities), sharex=True, sharey=True)
    for axes, density in zip(panels, densities, strict=True):
        style_axes(axes, x="median time, ms", title=density, grid="x")
        for configuration, group in runs.items():
            if configuration.density_label == density:
                _draw_phases(axes, topologies.index(configuration.topology_label), group)
        axes.margins(x=0.17)  # room for the totals
        axes.tick_params(axis="x", labelbottom=True)
        axes.tick_params(axis="y", length=0)
    name_rows(panels[0], topologies)
    panels[0].set_ylabel("topology")
    handles, labels = panels[0].get_legend_handles_labels()
    first = dict(zip(labels, handles, strict=True))
    figure.legend(
        first.values(),
        first.keys(),
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=9,
    )
    return figure


def wire_bytes_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw the bytes that the busiest rank sends per step, on a logarithmic axis."""
    records = list(measurements)
    runs = by_configuration(measured(records))
    title = "Measured: bytes that the busiest rank sends per training step"
    if not runs:
        return empty_figure(title, "no measured steps in these results")
    styles = Styles.of(records)
    topologies, densities = _topologies_of(runs), _densities_of(runs, styles)
    figure = new_figure(10.5, 1.5 + max(0.5, 0.16 * len(densities)) * len(topologies), title)
    axes = figure.subplots()
    style_axes(axes, x="bytes per step (logarithmic)", grid="x")
    axes.set_xscale("log")
    thickness = 0.8 / len(densities)
    for configuration, group in runs.items():
        topology, density = configuration.topology_label, configuration.density_label
        at = topologies.index(topology) - 0.4 + thickness * (densities.index(density) + 0.5)
        sent = fmean(record.wire_bytes_per_step for record in group)
        axes.barh(at, sent, thickness * 0.92, color=styles.tint(topology, density))
        _write_beside(axes, f"{bytes_text(sent)}  {density}", max(sent, 1), at)
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(BYTES)
    axes.minorticks_off()
    low, high = axes.get_xlim()
    axes.set_xlim(low / 2, high * 6)  # room for the labels
    name_rows(axes, topologies)
    axes.set_ylabel("topology")
    return figure


def speedup_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw predicted speed-up over world size: one row per network, with the ideal line."""
    title = "Predicted: throughput against one dense worker that communicates with nobody"
    return _scaling_figure(list(measurements), title, _SPEEDUP)


def step_time_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw the predicted time of one training step over world size: one row per network."""
    title = "Predicted: time of one training step"
    return _scaling_figure(list(measurements), title, _STEP_TIME)


def _scaling_figure(records: Sequence[Measurement], title: str, quantity: _Quantity) -> Figure:
    names, forecast = networks(records), predicted(records)
    if not names:
        return empty_figure(title, "no predictions in these results")
    styles, found = Styles.of(records), by_configuration(forecast)
    height = max(3.2, 0.9 + 0.28 * len(_topologies_of(found)))
    figure = new_figure(11, 0.9 + height * len(names), title)
    widths = {"width_ratios": [1.5, 1]}
    grid = figure.subplots(len(names), 2, sharex="col", squeeze=False, gridspec_kw=widths)
    for (lines, endings), network in zip(grid, names, strict=True):
        here = [record for record in forecast if record.network == network]
        lines.sharey(grid[0][0])  # one scale, so that networks compare
        _draw_scaling(lines, network, here, quantity, styles)
        _draw_largest(endings, here, quantity, styles)
        for axes in (lines, endings):
            axes.tick_params(labelbottom=True)
    add_density_legend(figure, _densities_of(found, styles))
    return figure


def _draw_scaling(
    axes: Axes, network: str, records: Sequence[Measurement], quantity: _Quantity, styles: Styles
) -> None:
    style_axes(axes, x="world size (ranks)", y=quantity.label, title=f"on {network}")
    groups = by_configuration(records)
    for density in _densities_of(groups, styles):
        here = [each for each in groups if each.density_label == density]
        _draw_lines(axes, [(each, _line_of(groups[each], quantity)) for each in here], styles)
    sizes = sorted({record.world_size for record in records})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PLAIN)
    if quantity.has_ideal:
        axes.plot(sizes, sizes, color=FAINT, lw=1, zorder=1)
        axes.annotate("ideal", (sizes[-1], sizes[-1]), (-8, 0), color=FAINT, fontsize=9,
                      textcoords="offset points", ha="right")  # fmt: skip
    scale_by_powers(axes, "y", quantity.texts)


def _draw_largest(
    axes: Axes, records: Sequence[Measurement], quantity: _Quantity, styles: Styles
) -> None:
    """Draw the values at the largest world size, one row per topology."""
    largest = max(record.world_size for record in records)
    points = [
        (configuration, value)
        for configuration, group in by_configuration(records).items()
        for size, value in _line_of(group, quantity)
        if size == largest
    ]
    _draw_endings(axes, points, styles, x=quantity.label, title=f"at {largest} ranks")
    scale_by_powers(axes, "x", quantity.texts)


def _line_of(group: Iterable[Measurement], quantity: _Quantity) -> _Line:
    """Return the mean over seeds at every world size."""
    values: dict[int, list[float]] = {}
    for record in group:
        if (value := quantity.value(record)) is not None:
            values.setdefault(record.world_size, []).append(value)
    return sorted((size, fmean(found)) for size, found in values.items())


def _quality_line(quality: Quality) -> _Line:
    scale = 100 if quality.metric == "accuracy" else 1
    return [(point.epoch, scale * point.value) for point in quality.points]


def _draw_lines(axes: Axes, lines: Sequence[tuple[Configuration, _Line]], styles: Styles) -> None:
    """Draw lines from wide to narrow, so that equal lines (of exact all-reduces) stay visible."""
    for width, (configuration, line) in zip(nested_widths(len(lines)), lines, strict=True):
        name = configuration.topology_label
        axes.plot(
            [x for x, _ in line],
            [y for _, y in line],
            color=styles.colour(name),
            marker=styles.marker(name),
            ms=3 + 1.2 * width,
            ls=styles.dashes(configuration.density_label),
            lw=width,
            label=configuration.label,
        )


def _draw_endings(
    axes: Axes, points: Sequence[tuple[Configuration, float]], styles: Styles, *, x: str, title: str
) -> None:
    """Draw the final values of the neighbouring lines: one row per topology, with its name.

    Lines may overlap, but rows cannot; the names serve as the figure's legend.
    """
    found = [configuration for configuration, _ in points]
    topologies, densities = _topologies_of(found), _densities_of(found, styles)
    style_axes(axes, x=x, title=title)
    for configuration, value in points:
        name = configuration.topology_label
        slot = densities.index(configuration.density_label) - (len(densities) - 1) / 2
        axes.plot(
            value,
            topologies.index(name) + 0.5 * slot / len(densities),  # equal values stay apart
            ls="none",
            marker=styles.marker(name),
            color=styles.colour(name),
            markerfacecolor=styles.tint(name, configuration.density_label, floor=0),
            ms=7,
            mew=1.8,
        )
    name_rows(axes, topologies)
    axes.yaxis.tick_right()
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.1)


def _draw_phases(axes: Axes, row: int, group: Sequence[Measurement]) -> None:
    start = 0.0
    for phase, colour in PHASES.items():
        width = 1e3 * fmean(getattr(record.phases, f"{phase}_s") for record in group)
        axes.barh(row, width, 0.7, left=start, color=colour, label=phase)
        start += width
    total = fmean(record.step_time_s for record in group)
    axes.plot([1e3 * total] * 2, [row - 0.42, row + 0.42], color=TEXT, lw=1.6, label="whole step")
    _write_beside(axes, seconds_text(total), max(start, 1e3 * total), row)


def _write_beside(axes: Axes, text: str, x: float, y: float) -> None:
    """Write *text* to the right of a point."""
    axes.annotate(
        text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=8, color=TEXT
    )


def _topologies_of(configurations: Iterable[Configuration]) -> list[str]:
    """Return the topology labels, in order of appearance."""
    return list(dict.fromkeys(configuration.topology_label for configuration in configurations))


def _densities_of(configurations: Iterable[Configuration], styles: Styles) -> list[str]:
    """Return the density labels, dense first."""
    found = {configuration.density_label for configuration in configurations}
    return [density for density in styles.densities if density in found]
