"""Catalogue of a sweep's pictures: each is there only if what it shows varies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from dgc_topo.report.style import empty_figure
from dgc_topo.report.sweep.axes import (
    BANDWIDTH,
    DENSITY,
    NETWORK,
    NUM_BYTES,
    SETTINGS,
    WORKLOAD,
    WORLD_SIZE,
    Axis,
)
from dgc_topo.report.sweep.gains import break_even_picture, gains_picture
from dgc_topo.report.sweep.lines import (
    BUS_BANDWIDTH,
    SPEEDUP,
    STEP_TIME,
    TIME_S,
    Quantity,
    lines_picture,
)
from dgc_topo.report.sweep.maps import map_picture
from dgc_topo.report.sweep.picture import Picture, figure_of
from dgc_topo.report.sweep.swept import Swept

_WORK = (WORKLOAD, NUM_BYTES)
_MADE_OF = (*_WORK, WORLD_SIZE)  # panels of pictures over bandwidth
#: Axes with a picture of their own, beside bandwidth and world size, by its name.
_OTHERS = {
    "over-latency": "latency_s",
    "over-slow-host": "slow_host_factor",
    "over-slow-rank": "slow_rank_factor",
    "over-hosts-per-rack": "hosts_per_rack",
    "over-oversubscription": "oversubscription",
    "over-passes": "accumulation_steps",
    "over-local-steps": "every",
    "over-bytes": "num_bytes",
}
NAMES = (
    "time",
    "speedup",
    "fastest",
    "fastest-by-density",
    "compression-gain",
    "break-even",
    "scaling",
    *_OTHERS,
)


def pictures_of(frame: pd.DataFrame | Swept) -> list[Picture]:
    """Return the pictures whose axes vary in a sweep's frame, in the order of `NAMES`.

    Raises:
        ValueError: if the frame is not that of a sweep.
    """
    swept = Swept.of(frame)
    makers = _makers(swept)
    return [make(name) for name in NAMES if (make := makers.get(name))]


def draw(frame: pd.DataFrame | Swept, name: str) -> Figure:
    """Draw a picture of a sweep.

    Args:
        frame: Frame of a sweep.  What a picture has no room for is held, as its title says; to
            see something else, pass some of the rows.
        name: One of

            - ``time``, ``speedup``: over bandwidth (or network), a line per topology and density;
            - ``fastest``: the map of the fastest topology and density, over bandwidth and ranks;
            - ``fastest-by-density``: the map of the fastest topology over bandwidth and density;
            - ``compression-gain``, ``break-even``: where compression pays, and where it stops to;
            - ``scaling``: speed-up over the number of ranks;
            - ``over-latency``, ``over-slow-host``, ``over-slow-rank``, ``over-hosts-per-rack``,
              ``over-oversubscription``, ``over-passes``, ``over-bytes``: over another axis.

    Returns:
        The figure; one that says so if an axis of the picture does not vary in the frame.

    Raises:
        ValueError: if there is no such picture, or the frame is not that of a sweep.
    """
    if name not in NAMES:
        raise ValueError(f"plot {name!r}: unknown, expected one of {', '.join(NAMES)}")
    swept = Swept.of(frame)
    make = _makers(swept).get(name)
    if make is None:
        return empty_figure(f"Predicted: {name}", _why_nothing(swept))
    return figure_of(make(name))


def _why_nothing(swept: Swept) -> str:
    if not len(swept.rows):
        skipped = len(swept.skipped)
        return f"no predictions: all {skipped} were skipped" if skipped else "no predictions"
    return "nothing to draw: what this picture shows does not vary in the sweep"


def _makers(swept: Swept) -> dict[str, Callable[[str], Picture]]:
    """Return the functions from a name to its picture, of those that apply."""
    main = next((axis for axis in (BANDWIDTH, NETWORK) if axis in swept.axes), None)
    time, speed = (STEP_TIME, SPEEDUP) if swept.is_step else (TIME_S, BUS_BANDWIDTH)
    found: dict[str, Callable[[str], Picture]] = {}
    has_speed = speed.column in swept.rows
    if main:
        found["time"] = lambda name: lines_picture(swept, name, main, time, _MADE_OF)
        if has_speed:
            found["speedup"] = lambda name: lines_picture(swept, name, main, speed, _MADE_OF)
        found |= _maps(swept, main)
    if swept.varies(WORLD_SIZE.column):
        by = (*_WORK, main) if main else _WORK
        shown = speed if has_speed else time
        found["scaling"] = lambda name: lines_picture(swept, name, WORLD_SIZE, shown, by)
    return found | _others(swept, main, time)


def _maps(swept: Swept, main: Axis) -> dict[str, Callable[[str], Picture]]:
    """Return the maps, and what compression gains, if there is anything to choose from."""
    found: dict[str, Callable[[str], Picture]] = {}
    upwards = next((a for a in (WORLD_SIZE, *SETTINGS[5:], NUM_BYTES) if a in swept.axes), None)
    if upwards and len(swept.ways()) > 1:
        found["fastest"] = lambda name: map_picture(swept, name, main, upwards, _WORK)
    both = swept.varies("density")
    if both and swept.varies("topology"):
        found["fastest-by-density"] = lambda name: map_picture(swept, name, main, DENSITY, _MADE_OF)
    if both and main == BANDWIDTH and (swept.rows["density"] == 1).any():
        found["compression-gain"] = lambda name: gains_picture(swept, name, _MADE_OF)
        if swept.varies(WORLD_SIZE.column):
            found["break-even"] = lambda name: break_even_picture(swept, name, _WORK)
    return found


def _others(
    swept: Swept, main: Axis | None, quantity: Quantity
) -> dict[str, Callable[[str], Picture]]:
    by = (*_WORK, main) if main else _WORK
    axes = {axis.column: axis for axis in swept.axes}
    return {
        name: partial(_over, swept, axes[column], quantity, by)
        for name, column in _OTHERS.items()
        if column in axes
    }


def _over(
    swept: Swept, axis: Axis, quantity: Quantity, panels_by: tuple[Axis, ...], name: str
) -> Picture:
    return lines_picture(swept, name, axis, quantity, panels_by)
