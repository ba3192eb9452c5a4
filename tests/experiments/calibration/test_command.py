"""Calibrating under a launcher, as people start it: mistakes are one clear line."""

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from dgc_topo import calibration as old
from dgc_topo.cli import under_launcher as command
from dgc_topo.cli.main import app
from dgc_topo.experiments.calibration import again
from dgc_topo.experiments.calibration.runs import Answer, Block
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters

LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2"}


def test_without_a_launcher_it_says_so(monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    result = CliRunner().invoke(old.app, [str(tmp_path / "lab.toml"), "1Gbit/s"])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith("error: environment variable RANK is ''")
    assert "torchrun" in line


def test_what_every_rank_timed_becomes_a_network_file(monkeypatch, tmp_path):
    def time_cases(_: object, argument: dict[str, Any]) -> Answer:
        blocks: list[Block | None] = [(0.01, 1000, 0.0, 0.0)] * argument["rounds"]
        timed = [blocks for _ in argument["cases"]]
        return Answer(timed=timed, sent_bytes=0, num_messages=0, num_barriers=0)

    fitted = []

    def fit_network(name: str, measured: list[Any], *_: object) -> CalibratedNetwork:
        fitted.extend(measured)
        return CalibratedNetwork(
            name=name,
            machine="none",
            parameters=Parameters(),
            median_fit_error=0.0,
            worst_fit_error=0.0,
        )

    worker = SimpleNamespace(rank=0, world_size=2, gather=lambda _, value, __: [value, value])
    joined = []

    def join_workers(*settings: object) -> AbstractContextManager[SimpleNamespace]:
        joined.append(settings)
        return nullcontext(worker)

    monkeypatch.setattr(command, "join_workers", join_workers)
    monkeypatch.setattr(command, "time_cases", time_cases)
    monkeypatch.setattr(command, "fit_network", fit_network)
    file = tmp_path / "lab.toml"
    options = ("--output", str(file), "--rate", "100 Mbit/s", "--timeout-s", "300")
    result = CliRunner().invoke(app, ["calibrate", *options], env=LAUNCHED)
    assert result.exit_code == 0, result.output
    compared = {"--rate": 100e6, "--timeout-s": 300}
    assert joined == [("cpu", "gloo", timedelta(seconds=300), compared)]
    [(rate, rows)] = fitted
    assert rate == 100e6
    assert {row.case.world_size for row in rows} == {2}
    assert CalibratedNetwork.load(file).name == "lab"


def test_a_file_that_cannot_be_written_is_refused_before_measuring(monkeypatch, tmp_path):
    def measure(*_: object) -> None:
        pytest.fail("it measured")

    worker = SimpleNamespace(rank=0, world_size=2)
    monkeypatch.setattr(command, "join_workers", lambda *_: nullcontext(worker))
    monkeypatch.setattr(command, "time_cases", measure)
    options = ("--output", str(tmp_path / "nowhere" / "lab.toml"))
    result = CliRunner().invoke(app, ["calibrate", *options], env=LAUNCHED)
    assert result.exit_code == 2
    assert "no such folder, expected" in result.output
    assert result.output.startswith("error: --output ")


def test_fitting_again_measures_nothing_and_takes_no_settings_of_measuring(monkeypatch, tmp_path):
    network = CalibratedNetwork(
        name="earlier",
        machine="none",
        parameters=Parameters(),
        median_fit_error=0.0,
        worst_fit_error=0.0,
    )
    earlier, new = tmp_path / "earlier.toml", tmp_path / "new.toml"
    network.save(earlier)
    monkeypatch.setattr(again, "fit_again", lambda given: given.model_copy(update={"name": "new"}))
    options = ("--output", str(new), "--again", str(earlier))
    result = CliRunner().invoke(app, ["calibrate", *options])
    assert result.exit_code == 0, result.output
    assert CalibratedNetwork.load(new).name == "new"
    result = CliRunner().invoke(app, ["calibrate", *options, "--rate", "1Gbit/s"])
    assert result.exit_code == 2
    assert "--rate: is for measuring; --again fits what a file holds" in result.output
