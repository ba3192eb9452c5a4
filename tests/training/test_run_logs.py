"""A scenario's runs log every step into the results folder."""

import csv

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dgc_topo as dt
from dgc_topo.experiments.jobs import check_trainings, plan_jobs
from dgc_topo.experiments.run_logs import log_folder
from dgc_topo.experiments.scenario import ScenarioError, load_scenario
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
