"""A picture of a sweep: panels that can be drawn together or each on its own, and their legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgc_topo.network.fabrics import FABRICS
from dgc_topo.report.style import FAINT, empty_figure, legend_name, new_figure
from dgc_topo.text import printable

MOST_PANELS = 4  #: of a picture; more are too small to be read
_WIDTH = 5.4  # inches of a panel: on a phone's screen its texts can still be read
_LEGEND_ROW, _TITLE = 0.21, 0.35  # inches
_LETTER, _HANDLE = 0.078, 0.65  # inches of a letter, and of a legend's entry beside its text
_FABRIC_HEIGHT = 40  # points above the axes
_FABRIC_GAP = 0.03  # of an axis, between names that do not overlap


class Panel(NamedTuple):
    """One part of a picture.

    Attributes:
        title: Its circumstances, such as ``16 ranks``.
        draw: Function that draws it.
    """

    title: str
    draw: Callable[[Axes], None]


class Picture(NamedTuple):
    """Panels that belong together.

    Attributes:
        name: Name to ask for it.
        title: Title in a few words.
        text: Instructions for reading it, in whole sentences.
        panels: At most `MOST_PANELS`.
        legend: Handles with labels, the same for all panels.
        height: Inches of a panel.
    """

    name: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    legend: tuple[Artist, ...]
    height: float = 3.9


def figure_of(picture: Picture, panels: Sequence[Panel] = (), *, titled: bool = True) -> Figure:
    """Return a picture as a figure, two panels side by side.

    Args:
        picture: The picture.
        panels: Panels to draw; all by default.
        titled: Write the picture's title above.
    """
    panels = panels or picture.panels
    title = picture.title if titled else ""
    if not panels:
        return empty_figure(title, picture.text)
    columns = min(2, len(panels))
    rows = ceil(len(panels) / columns)
    entries = _entries_per_row(picture.legend, _WIDTH * columns)
    lines = ceil(len(picture.legend) / entries)
    height = picture.height * rows + _LEGEND_ROW * lines + (_TITLE if titled else 0)
    figure = new_figure(_WIDTH * columns, height, title)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(grid, panels, strict=False):
        axes.set_title(printable(panel.title), loc="left").set_parse_math(False)
        panel.draw(axes)
    for axes in grid[len(panels) :]:
        axes.remove()
    if picture.legend:
        _add_legend(figure, picture.legend, entries)
    return figure


def _entries_per_row(handles: Sequence[Artist], width: float) -> int:
    """Return the number of a legend's entries that fit side by side."""
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    return max(1, int(width / (_HANDLE + _LETTER * longest)))


def _add_legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    labels = [legend_name(str(handle.get_label())) for handle in handles]
    legend = figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=3,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def mark_fabrics(axes: Axes, place: Callable[[float], float]) -> None:
    """Mark the bandwidths of the named fabrics on top of *axes*, whose limits are final.

    Args:
        axes: Axes over bandwidth.
        place: Function from a bandwidth in bytes per second to its place on the axis.
    """
    low, high = axes.get_xlim()
    shown = [(place(fabric.bandwidth_bytes_per_s), name) for name, fabric in FABRICS.items()]
    transform = axes.transScale + axes.transLimits
    last = -1.0
    for x, name in sorted(each for each in shown if low <= each[0] <= high):
        share = float(transform.transform((x, axes.get_ylim()[0]))[0])
        last = max(share, last + _FABRIC_GAP)
        axes.annotate(
            name,
            xy=(share, 1),
            xytext=(last, 1.035),
            xycoords="axes fraction",
            textcoords="axes fraction",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7.5,
            color=FAINT,
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.8, "shrinkA": 0, "shrinkB": 0},
        )
    pad_title(axes, _FABRIC_HEIGHT)


def pad_title(axes: Axes, points: float) -> None:
    """Move the title of *axes* up, so far that something has room below it."""
    axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=10, pad=points)
