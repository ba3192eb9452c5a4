"""Line pictures of a sweep: a time or a speed-up over whatever varies, a line per way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dgc_topo.report.style import (
    BYTES,
    FACTOR,
    FAINT,
    PLAIN,
    TIME,
    Styles,
    nested_widths,
    scale_by_powers,
    short,
    style_axes,
)
from dgc_topo.report.sweep.axes import (
    AVERAGING,
    BANDWIDTH,
    NETWORK,
    NUM_BYTES,
    WORKLOAD,
    WORLD_SIZE,
    Axis,
    network_classes,
    spread,
)
from dgc_topo.report.sweep.picture import MOST_PANELS, Panel, Picture, mark_fabrics
from dgc_topo.report.sweep.swept import SENDING, Swept, is_value, values_of
from dgc_topo.units import bytes_text, rate_text

BITS = FuncFormatter(lambda bits_per_s, _: rate_text(bits_per_s))
_BYTES_PER_S = FuncFormatter(lambda value, _: f"{short(bytes_text(value))}/s")
_DECADES = 10  # ratio from which on an axis is logarithmic
_HALF = 2  # panels for values of an axis, if another one has panels as well
_LABELLED = 7  # values that an axis of names or world sizes names, at most


class Quantity(NamedTuple):
    """A column that is drawn upwards.

    Attributes:
        column: Column of the frame.
        label: Label of the axis.
        texts: Texts of its numbers.
        better: "higher" or "lower".
    """

    column: str
    label: str
    texts: FuncFormatter
    better: str


STEP_TIME = Quantity("step_time_s", "step time", TIME, "lower")
TIME_S = Quantity("time_s", "time", TIME, "lower")
SPEEDUP = Quantity("speedup", "speed-up", FACTOR, "higher")
BUS_BANDWIDTH = Quantity("busbw_bytes_per_s", "bus bandwidth", _BYTES_PER_S, "higher")
EFFICIENCY = Quantity("scaling_efficiency", "scaling efficiency", PLAIN, "higher")


def lines_picture(
    swept: Swept, name: str, x: Axis, quantity: Quantity, panels_by: Sequence[Axis]
) -> Picture:
    """Return the picture of a quantity over an axis.

    Args:
        swept: Predictions.
        name: Name of the picture.
        x: Axis that runs to the right.
        quantity: What runs upwards.
        panels_by: Axes with a panel for some of their values; all others are held.
    """
    free = {x.column, *(axis.column for axis in panels_by)}
    here, held = swept.held(free)
    shown, left_out = parts(here, panels_by)
    panels = tuple(Panel(title, partial(_draw, part, x, quantity)) for title, part in shown)
    text = f"One line per topology (colour) and density (dashes); {quantity.better} is better."
    if x == BANDWIDTH:
        text += " Ticks on top mark named fabrics."
    if quantity is SPEEDUP:
        text += " Speed-ups are relative to one worker that neither compresses nor communicates."
    title = f"{quantity.label[0].upper()}{quantity.label[1:]} over {x.title}"
    return Picture(name, titled(title, held), text + left_out, panels, legend_of(here))


def titled(title: str, held: str) -> str:
    """Return a title with what is held."""
    return f"{title} ({held})" if held else title


def parts(swept: Swept, axes: Sequence[Axis]) -> tuple[list[tuple[str, Swept]], str]:
    """Return a title and some rows per panel, and a sentence on what there is no room for.

    Panels are the combinations of a few values of each axis.
    """
    varied = [a for a in axes if a in swept.axes and swept.rows[a.column].nunique() > 1]
    room, chosen, said = MOST_PANELS, [], []
    for place, axis in enumerate(varied):
        values = values_of(swept.rows, axis.column)
        # The last axis takes what the ones before it leave.
        few = _few(axis, values, room if place == len(varied) - 1 else min(room, _HALF))
        room = max(1, room // len(few))
        chosen.append(few)
        if len(few) < len(values):
            said.append(f"{len(few)} of {len(values)} {axis.title}s")
    shown = []
    for case in product(*chosen):
        rows = swept.rows
        for axis, value in zip(varied, case, strict=True):
            rows = rows[is_value(rows[axis.column], value)]
        title = ", ".join(axis.text(v) for axis, v in zip(varied, case, strict=True))
        if not rows.empty:
            shown.append((title, swept.only(rows)))
    return shown, f" Drawn are {' and '.join(said)}." if said else ""


def _few(axis: Axis, values: Sequence[Any], room: int) -> list[Any]:
    """Return the values that say most: not the smallest, where all are alike, if few fit."""
    if axis == BANDWIDTH:
        return network_classes(values, room)
    if axis == WORLD_SIZE and room == _HALF < len(values):
        return [values[len(values) // 2], values[-1]]
    return spread(values, room)


def legend_of(swept: Swept) -> tuple[Artist, ...]:
    """Return the handles of topologies (colours, markers) and of what is sent (dashes)."""
    styles = swept.styles
    present, sent = set(swept.rows["topology"]), set(swept.rows[SENDING])
    topologies = [
        Line2D([], [], color=styles.colour(t), marker=styles.marker(t), ms=6, lw=2, label=t)
        for t in styles.topologies
        if t in present
    ]
    return (*topologies, *density_handles(styles, [s for s in styles.densities if s in sent]))


def density_handles(styles: Styles, sendings: Sequence[str]) -> list[Artist]:
    """Return grey lines with the dashes of what is sent, if there is anything to tell apart."""
    if len(sendings) == 1 and sendings == ["dense"]:
        return []
    return [Line2D([], [], color=FAINT, ls=styles.dashes(s), lw=2, label=f"{s}") for s in sendings]


def _draw(swept: Swept, x: Axis, quantity: Quantity, axes: Axes) -> None:
    style_axes(axes, x=x.label, y=quantity.label, title=axes.get_title(loc="left"))
    order = scale_x(axes, x, values_of(swept.rows, x.column))
    widths = line_widths(swept)
    for (topology, sending), rows in swept.rows.groupby(["topology", SENDING], sort=False):
        points = sorted(zip(map(order, rows[x.column]), rows[quantity.column], strict=True))
        _draw_line(axes, points, swept.styles, str(topology), str(sending), widths[str(topology)])
    if quantity.column != EFFICIENCY.column:
        scale_by_powers(axes, "y", quantity.texts)
    if quantity is SPEEDUP:
        _draw_ideal(axes, swept, x, order)
    if x == BANDWIDTH:
        mark_fabrics(axes, order)


def line_widths(swept: Swept) -> dict[str, float]:
    """Return a width per topology, from wide to narrow, so that equal lines all show."""
    names = swept.styles.topologies
    return dict(zip(names, nested_widths(len(names)), strict=True))


def _draw_line(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    styles: Styles,
    topology: str,
    sending: str,
    width: float,
) -> None:
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=styles.colour(topology),
        marker=styles.marker(topology),
        markevery=max(1, len(points) // 5),
        ms=3.2 + 0.8 * width,
        ls=styles.dashes(sending),
        lw=width,
        label=f"{topology}, {sending}",
    )


def scale_x(axes: Axes, x: Axis, values: Sequence[Any]) -> Callable[[Any], float]:
    """Give an axis its scale and ticks, and return the function from a value to its place.

    Names stand side by side, and so do numbers if one of them is missing.
    """
    if x in (NETWORK, WORKLOAD, AVERAGING) or not values:
        places = {value: float(place) for place, value in enumerate(values)}
        axes.set_xticks(list(places.values()), [str(value) for value in values], rotation=30)
        return lambda value: places.get(value, float("nan"))
    if x == WORLD_SIZE:
        axes.set_xscale("log", base=2)
        few = spread(values, _LABELLED)
        axes.xaxis.set_major_locator(FixedLocator(few))
        axes.xaxis.set_major_formatter(PLAIN)
        axes.xaxis.set_minor_locator(NullLocator())
    elif x == BANDWIDTH:
        scale_by_powers(axes, "x", BITS)
        return bits
    elif values[0] > 0 and values[-1] >= _DECADES * values[0]:
        scale_by_powers(axes, "x", _TEXTS.get(x.column, PLAIN))
    else:
        few = spread(values, _LABELLED)
        texts = _TEXTS.get(x.column, PLAIN)
        axes.set_xticks(few, [texts(value) for value in few])
    return float


def bits(bytes_per_s: float) -> float:
    """Return the place of a bandwidth on an axis, in bits per second: people count in these."""
    return 8 * bytes_per_s


_TEXTS = {
    "latency_s": TIME,
    NUM_BYTES.column: BYTES,
}


def _draw_ideal(axes: Axes, swept: Swept, x: Axis, order: Callable[[Any], float]) -> None:
    """Draw the speed-up at which communicating would take no time."""
    rows = swept.rows
    if "scaling_efficiency" not in rows:
        return
    workers = (rows["speedup"] / rows["scaling_efficiency"]).groupby(rows[x.column]).max()
    points = sorted((order(value), number) for value, number in workers.items())
    axes.plot(*zip(*points, strict=True), color=FAINT, lw=1, zorder=1)
    # Lines come near it on the right over bandwidth, and on the left over world size.
    end, offset, side = (points[-1], -4, "right") if x == WORLD_SIZE else (points[0], 2, "left")
    axes.annotate("ideal", end, (offset, 3), color=FAINT, fontsize=8.5,
                  textcoords="offset points", ha=side)  # fmt: skip
