"""Axes of a sweep: one value, a list or a range, read alike from a scenario and from Python."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from itertools import product
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, ValidationInfo

from dgc_topo.experiments.scenario.step_keys import WorkloadChoice
from dgc_topo.scalars import plain_bool, plain_float, plain_int
from dgc_topo.simulation.workload import Workload
from dgc_topo.simulation.workload_sources import load_workload
from dgc_topo.tables.explain import explain
from dgc_topo.tables.table import Table
from dgc_topo.topology import Topology, load_topology, read_topology
from dgc_topo.wire.coding import WIRE_DTYPES
from dgc_topo.zoo import known_models

#: Function that reads one value of an axis, or several in a list; its ValueError says what was
#: expected.
Reader = Callable[[Any], Any]

_MOST_VALUES = 10_000
_DIGITS = 12  # of numbers between the ends of a range, so that 1 Gbit/s is found as 1.25e8


class Spread(Table):
    """A range of numbers for an axis of a sweep, both ends included; `spread` makes one."""

    first: int | float | str = Field(alias="from", description="first number, with the axis's unit")
    last: int | float | str = Field(alias="to", description="last number")
    count: int = Field(ge=2, le=_MOST_VALUES, description="how many numbers, both ends included")
    scale: Literal["geometric", "linear"] = Field(
        default="geometric", description="equal ratios between neighbours, or equal differences"
    )

    def __repr__(self) -> str:
        """Return the call of `spread` that makes it."""
        scale = "" if self.scale == "geometric" else f", scale={self.scale!r}"
        return f"spread({self.first!r}, {self.last!r}, {self.count}{scale})"

    def values(self, read: Reader) -> list[float]:
        """Return the numbers; whole ones if *read* takes no others.

        Raises:
            ValueError: if an end is no such number, or neighbours are equal.
        """
        ends = read(self.first), read(self.last)
        if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
            raise ValueError(f"{self!r}: these are no numbers, expected a list")
        if self.scale == "geometric":
            if not all(ends):
                raise ValueError(f"{self!r}: no ratio leads to 0, expected scale = 'linear'")
            inner = np.geomspace(*ends, self.count)[1:-1]
        else:
            inner = np.linspace(*ends, self.count)[1:-1]
        whole = all(isinstance(end, int) for end in ends)
        between = [round(x) if whole else float(f"{x:.{_DIGITS}g}") for x in inner.tolist()]
        found = [ends[0], *map(read, between), ends[1]]
        if len(set(found)) < len(found):
            kind = "whole numbers" if whole else "numbers"
            raise ValueError(f"{self!r}: not so many {kind} from end to end, expected fewer")
        return found


def spread(
    first: float | str,
    last: float | str,
    count: int,
    *,
    scale: Literal["geometric", "linear"] = "geometric",
) -> Spread:
    """Return a range of numbers for an axis of `sweep`.

    In a scenario it is written ``{ from = "100Mbit/s", to = "100Gbit/s", count = 13 }``.

    Args:
        first: First number, or a text with the unit of the axis.
        last: Last number, which is included.
        count: How many numbers there are; on an axis of whole numbers they are rounded.
        scale: ``geometric`` for equal ratios between neighbours, ``linear`` for equal differences.

    Raises:
        ValueError: if that is no range.

    Example:
        >>> dt.spread("100Mbit/s", "100Gbit/s", 13)
        spread('100Mbit/s', '100Gbit/s', 13)
    """
    return _spread_of({"from": first, "to": last, "count": count, "scale": scale})


def values_of(given: object, read: Reader) -> tuple[Any, ...]:
    """Return the values of an axis: of one value, of a range, or of a list of them.

    Raises:
        ValueError: if one cannot be read, there is none, or one is there twice.
    """
    found: list[Any] = []
    for each in given if isinstance(given, list | tuple) else (given,):
        if isinstance(each, dict) and {"from", "to"} & each.keys():
            each = _spread_of(each)  # noqa: PLW2901
        if isinstance(each, Spread):
            found += each.values(read)
        else:
            value = read(each)
            found += value if isinstance(value, list) else [value]
    return _each_once(found)


def _each_once(found: list[Any]) -> tuple[Any, ...]:
    if not found:
        raise ValueError("an empty list, expected at least one value")
    seen: set[Any] = set()
    for value in found:
        key = _key_of(value)
        if key in seen:
            raise ValueError(f"{value} is there twice, expected each once")
        seen.add(key)
    return tuple(found)


def _key_of(value: Any) -> object:
    """Return a value for a set, or its identity if it cannot be in one."""
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def _spread_of(table: dict[str, object]) -> Spread:
    try:
        return Spread.model_validate(table)
    except ValidationError as error:
        raise ValueError(explain(dict(error.errors()[0]), Spread, "range")) from error


def number(
    *,
    unit: Callable[[str, str], float] | None = None,
    above: float | None = None,
    least: float = 0.0,
    most: float = inf,
) -> Reader:
    """Return a reader of numbers, or of texts with a unit.

    Args:
        unit: Function of a text and a name, see `dgc_topo.units`; None takes numbers only.
        above: Number that all are larger than.
        least: Smallest number, if nothing is said *above*.
        most: Largest number.
    """
    floor = f"above {above:g}" if above is not None else f"{least:g} or more"
    expected = floor if most == inf else f"{floor}, at most {most:g}"

    def read(value: object) -> float:
        if isinstance(value, str) and unit is not None:
            plain = unit(value, "value")
        else:
            plain = plain_float("value", value)
        low = plain > above if above is not None else plain >= least
        if not (low and plain <= most and plain < inf):
            raise ValueError(f"{value!r}, expected {expected}")
        return plain

    return read


def whole_number(most: int) -> Reader:
    """Return a reader of whole numbers from 1."""

    def read(value: object) -> int:
        plain = plain_int("value", value)
        if not 1 <= plain <= most:
            raise ValueError(f"{plain}, expected 1 to {most}")
        return plain

    return read


def read_flag(value: object) -> bool:
    """Return true or false."""
    return plain_bool("value", value)


def read_dtype(value: object) -> str:
    """Return a type of values on the wire."""
    if value not in WIRE_DTYPES:
        close = difflib.get_close_matches(str(value), WIRE_DTYPES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{value!r}, expected one of {', '.join(WIRE_DTYPES)}{hint}")
    return str(value)


def read_topologies(value: object, info: ValidationInfo) -> list[Topology]:
    """Return the topologies that a text, a path, a table or a topology means.

    A list as an option's value in a table stands for one topology with each of its values.
    """
    if isinstance(value, Path):
        return [load_topology(value)]
    options = value.get("options") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(options, dict):
        return [read_topology(value, info)]
    lists = [each if isinstance(each, list | tuple) else [each] for each in options.values()]
    chosen = (dict(zip(options, values, strict=True)) for values in product(*lists))
    return [read_topology({**value, "options": each}, info) for each in chosen]


def read_workload(value: object, info: ValidationInfo) -> Workload:
    """Return the workload that a table, a name or anything else means; see `load_workload`."""
    if isinstance(value, dict):
        try:
            value = WorkloadChoice.model_validate(value)
        except ValidationError as error:
            raise ValueError(explain(dict(error.errors()[0]), WorkloadChoice, "table")) from error
    if isinstance(value, WorkloadChoice):
        if value.union_exponent is not None:
            raise ValueError("table.union_exponent: is one of the whole sweep, expected none here")
        return value.load()
    if isinstance(value, str) and value not in known_models():  # or a missing folder says its path
        there = Path((info.context or {}).get("folder", ""), value)
        value = there if there.exists() else value
    return load_workload(value)  # type: ignore[arg-type]  # which refuses what is none


def read_network(value: object) -> object:
    """Return anything that `load_cluster` may take; a text as it is."""
    if isinstance(value, dict | bool | int | float) or value is None:
        raise ValueError(f"{value!r}, expected a fabric, a network file or a name of [[networks]]")
    return value
