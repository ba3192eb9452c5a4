"""Maps of a sweep: which way is fastest, over two axes, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import log, nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from dgc_topo.report.style import TEXT, style_axes
from dgc_topo.report.sweep.axes import BANDWIDTH, DENSITY, WORLD_SIZE, Axis, spread
from dgc_topo.report.sweep.choices import TIE, fastest
from dgc_topo.report.sweep.lines import parts, titled
from dgc_topo.report.sweep.picture import Panel, Picture, mark_fabrics
from dgc_topo.report.sweep.swept import SENDING, WAY, Swept, values_of
from dgc_topo.units import percent_text, times_text

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_STRIPES = 3  # tied ways that share a cell; more are "all the same"
_MANY = "#E4E4E4"
_NOTHING = "#FFFFFF"
_BRIGHT = 0.6  # of a colour; texts on it are dark
_WIDE, _NARROW = 16, 30  # columns up to which gains, and letters, fit into their cells
_FEW = 8  # columns up to which texts may be larger
_TALL = 14  # rows up to which both fit
_FRAME, _ROW, _HIGHEST = 1.5, 0.4, 4.5  # inches of a panel
_MANY_ROWS = 30
_LABELLED = 7  # columns and rows that are named, at most
_SHORT = 3  # characters that fit into a narrow cell
_PAIR = 2
_TENFOLD = 10
_TWICE = 2  # a gain from which on it is said as a factor


class _Key(NamedTuple):
    """Letter and colour of each way that wins anywhere."""

    letters: dict[str, str]
    colours: dict[str, str]


def map_picture(swept: Swept, name: str, x: Axis, y: Axis, panels_by: Sequence[Axis]) -> Picture:
    """Return the map of the fastest way over two axes; over densities, of the fastest topology.

    Args:
        swept: Predictions.
        name: Name of the picture.
        x: Axis that runs to the right.
        y: Axis that runs upwards; `DENSITY` compares topologies at each density.
        panels_by: Axes with a panel for some of their values; all others are held.
    """
    each_density = y == DENSITY
    free = {x.column, y.column, *(axis.column for axis in panels_by)}
    here, held = swept.ranked().held(free, each_way=True)
    shown, left_out = parts(here, panels_by)
    tables = [(title, fastest(part, each_density=each_density)) for title, part in shown]
    key = _key_of(here, [table for _, table in tables], each_density=each_density)
    panels = tuple(Panel(title, partial(_draw, table, x, y, key)) for title, table in tables)
    what = "topology at each density" if each_density else "topology and density"
    text = (
        "Letter and colour of a cell name the fastest; the number is its gain in throughput over "
        "the runner-up. A=B: both are within 1 % of the fastest. =5: so are five, and it hardly "
        "matters which one is taken."
    )
    if len(here.rows["topology"].unique()) < len(swept.rows["topology"].unique()):
        text += " Gossip does less than an all-reduce and is not ranked."
    title = titled(f"Fastest {what}", held)
    tallest = max((table[y.column].nunique() for _, table in tables), default=0)
    height = min(_HIGHEST, _FRAME + _ROW * tallest)
    legend = _legend(key, [table for _, table in tables])
    return Picture(name, title, text + left_out, panels, legend, height)


def _key_of(swept: Swept, tables: Sequence[Any], *, each_density: bool) -> _Key:
    """Return letters for all that cells name, in the order of the frame."""
    named = {
        name for table in tables for tied in table["tied"] if len(tied) <= _STRIPES for name in tied
    }
    order = list(swept.styles.topologies) if each_density else swept.ways()
    ordered = [name for name in order if name in named]
    letters = dict(zip(ordered, _LETTERS + "*" * len(ordered), strict=False))
    styles, pairs = swept.styles, swept.rows[["topology", SENDING, WAY]].drop_duplicates()
    if each_density:
        return _Key(letters, {name: styles.colour(name) for name in styles.topologies})
    rows = [row for row in pairs.itertuples(index=False, name=None) if row[-1] in named]
    # Tints only tell apart what is there: a single density has the full colours.
    sent = {sending for _, sending, _ in rows}
    shades = replace(styles, densities=tuple(s for s in styles.densities if s in sent))
    return _Key(letters, {way: shades.tint(topology, s) for topology, s, way in rows})


def _legend(key: _Key, tables: Sequence[Any]) -> tuple[Artist, ...]:
    handles: list[Artist] = [
        Patch(facecolor=key.colours[name], label=f"{letter}  {name}")
        for name, letter in key.letters.items()
    ]
    if any(len(tied) > _STRIPES for table in tables for tied in table["tied"]):
        handles.append(Patch(facecolor=_MANY, label=f"=n  n ways within {percent_text(TIE)}"))
    return tuple(handles)


def _draw(table: pd.DataFrame, x: Axis, y: Axis, key: _Key, axes: Axes) -> None:
    style_axes(axes, x=x.label, y=y.label, title=axes.get_title(loc="left"))
    axes.grid(visible=False)
    columns, rows = values_of(table, x.column), values_of(table, y.column)
    _name_ticks(axes, x, y, columns, rows)
    for cell in table.to_dict("records"):
        if cell[x.column] in columns and cell[y.column] in rows:
            corner = columns.index(cell[x.column]), rows.index(cell[y.column])
            _draw_cell(axes, corner, cell, key, (len(columns), len(rows)))
    if x == BANDWIDTH:
        mark_fabrics(axes, partial(place_among, columns))


def _name_ticks(axes: Axes, x: Axis, y: Axis, columns: Sequence[Any], rows: Sequence[Any]) -> None:
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    named = {index: x.text(columns[index]) for index in spread(range(len(columns)), _LABELLED)}
    axes.set_xticks(list(named), list(named.values()), rotation=30, ha="right")
    few = spread(range(len(rows)), _LABELLED)
    texts = [f"{rows[i]:g}" if y == WORLD_SIZE else y.text(rows[i]) for i in few]
    axes.set_yticks(list(few), texts)
    axes.tick_params(length=0, labelsize=8)
    axes.set_facecolor(_NOTHING)


def place_among(columns: Sequence[float], bandwidth: float) -> float:
    """Return where a bandwidth lies among the columns, on the logarithmic axis between them."""
    logs = np.log(np.asarray(columns, dtype=float))
    places = np.arange(len(logs), dtype=float)
    if len(logs) < _PAIR:
        return nan
    return float(np.interp(log(bandwidth), logs, places, left=-1.0, right=len(logs)))


def _draw_cell(
    axes: Axes, corner: tuple[int, int], cell: Mapping[Any, Any], key: _Key, shape: tuple[int, int]
) -> None:
    """Draw one cell: stripes of all that tie in it, its letters and its gain."""
    tied = cell["tied"]
    colours = [key.colours[name] for name in tied] if len(tied) <= _STRIPES else [_MANY]
    left, bottom = corner[0] - 0.5, corner[1] - 0.5
    height = 1 / len(colours)
    for place, colour in enumerate(reversed(colours)):  # as bands, which neighbours continue
        axes.add_patch(
            Rectangle((left, bottom + place * height), 1, height, facecolor=colour, lw=0, zorder=1)
        )
    axes.add_patch(Rectangle((left, bottom), 1, 1, fill=False, ec="white", lw=1, zorder=2))
    text = _cell_text(cell, key, shape)
    full = 8.0 if shape[0] <= _FEW else 6.5
    size = full if len(text) <= _SHORT or "\n" in text else full - 1.2
    dark = len(colours) > 1 or _brightness(colours[0]) > _BRIGHT
    # Letters across stripes of any brightness need a ground of their own.
    ground = {"boxstyle": "round,pad=0.12", "fc": "white", "lw": 0, "alpha": 0.8}
    axes.text(*corner, text, ha="center", va="center", fontsize=size, zorder=3,
              color=TEXT if dark else "white", linespacing=1.1,
              bbox=ground if len(colours) > 1 and text else None)  # fmt: skip


def _cell_text(cell: Mapping[Any, Any], key: _Key, shape: tuple[int, int]) -> str:
    """Return the letters and the gain, as far as cells have room for them."""
    columns, rows = shape
    if columns > _NARROW or rows > _MANY_ROWS:
        return ""
    tied = cell["tied"]
    if len(tied) > _STRIPES:
        return f"={len(tied)}"
    letters = "=".join(key.letters[name] for name in tied)
    if columns > _WIDE or rows > _TALL:
        return letters if len(tied) == 1 else ""  # stripes say it
    if len(tied) > 1 or pd.isna(cell["runner_up"]):
        return letters
    return f"{letters}\n{gain_text(cell['gain'])}"


def gain_text(gain: float) -> str:
    """Return a gain as a percentage, or as a factor from two on."""
    if gain >= _TWICE:
        return times_text(gain) if gain < _TENFOLD else f"{gain:,.0f}x"
    return f"+{100 * (gain - 1):.0f} %"


def _brightness(colour: str) -> float:
    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue
