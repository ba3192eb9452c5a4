"""Break-even of compression: the bandwidth above which it stops to pay."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log, nan

import pandas as pd

from dgc_topo.report.sweep.axes import BANDWIDTH
from dgc_topo.report.sweep.choices import TIE, Row, groups
from dgc_topo.report.sweep.swept import COST, SENDING, Swept
from dgc_topo.sizes import is_sparse

ANY = "any"  #: the fastest topology at each bandwidth, dense and compressed on their own
#: Places of a break-even.
INSIDE, ABOVE, BELOW = "inside", "above the swept range", "below the swept range"


def compression_gains(frame: pd.DataFrame | Swept) -> pd.DataFrame:
    """Return the throughput of compressed ways over that of dense ones.

    Returns:
        One row per setting, topology and compressed way: the circumstances that vary,
        ``topology`` (or "any": the best of all at each density), ``sending`` and ``gain``, the
        throughput over that of the same topology (or of the best one) dense.

    Raises:
        ValueError: if the frame is not that of a sweep.
    """
    swept = Swept.of(frame).ranked()
    settings = [axis.column for axis in swept.axes]
    sparse = swept.rows["density"].map(is_sparse).astype(bool)
    dense, compressed = swept.rows[~sparse], swept.rows[sparse]
    found = [_gains(dense, compressed, settings)]
    if swept.rows["topology"].nunique() > 1:
        any_dense, any_compressed = dense.assign(topology=ANY), compressed.assign(topology=ANY)
        found.append(_gains(any_dense, any_compressed, settings))
    return pd.concat(found, ignore_index=True)


def _gains(dense: pd.DataFrame, compressed: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """Return the least cost of dense ways over that of compressed ones, by topology."""
    keys = [*settings, "topology"]
    best = dense.groupby(keys, sort=False, dropna=False)[COST].min().rename("least").reset_index()
    grouped = compressed.groupby([*keys, SENDING], sort=False, dropna=False)[COST]
    both = grouped.min().reset_index().merge(best, on=keys)
    return both.assign(gain=both["least"] / both[COST])[[*keys, SENDING, "gain"]]


def break_even(frame: pd.DataFrame | Swept, least_gain: float = TIE) -> pd.DataFrame:
    """Return the bandwidth above which compression stops to pay.

    The gain is interpolated between swept bandwidths, both on logarithmic axes.  If it crosses
    the line several times, the crossing at the largest bandwidth counts.

    Args:
        frame: Frame of a sweep over bandwidths.
        least_gain: Gain from which on compression pays; 0.01 is 1 % more throughput.

    Returns:
        One row per setting, topology and compressed way: the circumstances that vary, without
        the bandwidth; ``topology`` (or "any", see `compression_gains`), ``sending``,
        ``break_even_bytes_per_s`` (NaN unless it is inside), ``pays_at_bytes_per_s`` and
        ``not_at_bytes_per_s`` (the swept bandwidths on both sides of it: where overlap hides the
        rest, the gain has a corner between them that nobody has swept), ``place`` ("inside",
        "above the swept range": it pays at all bandwidths from some on; "below the swept range":
        it pays at none), ``largest_gain`` and ``largest_gain_at_bytes_per_s``.

    Raises:
        ValueError: if the frame is not that of a sweep.
    """
    swept = Swept.of(frame)
    settings = [axis.column for axis in swept.axes if axis != BANDWIDTH]
    columns = [
        *settings,
        "topology",
        SENDING,
        "break_even_bytes_per_s",
        "pays_at_bytes_per_s",
        "not_at_bytes_per_s",
        "place",
        "largest_gain",
        "largest_gain_at_bytes_per_s",
    ]
    if BANDWIDTH not in swept.axes:
        return pd.DataFrame(columns=columns)
    gains = compression_gains(swept)
    found = [
        {**named, **_crossing(line.sort_values(BANDWIDTH.column), 1 + least_gain)}
        for named, line in groups(gains, [*settings, "topology", SENDING])
    ]
    return pd.DataFrame(found, columns=columns)


def _crossing(line: pd.DataFrame, threshold: float) -> Row:
    """Return the last place where a line of gains comes down through *threshold*."""
    points = list(zip(line[BANDWIDTH.column], line["gain"], strict=True))
    top = max(points, key=lambda point: point[1])
    row = {
        "break_even_bytes_per_s": nan,
        "pays_at_bytes_per_s": nan,
        "not_at_bytes_per_s": nan,
        "place": ABOVE,
        "largest_gain": top[1],
        "largest_gain_at_bytes_per_s": top[0],
    }
    paying = [place for place, (_, gain) in enumerate(points) if gain > threshold]
    if not paying:
        return row | {"place": BELOW, "not_at_bytes_per_s": points[0][0]}
    row["pays_at_bytes_per_s"] = points[paying[-1]][0]
    if paying[-1] == len(points) - 1:
        return row
    (left, high), (right, low) = points[paying[-1] : paying[-1] + 2]
    share = log(high / threshold) / log(high / low)
    crossing = exp(log(left) + share * (log(right) - log(left)))
    return row | {
        "break_even_bytes_per_s": crossing,
        "not_at_bytes_per_s": right,
        "place": INSIDE,
    }
