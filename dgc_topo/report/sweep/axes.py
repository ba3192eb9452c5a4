"""Axes of a sweep: what varies in its frame, and how values are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from dgc_topo.network.fabrics import FABRICS
from dgc_topo.report.style import short
from dgc_topo.sizes import is_sparse
from dgc_topo.units import bytes_text, percent_text, rate_text, seconds_text

#: Columns that a user may choose freely; a way is one value of each.
CHOICES = ("topology", "density", "overlap", "bucket_bytes", "wire_dtype")


class Axis(NamedTuple):
    """A circumstance that a sweep may vary.

    Attributes:
        column: Column of the frame.
        label: Label of a figure's axis.
        text: Text of one value.
        name: Name in titles, if it is shorter than the label.
    """

    column: str
    label: str
    text: Callable[[Any], str]
    name: str = ""

    @property
    def title(self) -> str:
        """Name in titles."""
        return self.name or self.label


def bandwidth_text(bytes_per_s: float, digits: int = 3) -> str:
    """Return a bandwidth in bits, rounded as people say it, such as ``316 Mbit/s``."""
    return rate_text(float(f"{8 * bytes_per_s:.{digits}g}"))


def between_text(low_bytes_per_s: float, high_bytes_per_s: float) -> str:
    """Return two bandwidths, their unit once if it is the same: ``17.8 and 31.6 Gbit/s``."""
    low, high = bandwidth_text(low_bytes_per_s), bandwidth_text(high_bytes_per_s)
    number, unit = low.split(" ")
    return f"{number if high.endswith(f' {unit}') else low} and {high}"


BANDWIDTH = Axis("bandwidth_bytes_per_s", "bandwidth of a host's link", bandwidth_text, "bandwidth")
NETWORK = Axis("network", "network", str)
WORLD_SIZE = Axis(
    "world_size", "world size (ranks)", lambda value: f"{value:.0f} ranks", "world size"
)
WORKLOAD = Axis("workload", "model", str)
NUM_BYTES = Axis("num_bytes", "bytes", bytes_text, "size")
AVERAGING = Axis("averaging", "averaging rule", str)
DENSITY = Axis(
    "density", "density", lambda value: percent_text(value) if is_sparse(value) else "dense"
)


#: Choices beside topology and density.
OTHER_CHOICES = (
    Axis("overlap", "overlap", lambda value: "overlapping" if value else "after computing"),
    Axis("bucket_bytes", "buckets", lambda value: f"buckets of {value / 2**20:g} MiB"),
    Axis("wire_dtype", "type on the wire", str),
)
#: Circumstances, in the order in which texts name them.
SETTINGS = (
    WORKLOAD,
    NUM_BYTES,
    NETWORK,
    BANDWIDTH,
    WORLD_SIZE,
    Axis(
        "latency_s",
        "latency of a link",
        lambda value: f"{short(seconds_text(value))} latency",
        "latency",
    ),
    Axis("accumulation_steps", "passes per step", lambda value: f"{value:.0f} passes per step"),
    Axis(
        "every",
        "local steps per exchange",
        lambda value: f"an exchange every {value:.0f} step{'s' * (value > 1)}",
        "local steps",
    ),
    AVERAGING,
    Axis("hosts_per_rack", "hosts per rack", lambda value: f"{value:.0f} hosts per rack"),
    Axis("oversubscription", "oversubscription", lambda value: f"oversubscription {value:g}"),
    Axis(
        "slow_host_factor",
        "one host's bandwidth over the others'",
        lambda value: "no slow host" if value == 1 else f"one host's bandwidth times {value:g}",
        "a slow host's bandwidth",
    ),
    Axis(
        "slow_rank_factor",
        "one rank's compute time over the others'",
        lambda value: "no slow rank" if value == 1 else f"one rank's compute time times {value:g}",
        "a slow rank's compute time",
    ),
)
#: Columns that describe the wires; a network's name may stand for all of them.
_WIRES = (
    "bandwidth_bytes_per_s",
    "latency_s",
    "hosts_per_rack",
    "oversubscription",
    "slow_host_factor",
)


def varying(rows: pd.DataFrame) -> tuple[Axis, ...]:
    """Return the axes of which *rows* have several values, without those that others imply."""
    found = [axis for axis in SETTINGS if _varies(rows, axis.column)]
    implied: set[str] = set()
    if WORKLOAD in found and _determines(rows, ["workload"], ["num_bytes"]):
        implied.add("num_bytes")
    if AVERAGING in found and _determines(rows, ["averaging"], ["every"]):
        implied.add("every")
    if NETWORK in found:
        implied |= _implied_by_names(rows, [c for c in _WIRES if _varies(rows, c)])
    return tuple(axis for axis in found if axis.column not in implied)


def _varies(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and rows[column].nunique(dropna=False) > 1


def _implied_by_names(rows: pd.DataFrame, wires: list[str]) -> set[str]:
    """Return the columns that say again what others say: the names, or some of the numbers.

    Names that only repeat the numbers are left out if there is a network for each combination
    of numbers.  Else what each network has one of belongs to it, as 1 GbE has another latency
    than InfiniBand.
    """
    of_network = [column for column in wires if _determines(rows, ["network"], [column])]
    if of_network == wires and wires and _determines(rows, wires, ["network"]):
        combinations = 1
        for column in wires:
            combinations *= rows[column].nunique(dropna=False)
        if len(rows[wires].drop_duplicates()) == combinations:
            return {"network"}
    return set(of_network)


def _determines(rows: pd.DataFrame, given: list[str], columns: list[str]) -> bool:
    """Return True if *columns* have one value each for every value of *given*."""
    known = [column for column in columns if column in rows]
    if not known:
        return True
    return len(rows[[*given, *known]].drop_duplicates()) == len(rows[given].drop_duplicates())


def sending_text(row: dict[str, Any], varied: Sequence[str]) -> str:
    """Return the choices of a way beside its topology, such as ``0.1 %, overlapping``."""
    others = [
        axis.text(row[axis.column])
        for axis in OTHER_CHOICES
        if axis.column in varied and pd.notna(row[axis.column])
    ]
    return ", ".join([DENSITY.text(row["density"]), *others])


def spread(values: Sequence[Any], most: int) -> list[Any]:
    """Return at most *most* of *values*, evenly spread, with the first and the last."""
    if len(values) <= most:
        return list(values)
    if most == 1:
        return [values[-1]]
    last = len(values) - 1
    return [values[round(index * last / (most - 1))] for index in range(most)]


_NEAR = 1.25  # factor within which a bandwidth is that of a fabric
_ENDS = 2
_ETHERNET = ("1gbe", "10gbe", "25gbe", "100gbe")


def fabric_near(bandwidth_bytes_per_s: float) -> str:
    """Return the name of the Ethernet whose bandwidth is about this one, or ""."""
    for name in _ETHERNET:
        ratio = FABRICS[name].bandwidth_bytes_per_s / bandwidth_bytes_per_s
        if 1 / _NEAR <= ratio <= _NEAR:
            return name
    return ""


def network_classes(bandwidths: Sequence[float], most: int = 4) -> list[float]:
    """Return bandwidths to compare: the ends, and those that are nearest to an Ethernet's.

    Args:
        bandwidths: Swept ones, in bytes per second.
        most: Number of bandwidths to return, at most; without room for the ends, where little
            is decided, they are left out.
    """
    ordered = sorted(set(bandwidths))
    if len(ordered) <= most:
        return ordered
    chosen = {ordered[0], ordered[-1]} if most > _ENDS + 1 else set()
    for name in _ETHERNET:
        wanted = FABRICS[name].bandwidth_bytes_per_s
        near = min(ordered, key=lambda each: max(each / wanted, wanted / each))
        if fabric_near(near) == name and len(chosen) < most:
            chosen.add(near)
    for extra in spread(ordered, most):
        if len(chosen) < most:
            chosen.add(extra)
    return sorted(chosen)
