"""Training on the lab: what a scenario's [lab] says, and what the records then hold."""

import time

import pytest
import torch

from dgc_topo.experiments.runner import run_scenario
from dgc_topo.experiments.scenario import ScenarioError, load_scenario, parse_scenario
from dgc_topo.experiments.training_cases import cases_of_runs
from dgc_topo.training.clocks import PhaseClock
from dgc_topo.workers.lab import Lab, LabChange, LabSpec
from tests.training.test_training import Recorder
from tests.training.tiny import write_tiny

pytestmark = pytest.mark.alone

SCALED = """
[lab]
rate = "100 Mbit/s"
scaled = 10
host_rates = { 2 = "80 Mbit/s" }
changes = [{ at = "10 ms", host = 0, action = "rate", rate = "90 Mbit/s" }]
"""


@pytest.fixture(scope="module")
def runs(lab: Lab, tmp_path_factory):
    """The same training on loopback and in a scaled lab: records by network."""
    folder = tmp_path_factory.mktemp("lab")
    path = write_tiny(folder, "ring", "gossip", steps=8)
    text = path.read_text()
    records = {}
    for name, section in (("loopback", ""), ("lab", SCALED)):
        path.write_text(text + section)
        done = run_scenario(path, folder / name, Recorder()).measurements()
        records[name] = [record for record in done if record.kind == "measured"]
    return records


def test_records_name_the_lab_its_scale_and_its_congestion_control(runs):
    for record in runs["lab"]:
        assert record.network == ("scaled 1:10 lab 100 Mbit/s, host 2 at 80 Mbit/s, 1 link changes")
        assert record.time_scale == 10
        assert record.congestion_control == LabSpec(num_hosts=1).congestion_control
    for record in runs["loopback"]:
        assert (record.network, record.time_scale) == ("loopback", 1)
        assert record.interface_bytes_per_step is None


def test_the_interface_counts_what_the_executor_sent_and_headers(runs):
    for record in runs["lab"]:
        sent = record.wire_bytes_per_step
        # Headers: 66 bytes for each 1448 sent (once for up to 64 KiB, where the kernel hands over
        # several segments as one), and for each acknowledgement of 1 or 2 segments received; a few
        # small packets and Gloo's own for each message at either end.
        most = sent * (1 + 66 / 1448 + 66 / 1448) + 1000 * record.messages_per_step
        assert sent * (1 + 66 / 65536) <= record.interface_bytes_per_step <= most


def test_the_network_changes_nothing_but_time(runs):
    for here, there in zip(runs["loopback"], runs["lab"], strict=True):
        assert here.quality == there.quality
        assert here.wire_bytes_per_step == there.wire_bytes_per_step


def test_predictions_from_a_scaled_lab_are_for_what_it_stands_for(runs):
    workloads = cases_of_runs(runs["lab"], None)
    for record, workload in zip(runs["lab"], workloads, strict=True):
        assert workload.phases.compute_s == pytest.approx(record.solo_phases.compute_s / 10)


def test_where_workers_share_a_machine_they_are_timed_all_at_once_too(runs):
    for record in runs["lab"]:
        assert record.crowd_phases.compute_s > 0
        assert record.crowd_phases.wait_s == record.crowd_phases.communicate_s == 0
    for record in runs["loopback"]:  # a launcher's processes may be anywhere
        assert record.crowd_phases is None


def test_a_server_waits_while_the_workers_are_timed(lab: Lab, tmp_path):
    dedicated = "parameter-server?server = 'dedicated'"
    path = write_tiny(tmp_path, dedicated, densities=(1.0,), epochs=1)
    text = path.read_text().replace("[train]", "[train]\noverlap = true\nbucket_mib = 0.01", 1)
    path.write_text(text + '[lab]\nrate = "100 Mbit/s"\n')
    done = run_scenario(path, tmp_path / "out", Recorder()).measurements()
    (record,) = (record for record in done if record.kind == "measured")
    assert record.num_workers == record.world_size - 1
    assert record.crowd_phases is not None


@pytest.mark.long
def test_emulated_compute_is_stretched_too(lab: Lab, tmp_path):
    path = write_tiny(tmp_path, "ring", densities=(1.0,), epochs=1)
    text = path.read_text().replace("fashion-mnist-subset", "emulated")
    text = text.replace('"mlp"', '"resnet110-cifar"\noptions = { compute_s = 0.02 }')
    path.write_text(text + SCALED)
    done = run_scenario(path, tmp_path / "out", Recorder()).measurements()
    (record,) = (record for record in done if record.kind == "measured")
    assert record.profile is not None
    assert record.solo_phases is not None
    assert record.phases.compute_s >= 0.99 * 10 * 0.02
    assert record.profile.layers[-1].ready_s >= 0.99 * 10 * 0.02 * 0.5
    [workload] = cases_of_runs([record], None)
    assert workload.phases.compute_s == pytest.approx(record.solo_phases.compute_s / 10)


def test_a_phase_is_stretched_by_the_processor_time_it_took():
    clock = PhaseClock(torch.device("cpu"), time_scale=5.0)
    before = time.thread_time()
    while time.thread_time() - before < 0.02:
        pass
    assert clock.lap() >= 0.1
    assert min(_more_than_slept_s(clock) for _ in range(20)) < 0.01  # waiting is no work
    plain = PhaseClock(torch.device("cpu"))
    assert min(plain.lap() for _ in range(20)) < 0.05


def _more_than_slept_s(clock: PhaseClock) -> float:
    """Return what a lap takes beyond a sleep in it, which a busy machine may prolong."""
    clock.start()
    before = time.perf_counter()
    time.sleep(0.01)
    slept_s = time.perf_counter() - before
    return clock.lap() - slept_s


def test_a_lab_section_becomes_a_specification(tmp_path):
    path = write_tiny(tmp_path, "ring")
    path.write_text(path.read_text() + SCALED)
    section = load_scenario(path).lab
    assert section is not None
    spec = section.spec(3)
    assert spec.rate_bits_per_s == 100e6
    assert spec.rate_of(2) == 80e6
    assert spec.changes == (LabChange(at_s=0.01, host=0, action="rate", rate_bits_per_s=90e6),)
    assert (spec.num_hosts, spec.time_scale, spec.queue_s) == (3, 10, 0.02)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("rate = 'fast'", "lab.rate: rate 'fast': not a number with a unit"),
        ("rate = '1 kbit/s'", "lab.rate: rate: rate 1 kbit/s, expected 1 Mbit/s"),
        ("rate = 'unshaped'\nscale = 3", "lab.scale: unknown key; valid here: scaled, rate"),
        ("rate = 'unshaped'\nhost_rates = { 9 = '1 Gbit/s' }", "host 9, expected a number from 0"),
        ("rate = 'unshaped'\nchanges = [{ at = '1 s', host = 0, action = 'rate' }]", "a rate with"),
        ("rate = 'unshaped'\nchanges = [{ at = '1', host = 0, action = 'cut' }]", "no unit"),
    ],
)
def test_mistakes_in_a_lab_section_are_named(tmp_path, section, says):
    text = write_tiny(tmp_path, "ring").read_text()
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(f"{text}\n[lab]\n{section}\n")


def test_a_lab_needs_something_to_train():
    text = (
        "name = 'x'\n[[topologies]]\nname = 'ring'\n[lab]\nrate = 'unshaped'\n[simulate]\n"
        "networks = ['1gbe']\nworld_sizes = [2]\n[[simulate.workloads]]\nmodel = 'resnet50'\n"
    )
    with pytest.raises(ScenarioError, match=r"\[lab\] without \[train\]"):
        parse_scenario(text)
