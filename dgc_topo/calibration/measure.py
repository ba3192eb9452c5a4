"""Measure cases on hosts: medians of several rounds, measured again where something disturbed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any, Protocol

from dgc_topo.calibration.cases import Case

#: A row whose rounds differ by more than this (relative, without the best and the worst round)
#: was disturbed.
DISTURBED = 0.15
MAX_ATTEMPTS = 3
_FEW_ROUNDS = 3  # of so many, none is left out

#: As `dgc_topo.calibration.runs.time_cases` returns it for one rank and case.
Timed = Sequence[tuple[float, int] | None]


class Calls(Protocol):
    """Calls a function on the first ranks, as `dgc_topo.launch.Session` does."""

    def call(self, function: str, argument: Any = None, *, world_size: int | None = None) -> Any:
        """Return what the function returned on each rank."""


_FUNCTION = "dgc_topo.calibration.runs:time_cases"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a case took.

    Attributes:
        case: What was run.
        time_s: Seconds of one run: the slowest rank's, median of the rounds.
        spread: Of the rounds, relative; the best and the worst round do not count.
        bytes_sent: In one run, by the busiest rank, as the executor counts them.
        attempts: How often it was measured; the attempt with the smallest spread is kept.
        load: Runnable processes of the machine, mean of the last minute (its load average).
    """

    case: Case
    time_s: float
    spread: float
    bytes_sent: float
    attempts: int
    load: float


def measure_cases(
    session: Calls,
    cases: Sequence[Case],
    rounds: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Measured]:
    """Measure cases on a session's processes, in the order given.

    Cases of one world size are interleaved: a round runs each once.  What was disturbed is measured
    again, at most three times in all, and never left out.

    Args:
        session: Of as many processes as the largest case has ranks.
        cases: What to measure.
        rounds: At least 3.
        advance: Called with how many cases have been measured.

    Raises:
        LaunchError: if a worker fails.
    """
    found: dict[int, Measured] = {}
    by_size = sorted(range(len(cases)), key=lambda index: cases[index].world_size)
    for size, group in groupby(by_size, key=lambda index: cases[index].world_size):
        indices = list(group)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            again = [i for i in indices if i not in found or found[i].spread > DISTURBED]
            if not again:
                break
            rows = _measure(session, [cases[i] for i in again], rounds, size, attempt)
            for index, row in zip(again, rows, strict=True):
                best = found.get(index)
                kept = row if best is None or row.spread < best.spread else best
                found[index] = _with_attempts(kept, attempt)
        advance(len(indices))
    return [found[index] for index in range(len(cases))]


def _measure(
    session: Calls, cases: Sequence[Case], rounds: int, world_size: int, attempt: int
) -> Iterator[Measured]:
    argument = {"cases": [case.model_dump() for case in cases], "rounds": rounds}
    return measured_rows(cases, session.call(_FUNCTION, argument, world_size=world_size), attempt)


def measured_rows(
    cases: Sequence[Case], per_rank: Sequence[Sequence[Timed]], attempt: int
) -> Iterator[Measured]:
    """Yield what each case took, from what `time_cases` returned on every rank."""
    load = os.getloadavg()[0]
    for number, case in enumerate(cases):
        rounds = list(zip(*(ranks[number] for ranks in per_rank[: case.world_size]), strict=True))
        slowest = sorted(
            max(seconds for seconds, _ in filter(None, each)) / case.runs for each in rounds
        )
        inner = slowest[1:-1] if len(slowest) > _FEW_ROUNDS else slowest
        sent = max(num_bytes for _, num_bytes in filter(None, rounds[0])) / case.runs
        middle = median(slowest)
        yield Measured(case, middle, (inner[-1] - inner[0]) / middle, sent, attempt, load)


def _with_attempts(row: Measured, attempts: int) -> Measured:
    return Measured(row.case, row.time_s, row.spread, row.bytes_sent, attempts, row.load)
