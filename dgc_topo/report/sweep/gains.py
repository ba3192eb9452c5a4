"""Pictures of compression in a sweep: what it gains over bandwidth, and where it stops to pay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dgc_topo.report.style import FACTOR, FAINT, TEXT, scale_by_powers, style_axes
from dgc_topo.report.sweep.axes import BANDWIDTH, WORLD_SIZE, Axis
from dgc_topo.report.sweep.break_even import (
    ABOVE,
    ANY,
    BELOW,
    INSIDE,
    break_even,
    compression_gains,
)
from dgc_topo.report.sweep.lines import (
    BITS,
    bits,
    density_handles,
    line_widths,
    parts,
    scale_x,
    titled,
)
from dgc_topo.report.sweep.picture import Panel, Picture, mark_fabrics, pad_title
from dgc_topo.report.sweep.swept import SENDING, Swept, values_of

_ARROWS = 14  # points above the axes
_MARGIN = 1.3  # of the limits of an axis, as a factor
_THIN = 1.2  # a line above all others
_BEYOND = "No break-even lies inside the swept bandwidths."
_EVERYWHERE = {
    ABOVE: "Compression pays at the largest swept bandwidth, too: its break-even lies beyond.",
    BELOW: "Compression pays at no swept bandwidth.",
}
_PAYS = "Compression pays where it gains more than 1 %."


def gains_picture(swept: Swept, name: str, panels_by: Sequence[Axis]) -> Picture:
    """Return the throughput of compressed ways over that of dense ones, over bandwidth."""
    here, held = swept.ranked().held({BANDWIDTH.column, *(a.column for a in panels_by)})
    shown, left_out = parts(here, panels_by)
    panels = tuple(
        Panel(title, partial(_draw_gains, part, compression_gains(part))) for title, part in shown
    )
    text = (
        "Throughput of compressed over that of dense steps. Colours: over the same topology; "
        f"black: the best topology for each. Below 1, compression costs more than it saves. {_PAYS}"
    )
    title = titled("Gain by compressing", held)
    return Picture(name, title, text + left_out, panels, _legend(here))


def break_even_picture(swept: Swept, name: str, panels_by: Sequence[Axis]) -> Picture:
    """Return the break-even bandwidth of compression, over world size."""
    free = {BANDWIDTH.column, WORLD_SIZE.column, *(axis.column for axis in panels_by)}
    here, held = swept.ranked().held(free)
    shown, left_out = parts(here, panels_by)
    tables = [(title, part, break_even(part)) for title, part in shown]
    title = titled("Break-even of compression", held)
    places = {place for *_, table in tables for place in table["place"]}
    if INSIDE not in places:
        return Picture(name, title, _EVERYWHERE.get("".join(places), _BEYOND), (), ())
    panels = tuple(
        Panel(title, partial(_draw_break_even, part, table)) for title, part, table in tables
    )
    text = (
        f"Bandwidth above which compression stops to pay. {_PAYS} Interpolated between swept "
        "bandwidths. Arrows above or below the axes: it lies beyond the swept range."
    )
    return Picture(name, title, text + left_out, panels, _legend(here))


def _legend(swept: Swept) -> tuple[Artist, ...]:
    styles = swept.styles
    present = [t for t in styles.topologies if t in set(swept.rows["topology"])]
    topologies: list[Artist] = [
        Line2D([], [], color=styles.colour(t), marker=styles.marker(t), ms=6, lw=2, label=t)
        for t in present
    ]
    if len(present) > 1:
        topologies.append(Line2D([], [], color=TEXT, marker="x", ms=6, lw=2, label="the best"))
    sparse = swept.rows[swept.rows["density"] < 1][SENDING]
    return (
        *topologies,
        *density_handles(styles, [s for s in styles.densities if s in set(sparse)]),
    )


def _lines(swept: Swept, table: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Yield the rows of each topology and compressed way, and how their line looks."""
    styles, widths = swept.styles, line_widths(swept)
    for (topology, sending), rows in table.groupby(["topology", SENDING], sort=False):
        width = widths.get(str(topology), _THIN)
        best = topology == ANY
        yield (
            rows,
            {
                "color": TEXT if best else styles.colour(str(topology)),
                "marker": "x" if best else styles.marker(str(topology)),
                "ls": styles.dashes(str(sending)),
                "lw": width,
                "ms": 3.2 + 0.8 * width,
                "label": f"{topology}, {sending}",
            },
        )


def _draw_gains(swept: Swept, table: pd.DataFrame, axes: Axes) -> None:
    style_axes(axes, x=BANDWIDTH.label, y="gain by compressing", title=axes.get_title(loc="left"))
    order = scale_x(axes, BANDWIDTH, values_of(table, BANDWIDTH.column))
    for rows, look in _lines(swept, table):
        line = rows.sort_values(BANDWIDTH.column)
        every = max(1, len(line) // 5)
        axes.plot(list(map(order, line[BANDWIDTH.column])), line["gain"], markevery=every, **look)
    scale_by_powers(axes, "y", FACTOR)
    axes.axhline(1, color=FAINT, lw=1, zorder=1)
    mark_fabrics(axes, order)


def _draw_break_even(swept: Swept, table: pd.DataFrame, axes: Axes) -> None:
    style_axes(axes, x=WORLD_SIZE.label, y="break-even bandwidth", title=axes.get_title(loc="left"))
    order = scale_x(axes, WORLD_SIZE, values_of(table, WORLD_SIZE.column))
    edges = {ABOVE: (1.025, "^"), BELOW: (-0.025, "v")}  # shares of the axes' height
    outside = axes.get_xaxis_transform()
    for rows, look in _lines(swept, table):
        line = rows.sort_values(WORLD_SIZE.column)
        places = list(map(order, line[WORLD_SIZE.column]))
        axes.plot(places, list(map(bits, line["break_even_bytes_per_s"])), **look)
        for place, (height, arrow) in edges.items():
            beyond = list(map(order, line[line["place"] == place][WORLD_SIZE.column]))
            if beyond:  # an empty line would disturb the layout
                style = {**look, "marker": arrow, "ls": "none", "label": "", "clip_on": False}
                axes.plot(beyond, [height] * len(beyond), transform=outside, **style)
    scale_by_powers(axes, "y", BITS)
    axes.set_ylim(*_limits(swept, table))
    pad_title(axes, _ARROWS)


def _limits(swept: Swept, table: pd.DataFrame) -> tuple[float, float]:
    """Return limits around all break-evens, at least a decade apart; or those of the sweep."""
    found = table["break_even_bytes_per_s"].dropna()
    if found.empty:
        found = swept.rows[BANDWIDTH.column]
    low, high = bits(found.min()), bits(found.max())
    margin = max(_MARGIN, (10 * low / high) ** 0.5)
    return low / margin, high * margin
