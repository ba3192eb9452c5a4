"""Cases are measured on real processes; what was disturbed is measured again, never left out."""

import pytest

from dgc_topo.experiments.calibration.cases import (
    Case,
    Collective,
    DenseBuffer,
    Probe,
    SparseBuffer,
)
from dgc_topo.experiments.calibration.measure import (
    MAX_ATTEMPTS,
    Reference,
    measure_cases,
    timeout_s,
)
from dgc_topo.workers import Session
from tests.forked import forked

DENSE = DenseBuffer(num_elements=1000)


class Scripted:
    """A session whose rounds take what a script says, attempt by attempt.

    A round is its time, or a pair: its time and its references'.
    """

    def __init__(self, *attempts):
        self.attempts = list(attempts)
        self.asked = []

    def call(self, function, argument=None, *, world_size=None):
        del function
        self.asked.append(len(argument["cases"]))
        rounds = self.attempts.pop(0)
        timed = [[block(each) for each in case] for case in rounds]
        return [{"timed": timed}] * world_size


def block(each):
    time_s, reference_s = each if isinstance(each, tuple) else (each, 0.0)
    return time_s, 100, reference_s, reference_s


def pair():
    return Case(pattern=Probe(kind="exchange"), world_size=2, buffer=DENSE)


def test_only_disturbed_rows_are_measured_again_and_all_their_rounds_count():
    calm, wild, more = [1.0] * 5, [1.0, 1.0, 2.0, 3.0, 9.0], [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    session = Scripted([calm, wild], [more])
    first, second = measure_cases(session, [pair(), pair()], 5)
    assert session.asked == [2, 1]
    assert (first.time_s, first.attempts, first.spread, first.rounds) == (1.0, 1, 0.0, 5)
    assert (second.time_s, second.attempts, second.rounds) == (2.0, 2, 11)
    assert second.bytes_sent == 100


def test_what_stays_disturbed_is_kept_with_its_spread():
    wild = [1.0, 1.0, 2.0, 3.0, 9.0]
    [row] = measure_cases(Scripted(*[[wild]] * 3), [pair()], 5)
    assert row.attempts == 3
    assert row.spread == pytest.approx((3 - 1) / 2)


def test_rounds_of_another_state_of_the_machine_do_not_count():
    """What the reference took in the first rounds says which state is the usual one."""
    usual, other = (1.0, 0.02), (3.0, 0.06)
    session = Scripted([[usual, usual, other], [usual, other, other]], [[usual] * 3] * 2)
    reference = Reference(pair())
    rows = measure_cases(session, [pair(), pair()], 3, reference=reference)
    assert reference.expected_s == usual[1]
    assert [(row.time_s, row.rounds, row.in_usual_state) for row in rows] == [
        (1.0, 5, True),
        (1.0, 4, True),
    ]


def test_a_case_that_never_saw_the_usual_state_says_so():
    other = [(3.0, 0.06)] * 3
    reference = Reference(pair(), expected_s=0.02)
    [row] = measure_cases(Scripted(*[[other]] * MAX_ATTEMPTS), [pair()], 3, reference=reference)
    assert (row.time_s, row.in_usual_state, row.attempts) == (3.0, False, MAX_ATTEMPTS)


@pytest.mark.slow
def test_real_processes_run_every_kind_of_case():
    sparse = SparseBuffer(num_elements=1000, density=0.1)
    cases = [
        Case(pattern=Probe(kind="ping-pong"), world_size=2, buffer=DENSE, runs=3),
        Case(pattern=Probe(kind="pairs"), world_size=2, buffer=sparse),
        Case(pattern=Probe(kind="incast"), world_size=3, buffer=DENSE),
        Case(pattern=Collective(topology="ring"), world_size=3, buffer=DENSE),
        Case(pattern=Collective(topology="butterfly"), world_size=3, buffer=sparse),
    ]
    with Session(forked(), 3) as session:
        rows = measure_cases(session, cases, 3)
    assert [row.case for row in rows] == cases
    assert all(row.time_s > 0 for row in rows)
    assert rows[0].bytes_sent == 4000  # there, or back
    assert rows[2].bytes_sent == pytest.approx(2000, abs=4)  # a half of the buffer each
    assert rows[3].bytes_sent == pytest.approx(4 * 4000 / 3, rel=0.01)


@pytest.mark.slow
def test_a_reference_runs_beside_cases_of_more_ranks():
    case = Case(pattern=Probe(kind="incast"), world_size=3, buffer=DENSE)
    reference = Reference(pair())
    with Session(forked(), 3) as session:
        [row] = measure_cases(session, [case], 3, reference=reference)
    assert row.rounds >= 3
    assert reference.expected_s is not None
    assert reference.expected_s > 0


def test_a_slow_link_gets_the_time_that_its_messages_take():
    """64 MB at 4 Mbit/s take two minutes, one after the other."""
    probe = Case(
        pattern=Probe(kind="ping-pong"), world_size=2, buffer=DenseBuffer(num_elements=16_000_000)
    )
    assert timeout_s([probe], 4e6) > 2 * 64e6 * 8 / 4e6
    assert timeout_s([probe], 1e9) == timeout_s([probe], None) == 60
