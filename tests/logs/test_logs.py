"""Logs of steps: what is told is what can be read back, also after a training has gone on."""

import csv
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dgc_topo as dt
from dgc_topo.logs.callbacks import Callbacks, EvaluationInfo
from dgc_topo.logs.files import EVALUATIONS, STEPS


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tell(log: Callbacks, first: int, last: int, factor: float = 1.0) -> None:
    """Tell about steps *first* to *last*, and an evaluation after every fourth."""
    for step in range(first, last + 1):
        log.on_step(dt.StepInfo(step=step, loss=factor / step, learning_rate=0.1 * factor))
        if step % 4 == 0:
            log.on_evaluation(EvaluationInfo(step=step, metric="accuracy", value=step / 100))


def test_csv_holds_every_step_and_evaluation(tmp_path):
    with dt.open_logs(["csv"], tmp_path / "run") as log:
        tell(log, 1, 9)
        written = rows(tmp_path / "run" / STEPS)  # by line, before it is closed
    assert [int(row["step"]) for row in written] == list(range(1, 10))
    assert [float(row["loss"]) for row in written] == [1 / step for step in range(1, 10)]
    assert {row["density"] for row in written} == {""}
    found = rows(tmp_path / "run" / EVALUATIONS)
    assert [(row["step"], row["metric"], row["value"]) for row in found] == [
        ("4", "accuracy", "0.04"),
        ("8", "accuracy", "0.08"),
    ]


def test_csv_goes_on_from_a_step_and_keeps_what_was_before(tmp_path):
    """After a kill in the middle of a row."""
    with dt.open_logs("csv", tmp_path) as log:
        tell(log, 1, 8)
    with (tmp_path / STEPS).open("a") as file:
        file.write("9,0.1")
    with dt.open_logs("csv", tmp_path) as log:
        tell(log, 6, 10, factor=2.0)
    found = rows(tmp_path / STEPS)
    assert [int(row["step"]) for row in found] == list(range(1, 11))
    assert [float(row["learning_rate"]) for row in found] == [0.1] * 5 + [0.2] * 5
    assert [row["step"] for row in rows(tmp_path / EVALUATIONS)] == ["4", "8"]


def test_tensorboard_reads_back_what_was_told(tmp_path):
    with dt.open_logs(["tensorboard"], tmp_path) as log:
        tell(log, 1, 8)
    with dt.open_logs(["tensorboard"], tmp_path) as log:  # a training that goes on from step 6
        tell(log, 6, 10, factor=2.0)
    found = EventAccumulator(str(tmp_path)).Reload()
    losses = found.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, 11))
    expected = [(1 if step < 6 else 2) / step for step in range(1, 11)]
    assert [event.value for event in losses] == pytest.approx(expected)
    assert [event.value for event in found.Scalars("test/accuracy")] == pytest.approx([0.04, 0.08])
    assert "train/density" not in found.Tags()["scalars"]


def recorded_wandb(monkeypatch) -> list[Any]:
    """Fake the package by a recorder: it is not among those that tests install."""
    told: list[Any] = []
    run = SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda: told.append("finish")
    )

    def init(**given):
        told.append(given)
        return run

    # What find_spec wants of a loaded module is its __spec__.
    module = SimpleNamespace(init=init, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_wandb_is_told_with_its_documented_functions(tmp_path, monkeypatch):
    told = recorded_wandb(monkeypatch)
    with dt.open_logs(["wandb"], tmp_path / "run", project="p", config={"seed": 1}) as log:
        tell(log, 4, 4)
    begin, step, evaluation, end = told
    assert (begin["project"], begin["name"], begin["config"]) == ("p", "run", {"seed": 1})
    assert begin["dir"] == str(tmp_path)
    assert step == (4, {"train/loss": 0.25, "train/learning_rate": 0.1})
    assert evaluation == (4, {"test/accuracy": 0.04})
    assert end == "finish"


def test_wandb_goes_on_in_the_run_of_a_training_that_goes_on(tmp_path, monkeypatch):
    """What an interrupted training left in its folder names the run; a new training has its own."""
    told = recorded_wandb(monkeypatch)
    for first, last in ((1, 3), (3, 5), (1, 2)):
        with dt.open_logs(["wandb"], tmp_path / "run") as log:
            tell(log, first, last)
    begun = [each for each in told if isinstance(each, dict)]
    assert [each["resume"] for each in begun] == ["allow"] * 4
    ids = [each["id"] for each in begun]
    assert ids[0] == ids[1] == ids[2] != ids[3]  # the third is left as soon as step 1 comes
    ends = [place for place, each in enumerate(told) if each == "finish"]
    assert [step for step, _ in told[ends[2] + 2 : -1]] == [1, 2]
    with dt.open_logs(["wandb"], tmp_path / "other") as log:
        tell(log, 7, 7)
    assert told[-3]["id"] not in ids


def test_a_log_that_is_not_there_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("dgc_topo.logs.opening.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"'tensorboard': .* not installed.*dgc-topo\[tensorb"):
        dt.open_logs(["csv", "tensorboard"], tmp_path / "run")
    with pytest.raises(ValueError, match=r"'wandb': wandb is not installed.*pip install wandb"):
        dt.open_logs(["wandb"], tmp_path / "run")
    with pytest.raises(ValueError, match="log 'csvs': expected one of csv, tensorboard, wandb"):
        dt.open_logs(["csvs"], tmp_path / "run")
    with pytest.raises(ValueError, match="log 'csv': 2 times, expected each log once"):
        dt.open_logs(["csv", "csv"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


OWN = """
class Own:
    def __init__(self, folder):
        self.path = folder / "own.txt"

    def on_step(self, step):
        if step.step == 3:
            raise OSError("no space left")
        with self.path.open("a") as file:
            file.write(f"{step.step} ")

class Other:
    pass
"""


def test_a_callback_that_wants_to_exit_ends_no_training(tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace('OSError("no space left")', "SystemExit(3)"))
    log = dt.open_logs(["own.py:Own", "csv"], tmp_path / "run", code_folder=tmp_path)
    with log, pytest.warns(UserWarning, match="Own is left out from here on.*SystemExit: 3"):
        tell(log, 1, 4)
    assert len(rows(tmp_path / "run" / STEPS)) == 4


def test_a_callback_of_ones_own_that_fails_ends_no_training(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(ValueError, match=r"own\.py:Other: has no method on_step"):
        dt.open_logs(["own.py:Other"], tmp_path, code_folder=tmp_path)
    with dt.open_logs(["own.py:Own", "csv"], tmp_path / "run", code_folder=tmp_path) as log:
        tell(log, 1, 2)
        with pytest.warns(UserWarning, match="Own is left out from here on.*no space left"):
            tell(log, 3, 3)
        tell(log, 4, 5)
    assert (tmp_path / "run" / "own.txt").read_text() == "1 2 "
    assert len(rows(tmp_path / "run" / STEPS)) == 5
