"""Best and worst choices in a sweep, as frames: who wins by how much, and what a mistake costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from dgc_topo.report.sweep.swept import COST, SENDING, WAY, Swept

#: Ways that differ by less than this fraction are as good as each other.
TIE = 0.01

Row = dict[str, Any]


def fastest(frame: pd.DataFrame | Swept, *, each_density: bool = False) -> pd.DataFrame:
    """Return the fastest way in every setting, a way being a topology and what is sent over it.

    Args:
        frame: Frame of a sweep.
        each_density: Compare topologies at each density, by the best that is sent over them.

    Returns:
        One row per setting: the circumstances that vary (and ``density``), ``fastest`` (a way
        such as ``ring, 0.1 %``, or a topology), ``tied`` (all within 1 % of it, it included, in
        the order of the frame), ``runner_up`` (the next one that is no tie, or None), ``gain``
        (throughput over the runner-up's; 1 if there is none), the time, and ``speedup`` of steps.
        Gossip is not compared with all-reduces.

    Raises:
        ValueError: if the frame is not that of a sweep.
    """
    swept = Swept.of(frame).ranked()
    settings = [axis.column for axis in swept.axes]
    who, names = WAY, swept.ways()
    if each_density:
        settings.append("density")
        who, names = "topology", list(swept.styles.topologies)
    order = {name: place for place, name in enumerate(names)}
    shown = [swept.time, *(["speedup"] if "speedup" in swept.rows else [])]
    found = [
        {**named, **_winner(group, who, order, shown)}
        for named, group in groups(swept.rows.sort_values(COST, kind="stable"), settings)
    ]
    columns = [*settings, "fastest", "tied", "runner_up", "gain", *shown]
    return _in_order(pd.DataFrame(found, columns=columns), swept.rows, settings)


def topology_losses(frame: pd.DataFrame | Swept) -> pd.DataFrame:
    """Return what the slowest topology costs in every setting, at the same density.

    Returns:
        One row per setting and density with several topologies: the circumstances that vary,
        ``sending``, ``fastest``, ``slowest`` and ``loss``, the slowest one's time over the
        fastest one's.

    Raises:
        ValueError: if the frame is not that of a sweep.
    """
    swept = Swept.of(frame).ranked()
    settings = [*(axis.column for axis in swept.axes), SENDING]
    by_cost = swept.rows.sort_values(COST, kind="stable")
    ends = by_cost.groupby(settings, sort=False, dropna=False).agg(
        fastest=("topology", "first"),
        slowest=("topology", "last"),
        least=(COST, "first"),
        most=(COST, "last"),
        count=(COST, "size"),
    )
    several = ends[ends["count"] > 1].reset_index()
    several["loss"] = several["most"] / several["least"]
    return _in_order(several[[*settings, "fastest", "slowest", "loss"]], swept.rows, settings)


def groups(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[Row, pd.DataFrame]]:
    """Yield the values of *columns* by name, and the rows that have them, in order."""
    if rows.empty:
        return
    if not columns:
        yield {}, rows
        return
    for key, group in rows.groupby(list(columns), sort=False, dropna=False):
        yield dict(zip(columns, key, strict=True)), group


def _in_order(table: pd.DataFrame, rows: pd.DataFrame, settings: list[str]) -> pd.DataFrame:
    """Return *table*, whose rows came sorted by cost, in the order of the frame."""
    if not settings or table.empty:
        return table
    return rows[settings].drop_duplicates().merge(table, on=settings)


def _winner(group: pd.DataFrame, who: str, order: dict[str, int], shown: Sequence[str]) -> Row:
    """Return what *group*, which is sorted by cost, says about its fastest."""
    best = dict(zip(reversed(group[who].tolist()), reversed(group[COST].tolist()), strict=True))
    ways, costs = zip(*sorted(best.items(), key=lambda item: item[1]), strict=True)
    tied = [way for way, cost in zip(ways, costs, strict=True) if cost <= (1 + TIE) * costs[0]]
    rest = len(tied)
    return {
        "fastest": ways[0],
        "tied": tuple(sorted(tied, key=order.__getitem__)),
        "runner_up": ways[rest] if rest < len(ways) else None,
        "gain": costs[rest] / costs[0] if rest < len(ways) else 1.0,
        **{column: group[column].iloc[0] for column in shown},
    }
