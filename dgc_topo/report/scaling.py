"""Plots of predictions: how far each configuration scales, on every network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from dgc_topo.records.configuration import (
    Configuration,
    by_configuration,
    networks,
    predicted,
)
from dgc_topo.records.measurement import Measurement
from dgc_topo.report.panels import densities_of, density_legend, ending_panel, topologies_of
from dgc_topo.report.style import (
    FAINT,
    FewDecades,
    Styles,
    dress,
    nested_widths,
    new_figure,
    short,
)
from dgc_topo.units import seconds_text

_PLAIN = FuncFormatter(lambda number, _: f"{number:g}")
_FACTOR = FuncFormatter(lambda number, _: f"{number:g}" if number >= 1 else f"1/{1 / number:g}")
_TIME = FuncFormatter(lambda seconds, _: short(seconds_text(seconds)))


@dataclass(frozen=True, slots=True)
class _Quantity:
    """What is drawn over world size; doubling it with the ranks is ideal, or nothing is."""

    label: str
    value: Callable[[Measurement], float | None]
    has_ideal: bool


_SPEEDUP = _Quantity("speed-up", lambda record: record.speedup, has_ideal=True)
_STEP_TIME = _Quantity("step time", lambda record: record.step_time_s, has_ideal=False)


def speedup_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw predicted speed-up over world size: one row per network, with the ideal line."""
    title = "Predicted: throughput against one dense worker that communicates with nobody"
    return _draw(list(measurements), title, _SPEEDUP)


def step_time_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw the predicted time of one training step over world size: one row per network."""
    return _draw(list(measurements), "Predicted: time of one training step", _STEP_TIME)


def _draw(records: Sequence[Measurement], title: str, quantity: _Quantity) -> Figure:
    names = networks(records)
    if not names:
        figure = new_figure(11, 3, title)
        figure.text(0.5, 0.45, "no predictions in these results", ha="center", color=FAINT)
        return figure
    styles = Styles.of(records)
    shown = by_configuration(predicted(records))
    height = max(3.2, 0.9 + 0.28 * len(topologies_of(shown)))
    figure = new_figure(11, 0.9 + height * len(names), title)
    grid = figure.subplots(
        len(names), 2, sharex="col", squeeze=False, gridspec_kw={"width_ratios": [1.5, 1]}
    )
    for (lines, endings), network in zip(grid, names, strict=True):
        here = [record for record in predicted(records) if record.network == network]
        lines.sharey(grid[0][0])  # one scale, so that networks compare
        _lines_panel(lines, network, here, quantity, styles)
        _endings(endings, here, quantity, styles)
        for axes in (lines, endings):
            axes.tick_params(labelbottom=True)
    density_legend(figure, densities_of(shown, styles))
    return figure


def _lines_panel(
    axes: Axes,
    network: str,
    records: Sequence[Measurement],
    quantity: _Quantity,
    styles: Styles,
) -> None:
    dress(axes, x="world size (ranks)", y=quantity.label, title=f"on {network}")
    groups = by_configuration(records)
    for density in densities_of(groups, styles):
        here = [configuration for configuration in groups if configuration.density_label == density]
        for width, configuration in zip(nested_widths(len(here)), here, strict=True):
            _line(axes, configuration, _points(groups[configuration], quantity), width, styles)
    sizes = sorted({record.world_size for record in records})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(_PLAIN)
    if quantity.has_ideal:
        axes.plot(sizes, sizes, color=FAINT, lw=1, zorder=1)
        axes.annotate("ideal", (sizes[-1], sizes[-1]), (-8, 0), color=FAINT, fontsize=9,
                      textcoords="offset points", ha="right")  # fmt: skip
    _scale(axes, "y", quantity)


def _line(
    axes: Axes,
    configuration: Configuration,
    points: Sequence[tuple[int, float]],
    width: float,
    styles: Styles,
) -> None:
    name = configuration.topology_label
    axes.plot(
        [size for size, _ in points],
        [value for _, value in points],
        color=styles.colour(name),
        marker=styles.marker(name),
        ms=3 + width,
        ls=styles.dashes(configuration.density_label),
        lw=width,
        label=configuration.label,
    )


def _endings(
    axes: Axes, records: Sequence[Measurement], quantity: _Quantity, styles: Styles
) -> None:
    """Draw the values at the largest world size, one row per topology."""
    largest = max(record.world_size for record in records)
    points = [
        (configuration, value)
        for configuration, group in by_configuration(records).items()
        for size, value in _points(group, quantity)
        if size == largest
    ]
    ending_panel(axes, points, styles, x=quantity.label, title=f"at {largest} ranks")
    _scale(axes, "x", quantity)


def _points(group: Iterable[Measurement], quantity: _Quantity) -> list[tuple[int, float]]:
    """Return the mean over seeds at every world size."""
    values: dict[int, list[float]] = {}
    for record in group:
        if (value := quantity.value(record)) is not None:
            values.setdefault(record.world_size, []).append(value)
    return sorted((size, fmean(found)) for size, found in values.items())


def _scale(axes: Axes, which: str, quantity: _Quantity) -> None:
    """Make an axis logarithmic: powers of two for speed-ups, times with their units."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    base = 2 if quantity.has_ideal else 10
    (axes.set_xscale if which == "x" else axes.set_yscale)("log", base=base)
    axis.set_major_locator(LogLocator(2, (1,)) if quantity.has_ideal else FewDecades())
    axis.set_major_formatter(_FACTOR if quantity.has_ideal else _TIME)
    axis.set_minor_formatter(NullFormatter())
