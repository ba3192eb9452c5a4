"""Measurement of cases on hosts: medians of several rounds, repeated if they were disturbed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import quantiles
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dgc_topo.experiments.calibration.cases import Case
from dgc_topo.workers.lab import HostCounters, Lab, check_sent

if TYPE_CHECKING:  # importing torch takes seconds
    from dgc_topo.experiments.calibration.runs import Answer

#: A row was disturbed if the quartiles of its rounds are farther apart than this (relative).
DISTURBED = 0.15
MAX_ATTEMPTS = 5
_FUNCTION = "dgc_topo.experiments.calibration.runs:time_cases"
MAX_FOR_SPREAD = 3  #: attempts if only the spread is wide; more of them hardly change the median
_FEW_ROUNDS = 3
_TIMEOUT_S = 60.0
_MESSAGES_OF_A_BARRIER = 2  #: at most, from each rank to each other

#: A round was disturbed if its reference was this many times slower or faster than expected.
_TOLERANCE = 1.35

#: Result of `dgc_topo.experiments.calibration.runs.time_cases` for one rank and case.
Timed = Sequence[tuple[float, int, float, float] | None]


class Calls(Protocol):
    """Caller of functions on the first ranks, such as `dgc_topo.workers.Session`."""

    def call(self, function: str, argument: Any = None, *, world_size: int | None = None) -> Any:
        """Return the function's results, by rank."""


class Round(NamedTuple):
    """Time and bytes of one run of a case in one round.

    Attributes:
        time_s: The slowest rank's time.
        bytes_sent: Bytes that the busiest rank sent.
        references_s: Times of the reference before and after the run.
    """

    time_s: float
    bytes_sent: float
    references_s: tuple[float, float]


@dataclass(slots=True)
class Reference:
    """Case that shows the state of the machine.

    The cores of a virtual machine move between physical cores, near to each other or far apart.  On
    one such machine 64 MB between two processes took 24 ms for some minutes, and 68 ms for others,
    while every core by itself was as fast as ever.  No model predicts that, and medians do not
    help.  The reference finds the rounds that were run in another state than the calibration.

    Attributes:
        case: Case that is run before and after each round of each case.
        expected_s: Its time in the usual state.  None until it is known; the fastest tenth of
            the first rounds then decides it.
    """

    case: Case
    expected_s: float | None = None

    def accepts(self, references_s: Sequence[float]) -> bool:
        """Return True if a round's references have the time of the usual state."""
        assert self.expected_s is not None
        return all(
            1 / _TOLERANCE < taken_s / self.expected_s < _TOLERANCE for taken_s in references_s
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured time of a case, from several rounds.

    Attributes:
        case: Case that was run.
        time_s: Seconds of one run of the slowest rank, median of the rounds that count.
        spread: Distance between the quartiles of these times, relative to the median.
        bytes_sent: Bytes that the busiest rank sent in one run, as the executor counts them.
        attempts: Number of times that the case was measured.
        rounds: Number of rounds that count.
        in_usual_state: True if only rounds in the machine's usual state count; if there were
            fewer than three of them, all rounds count.
        load: Load average of the machine over the last minute.
    """

    case: Case
    time_s: float
    spread: float
    bytes_sent: float
    attempts: int
    rounds: int
    in_usual_state: bool
    load: float


def measure_cases(
    session: Calls,
    cases: Sequence[Case],
    rounds: int,
    advance: Callable[[int], None] = lambda _: None,
    reference: Reference | None = None,
    lab: Lab | None = None,
) -> list[Measured]:
    """Measure cases on a session's processes, in the order given.

    Cases of one world size are interleaved: a round runs each once.  A disturbed case is measured
    again, up to five times (three if only its spread is wide), and never left out.

    Args:
        session: Session with at least as many processes as the largest case has ranks.
        cases: Cases to measure.
        rounds: Number of rounds, at least 3.
        advance: Called with the number of cases measured since the last call.
        reference: Decides which rounds count; without it all do.  Its *expected_s* is set if it
            was None.
        lab: Lab of the session, with one rank per host.  If given, the counters of its
            interfaces must confirm the bytes sent.

    Raises:
        LaunchError: if a worker fails.
        CounterError: if an interface carried other bytes than its rank reports.
    """
    found: dict[int, Measured] = {}
    by_size = sorted(range(len(cases)), key=lambda index: cases[index].world_size)
    for size, group in groupby(by_size, key=lambda index: cases[index].world_size):
        indices = list(group)
        taken: dict[int, list[Round]] = {index: [] for index in indices}
        for attempt in range(1, MAX_ATTEMPTS + 1):
            again = [i for i in indices if i not in found or not _is_settled(found[i], rounds)]
            if not again:
                break
            answers = _call(session, [cases[i] for i in again], rounds, size, reference, lab)
            for index, more in zip(again, answers, strict=True):
                taken[index] += more
            if reference is not None and reference.expected_s is None:
                so_far = [each for index in again for each in taken[index]]
                reference.expected_s = _usual_s(so_far)
            for index in again:
                found[index] = measured(cases[index], taken[index], attempt, reference)
        advance(len(indices))
    return [found[index] for index in range(len(cases))]


def timeout_s(cases: Iterable[Case], rate_bits_per_s: float | None) -> float:
    """Return the seconds after which a silent peer is an error.

    At least a minute, and at least twice the time of all ranks' buffers over one link, because a
    rank may have to wait for all others.

    Args:
        cases: Cases to measure.
        rate_bits_per_s: Rate of the links; None is unshaped.
    """
    if rate_bits_per_s is None:
        return _TIMEOUT_S
    most_bytes = max(case.world_size * case.buffer.held_bytes for case in cases)
    return max(_TIMEOUT_S, 2 * 8 * most_bytes / rate_bits_per_s)


def _usual_s(rounds: Sequence[Round]) -> float:
    """Return the reference's seconds in the fastest tenth of some rounds."""
    taken_s = sorted(each.references_s[0] for each in rounds)
    return taken_s[len(taken_s) // 10]


def _is_settled(row: Measured, rounds: int) -> bool:
    is_calm = row.spread <= DISTURBED or row.attempts >= MAX_FOR_SPREAD
    return row.in_usual_state and row.rounds >= rounds and is_calm


def _call(
    session: Calls,
    cases: Sequence[Case],
    rounds: int,
    world_size: int,
    reference: Reference | None,
    lab: Lab | None,
) -> Iterator[list[Round]]:
    argument = request(cases, rounds, reference)
    before = lab.counters() if lab else []
    answers = session.call(_FUNCTION, argument, world_size=world_size)
    if lab is not None:
        _check_counters(before, lab.counters(), answers)
    return rounds_of(cases, [answer["timed"] for answer in answers])


def _check_counters(
    before: Sequence[HostCounters], after: Sequence[HostCounters], answers: Sequence[Answer]
) -> None:
    """Compare the bytes that each host's interface carried with those that its rank reports."""
    sent = sum(answer["num_messages"] for answer in answers)
    barriers = _MESSAGES_OF_A_BARRIER * len(answers) * answers[0]["num_barriers"]
    for host, answer in enumerate(answers):
        counted = after[host] - before[host]
        check_sent(counted, answer["sent_bytes"], 2 * (sent + barriers), f"host {host}")


def request(
    cases: Sequence[Case], rounds: int, reference: Reference | None = None
) -> dict[str, Any]:
    """Return the argument for `time_cases`."""
    return {
        "cases": [case.model_dump() for case in cases],
        "rounds": rounds,
        "reference": None if reference is None else reference.case.model_dump(),
    }


def rounds_of(cases: Sequence[Case], per_rank: Sequence[Sequence[Timed]]) -> Iterator[list[Round]]:
    """Yield the rounds of each case, from what `time_cases` returned on every rank."""
    for number, case in enumerate(cases):
        rounds = []
        for each in zip(*(ranks[number] for ranks in per_rank[: case.world_size]), strict=True):
            blocks = list(filter(None, each))
            slowest_s = max(block[0] for block in blocks) / case.runs
            sent = max(block[1] for block in blocks) / case.runs
            rounds.append(Round(slowest_s, sent, blocks[0][2:]))
        yield rounds


def measured(
    case: Case, rounds: Sequence[Round], attempts: int, reference: Reference | None = None
) -> Measured:
    """Return the measured time of a case, from all its rounds."""
    usual = [r for r in rounds if reference is None or reference.accepts(r.references_s)]
    enough = len(usual) >= _FEW_ROUNDS
    counted = usual if enough else rounds
    middle_s, spread = median_and_spread([r.time_s for r in counted])
    return Measured(
        case,
        middle_s,
        spread,
        rounds[0].bytes_sent,
        attempts,
        len(counted),
        enough,
        os.getloadavg()[0],
    )


def median_and_spread(times_s: Sequence[float]) -> tuple[float, float]:
    """Return the median of *times_s*, and the distance of their quartiles relative to it."""
    if len(times_s) == 1:
        return times_s[0], 0.0
    low_s, middle_s, high_s = quantiles(times_s, n=4, method="inclusive")
    return middle_s, (high_s - low_s) / middle_s
