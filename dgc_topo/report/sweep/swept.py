"""`Swept`: a sweep's frame, ready to be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pandas as pd

from dgc_topo.network.fabrics import FABRICS
from dgc_topo.report.style import Styles
from dgc_topo.report.sweep.axes import CHOICES, OTHER_CHOICES, SETTINGS, Axis, sending_text, varying
from dgc_topo.topology import TopologyError, load_topology

STEP, COLLECTIVE = "step_time_s", "time_s"
#: Columns that `Swept` adds: a way's name, its choices beside the topology, what a sample costs.
WAY, SENDING, COST = "way", "sending", "cost"
_NEEDED = ("topology", "world_size")


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """Predictions of a sweep.

    Attributes:
        rows: One row per prediction; the columns of the frame, and ``way``, ``sending``, ``cost``.
        skipped: Rows of the frame that were not predicted; ``skipped`` says why.
        axes: Circumstances that vary.
        time: Column of what is predicted: ``step_time_s`` or ``time_s``.
        styles: Colours and line styles of topologies and of what they send.
    """

    rows: pd.DataFrame
    skipped: pd.DataFrame
    axes: tuple[Axis, ...]
    time: str
    styles: Styles

    @classmethod
    def of(cls, frame: pd.DataFrame | Swept) -> Swept:
        """Return the predictions in the frame of a sweep.

        Raises:
            ValueError: if a column is missing, or two rows say different things of the same case.
        """
        if isinstance(frame, Swept):
            return frame
        time = _time_column(frame)
        if time not in frame:
            frame = frame.assign(**{time: float("nan")})
        left_out = _is_skipped(frame, time)
        rows = _once(_named(frame[~left_out]), time)
        axes = varying(rows)
        cost = 1 / rows["samples_per_s"] if _has_all(rows, "samples_per_s") else rows[time]
        sendings = rows.sort_values("density", ascending=False, kind="stable")[SENDING]
        styles = Styles(tuple(rows["topology"].unique()), tuple(sendings.unique()))
        rows = rows.assign(**{COST: cost})
        return cls(rows, frame[left_out].reset_index(drop=True), axes, time, styles)

    @property
    def is_step(self) -> bool:
        """True for training steps, False for plain collectives."""
        return self.time == STEP

    def varies(self, *columns: str) -> bool:
        """Return True if all of these circumstances or choices vary."""
        known = {axis.column for axis in self.axes}
        return all(
            column in known or (column in CHOICES and self.rows[column].nunique() > 1)
            for column in columns
        )

    def only(self, rows: pd.DataFrame) -> Swept:
        """Return some of the rows, with the same axes and styles."""
        return replace(self, rows=rows)

    def held(self, free: Iterable[str], *, each_way: bool = False) -> tuple[Swept, str]:
        """Return the rows of one value of each axis that is not *free*, and say which.

        Held are the largest world and size, a bandwidth near 1 GbE, and of others the value with
        the most rows, or the first.

        Args:
            free: Columns that may vary.
            each_way: Keep all ways; else only topologies and densities vary, and the first of all
                other choices is taken.
        """
        swept, said = (self, []) if each_way else self._simple()
        rows = swept.rows
        for axis in self.axes:
            if axis.column in free or rows.empty:
                continue
            value = _reference(rows[axis.column])
            rows = rows[is_value(rows[axis.column], value)]
            said.append(_held_text(axis, value))
        return swept.only(rows), ", ".join(said)

    def _simple(self) -> tuple[Swept, list[str]]:
        rows, said = self.rows, []
        for axis in OTHER_CHOICES:
            if axis.column in rows and rows[axis.column].nunique(dropna=False) > 1:
                value = rows[axis.column].iloc[0]
                rows = rows[is_value(rows[axis.column], value)]
                said.append(_held_text(axis, value))
        return (Swept.of(rows) if said else self), said

    def ranked(self) -> Swept:
        """Return what may be called fastest: all-reduces, if there are any.

        A step of gossip does less than an all-reduce, so its speed alone does not make it best.
        """
        whole = [topology for topology in self.styles.topologies if is_all_reduce(topology)]
        rows = self.rows[self.rows["topology"].isin(whole)]
        return self if rows.empty else self.only(rows)

    def ways(self) -> list[str]:
        """Return the names of all ways, topologies in order of appearance, dense first."""
        pairs = self.rows[["topology", SENDING, WAY]].drop_duplicates()
        order = [
            (self.styles.topologies.index(topology), self.styles.densities.index(sending), way)
            for topology, sending, way in pairs.itertuples(index=False)
        ]
        return [way for *_, way in sorted(order)]


def _held_text(axis: Axis, value: Any) -> str:
    return axis.text(value) if pd.notna(value) else f"no {axis.label}"


def values_of(rows: pd.DataFrame, column: str) -> list[Any]:
    """Return the values of a column: numbers in their order, names in order of appearance."""
    found = rows[column].drop_duplicates().dropna()
    return list(found.sort_values() if pd.api.types.is_numeric_dtype(found) else found)


def is_value(column: pd.Series[Any], value: Any) -> pd.Series[bool]:
    """Return where a column has a value; nothing (NaN) is a value, too."""
    return column == value if pd.notna(value) else column.isna()


@lru_cache
def is_all_reduce(topology: str) -> bool:
    """Return True unless the topology is known to be gossip; a file may be gone by now."""
    with suppress(TopologyError, ValueError):
        return load_topology(topology).goal == "all-reduce"
    return True


def _time_column(frame: pd.DataFrame) -> str:
    missing = [column for column in _NEEDED if column not in frame]
    if missing:
        raise ValueError(f"frame: no column {missing[0]!r}, expected the frame of a sweep")
    for column in (STEP, COLLECTIVE):
        if column in frame and (frame[column].notna().any() or column == COLLECTIVE):
            return column
    if STEP in frame or ("skipped" in frame and frame["skipped"].notna().all()):
        return STEP
    raise ValueError(f"frame: no column {STEP!r} or {COLLECTIVE!r}, expected the frame of a sweep")


def _is_skipped(frame: pd.DataFrame, time: str) -> pd.Series[bool]:
    nothing = frame[time].isna()
    if "skipped" not in frame:
        return nothing
    return nothing | frame["skipped"].fillna("").astype(str).ne("")


def _has_all(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and bool(rows[column].notna().all())


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with a density each, the names of their ways, and nothing twice."""
    density = rows["density"].fillna(1.0) if "density" in rows else 1.0
    rows = rows.assign(density=density, topology=rows["topology"].astype(str))
    varied = [c for c in CHOICES if c in rows and rows[c].nunique() > 1]
    choices = [column for column in CHOICES if column in rows]
    keys = rows[choices].itertuples(index=False, name=None)
    texts = [sending_text(dict(zip(choices, key, strict=True)), varied) for key in keys]
    sending = pd.Series(texts, index=rows.index, dtype=object)
    return rows.assign(**{SENDING: sending, WAY: rows["topology"] + ", " + sending})


def _once(rows: pd.DataFrame, time: str) -> pd.DataFrame:
    """Return *rows* without those that say the same again."""
    case = [axis.column for axis in SETTINGS if axis.column in rows] + [WAY]
    again = rows.drop_duplicates([*case, time])
    twice = again[again.duplicated(case)]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(
            f"frame: several times for {first[WAY]} on {first['world_size']} ranks in the same "
            "circumstances, expected one row per case; keep the rows of one sweep"
        )
    return again


def _reference(column: pd.Series[Any]) -> Any:
    if column.name in ("world_size", "num_bytes"):
        return column.max()
    counts = column.value_counts(dropna=False, sort=False)
    most: Sequence[Any] = [value for value, count in counts.items() if count == counts.max()]
    if column.name == "bandwidth_bytes_per_s":
        wanted = FABRICS["1gbe"].bandwidth_bytes_per_s
        return min(most, key=lambda each: max(each / wanted, wanted / each))
    return most[0]
