"""Training on real worker processes, over every kind of topology."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from benchmarks.survival import living_workers
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.runner import run_scenario
from dgc_topo.experiments.scenario import load_scenario
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement
from dgc_topo.training.data import Shard
from dgc_topo.training.launch import Evaluated, Finished, StepDone, launch
from dgc_topo.training.models import make_task
from dgc_topo.wire.coding import WireCoding
from dgc_topo.workers import LaunchError, Loopback
from tests.training.tiny import write_tiny

TOPOLOGIES = (
    "ring",
    "parameter-server?server = 'dedicated'",
    "butterfly",
    "mesh",
    "gossip?graph = 'one-peer-exponential'",
)


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.left_out, self.events, self.predictions, self.total = [], [], 0, 0

    def moved(self, folder, aside):
        self.aside = aside

    def plan(self, jobs, left_out):
        self.left_out = left_out

    def event(self, event):
        self.events.append(event)

    def plan_predictions(self, total):
        self.total = total

    def predicted(self):
        self.predictions += 1


def key(record: Measurement) -> tuple[str, float]:
    return record.topology, record.density


def trained(path, folder) -> tuple[Recorder, list[Measurement]]:
    recorder = Recorder()
    results = run_scenario(path, folder, recorder)
    return recorder, results.measurements()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every topology, dense and compressed, trained twice."""
    folder = tmp_path_factory.mktemp("runs")
    path = write_tiny(folder, *TOPOLOGIES)
    return [trained(path, folder / name) for name in ("first", "second")], folder


def measured(runs, index=0):
    return [m for m in runs[0][index][1] if m.kind == "measured"]


def test_every_topology_is_trained_and_predicted_in_one_schema(runs):
    recorder, records = runs[0][0]
    assert len(measured(runs)) == 2 * len(TOPOLOGIES) - 1  # gossip is dense only
    assert recorder.left_out == [
        "left out: gossip(graph=one-peer-exponential), density 0.01: gossip averages whole "
        "parameters, dense only"
    ]
    predicted = [m for m in records if m.kind == "predicted"]
    assert len(predicted) == 2 * 2 * len(measured(runs)) == recorder.predictions == recorder.total
    assert (runs[1] / "first" / "scenario.toml").read_text() == (runs[1] / "tiny.toml").read_text()


def test_the_same_seed_gives_the_same_result(runs):
    first, second = ({key(m): m for m in measured(runs, i)} for i in (0, 1))
    assert first.keys() == second.keys()
    for which, record in first.items():
        assert record.quality == second[which].quality
        assert record.wire_bytes_per_step == second[which].wire_bytes_per_step


def test_topologies_that_all_reduce_learn_alike(runs):
    """Sums differ only in rounding between ring, butterfly and mesh."""
    losses = [
        [p.train_loss for p in m.quality.points]
        for m in measured(runs)
        if m.topology in {"ring", "butterfly", "mesh"} and m.density == 1
    ]
    assert len(losses) == 3
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-4, atol=1e-5)


def test_three_workers_learn_what_one_worker_with_the_whole_batch_learns(runs):
    """Dense all-reduce training equals torch.optim.SGD on the global batch, to rounding."""
    task = make_task("fashion-mnist-subset", "mlp", Shard(batch_size=24, seed=3))
    model = task.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for epoch in range(2):
        batches = task.batches(epoch)
        for _ in range(6):
            optimizer.zero_grad()
            loss = task.loss(model, next(batches))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    expected = [sum(losses[:6]) / 6, sum(losses[6:]) / 6]
    ring = next(m for m in measured(runs) if key(m) == ("ring", 1.0))
    torch.testing.assert_close(
        [p.train_loss for p in ring.quality.points], expected, rtol=1e-4, atol=1e-5
    )
    assert ring.quality.final == pytest.approx(task.evaluate(model).value, abs=2e-3)


def test_records_say_where_time_and_bytes_went(runs):
    for record in measured(runs):
        assert record.phases.compute_s > 0
        assert record.phases.communicate_s > 0
        assert record.solo_phases.compute_s > 0
        layers = record.profile.layers
        elements = sum(each.compressible_elements + each.dense_elements for each in layers)
        assert 4 * elements == record.gradient_bytes
        assert record.profile.forward_s + layers[-1].ready_s == pytest.approx(
            record.solo_phases.compute_s
        )
        assert record.messages_per_step > 0
        if record.density < 1:
            assert record.compression_ratio > 20
            assert record.sparse.entries <= record.sparse.merged_entries
            assert record.sparse.merged_entries <= 3 * record.sparse.entries + 1
            assert record.sparse.coding == WireCoding()
            entries, dense = record.sparse.entries, 4 * record.sparse.dense_elements
            coded = record.sparse.bytes_per_entry * entries
            assert record.compressed_bytes == pytest.approx(coded + dense)
            length = np.array([record.sparse.length])
            expected = WireCoding().expected_bytes(length, np.array([entries]))[0]
            assert coded == pytest.approx(expected, rel=0.1)  # real entries lie in clusters
    by_key = {key(m): m for m in measured(runs)}
    dense, sparse = by_key["ring", 1.0], by_key["ring", 0.01]
    assert dense.wire_bytes_per_step == pytest.approx(dense.gradient_bytes * 4 / 3, rel=0.01)
    assert sparse.wire_bytes_per_step < dense.wire_bytes_per_step / 10
    server = by_key["parameter-server", 1.0]
    assert server.num_workers == 2
    assert server.wire_bytes_per_step == pytest.approx(2 * server.gradient_bytes, rel=0.01)


def test_events_tell_progress_and_end_with_the_record(runs):
    events = runs[0][0][0].events
    first = [e for e in events if e.job == 0]
    steps = [e.step for e in first if isinstance(e, StepDone)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 12
    assert [e.epoch for e in first if isinstance(e, Evaluated)] == [1, 2]
    assert isinstance(first[-1], Finished)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children() if "dgc_topo.workers.worker" in p.cmdline()]


def failure_of(path, how: signal.Signals, hosts: Loopback | None = None) -> str:
    """Strike rank 2 in the middle of training, and return what the launch has to say."""
    victim: list[psutil.Process] = []

    def workers() -> list[psutil.Process]:
        return living_workers() if hosts is None else workers_of(psutil.Process())

    def strike(event):
        if isinstance(event, StepDone) and event.step > 3 and not victim:
            victim.append(workers()[2])
            victim[0].send_signal(how)

    with pytest.raises(LaunchError) as failure:
        launch(plan_jobs(load_scenario(path))[0], strike, hosts)
    assert workers() == []
    return str(failure.value)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_or_frozen_worker_is_named_and_none_is_left(tmp_path, how):
    long_epochs = {"epochs": 500, "steps": 3000, "batch_size": 1}
    path = write_tiny(tmp_path, "ring", densities=(1.0,), **long_epochs)
    text = failure_of(path, how, Loopback())
    fate = "was killed by SIGKILL" if how is signal.SIGKILL else "is frozen"
    where = r"in training step \d+, while (computing gradients|summing gradients over ring)"
    assert re.match(f"worker of rank 2 {fate} {where}", text)


def test_a_worker_lost_between_steps_is_named_too(tmp_path):
    """With an evaluation after every step, that is where peers notice."""
    path = write_tiny(tmp_path, "ring", densities=(1.0,), epochs=3000, steps=1)
    text = failure_of(path, signal.SIGKILL)
    assert re.match(r"worker of rank 2 was killed by SIGKILL in training step \d+, while ", text)


def test_training_that_diverges_is_an_error_that_says_so(tmp_path):
    path = write_tiny(tmp_path, "ring", densities=(1.0,), epochs=30)
    path.write_text(path.read_text().replace("learning_rate = 0.1", "learning_rate = 1e30"))
    with pytest.raises(LaunchError, match=r"loss is (nan|inf) .* training diverged"):
        launch(plan_jobs(load_scenario(path))[0], lambda _: None)
    assert living_workers() == []


def start_command(path, folder) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dgc_topo", "compare", str(path), "-o", str(folder)]
    # As a terminal starts it: a shell's background job, such as these tests, may ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return result


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_command_ends_every_worker(tmp_path, how):
    """Ctrl-C reaches the whole process group, as a terminal sends it; the others one process."""
    scenario = write_tiny(tmp_path, "ring", world_size=2, densities=(1.0,), epochs=5000)
    process = start_command(scenario, tmp_path / "out")
    try:
        wait_for(lambda: len(workers_of(psutil.Process(process.pid))) == 2)
        workers = workers_of(psutil.Process(process.pid))
        time.sleep(1.0)
        if how is signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        _, errors = process.communicate(timeout=100)
        if how is signal.SIGINT:
            assert process.returncode == 130
            # There may be a checkpoint already.
            assert errors.startswith("interrupted; ")
            assert re.search(r"every worker process has been ended; the same command (g|b)", errors)
            assert "Traceback" not in errors
        if how is signal.SIGTERM:
            assert process.returncode == 143
            assert "asked to end; every worker process has been ended; the same com" in errors
        wait_for(lambda: not any(w.is_running() and w.status() != "zombie" for w in workers))
    finally:
        process.kill()
        process.wait()


def test_torchrun_trains_over_a_chosen_topology(tmp_path):
    path = write_tiny(tmp_path, "ring", densities=(1.0, 0.01), world_size=3)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "dgc_topo", "train", str(path), "--topology", "butterfly", "--world-size", "2"),
        *("-o", str(tmp_path / "o")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert "butterfly" in done.stdout
    records = (tmp_path / "o" / "measurements.jsonl").read_text().splitlines()
    found = [Measurement.model_validate_json(line) for line in records]
    assert [(m.topology, m.world_size) for m in found if m.kind == "measured"] == [
        ("butterfly", 2),
        ("butterfly", 2),
    ]
    assert ResultsFolder(tmp_path / "o").origin().command[-2:] == ("--world-size", "2")


def test_ranks_that_end_with_different_parameters_are_an_error(tmp_path):
    """A topology that sums at one rank only: training would go on with models that drift apart."""
    (tmp_path / "one_sided.py").write_text(
        "from dgc_topo.schedule import Schedule, reduce\n"
        "def schedule(world_size):\n"
        "    return Schedule.from_steps(world_size, 1, [reduce(1, 0)])\n"
    )
    path = write_tiny(
        tmp_path, str(tmp_path / "one_sided.py"), world_size=2, densities=(1.0,), epochs=1
    )
    with pytest.raises(LaunchError, match=r"parameters of ranks \[1\] differ from those of rank 0"):
        launch(plan_jobs(load_scenario(path))[0], lambda _: None)
