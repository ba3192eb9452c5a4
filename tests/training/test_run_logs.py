"""A scenario's runs log every step into the results folder."""

import csv

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dgc_topo as dt
from dgc_topo.experiments.jobs import check_trainings, plan_jobs
from dgc_topo.experiments.run_logs import RunLogs, log_folder
from dgc_topo.experiments.scenario import ScenarioError, load_scenario
from dgc_topo.python_files import CodeError
from dgc_topo.training.launch import Evaluated, Started, StepDone
from tests.own_code import SCENARIO, write_own

LOGGED = SCENARIO.replace("epochs = 2", 'epochs = 2\nlog = ["csv", "tensorboard"]').replace(
    "densities = [0.1]", "densities = [1.0, 0.1]"
)


def test_every_run_has_its_logs_with_every_step(tmp_path):
    path = write_own(tmp_path, LOGGED)
    results = dt.run(path, tmp_path / "out")
    for record, job in zip(results.measured, plan_jobs(load_scenario(path))[0], strict=True):
        folder = log_folder(results.path, job)
        with (folder / "steps.csv").open(newline="") as file:
            steps = list(csv.DictReader(file))
        assert [int(row["step"]) for row in steps] == list(range(1, 11))
        assert {float(row["learning_rate"]) for row in steps} == {0.05}
        assert {float(row["density"]) for row in steps} == {job.density}
        assert float(steps[-1]["epoch"]) == 2
        with (folder / "evaluations.csv").open(newline="") as file:
            evaluations = list(csv.DictReader(file))
        assert record.quality is not None
        assert [float(row["value"]) for row in evaluations] == [
            point.value for point in record.quality.points
        ]
        board = EventAccumulator(str(folder)).Reload()
        losses = [event.value for event in board.Scalars("train/loss")]
        assert losses == pytest.approx([float(row["loss"]) for row in steps], rel=1e-6)
    # What is logged is no part of what a run is, and the folder counts as results.
    plain = load_scenario(write_own(tmp_path, SCENARIO))
    assert results.measured[1].job == plan_jobs(plain)[0][0].key
    again = dt.run(write_own(tmp_path, LOGGED), tmp_path / "out", topology="ring", density=0.1)
    assert len(again.measured) == 1


def test_a_missing_package_is_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("dgc_topo.logs.opening.find_spec", lambda _: None)
    jobs = plan_jobs(load_scenario(write_own(tmp_path, LOGGED)))[0]
    with pytest.raises(ScenarioError, match=r"own\.toml: train\.log 'tensorboard': .*pip install"):
        check_trainings("own.toml", jobs)


FAILS = """
class Fails:
    def __init__(self, folder):
        raise OSError("no server")

    def on_step(self, step):
        pass
"""


def test_a_log_that_cannot_be_opened_is_said_before_any_run(tmp_path):
    (tmp_path / "log.py").write_text(FAILS)
    jobs = plan_jobs(
        load_scenario(write_own(tmp_path, LOGGED.replace('"csv", "tens', '"log.py:Fails", "tens')))
    )[0]
    check_trainings("own.toml", jobs)
    with (
        pytest.raises(CodeError, match=r"log: log\.py:Fails: raised OSError: no server at .*:4"),
        RunLogs(jobs, tmp_path / "out"),
    ):
        pytest.fail("a run has begun")


def test_steps_that_are_done_again_are_logged_once(tmp_path):
    """After the loss of a worker a launch goes on from a checkpoint."""
    jobs = plan_jobs(load_scenario(write_own(tmp_path, LOGGED)))[0]
    done = {"job": 1, "total_steps": 10}
    with RunLogs(jobs, tmp_path / "out") as logs:
        for first, last in ((1, 5), (3, 7), (5, 10)):
            logs.event(Started(job=1, step=first - 1))
            for step in range(first, last + 1):
                logs.event(StepDone(step=step, loss=float(first), **done))
                if step % 5 == 0:
                    value = step + 0.1 * first
                    logs.event(Evaluated(job=1, epoch=step // 5, metric="accuracy", value=value))
        logs.event(StepDone(job=0, step=1, total_steps=10, loss=0.0))
    folder = log_folder(tmp_path / "out", jobs[1])
    with (folder / "steps.csv").open(newline="") as file:
        steps = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert steps == [(n, 1.0) for n in range(1, 6)] + [
        (6, 3.0),
        (7, 3.0),
        (8, 5.0),
        (9, 5.0),
        (10, 5.0),
    ]
    with (folder / "evaluations.csv").open(newline="") as file:
        rows = [(row["step"], float(row["value"])) for row in csv.DictReader(file)]
    assert rows == [("5", 5.1), ("10", 10.5)]
    losses = EventAccumulator(str(folder)).Reload().Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 11))
