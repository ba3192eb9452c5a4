"""Errors of predictions: 90 % intervals from validations, by kind and size of what is predicted.

Split conformal prediction: the width of a class is the smallest ``w`` such that ``abs(log(measured
/ predicted))`` of nine rows out of ten is at most ``w`` (the ``ceil(0.9 * (n + 1))``-th smallest
of n rows; Lei et al., JASA 2018).  ``errors.json`` has the widths of the validations in
``benchmarks/results``; ``python -m benchmarks.advice_errors`` makes it from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from math import ceil, log
from pathlib import Path
from typing import NamedTuple

from dgc_topo.experiments.validation.records import LARGE_BYTES, TRAINING_STEPS, ValidationRow
from dgc_topo.files import write_whole

COVERAGE = 0.9  #: share of the rows that an interval is to hold
FILE = Path(__file__).with_name("errors.json")


class ErrorClass(NamedTuple):
    """Rows whose errors are of one kind.

    Attributes:
        what: Whole training steps, or collectives alone.
        sparse: True for compressed gradients.
        large: True from a megabyte a message on, where bandwidth decides and not latency.
    """

    what: str
    sparse: bool
    large: bool


class ErrorWidth(NamedTuple):
    """Width of a class: a prediction p stands for ``p * exp(-width)`` to ``p * exp(width)``."""

    width: float
    num_rows: int


def class_of(row: ValidationRow) -> ErrorClass:
    """Return the class of a row of a validation."""
    return ErrorClass(row.group, "dense" not in row.payload, row.num_bytes >= LARGE_BYTES)


def widths_of(
    rows: Iterable[ValidationRow], coverage: float = COVERAGE
) -> dict[ErrorClass, ErrorWidth]:
    """Return the width of each class that has rows.

    Args:
        rows: Measured rows, with what had been predicted.
        coverage: Share of rows that an interval is to hold.
    """
    errors: dict[ErrorClass, list[float]] = {}
    for row in rows:
        errors.setdefault(class_of(row), []).append(abs(log(row.measured_s / row.predicted_s)))
    return {
        key: ErrorWidth(_quantile(found, coverage), len(found)) for key, found in errors.items()
    }


def _quantile(errors: Sequence[float], coverage: float) -> float:
    place = ceil(coverage * (len(errors) + 1))
    return sorted(errors)[min(place, len(errors)) - 1]


@cache
def known_widths() -> dict[ErrorClass, ErrorWidth]:
    """Return the widths that the package comes with."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        ErrorClass(row["what"], row["sparse"], row["large"]): ErrorWidth(
            row["width"], row["num_rows"]
        )
        for row in rows
    }


def write_widths(widths: dict[ErrorClass, ErrorWidth], path: Path = FILE) -> None:
    """Write widths as `known_widths` reads them."""
    rows = [
        {**key._asdict(), "width": round(found.width, 4), "num_rows": found.num_rows}
        for key, found in sorted(widths.items())
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_whole(path, f"[\n{lines}\n]\n")


def step_width(*, sparse: bool, num_bytes: float) -> float:
    """Return the width of a training step's time.

    Args:
        sparse: True for compressed gradients.
        num_bytes: Bytes of one rank's gradient as it is sent.
    """
    return _width(TRAINING_STEPS, sparse=sparse, num_bytes=num_bytes)


def collective_width(*, sparse: bool, num_bytes: float) -> float:
    """Return the width of a collective's time; arguments as of `step_width`."""
    return _width("collectives", sparse=sparse, num_bytes=num_bytes)


def _width(what: str, *, sparse: bool, num_bytes: float) -> float:
    """Return a class's width; the widest of its kind if no row has its size."""
    known = known_widths()
    exact = known.get(ErrorClass(what, sparse, num_bytes >= LARGE_BYTES))
    if exact is not None:
        return exact.width
    return max(
        found.width for key, found in known.items() if (key.what, key.sparse) == (what, sparse)
    )
