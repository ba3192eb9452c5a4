"""First things that somebody types: the version, the environment, the scenarios by name."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.scenario import load_scenario
from dgc_topo.experiments.shipped import scenario_path, shipped_scenarios
from dgc_topo.records.environment import describe_installation
from dgc_topo.workers.seat import was_launched

ROOT = Path(__file__).parent.parent


def test_the_version_is_that_of_the_package():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"dgc-topo {version('dgc-topo')}\n")


def test_the_environment_can_be_pasted_and_read_by_programs(wide):
    text = CliRunner().invoke(app, ["env"], env={"SLURM_PROCID": "3"}).stdout
    for name in ("dgc-topo", "python", "torch", "interfaces", "lo ", "SLURM_PROCID 3"):
        assert name in text
    facts = json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout)
    assert facts["packages"]["torch"] == version("torch")
    assert facts["cores"] >= 1


def test_only_variables_of_launchers_are_told():
    told = describe_installation({"RANK": "1", "SLURM_JWT": "secret", "NCCL_DEBUG": "INFO"})
    assert told["launcher variables"] == {"NCCL_DEBUG": "INFO", "RANK": "1"}


def test_every_shipped_scenario_is_listed_and_found_by_its_name(wide):
    listed = CliRunner().invoke(app, ["scenarios"]).stdout
    found = [each.name for each in shipped_scenarios()]
    assert found == sorted(file.stem for file in (ROOT / "scenarios").glob("*.toml"))
    for each in shipped_scenarios():
        assert f"dgc-topo {each.command} {each.name}" in listed
        assert load_scenario(each.name).name == each.name
        assert each.description


def test_a_name_is_no_file_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("quickstart").mkdir()
    Path("quickstart.toml").touch()
    assert scenario_path("quickstart") == ROOT / "scenarios" / "quickstart.toml"
    for own in ("quickstart.toml", "./quickstart.toml", "quickstart/", "sub/quickstart"):
        given = scenario_path(own)
        assert given.absolute() == (tmp_path / own).absolute()


@pytest.mark.parametrize("command", ["compare", "validate", "train --topology ring"])
def test_an_unknown_name_gets_the_nearest(command, wide):
    name, *options = command.split()
    result = CliRunner().invoke(app, [name, "quikstart", *options])
    assert result.exit_code == 2
    assert "scenario 'quikstart': unknown (did you mean 'quickstart'?)" in result.output


def test_results_of_a_shipped_scenario_go_to_the_working_directory(tmp_path, monkeypatch, wide):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["simulate", "dgc-paper-figure6"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "results" / "dgc-paper-figure6" / "report.html").is_file()


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, False),
        ({"WORLD_SIZE": "4"}, False),
        ({"RANK": "0", "WORLD_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, False),  # the script of a batch job
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_ID": "0"}, False),  # its shell
    ],
)
def test_a_launcher_is_told_from_a_shell(variables, launched):
    assert was_launched(variables) == launched


@pytest.mark.parametrize("module", ["train", "calibration"])
def test_old_commands_say_the_new_one(module):
    environment = {key: value for key, value in os.environ.items() if key != "RANK"}
    done = subprocess.run(
        [sys.executable, "-m", f"dgc_topo.{module}", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    new = {"train": "train", "calibration": "calibrate"}[module]
    assert done.stderr.startswith("warning: 'python -m dgc_topo.")
    assert f"'python -m dgc_topo {new}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_under_a_launcher_restarts_are_the_launchers(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    call = ["train", "quickstart", "--topology", "ring", "--max-restarts", "3"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code
    assert "--max-restarts 3: under a launcher" in " ".join(result.output.split())
