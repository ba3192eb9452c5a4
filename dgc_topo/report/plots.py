"""Plots of a comparison, as matplotlib figures that touch no global state.

Every function takes all records, so that a topology keeps its colour from plot to plot, and draws
those it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from dgc_topo.records.configuration import Configuration, by_configuration, measured
from dgc_topo.records.measurement import Measurement, Quality
from dgc_topo.report.panels import (
    densities_of,
    density_legend,
    ending_panel,
    name_rows,
    topologies_of,
)
from dgc_topo.report.style import (
    FAINT,
    PALE,
    PHASES,
    TEXT,
    Styles,
    dress,
    nested_widths,
    new_figure,
    short,
)
from dgc_topo.units import bytes_text, seconds_text

_ROW = 0.34  # inches per topology in a bar plot


def quality_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw quality over epochs, one panel per density, and what every run ends with.

    The last panel names the topologies and is the legend of the others.
    """
    records = list(measurements)
    runs = [
        (Configuration.of(record), record.quality) for record in measured(records) if record.quality
    ]
    title = "Measured: quality on the test set"
    if not runs:
        return _nothing(new_figure(10.5, 3, title), "no measured quality in these results")
    styles = Styles.of(records)
    topologies = topologies_of(configuration for configuration, _ in runs)
    densities = densities_of((configuration for configuration, _ in runs), styles)
    figure = new_figure(11, max(3.8, 1.6 + _ROW * len(topologies)), title)
    panels = figure.subplots(1, len(densities) + 1)
    metrics = " or ".join(dict.fromkeys(quality.metric for _, quality in runs))
    label = {"accuracy": "test accuracy, %", "perplexity": "test perplexity"}.get(metrics, metrics)
    for axes, density in zip(panels, densities, strict=False):
        axes.sharey(panels[0])
        _quality_panel(axes, runs, density, styles)
    panels[0].set_ylabel(label)
    endings = [(configuration, _curve(quality)[1][-1]) for configuration, quality in runs]
    ending_panel(panels[-1], endings, styles, x=label, title="after the last epoch")
    density_legend(figure, densities, others=True)
    return figure


def phases_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw what a measured step's time is spent on: stacked bars, one panel per density."""
    records = list(measurements)
    runs = by_configuration(measured(records))
    title = "Measured: time of one training step, by phase"
    if not runs:
        return _nothing(new_figure(10.5, 3, title), "no measured steps in these results")
    topologies = topologies_of(runs)
    styles = Styles.of(records)
    densities = densities_of(runs, styles)
    figure = new_figure(10.5, 1.7 + _ROW * len(topologies), title)
    panels = figure.subplots(1, len(densities), sharex=True, sharey=True, squeeze=False)[0]
    for axes, density in zip(panels, densities, strict=True):
        dress(axes, x="median time, ms", title=density, grid="x")
        for configuration, group in runs.items():
            if configuration.density_label == density:
                _phase_bar(axes, topologies.index(configuration.topology_label), group)
        axes.margins(x=0.17)  # room for the totals
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
    """Draw what the busiest rank sends per step, on a logarithmic axis."""
    records = list(measurements)
    runs = by_configuration(measured(records))
    title = "Measured: bytes that the busiest rank sends per training step"
    if not runs:
        return _nothing(new_figure(10.5, 3, title), "no measured steps in these results")
    topologies, styles = topologies_of(runs), Styles.of(records)
    figure = new_figure(10.5, 1.5 + 0.5 * len(topologies), title)
    axes = figure.subplots()
    dress(axes, x="bytes per step (logarithmic)", grid="x")
    axes.set_xscale("log")
    densities = densities_of(runs, styles)
    for configuration, group in runs.items():
        slot = densities.index(configuration.density_label)
        row = topologies.index(configuration.topology_label)
        thickness = 0.8 / len(densities)
        at = row - 0.4 + thickness * (slot + 0.5)
        colour = styles.tint(configuration.topology_label, configuration.density_label)
        sent = fmean(record.wire_bytes_per_step for record in group)
        axes.barh(at, sent, thickness * 0.92, color=colour)
        _note(axes, f"{bytes_text(sent)}  {configuration.density_label}", max(sent, 1), at)
    _bytes_axis(axes)
    name_rows(axes, topologies)
    axes.set_ylabel("topology")
    return figure


def _quality_panel(
    axes: Axes, runs: Sequence[tuple[Configuration, Quality]], density: str, styles: Styles
) -> None:
    dress(axes, x="epoch", title=density)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    here = [run for run in runs if run[0].density_label == density]
    for configuration, quality in runs:
        if configuration.density_label != density:
            axes.plot(*_curve(quality), color=PALE, lw=1.4, zorder=1)
    # Exact all-reduces learn the same: from wide to narrow, equal curves stay visible.
    for width, (configuration, quality) in zip(nested_widths(len(here)), here, strict=True):
        name = configuration.topology_label
        axes.plot(
            *_curve(quality),
            color=styles.colour(name),
            ls=styles.dashes(density),
            marker=styles.marker(name),
            ms=3 + 1.3 * width,
            lw=width,
            label=configuration.label,
        )


def _curve(quality: Quality) -> tuple[list[int], list[float]]:
    scale = 100 if quality.metric == "accuracy" else 1
    return [p.epoch for p in quality.points], [scale * p.value for p in quality.points]


def _phase_bar(axes: Axes, row: int, group: Sequence[Measurement]) -> None:
    start = 0.0
    for phase, colour in PHASES.items():
        width = 1e3 * fmean(getattr(record.phases, f"{phase}_s") for record in group)
        axes.barh(row, width, 0.7, left=start, color=colour, label=phase)
        start += width
    total = fmean(record.step_time_s for record in group)
    axes.plot([1e3 * total] * 2, [row - 0.42, row + 0.42], color=TEXT, lw=1.6, label="whole step")
    _note(axes, seconds_text(total), max(start, 1e3 * total), row)


def _note(axes: Axes, text: str, x: float, y: float) -> None:
    """Write *text* to the right of a point."""
    axes.annotate(
        text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=8, color=TEXT
    )


def _bytes_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(bytes_text(value))))
    axes.minorticks_off()
    low, high = axes.get_xlim()
    axes.set_xlim(low / 2, high * 6)  # room for the labels


def _nothing(figure: Figure, why: str) -> Figure:
    figure.text(0.5, 0.45, why, ha="center", fontsize=11, color=FAINT)
    return figure
