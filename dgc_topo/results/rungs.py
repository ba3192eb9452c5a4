"""Plots of a ladder: how its rungs learn, where they end, and what they send."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dgc_topo.results.ladder import Condition, Ladder
from dgc_topo.results.measurement import Measurement, QualityPoint
from dgc_topo.results.style import PALE, TEXT, Styles, dress, new_figure

_LABELS = {"accuracy": "test accuracy, %", "perplexity": "test perplexity"}
_ROW = 0.34  # inches per rung


def curves_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw quality over steps, one panel per condition: means, and the range of the seeds.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    title = f"Measured: {_LABELS[ladder.metric]} over training, mean and range of the seeds"
    figure, panels = _panels(ladder, title, 3.6)
    styles = Styles(tuple(ladder.rungs), ("",))
    for axes, condition in zip(panels, ladder.conditions, strict=True):
        dress(axes, x="step", title=condition.label)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        for rung in ladder.rungs:
            _curve(axes, ladder, rung, condition, styles)
    panels[0].set_ylabel(_LABELS[ladder.metric])
    if ladder.metric == "perplexity":  # what diverges would hide all others
        panels[0].set_yscale("log")
        for axes in panels:
            axes.minorticks_off()
    return _with_legend(figure, panels[0])


def endings_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw what every seed of every rung ends with; the band is the baseline's range.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    title = f"Measured: {_LABELS[ladder.metric]} at the end, every seed"
    figure, panels = _panels(ladder, title, 1.6 + _ROW * len(ladder.rungs))
    styles = Styles(tuple(ladder.rungs), ("",))
    for axes, condition in zip(panels, ladder.conditions, strict=True):
        dress(axes, x=_LABELS[ladder.metric], title=condition.label, grid="x")
        if ladder.baseline is not None:
            band = _finals(ladder, ladder.baseline, condition)
            axes.axvspan(min(band), max(band), color=PALE, lw=0)
        for row, rung in enumerate(ladder.rungs):
            finals = _finals(ladder, rung, condition)
            colour = styles.colour(rung)
            axes.plot(finals, [row] * len(finals), "o", color=colour, ms=5, alpha=0.8)
            if finals:
                axes.plot([fmean(finals)] * 2, [row - 0.3, row + 0.3], color=TEXT, lw=1.4)
    panels[0].set_yticks(range(len(ladder.rungs)), ladder.rungs)
    panels[0].set_ylim(len(ladder.rungs) - 0.4, -0.6)
    return figure


def density_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw the fraction of elements sent in every epoch: the warm-up, and what follows it.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    figure, panels = _panels(ladder, "Measured: compressed elements that a worker sends, %", 3.4)
    styles = Styles(tuple(ladder.rungs), ("",))
    for axes, condition in zip(panels, ladder.conditions, strict=True):
        dress(axes, x="epoch", title=condition.label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_yscale("log")
        for rung in ladder.rungs:
            points = [_points(run) for run in ladder.runs(rung, condition)][:1]
            for run in points:
                sent = [100 * (point.density or 1.0) for point in run]
                epochs = [point.epoch for point in run]
                _line(axes, epochs, sent, styles, rung)
    panels[0].set_ylabel("sent, %")
    return _with_legend(figure, panels[0])


def staleness_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw how long the elements that were sent had waited, as shares of all that were sent.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    figure, panels = _panels(ladder, "Measured: steps that a sent element had waited", 3.6)
    styles = Styles(tuple(ladder.rungs), ("",))
    for axes, condition in zip(panels, ladder.conditions, strict=True):
        dress(axes, x="steps waited (at least)", title=condition.label)
        axes.set_xscale("log", base=2)
        for rung in ladder.rungs:
            counted = [r.staleness.sent for r in ladder.runs(rung, condition) if r.staleness]
            totals = [sum(column) for column in zip(*counted, strict=True)]
            last = max((bin_ + 1 for bin_, total in enumerate(totals) if total), default=0)
            shares = [100 * total / sum(totals) for total in totals[:last]]
            _line(axes, [2**bin_ for bin_ in range(last)], shares, styles, rung)
    panels[0].set_ylabel("share of what is sent, %")
    return _with_legend(figure, panels[0])


def _panels(ladder: Ladder, title: str, height: float) -> tuple[Figure, Sequence[Axes]]:
    count = len(ladder.conditions)
    figure = new_figure(max(5.5, 2.9 * count + 1.4), height, title)
    return figure, figure.subplots(1, count, sharey=True, squeeze=False)[0]


def _curve(axes: Axes, ladder: Ladder, rung: str, condition: Condition, styles: Styles) -> None:
    runs = [_points(run) for run in ladder.runs(rung, condition)]
    if not runs:
        return
    length = min(map(len, runs))  # a seed that diverged ends early
    scale = 100 if ladder.metric == "accuracy" else 1
    columns = [[scale * run[index].value for run in runs] for index in range(length)]
    steps = [point.step for point in runs[0][:length]]
    _line(axes, steps, [fmean(column) for column in columns], styles, rung)
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    axes.fill_between(steps, low, high, color=styles.colour(rung), alpha=0.15, lw=0)


def _line(axes: Axes, x: Sequence[int], y: Sequence[float], styles: Styles, rung: str) -> None:
    colour, marker = styles.colour(rung), styles.marker(rung)
    axes.plot(x, y, color=colour, marker=marker, ms=4, lw=1.4, label=rung)


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _points(run: Measurement) -> tuple[QualityPoint, ...]:
    return run.quality.points if run.quality else ()


def _finals(ladder: Ladder, rung: str, condition: Condition) -> list[float]:
    scale = 100 if ladder.metric == "accuracy" else 1
    return [scale * _points(run)[-1].value for run in ladder.runs(rung, condition)]
