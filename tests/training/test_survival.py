"""Trainings outlive their workers: restarted from checkpoints, or by gossip without the lost."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from benchmarks.survival import living_workers, survive
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import ScenarioError, parse_scenario
from dgc_topo.liveness import Loss, Position
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.launch import Event, Finished, Lost, Restarts, Started, StepDone, launch
from dgc_topo.workers import LaunchError
from dgc_topo.workers.forks import can_fork
from tests.forked import forked
from tests.training.tiny import write_tiny

pytestmark = pytest.mark.skipif(not can_fork(), reason="needs Linux")


def jobs_in(folder, *topologies, extra="", **settings):
    path = write_tiny(folder, *topologies, **settings)
    text = path.read_text().replace("timeout_s", f"{extra}\ntimeout_s")
    text = text.replace("learning_rate = 0.1", "learning_rate = 0.02")
    return plan_jobs(parse_scenario(text, str(path), folder))[0]


class Striker:
    """A listener that sends signals to random workers once so many steps are done."""

    def __init__(self, *strikes):
        self.strikes = list(strikes)
        self.events = []

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, StepDone) and self.strikes and event.step >= self.strikes[0][0]:
            _, place, number = self.strikes.pop(0)
            living_workers()[place].send_signal(number)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


@pytest.mark.timeout(600)
def test_killed_and_stopped_workers_cost_no_bits():
    """The benchmark's faults, at steps and not at times."""
    found = survive(count=4, every_s=1e6, steps=100, checkpoint_every=10, seed=1)
    found.check(expected_faults=4)
    assert {fault.number for fault in found.faults} == {signal.SIGKILL, signal.SIGSTOP}
    assert found.undisturbed.restarts == 0
    assert found.disturbed.restarts == len(found.disturbed.resumed_at) == 4


@pytest.mark.timeout(600)
def test_the_last_loss_says_the_limit_and_an_error_is_no_loss(tmp_path):
    (job,) = jobs_in(tmp_path, "ring", world_size=2, densities=[0.01], steps=400)
    strikes = Striker((5, 0, signal.SIGKILL), (5, 1, signal.SIGKILL))
    keeping = Keeping(folder=tmp_path / "first")
    with pytest.raises(LaunchError, match=r"SIGKILL.*\n(.*\n)*after 1 restarts .--max-restarts 1"):
        launch([job], strikes, forked(), keeping, max_restarts=1)
    assert [event.restart for event in strikes.of(Lost)] == [1]
    assert living_workers() == []
    wrong = job.model_copy(update={"train": job.train.model_copy(update={"learning_rate": 1e30})})
    strikes = Striker()
    with pytest.raises(LaunchError, match="diverged"):
        launch([wrong], strikes, forked(), Keeping(folder=tmp_path / "second"), max_restarts=3)
    assert strikes.of(Lost) == []


@pytest.mark.timeout(600)
def test_gossip_goes_on_without_a_killed_and_a_stopped_rank(tmp_path):
    """Later jobs have all ranks again."""
    jobs = jobs_in(
        tmp_path,
        "gossip",
        'gossip?graph = "complete"',
        extra='on_lost_rank = "continue"',
        world_size=4,
        densities=[1.0],
        steps=60,
    )
    strikes = Striker((10, 0, signal.SIGSTOP), (30, 1, signal.SIGKILL))
    launch(jobs, strikes, forked(), Keeping(folder=tmp_path))
    first, second = (event.measurement for event in strikes.of(Finished))
    assert len(first.lost_ranks) == 2
    assert (first.world_size, first.num_workers, first.restarts) == (4, 2, 0)
    assert [event.restart for event in strikes.of(Lost)] == [None, None]
    steps = [lost.step for lost in first.lost_ranks]
    assert 10 <= steps[0] <= steps[1] <= 120
    assert [point.step for point in first.quality.points] == [60, 120]
    assert first.quality.final > 0.3  # of 0.1 by chance
    assert (second.lost_ranks, second.num_workers) == ((), 4)


def test_only_gossip_goes_on_without_a_rank(tmp_path):
    with pytest.raises(ScenarioError, match=r"topologies.1: ring with train.on_lost_rank"):
        jobs_in(tmp_path, "gossip", "ring", extra='on_lost_rank = "continue"')


def loss_at(step):
    error = LaunchError("worker of rank 1 was killed")
    error.loss = Loss(1, Position(step, "computing gradients"), "gone", "was killed by SIGKILL")
    return error


def test_steps_are_lost_from_the_checkpoint_to_the_furthest_step():
    heard: list[Event] = []
    restarts = Restarts(heard.append, 9)
    restarts.hear(Started(job=0, step=0))
    restarts.after(loss_at(25), 0)
    restarts.after(loss_at(None), 0)  # before it had begun again
    restarts.hear(Started(job=0, step=20))
    assert restarts.lost_steps == 5
    restarts.after(loss_at(22), 0)
    restarts.hear(Started(job=0, step=20))
    assert restarts.lost_steps == 7
    losses = [event for event in heard if isinstance(event, Lost)]
    assert [event.restart for event in losses] == [1, 2, 3]
    assert "rank 1 was lost in training step 25" in losses[0].text
    with pytest.raises(LaunchError, match="no loss"):
        restarts.after(LaunchError("no loss"), 0)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_torchrun_restarts_the_same_command_with_the_same_end(tmp_path, fault):
    """A frozen worker is named by the others, and ended by its sentinel."""
    path = write_tiny(tmp_path, "ring", world_size=2, densities=[0.01], epochs=2, steps=50)
    path.write_text(path.read_text().replace("timeout_s", "checkpoint_every = 10\ntimeout_s"))
    (job,) = plan_jobs(parse_scenario(path.read_text(), str(path), tmp_path))[0]
    strikes = Striker()
    launch([job], strikes, forked())
    (undisturbed,) = (event.measurement for event in strikes.of(Finished))
    output = tmp_path / "out"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "-m", "dgc_topo", "train", str(path)]
    command += ["--topology", "ring", "--density", "0.01", "--resume", "-o", str(output)]
    with subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        victim = wait_for_a_checkpoint(run, output)
        victim.send_signal(fault)
        printed, _ = run.communicate()
    assert run.returncode == 0, printed
    (record,) = ResultsFolder(output).measurements()[:1]
    assert record.parameters == undisturbed.parameters
    assert record.quality == undisturbed.quality
    assert (record.restarts, len(record.resumed_at)) == (1, 1)


def wait_for_a_checkpoint(run, output):
    """Return a worker of torchrun once the training has a checkpoint."""
    while run.poll() is None:
        if list(output.rglob("manifest.json")):
            family = psutil.Process(run.pid).children()
            return next(p for p in family if "dgc_topo" in p.cmdline())
    raise AssertionError(run.stdout.read())
