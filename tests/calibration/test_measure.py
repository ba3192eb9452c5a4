"""Cases are measured on real processes; what was disturbed is measured again, never left out."""

import pytest

from dgc_topo.calibration.cases import Case, Collective, DenseBuffer, Probe, SparseBuffer
from dgc_topo.calibration.measure import MAX_ATTEMPTS, measure_cases
from dgc_topo.launch import Loopback, Session

DENSE = DenseBuffer(num_elements=1000)


class Scripted:
    """A session whose rounds take what a script says, attempt by attempt."""

    def __init__(self, *attempts):
        self.attempts = list(attempts)
        self.asked = []

    def call(self, function, argument=None, *, world_size=None):
        del function
        self.asked.append(len(argument["cases"]))
        rounds = self.attempts.pop(0)
        return [[[(time, 100) for time in case] for case in rounds] for _ in range(world_size)]


def pair():
    return Case(pattern=Probe(kind="exchange"), world_size=2, buffer=DENSE)


def test_only_disturbed_rows_are_measured_again_and_the_calmest_attempt_counts():
    calm, wild, calmer = [1.0] * 5, [1.0, 1.0, 2.0, 3.0, 9.0], [2.0, 2.0, 2.1, 2.1, 9.0]
    session = Scripted([calm, wild], [calmer])
    first, second = measure_cases(session, [pair(), pair()], 5)
    assert session.asked == [2, 1]
    assert (first.time_s, first.attempts, first.spread) == (1.0, 1, 0.0)
    assert (second.time_s, second.attempts) == (2.1, 2)
    assert second.bytes_sent == 100


def test_what_stays_disturbed_is_kept_with_its_spread():
    wild = [1.0, 1.0, 2.0, 3.0, 9.0]
    [row] = measure_cases(Scripted(*[[wild]] * MAX_ATTEMPTS), [pair()], 5)
    assert row.attempts == MAX_ATTEMPTS
    assert row.spread == pytest.approx((3 - 1) / 2)


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
    with Loopback() as hosts, Session(hosts, 3) as session:
        rows = measure_cases(session, cases, 3)
    assert [row.case for row in rows] == cases
    assert all(row.time_s > 0 for row in rows)
    assert rows[0].bytes_sent == 4000  # there, or back
    assert rows[2].bytes_sent == pytest.approx(2000, abs=4)  # a half of the buffer each
    assert rows[3].bytes_sent == pytest.approx(4 * 4000 / 3, rel=0.01)
