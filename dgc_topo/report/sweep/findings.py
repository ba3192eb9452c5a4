"""Findings of a sweep as sentences: the best way per network, the break-even, the worst mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dgc_topo.records.measurement import ONE_DENSE_WORKER
from dgc_topo.report.summary import cost_text
from dgc_topo.report.sweep.axes import (
    BANDWIDTH,
    NETWORK,
    WORKLOAD,
    WORLD_SIZE,
    Axis,
    bandwidth_text,
    between_text,
    fabric_near,
    network_classes,
)
from dgc_topo.report.sweep.break_even import ABOVE, ANY, INSIDE, break_even
from dgc_topo.report.sweep.choices import TIE, fastest, topology_losses
from dgc_topo.report.sweep.swept import COST, SENDING, WAY, Swept, is_value, values_of
from dgc_topo.sizes import is_sparse
from dgc_topo.units import seconds_text, three_digits, times_text

_MANY_MODELS = 3  # models, up to which all is said of each
_NAMED = 3  # ties that are named; of more, only the number is said
_REASONS = 5  # reasons for skipping that are told


def findings(frame: pd.DataFrame | Swept) -> list[str]:
    """Return one sentence per question that a sweep answers, and the assumptions behind them.

    Raises:
        ValueError: if the frame is not that of a sweep.
    """
    swept = Swept.of(frame)
    if swept.rows.empty:
        return [*_nothing(swept), *_skipped(swept)]
    if len(swept.rows) == 1:
        return [f"Predicted: one case, {_case_text(swept)}; nothing to compare.", *_skipped(swept)]
    free = {BANDWIDTH.column, NETWORK.column, WORLD_SIZE.column, WORKLOAD.column}
    main, held = swept.held(free, each_way=True)
    works = list(_by(main, WORKLOAD))
    few = len(works) > _MANY_MODELS  # what is left out is in the page's tables
    return [
        *(line for part in works for line in _best(part, most=2 if few else 4)),
        *(line for part in _by_case(works) for line in _pays(part, each_density=not few)),
        *_worst(swept),
        *_notes(swept, held),
        *_skipped(swept),
    ]


def _nothing(swept: Swept) -> Iterator[str]:
    yield "Nothing is predicted: " + (
        "every case was skipped." if len(swept.skipped) else "the sweep holds no cases."
    )


def _by(swept: Swept, axis: Axis) -> Iterator[Swept]:
    """Yield the rows of each value of an axis."""
    if axis.column not in swept.rows:
        yield swept
        return
    for value in swept.rows[axis.column].drop_duplicates():
        yield swept.only(swept.rows[is_value(swept.rows[axis.column], value)])


def _by_case(works: list[Swept]) -> Iterator[Swept]:
    """Yield the rows of each model on each network that is swept by name."""
    for part in works:
        yield from _by(part, NETWORK) if NETWORK in part.axes else [part]


def compared_networks(swept: Swept, most: int = 4) -> list[tuple[str, Swept]]:
    """Return a name and the rows of the networks to compare: Ethernets, and both ends.

    Args:
        swept: Predictions.
        most: Number of bandwidths, at most; named networks are all compared.
    """
    parts = [("", swept)]
    for axis in (NETWORK, BANDWIDTH):
        if axis in swept.axes:
            parts = [each for name, part in parts for each in _by_network(name, part, axis, most)]
    return parts


def _by_network(name: str, swept: Swept, axis: Axis, most: int) -> Iterator[tuple[str, Swept]]:
    """Yield a longer name, and the rows, for each value of an axis."""
    values = values_of(swept.rows, axis.column)
    for value in network_classes(values, most) if axis == BANDWIDTH else values:
        rows = swept.rows[swept.rows[axis.column] == value]
        yield f"{name} {_network_name(axis, value)}".strip(), swept.only(rows)


def _network_name(axis: Axis, value: Any) -> str:
    if axis == NETWORK:
        return f"on {value}"
    near = fabric_near(value)
    return f"at {bandwidth_text(value)}{f' (about {near})' if near else ''}"


def _where(swept: Swept, network: str = "") -> str:
    """Return the model, the network and the ranks that rows share, as far as they are known."""
    first = swept.rows.iloc[0]
    model = first["workload"] if "workload" in swept.rows else None
    parts = [str(model)] if isinstance(model, str) else []
    return ", ".join([*parts, f"{first['world_size']} ranks"]) + (f" {network}" if network else "")


def _best(swept: Swept, most: int) -> Iterator[str]:
    """Name the fastest way on each kind of network, in the largest world."""
    ranked = swept.ranked()
    largest = ranked.only(ranked.rows[ranked.rows["world_size"] == ranked.rows["world_size"].max()])
    for network, part in compared_networks(largest, most):
        if part.rows[WAY].nunique() > 1:
            yield f"Predicted for {_where(part, network)}: {_best_text(part)}."


def _case_text(swept: Swept) -> str:
    way = swept.rows[WAY].iloc[0]
    return f"{_where(swept)}, {way} takes {seconds_text(swept.rows[swept.time].iloc[0])}"


def _best_text(swept: Swept) -> str:
    (won,) = fastest(swept).to_dict("records")
    best, tied = won["fastest"], won["tied"]
    if len(tied) > _NAMED:
        ways = swept.rows[WAY].nunique()
        number = f"all {ways}" if len(tied) == ways else f"{len(tied)} of {ways}"
        return f"{number} ways are within 1 % of the fastest, {_reach(swept, best)}"
    others = " and ".join(way for way in tied if way != best)
    tie = f"; {others} within 1 % of it" if others else ""
    return f"fastest is {_reach(swept, best)}{tie}{_against_dense(swept, best)}"


def _against_dense(swept: Swept, way: str) -> str:
    """Return how much faster a compressed way is than the best dense one, or that none pays."""
    by_cost = swept.rows.sort_values(COST, kind="stable")
    sparse = by_cost["density"].map(is_sparse).astype(bool)
    if sparse.all() or not sparse.any():
        return ""
    dense, compressed = by_cost[~sparse].iloc[0], by_cost[sparse].iloc[0]
    gain = dense[COST] / compressed[COST]
    if gain <= 1 + TIE and way == compressed[WAY]:  # the dense one is among the ties
        return ", so compression does not pay there"
    if gain <= 1 + TIE:
        return f"; compression does not pay there (at best {_reach(swept, compressed[WAY])})"
    return f"; the best dense way is {_reach(swept, dense[WAY])}, so compression gains {_x(gain)}"


def _reach(swept: Swept, way: str) -> str:
    row = swept.rows[swept.rows[WAY] == way].iloc[0]
    if swept.is_step and "speedup" in row:
        return f"{way} (speed-up {_x(row['speedup'])})"
    return f"{way} ({seconds_text(row[swept.time])})"


def _x(factor: float) -> str:
    return times_text(factor)


def _pays(swept: Swept, *, each_density: bool) -> Iterator[str]:
    """Say up to which bandwidth compression pays, in the smallest and the largest world.

    Args:
        swept: Predictions of one model.
        each_density: Say it of each density, not only of the lowest.
    """
    simple, held = swept.held({axis.column for axis in swept.axes})
    table = break_even(simple)
    if table.empty:
        return
    any_topology = bool((table["topology"] == ANY).any())
    chosen = table[table["topology"] == (ANY if any_topology else table["topology"].iloc[0])]
    model = swept.rows["workload"].iloc[0] if "workload" in swept.rows else None
    what = f" for {model}" if isinstance(model, str) else ""
    if NETWORK in swept.axes:
        what += f" on {swept.rows['network'].iloc[0]}"
    over = "" if any_topology else f" over {chosen['topology'].iloc[0]}"
    over += f" ({held})" if held else ""
    if not each_density:
        chosen = chosen[chosen[SENDING] == simple.styles.densities[-1]]
    for sending, lines in chosen.groupby(SENDING, sort=False):
        ordered = lines.sort_values("world_size") if "world_size" in lines else lines
        ends = ordered.iloc[[0, -1]] if len(ordered) > 1 else ordered
        said = "; ".join(_pays_text(row, swept) for row in ends.to_dict("records"))
        yield f"Predicted{what}, {sending} against the best dense way{over}: {said}."


def _pays_text(row: dict[Any, Any], swept: Swept) -> str:
    size = row.get("world_size", swept.rows["world_size"].iloc[0])
    top = row["largest_gain"], bandwidth_text(row["largest_gain_at_bytes_per_s"])
    gain = f"{_x(top[0])} as fast at {top[1]}"
    if row["place"] == INSIDE:
        edge = bandwidth_text(row["break_even_bytes_per_s"], digits=2)
        sides = between_text(row["pays_at_bytes_per_s"], row["not_at_bytes_per_s"])
        return f"on {size} ranks it pays up to about {edge} (between {sides}), and is {gain}"
    if row["place"] == ABOVE:
        edge = bandwidth_text(swept.rows[BANDWIDTH.column].max())
        return f"on {size} ranks it still pays at {edge}, the end of the sweep, and is {gain}"
    return f"on {size} ranks it pays at no swept bandwidth, and is at best {gain}"


def _worst(swept: Swept) -> Iterator[str]:
    """Say what the wrong topology costs at most."""
    losses = topology_losses(swept)
    if losses.empty:
        return
    worst = max(losses.to_dict("records"), key=lambda row: row["loss"])
    if worst["loss"] <= 1 + TIE:
        yield "Predicted: all topologies are within 1 % of each other in every case."
        return
    where = ", ".join(
        axis.text(worst[axis.column]) for axis in swept.axes if pd.notna(worst[axis.column])
    )
    times = three_digits(worst["loss"])
    at = f" ({where}; {worst[SENDING]})" if where else f" ({worst[SENDING]})"
    yield (
        f"Predicted: the wrong topology costs most{at}: {worst['slowest']} takes {times} times as "
        f"long as {worst['fastest']}."
    )


def _notes(swept: Swept, held: str) -> Iterator[str]:
    """Yield what the sentences above rest on."""
    if held:
        yield f"Predicted above with {held}, while other axes vary."
    ranked = swept.ranked().rows
    left_out = [t for t in swept.styles.topologies if t not in set(ranked["topology"])]
    if left_out:
        yield (
            f"Predicted steps of {', '.join(left_out)} do less than an all-reduce: they are drawn "
            "but not called fastest."
        )
    sparse = swept.rows[swept.rows["density"].map(is_sparse).astype(bool)]
    if swept.is_step and len(sparse) and "compress_s" in sparse:
        yield f"Predicted compressing costs {cost_text(set(sparse['compress_s']))}."
    if swept.is_step and len(sparse):
        yield "Predicted are times only: what compression costs in accuracy has to be measured."
    if swept.is_step and "speedup" in swept.rows:
        yield f"Predicted speed-ups are relative to {ONE_DENSE_WORKER}."


def _skipped(swept: Swept) -> Iterator[str]:
    """Say how many cases were not predicted, and why."""
    if swept.skipped.empty:
        return
    reasons = skip_reasons(swept)
    told = "; ".join(f"{reason} ({count:,})" for reason, count in reasons[:_REASONS])
    more = f"; {len(reasons) - _REASONS} more reasons" if len(reasons) > _REASONS else ""
    total = len(swept.skipped) + len(swept.rows)
    yield f"Skipped {len(swept.skipped):,} of {total:,} cases: {told}{more}."


def skip_reasons(swept: Swept) -> list[tuple[str, int]]:
    """Return each reason for which cases were skipped, with their number, the most first."""
    said = swept.skipped.get("skipped", pd.Series("", index=swept.skipped.index))
    counts = said.fillna("").astype(str).replace("", "no reason is given").value_counts()
    return [(str(reason), int(count)) for reason, count in counts.items()]
