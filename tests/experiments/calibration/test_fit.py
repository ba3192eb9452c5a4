"""Calibration finds the network that made the probes, and says how well it fits."""

import numpy as np
import pytest

from dgc_topo.experiments.calibration.again import fit_again
from dgc_topo.experiments.calibration.calibrate import fit_network
from dgc_topo.experiments.calibration.cases import (
    Case,
    Collective,
    DenseBuffer,
    Probe,
    SparseBuffer,
    probes,
)
from dgc_topo.experiments.calibration.fit import fit_parameters, fitted_s
from dgc_topo.experiments.calibration.measure import Measured
from dgc_topo.experiments.calibration.times import predict_case, simulate_runs, touched_bytes
from dgc_topo.experiments.calibration.trials import Observation, Trials
from dgc_topo.network import star
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters, ProbeRow

MACHINE = {"cores_per_machine": 2.0, "hosts_per_machine": 64}
TRUE = Parameters(
    goodput=0.956,
    latency_s=60e-6,
    latency_bytes=2500,
    overhead_s=40e-6,
    step_overhead_s=80e-6,
    start_overhead_s=50e-6,
    send_s_per_byte=0.25e-9,
    receive_s_per_byte=0.4e-9,
    reduce_s_per_byte=0.15e-9,
    joint_merge_s=120e-6,
    code_s_per_byte=3e-9,
    merge_s_per_byte=8e-9,
    sort_s_per_byte=14e-9,
    code_s_per_message=1e-4,
    cold_code_s=3e-4,
    busy_core_speed=0.75,
    reverse_share=0.03,
    **MACHINE,
)
RATES = (100e6, None)


FITTED = [name for name in Parameters.model_fields if name not in {*MACHINE, "message_curve"}]


def few_probes(rate):
    """Every kind of probe, small and large."""
    return [
        case.model_copy(update={"runs": 1})
        for case in probes(8, rate)
        if isinstance(case.buffer, SparseBuffer)
        or case.buffer.num_bytes in {4, 8_000, 256_000, 1_000_000, 16_000_000}
    ]


def ring(num_bytes, world_size):
    return Case(
        pattern=Collective(topology="ring"),
        world_size=world_size,
        buffer=DenseBuffer(num_elements=num_bytes // 4),
        runs=2,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)  # minutes of fitting, on slow machines several
def test_what_made_the_probes_is_found_and_predicts_what_was_no_probe():
    """With 1 % of noise on every probe, at a rate and world sizes that were not probed."""
    noise = np.random.default_rng(0)
    observations = [
        Observation(case, rate, fitted_s(TRUE, Observation(case, rate, 1.0)) * factor)
        for rate in RATES
        for case in few_probes(rate)
        for factor in [float(np.exp(noise.normal(0, 0.01)))]
    ]
    found = fit_parameters(observations, Parameters(**MACHINE))
    for rate in (*RATES, 150e6):
        for num_bytes in (10_000, 1_000_000):
            for world_size in (3, 8):
                case = ring(num_bytes, world_size)
                expected = predict_case(case, TRUE, rate)
                got = predict_case(case, found, rate)
                assert got == pytest.approx(expected, rel=0.03)
    assert found.start_overhead_s == pytest.approx(TRUE.start_overhead_s, rel=0.2)
    assert found.goodput == pytest.approx(TRUE.goodput, rel=0.02)
    assert found.joint_merge_s == pytest.approx(TRUE.joint_merge_s, rel=0.2)
    assert found.merge_s_per_byte == pytest.approx(TRUE.merge_s_per_byte, rel=0.1)
    assert found.sort_s_per_byte == pytest.approx(TRUE.sort_s_per_byte, rel=0.1)
    assert found.cold_code_s == pytest.approx(TRUE.cold_code_s, rel=0.1)
    assert found.cooling_s == pytest.approx(TRUE.cooling_s, rel=0.3)
    assert found.busy_core_speed == pytest.approx(TRUE.busy_core_speed, rel=0.05)


def kinds_of_probes():
    """One probe of each kind and size, dense and sparse, with more entries than are merged."""
    kinds = {
        (case.label, case.world_size, case.buffer.kind): case
        for case in few_probes(100e6)
        if case.buffer.num_elements <= 4_000_000
    }
    return [Observation(case, RATES[at % 2], 1.0) for at, case in enumerate(kinds.values())]


def test_what_is_looked_up_is_what_would_be_simulated():
    """Whatever parameter changes: times that it cannot change are not simulated again."""
    observations, simulated = kinds_of_probes(), []

    def simulate(tasks):
        simulated.append(len(tasks))
        return [fitted_s(parameters, observations[number]) for number, parameters in tasks]

    trials = Trials(observations, simulate)
    trials.times_s([TRUE])
    for name in FITTED:
        changed = TRUE.model_copy(update={name: 0.9 * (getattr(TRUE, name) or 1e-9)})
        (found,) = trials.times_s([TRUE, changed])[1:]
        expected = [fitted_s(changed, each) for each in observations]
        np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=name)
    assert sum(simulated[1:]) < 0.6 * len(FITTED) * len(observations)


def test_busy_cores_slow_each_other_but_none_slows_itself():
    cores = {"busy_core_speed": 0.6, "hosts_per_machine": 64}
    costs = [Parameters(cores_per_machine=n, **cores).costs() for n in (0.5, 1, 2, 8)]
    assert [each.cores_per_machine for each in costs] == [0.5, 1, 1.2, 4.8]
    assert Parameters(**cores).costs().cores_per_machine is None  # enough of them


def test_what_no_probe_tells_stays_near_the_usual():
    """At 10 Mbit/s, with noise, messages tell next to nothing of what a byte costs a processor."""
    noise = np.random.default_rng(0)
    observations = [
        Observation(case, 10e6, fitted_s(TRUE, Observation(case, 10e6, 1.0)) * factor)
        for case in few_probes(10e6)
        if case.world_size == 2 and isinstance(case.buffer, DenseBuffer)
        for factor in [float(np.exp(noise.normal(0, 0.03)))]
    ]
    found = fit_parameters(observations, Parameters(**MACHINE))
    for name in ("send_s_per_byte", "receive_s_per_byte", "reduce_s_per_byte", "scale_s_per_byte"):
        assert 1e-10 < getattr(found, name) < 1e-9


def test_runs_in_a_row_may_overlap():
    """A pipeline of two ranks: the first one begins its next run while the second one still adds.

    So the mean of several runs is no more than the first one's time.
    """
    once = Case(
        pattern=Probe(kind="incast"), world_size=3, buffer=DenseBuffer(num_elements=1000), runs=1
    )
    network = star(3, 1e6, 1e-3)
    several = once.model_copy(update={"runs": 5})
    assert simulate_runs(several, network) <= simulate_runs(once, network) * (1 + 1e-9)


def test_only_what_is_sent_or_received_is_touched():
    pattern = {"ping-pong": 2, "pairs": 8}
    for kind, world_size in pattern.items():
        case = Case(
            pattern=Probe(kind=kind), world_size=world_size, buffer=DenseBuffer(num_elements=100)
        )
        assert touched_bytes(case) == 400 * world_size
    incast = Case(pattern=Probe(kind="incast"), world_size=5, buffer=DenseBuffer(num_elements=100))
    assert touched_bytes(incast) == 2 * 400  # a quarter of each sender's, and all of rank 0's


def test_a_network_file_can_be_read_again(tmp_path):
    case = next(case for case in probes(8, 100e6) if case.buffer.num_elements == 64_000)
    row = Measured(case, 1e-3, 0.01, 256_000.0, 1, 5, True, 0.5)
    network = fit_network("mine", [(100e6, [row] * 3)], Parameters(**MACHINE), 100e6)
    network.save(tmp_path / "mine.toml")
    assert CalibratedNetwork.load(tmp_path / "mine.toml") == network
    assert network.network(4).bandwidth_bytes_per_s[0] == pytest.approx(
        network.parameters.goodput * 100e6 / 8
    )
    assert network.worst_fit_error >= network.median_fit_error
    again = fit_again(network.model_copy(update={"parameters": Parameters(**MACHINE)}))
    assert again.parameters == network.parameters
    assert again.probes == network.probes


def test_only_what_is_measured_today_is_fitted_again():
    row = ProbeRow(probe="ping-pong", world_size=2, num_bytes=5, measured_s=1, spread=0, fitted_s=1)
    network = CalibratedNetwork(
        name="mine",
        machine="m",
        parameters=Parameters(),
        median_fit_error=0,
        worst_fit_error=0,
    )
    with pytest.raises(ValueError, match="network mine: no probes, expected those of a calib"):
        fit_again(network)
    with pytest.raises(ValueError, match="ping-pong, 2 ranks, 5 bytes: expected one of those"):
        fit_again(network.model_copy(update={"probes": (row,)}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello", "not TOML"),
        ('name = "x"', "machine: Field required; expected a network file"),
        (
            'name = "x"\nmachine = "m"\nmedian_fit_error = 0\nworst_fit_error = 0\n'
            "[parameters]\ngoodput = -1",
            "parameters.goodput: Input should be greater than 0",
        ),
    ],
)
def test_what_is_no_network_file_is_refused(tmp_path, text, says):
    path = tmp_path / "no.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"no.toml.*{says}"):
        CalibratedNetwork.load(path)


def test_without_probes_there_is_nothing_to_fit():
    with pytest.raises(ValueError, match="no probes, expected at least one"):
        fit_parameters([], Parameters())
    with pytest.raises(ValueError, match="1 hosts, expected at least 2"):
        probes(1, None)


@pytest.mark.parametrize(("kind", "size"), [("ping-pong", 3), ("exchange", 4), ("pairs", 5)])
def test_a_probe_of_the_wrong_size_is_refused(kind, size):
    with pytest.raises(ValueError, match=f"probe {kind}: world_size {size} does not fit"):
        Case(pattern=Probe(kind=kind), world_size=size, buffer=DenseBuffer(num_elements=1))
