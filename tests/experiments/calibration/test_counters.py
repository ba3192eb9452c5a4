"""What ranks say they sent is compared with what the hosts' interfaces carried."""

import pytest

from dgc_topo.experiments.calibration.cases import Case, Collective, DenseBuffer
from dgc_topo.experiments.calibration.measure import measure_cases
from dgc_topo.workers import Session
from dgc_topo.workers.lab import CounterError, Lab, LabError, LabSpec

CASES = [
    Case(
        pattern=Collective(topology="ring"),
        world_size=3,
        buffer=DenseBuffer(num_elements=size),
        runs=runs,
    )
    for size, runs in ((100, 5), (250_000, 2))
]


@pytest.fixture(scope="module")
def lab():
    try:
        with Lab(LabSpec(num_hosts=3)) as lab:
            yield lab
    except LabError as error:
        pytest.skip(str(error))


class Liar(Session):
    """Says that rank 2 sent more than it did."""

    def call(self, function, argument=None, **options):
        answers = super().call(function, argument, **options)
        answers[2]["sent_bytes"] = int(1.02 * answers[2]["sent_bytes"])
        return answers


def test_what_was_measured_is_what_the_interfaces_carried(lab):
    with Session(lab, 3) as session:
        small, large = measure_cases(session, CASES, 3, lab=lab)
    assert small.bytes_sent == pytest.approx(2 * 2 / 3 * 400, rel=0.02)
    assert large.bytes_sent == pytest.approx(2 * 2 / 3 * 1e6, rel=0.001)


def test_other_traffic_than_was_said_is_an_error(lab):
    with Liar(lab, 3) as session, pytest.raises(CounterError, match="host 2: the interface"):
        measure_cases(session, CASES, 3, lab=lab)
