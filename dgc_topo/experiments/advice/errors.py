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
from math import ceil, exp, log
from pathlib import Path
from typing import NamedTuple

from dgc_topo.experiments.validation.records import (
    COLLECTIVES,
    LARGE_BYTES,
    TRAINING_STEPS,
    ValidationRow,
)
from dgc_topo.files import write_whole

COVERAGE = 0.9  #: share of the rows that an interval is to hold
FILE = Path(__file__).with_name("errors.json")


class Interval(NamedTuple):
    """Times between which nine measurements out of ten are expected.

    Attributes:
        low_s: Lower end, in seconds.
        high_s: Upper end.
    """

    low_s: float
    high_s: float

    def holds(self, time_s: float) -> bool:
        """Return True if a measured time lies inside."""
        return self.low_s <= time_s <= self.high_s


class ErrorClass(NamedTuple):
    """Rows whose errors are of one kind.

    Attributes:
        what: Whole training steps, or collectives alone.
        sparse: True for compressed gradients.
        large: True from a megabyte a message on, where bandwidth decides and not latency.
        shaped: False where links are as fast as the machine's processors are.
    """

    what: str
    sparse: bool
    large: bool
    shaped: bool = True


class ErrorWidth(NamedTuple):
    """Width of a class: a prediction p stands for ``p * exp(-width)`` to ``p * exp(width)``."""

    width: float
    num_rows: int


def class_of(row: ValidationRow) -> ErrorClass:
    """Return the class of a row of a validation."""
    sparse, shaped = "dense" not in row.payload, row.rate_bits_per_s is not None
    return ErrorClass(row.group, sparse, row.num_bytes >= LARGE_BYTES, shaped)


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
        ErrorClass(row["what"], row["sparse"], row["large"], row["shaped"]): ErrorWidth(
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


def interval_of_row(row: ValidationRow) -> Interval:
    """Return the interval of what a row of a validation predicts."""
    width = _width(class_of(row))
    return Interval(row.predicted_s * exp(-width), row.predicted_s * exp(width))


def interval_of_step(
    step_time_s: float, *, communication_s: float, alone_s: float, num_bytes: float, sparse: bool
) -> Interval:
    """Return the interval of a predicted training step: the wider of two ways to err.

    A step may be off as those of the validations were, as a whole; or its communication may be,
    as collectives were, with nothing more of it hidden behind the computing.  What a worker
    computes is given, so no step is faster than that.

    Args:
        step_time_s: The predicted step.
        communication_s: Time for which messages are under way, hidden or not.
        alone_s: A step of one worker that neither compresses nor communicates.
        num_bytes: Bytes of one rank's gradient as it is sent.
        sparse: True for compressed gradients.
    """
    whole = step_width(sparse=sparse, num_bytes=num_bytes)
    part = collective_width(sparse=sparse, num_bytes=num_bytes)
    high_s = max(step_time_s * exp(whole), step_time_s + communication_s * (exp(part) - 1))
    low_s = min(step_time_s * exp(-whole), step_time_s - communication_s * (1 - exp(-part)))
    return Interval(max(low_s, min(alone_s, step_time_s)), high_s)


def step_width(*, sparse: bool, num_bytes: float) -> float:
    """Return the width of a training step's time.

    Args:
        sparse: True for compressed gradients.
        num_bytes: Bytes of one rank's gradient as it is sent.
    """
    return _width(ErrorClass(TRAINING_STEPS, sparse, num_bytes >= LARGE_BYTES))


def collective_width(*, sparse: bool, num_bytes: float) -> float:
    """Return the width of a collective's time; arguments as of `step_width`."""
    return _width(ErrorClass(COLLECTIVES, sparse, num_bytes >= LARGE_BYTES))


def _width(wanted: ErrorClass) -> float:
    """Return a class's width; the widest of its kind if no row has its size.

    Where no training steps have been validated, as over unshaped links, it is that of collectives.
    """
    known = known_widths()
    if wanted in known:
        return known[wanted].width
    near = {
        key: found.width
        for key, found in known.items()
        if (key.sparse, key.shaped) == (wanted.sparse, wanted.shaped)
    }
    alike = [width for key, width in near.items() if key.what == wanted.what]
    return max(alike or near.values())
