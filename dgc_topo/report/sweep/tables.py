"""Tables of a sweep, as rows of text with units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from dgc_topo.report.sweep.axes import (
    BANDWIDTH,
    DENSITY,
    OTHER_CHOICES,
    WORKLOAD,
    WORLD_SIZE,
    Axis,
    bandwidth_text,
    between_text,
    spread,
)
from dgc_topo.report.sweep.break_even import ABOVE, ANY, INSIDE, break_even
from dgc_topo.report.sweep.choices import fastest, topology_losses
from dgc_topo.report.sweep.findings import compared_networks, skip_reasons
from dgc_topo.report.sweep.swept import SENDING, WAY, Swept, values_of
from dgc_topo.text import markdown
from dgc_topo.units import seconds_text, times_text

_SIZES = 4  # world sizes of a table, at most
_LISTED = 12  # values of an axis that are listed
_SKIPPED = 100  # skipped cases that are listed
_BEST = "the best"
MISSING = "-"


class TextTable(NamedTuple):
    """A table.

    Attributes:
        title: Its title.
        note: How to read it, in whole sentences.
        head: Headings.
        rows: Texts, one per heading.
    """

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def axes_table(swept: Swept) -> TextTable:
    """Return what varies, with its values."""
    choices = [Axis("topology", "topology", str), DENSITY, *OTHER_CHOICES]
    varied = [*(axis for axis in choices if swept.varies(axis.column)), *swept.axes]
    rows = tuple((axis.title, _values_text(swept.rows, axis)) for axis in varied)
    note = f"All combinations: {len(swept.rows):,} predicted, {len(swept.skipped):,} skipped."
    return TextTable("What was swept", note, ("axis", "values"), rows)


def _values_text(rows: pd.DataFrame, axis: Axis) -> str:
    values = values_of(rows, axis.column)
    if axis == DENSITY:
        values.reverse()  # dense first, as everywhere
    texts = [f"{v:g}" if axis == WORLD_SIZE else axis.text(v) for v in values]
    if rows[axis.column].isna().any():
        texts.append("none")
    if len(texts) <= _LISTED:
        return ", ".join(texts)
    return f"{texts[0]} to {texts[-1]} ({len(texts)} values)"


def best_table(swept: Swept) -> TextTable:
    """Return the fastest way for each model, kind of network and a few world sizes."""
    free = {axis.column for axis in swept.axes if axis.column in _COMPARED}
    here, held = swept.ranked().held(free, each_way=True)
    rows = tuple(_best_rows(here))
    head = ("model", "network", "ranks", "fastest", "time", "speed-up", "ties", "over the next")
    note = (
        "The fastest topology and density. Ties: all within 1 % of it. Over the next: its "
        "throughput over that of the next best. Wrong topology: the slowest one at the density of "
        "the fastest, and how many times as long it takes."
    )
    if held:
        note += f" With {held}."
    return TextTable("The best way", note, (*head, "wrong topology"), rows)


_COMPARED = ("workload", "network", "bandwidth_bytes_per_s", "world_size")


def _best_rows(swept: Swept) -> Iterator[tuple[str, ...]]:
    named = "workload" in swept.rows
    for model in swept.rows["workload"].drop_duplicates() if named else [None]:
        of_model = swept.only(swept.rows[swept.rows["workload"] == model]) if model else swept
        for network, part in compared_networks(of_model):
            for size in spread(values_of(part.rows, "world_size"), _SIZES):
                case = part.only(part.rows[part.rows["world_size"] == size])
                yield (
                    str(model or MISSING),
                    network.removeprefix("at ").removeprefix("on ") or MISSING,
                    f"{size}",
                    *_winner_texts(case),
                )


def _winner_texts(case: Swept) -> tuple[str, ...]:
    (won,) = fastest(case).to_dict("records")
    others = [way for way in won["tied"] if way != won["fastest"]]
    few = "; ".join(others) if len(others) <= 2 else f"{len(others)} others"  # noqa: PLR2004
    row = case.rows[case.rows[WAY] == won["fastest"]].iloc[0]
    losses = topology_losses(case)
    wrong = losses[losses[SENDING] == row[SENDING]].to_dict("records")
    return (
        won["fastest"],
        seconds_text(won[case.time]),
        times_text(won["speedup"]) if "speedup" in won else MISSING,
        few or MISSING,
        times_text(won["gain"]) if pd.notna(won["runner_up"]) else MISSING,
        f"{wrong[0]['slowest']}, {times_text(wrong[0]['loss'])}" if wrong else MISSING,
    )


def break_even_table(swept: Swept) -> TextTable | None:
    """Return the break-even bandwidths, if a frame has bandwidths, dense and compressed ways."""
    here, held = swept.held(_COMPARED)
    table = break_even(here)
    if table.empty:
        return None
    if "world_size" not in table:
        table = table.assign(world_size=here.rows["world_size"].iloc[0])
    if "workload" not in table:
        table = table.assign(workload=_only_model(here))
    sizes = spread(values_of(table, "world_size"), _SIZES)
    ends = values_of(here.rows, BANDWIDTH.column)
    rows = []
    for (model, topology, sending), lines in table.groupby(
        ["workload", "topology", SENDING], sort=False, dropna=False
    ):
        by_size = {line["world_size"]: line for line in lines.to_dict("records")}
        cells = [_edge_text(by_size.get(size), ends[0], ends[-1]) for size in sizes]
        gains = [times_text(by_size[s]["largest_gain"]) for s in sizes if s in by_size]
        span = gains[0] if len(set(gains)) == 1 else f"{gains[0]} to {gains[-1]}"
        name = _BEST if topology == ANY else str(topology)
        rows.append((str(model), name, str(sending), *cells, span))
    note = (
        "Bandwidth up to which compressing gains more than 1 %, against dense steps over the same "
        "topology (the best: of all, for each). > and <: beyond the swept range. Interpolated "
        "between the two swept bandwidths in brackets; at the first it pays, at the second not."
    )
    if held:
        note += f" With {held}."
    named = [f"{size} ranks" for size in sizes]
    gain = "largest gain" if len(sizes) == 1 else f"largest gain, {named[0]} to {named[-1]}"
    head = ("model", "topology", "density", *named, gain)
    return TextTable("Where compression stops to pay", note, head, tuple(rows))


def _only_model(swept: Swept) -> str:
    first = swept.rows["workload"].iloc[0] if WORKLOAD.column in swept.rows else None
    return first if isinstance(first, str) else MISSING


def _edge_text(line: dict[Any, Any] | None, low: float, high: float) -> str:
    if line is None:
        return MISSING
    if line["place"] == INSIDE:
        sides = between_text(line["pays_at_bytes_per_s"], line["not_at_bytes_per_s"])
        return f"{bandwidth_text(line['break_even_bytes_per_s'], digits=2)} ({sides})"
    return f"> {BANDWIDTH.text(high)}" if line["place"] == ABOVE else f"< {BANDWIDTH.text(low)}"


def skipped_table(swept: Swept) -> TextTable | None:
    """Return the cases that were not predicted, with the reason, if there are any."""
    if swept.skipped.empty:
        return None
    columns = [
        c
        for c in ("topology", "density", "world_size", "workload", "network")
        if c in swept.skipped
    ]
    cases = swept.skipped[[*columns, *(["skipped"] if "skipped" in swept.skipped else [])]]
    grouped = cases.fillna(MISSING).astype(str).value_counts(sort=False).reset_index()
    shown = grouped.head(_SKIPPED)
    rows = tuple(tuple(map(str, row)) for row in shown.itertuples(index=False, name=None))
    reasons = "; ".join(f"{reason} ({count:,})" for reason, count in skip_reasons(swept))
    more = f" The first {_SKIPPED} are listed." if len(grouped) > _SKIPPED else ""
    note = f"{len(swept.skipped):,} cases are in no picture: {reasons}.{more}"
    head = (*columns, *(["why"] if "skipped" in swept.skipped else []), "cases")
    return TextTable("What was skipped", note, head, rows)


def markdown_text(table: TextTable) -> str:
    """Return a table as GitHub-flavoured Markdown."""
    head, *rows = ([markdown(text) for text in row] for row in (table.head, *table.rows))
    lines = [head, [":---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
