"""Axes of a sweep: the columns that it can vary, with their names, units and scales."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

import pandas as pd

from dgc_topo.report.style import short
from dgc_topo.units import bytes_text, percent_text, rate_text, seconds_text

Scale = Literal["rates", "ranks", "seconds", "bytes", "factors", "names"]


class Axis(NamedTuple):
    """A column that a sweep can vary.

    Attributes:
        column: Name of the column.
        label: Name for people, with its unit where the values do not say it.
        scale: Kind of its values, which decides how an axis of a figure shows them.
        text: Function that names a value, such as ``64 ranks``.
    """

    column: str
    label: str
    scale: Scale
    text: Callable[[Any], str]


def _bandwidth(bytes_per_s: float) -> str:
    return rate_text(8 * bytes_per_s)


def _yes(label: str) -> Callable[[Any], str]:
    return lambda value: label if value else f"no {label}"


def _numbered(form: str) -> Callable[[Any], str]:
    return lambda value: form.format(f"{value:,.6g}")


def _size(label: str) -> Callable[[Any], str]:
    return lambda value: f"{short(bytes_text(value))} {label}".strip()


def density_text(density: float) -> str:
    """Return the name of a density, ``dense`` if all is sent."""
    return "dense" if density >= 1 else percent_text(density)


#: In the order in which figures prefer them for their panels.
AXES = {
    axis.column: axis
    for axis in (
        Axis("workload", "model", "names", str),
        Axis("num_bytes", "bytes per rank", "bytes", _size("")),
        Axis("world_size", "world size (ranks)", "ranks", _numbered("{} ranks")),
        Axis("bandwidth_bytes_per_s", "bandwidth of a host's port", "rates", _bandwidth),
        Axis("network", "network", "names", str),
        Axis("overlap", "overlap", "names", _yes("overlap")),
        Axis(
            "latency_s",
            "latency, host to host",
            "seconds",
            lambda seconds: f"latency {short(seconds_text(seconds))}",
        ),
        Axis("hosts_per_rack", "hosts per rack", "ranks", _numbered("{} hosts per rack")),
        Axis(
            "oversubscription",
            "oversubscription of the racks' uplinks",
            "factors",
            _numbered("oversubscription {}"),
        ),
        Axis(
            "slow_host_factor",
            "factor on one host's links",
            "factors",
            _numbered("factor {} on one host's links"),
        ),
        Axis(
            "slow_rank_factor",
            "factor on one rank's compute time",
            "factors",
            _numbered("factor {} on one rank's compute time"),
        ),
        Axis("bucket_bytes", "bytes per bucket", "bytes", _size("buckets")),
        Axis("wire_dtype", "values on the wire", "names", str),
        Axis("accumulation_steps", "passes per step", "ranks", _numbered("{} passes per step")),
        Axis("density", "density", "names", density_text),
        Axis("topology", "topology", "names", str),
    )
}
#: Named networks have one bandwidth and one latency each, so that these vary together.
_TOGETHER = ("network", "bandwidth_bytes_per_s", "latency_s")


def axis_called(name: str) -> Axis:
    """Return an axis by its column, with or without the unit: ``bandwidth``, ``latency_s``.

    Raises:
        ValueError: if there is no such axis.
    """
    for axis in AXES.values():
        if name in (axis.column, _plain(axis.column)):
            return axis
    known = ", ".join(map(_plain, AXES))
    raise ValueError(f"axis {name!r}: unknown, expected one of {known}")


def values_of(rows: pd.DataFrame, column: str) -> list[Any]:
    """Return the distinct values of a column: numbers rising, names in order of appearance."""
    if column not in rows:
        return []
    found = list(rows[column].dropna().unique())
    return found if AXES[column].scale == "names" and column != "density" else sorted(found)


def vary_together(rows: pd.DataFrame, column: str, other: Hashable) -> bool:
    """Return True if *column* is a property of *other*, as the latency is of named networks."""
    if column not in _TOGETHER or other not in _TOGETHER:
        return False
    return bool(rows.groupby(other, dropna=False)[column].nunique(dropna=False).max() == 1)


def _plain(column: str) -> str:
    return column.removesuffix("_bytes_per_s").removesuffix("_s")
