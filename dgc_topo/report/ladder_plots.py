"""Plots of a ladder: learning curves, final quality, densities and staleness of its rungs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isfinite, nan
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dgc_topo.records.measurement import Measurement
from dgc_topo.records.quality import QualityPoint
from dgc_topo.report.ladder import Condition, Ladder
from dgc_topo.report.style import (
    PALE,
    QUALITY_LABELS,
    TEXT,
    FewDecades,
    Grid,
    Styles,
    legend_name,
    new_figure,
    style_axes,
)

_DIVERGED = "a seed that diverged"
_ROW = 0.34  # inches per rung
_CROSS = 0.04  # of a panel's width, from one cross to the next


def curves_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw quality over steps, one panel per condition: means, and the range of the seeds.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    title = f"Measured: {QUALITY_LABELS[ladder.metric]} over training, mean and range of the seeds"
    figure, panels = _panels(ladder, title, 3.6, x="step")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes, rung, runs in _rungs(ladder, panels):
        _curve(axes, ladder, rung, [_points(run) for run in runs])
    panels[0].set_ylabel(QUALITY_LABELS[ladder.metric])
    if ladder.metric == "perplexity" and any(map(_shows, panels)):
        _log_scale(panels)  # values far from the best would hide all others
        for axes in panels:
            axes.minorticks_off()
    _without_invented_ticks(panels)
    return _with_legend(figure, panels[0])


def endings_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw the final quality of every seed of every rung; the band is the baseline's range.

    A cross at the panel's edge stands for each seed that diverged.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    title = f"Measured: {QUALITY_LABELS[ladder.metric]} at the end, every seed"
    height = 1.6 + _ROW * len(ladder.rungs)
    figure, panels = _panels(ladder, title, height, x=QUALITY_LABELS[ladder.metric], grid="x")
    for axes, condition in zip(panels, ladder.conditions, strict=True):
        if ladder.baseline is not None:
            band = _finals(ladder, ladder.baseline, condition)
            if band:
                axes.axvspan(min(band), max(band), color=PALE, lw=0)
        for row, rung in enumerate(ladder.rungs):
            _ending(axes, ladder, rung, condition, row)
    _without_invented_ticks(panels)
    panels[0].set_yticks(range(len(ladder.rungs)), ladder.rungs, parse_math=False)
    panels[0].set_ylim(len(ladder.rungs) - 0.4, -0.6)
    crosses = [line for axes in panels for line in axes.lines if line.get_label() == _DIVERGED]
    if crosses:
        mark = Line2D([], [], color=TEXT, ls="none", marker="x", ms=6)
        figure.legend([mark], [_DIVERGED], loc="outside lower center", frameon=False, fontsize=9)
    return figure


def density_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw the fraction of elements sent in every epoch: the warm-up, and what follows it.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    title = "Measured: compressed elements that a worker sends, %"
    figure, panels = _panels(ladder, title, 3.4, x="epoch")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _log_scale(panels)
    for axes, rung, runs in _rungs(ladder, panels):
        for run in runs[:1]:
            sent = [100 * (point.density or 1.0) for point in _points(run)]
            _line(axes, ladder, rung, [point.epoch for point in _points(run)], sent)
    panels[0].set_ylabel("sent, %")
    return _with_legend(figure, panels[0])


def staleness_figure(measurements: Iterable[Measurement]) -> Figure:
    """Draw the waiting times of sent elements, as fractions of all sent elements.

    Raises:
        ValueError: if no record has a rung.
    """
    ladder = Ladder.of(measurements)
    title = "Measured: steps that a sent element had waited"
    figure, panels = _panels(ladder, title, 3.6, x="steps waited (at least)")
    for axes in panels:
        axes.set_xscale("log", base=2)
    for axes, rung, runs in _rungs(ladder, panels):
        counted = [run.staleness.sent for run in runs if run.staleness]
        totals = [sum(column) for column in zip(*counted, strict=True)]
        last = max((bin_ + 1 for bin_, total in enumerate(totals) if total), default=0)
        shares = [100 * total / sum(totals) for total in totals[:last]]
        _line(axes, ladder, rung, [2**bin_ for bin_ in range(last)], shares)
    panels[0].set_ylabel("share of what is sent, %")
    return _with_legend(figure, panels[0])


def _panels(
    ladder: Ladder, title: str, height: float, *, x: str, grid: Grid = "both"
) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with one panel per condition."""
    count = len(ladder.conditions)
    figure = new_figure(max(5.5, 2.9 * count + 1.4), height, title)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, condition in zip(panels, ladder.conditions, strict=True):
        style_axes(axes, x=x, title=condition.label, grid=grid)
    return figure, panels


def _log_scale(panels: Sequence[Axes]) -> None:
    panels[0].set_yscale("log")  # and that of all panels, which share it
    panels[0].yaxis.set_major_locator(FewDecades())
    panels[0].yaxis.set_major_formatter("{x:g}")


def _shows(axes: Axes) -> bool:
    """Return True if there is anything finite in *axes*."""
    return isfinite(axes.dataLim.width)


def _without_invented_ticks(panels: Sequence[Axes]) -> None:
    for axes in panels:
        if not _shows(axes):
            axes.set_xticks([])
    if not any(map(_shows, panels)):
        panels[0].set_yticks([])  # those of all, which share them


def _rungs(
    ladder: Ladder, panels: Sequence[Axes]
) -> Iterator[tuple[Axes, str, Sequence[Measurement]]]:
    """Yield every rung in every panel, with its runs there."""
    for axes, condition in zip(panels, ladder.conditions, strict=True):
        for rung in ladder.rungs:
            yield axes, rung, ladder.runs(rung, condition)


def _styles(ladder: Ladder) -> Styles:
    return Styles(tuple(ladder.rungs), ("",))


def _curve(axes: Axes, ladder: Ladder, rung: str, runs: Sequence[tuple[QualityPoint, ...]]) -> None:
    if not runs:
        return
    length = min(map(len, runs))  # a seed that diverged ends early
    columns = [[_shown(ladder, run[index].value) for run in runs] for index in range(length)]
    # A mean over fewer seeds could not be compared, so leave a gap.
    columns = [column if all(map(isfinite, column)) else [nan] for column in columns]
    steps = [point.step for point in runs[0][:length]]
    _line(axes, ladder, rung, steps, [fmean(column) for column in columns])
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    axes.fill_between(steps, low, high, color=_styles(ladder).colour(rung), alpha=0.15, lw=0)


def _ending(axes: Axes, ladder: Ladder, rung: str, condition: Condition, row: int) -> None:
    """Draw a rung's seeds and their mean in its row."""
    finals, colour = _finals(ladder, rung, condition), _styles(ladder).colour(rung)
    axes.plot(finals, [row] * len(finals), "o", color=colour, ms=5, alpha=0.8)
    if finals:
        axes.plot([fmean(finals)] * 2, [row - 0.3, row + 0.3], color=TEXT, lw=1.4)
    diverged = len(ladder.runs(rung, condition)) - len(finals)
    if diverged:
        # At the end of the axis where worse values would be.
        edge, inwards = (0.0, 1) if ladder.metric == "accuracy" else (1.0, -1)
        axes.plot(
            [edge + inwards * _CROSS * index for index in range(diverged)],
            [row] * diverged,
            "x",
            color=colour,
            ms=6,
            mew=1.8,
            label=_DIVERGED,
            transform=axes.get_yaxis_transform(),
            clip_on=False,
        )


def _line(axes: Axes, ladder: Ladder, rung: str, x: Sequence[int], y: Sequence[float]) -> None:
    colour, marker = _styles(ladder).colour(rung), _styles(ladder).marker(rung)
    axes.plot(x, y, color=colour, marker=marker, ms=4, lw=1.4, label=legend_name(rung))


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _points(run: Measurement) -> tuple[QualityPoint, ...]:
    return run.quality.points if run.quality else ()


def _finals(ladder: Ladder, rung: str, condition: Condition) -> list[float]:
    """Return the final values of the seeds that did not diverge."""
    return [_shown(ladder, _points(run)[-1].value) for run in ladder.ended(rung, condition)]


def _shown(ladder: Ladder, value: float) -> float:
    return 100 * value if ladder.metric == "accuracy" else value
