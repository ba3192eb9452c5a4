"""The command that advises."""

import json

from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters


def run(*arguments):
    return CliRunner().invoke(app, ["advise", *map(str, arguments)])


def test_it_prints_one_json_object():
    result = run("resnet50", "--hosts", 4, "--density", "1%", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.output)
    assert facts["verdict"].startswith("Compress: on 1gbe, 4 workers with DGC 1 %")
    asked = {"topology", "density", "step_time_s", "low_s", "high_s", "speedup", "bound_by"}
    assert all(asked <= set(way) for way in facts["ways"])
    assert facts["ways"][0]["step_time_s"] == min(way["step_time_s"] for way in facts["ways"])


def test_it_says_what_it_assumed():
    result = run("--parameters", "25M", "--step-time", "180ms", "--hosts", 2)
    assert result.exit_code == 0
    for said in (
        "Predicted",
        "compressing costs as measured on an H100",
        "180 ms per step: as given",
    ):
        assert said in result.output
    assert "PowerSGD" not in result.output  # whose bytes follow from shapes, not from a number


def test_it_says_which_machine_a_network_was_calibrated_on(tmp_path):
    CalibratedNetwork(
        name="lab",
        created="2026-11-29T12:00:00Z",
        machine="An old processor, 2 cores",
        rate_bits_per_s=1e8,
        parameters=Parameters(goodput=0.95),
        median_fit_error=0.0,
        worst_fit_error=0.0,
    ).save(tmp_path / "lab.toml")
    table = tmp_path / "table.toml"
    table.write_text('kind = "calibrated"\nfile = "lab.toml"\n')
    for network in (tmp_path / "lab.toml", table):
        result = run("resnet50", "--hosts", 2, "--network", network, "--density", "1%")
        assert "as calibrated on 2026-11-29 (An old processor, 2 cores)" in result.output
    plain = run("resnet50", "--hosts", 2, "--density", "1%")
    assert "calibrated on 2" not in plain.output


def test_options_are_named_in_errors(tmp_path):
    there = tmp_path / "there.toml"
    there.write_text("mine")
    for options, told in (
        (["--hosts", 4, "--density", "1"], "--density: 1.0, expected below 1"),
        (["--hosts", 4, "--step-time", "180"], "--step-time '180': no unit"),
        (["--hosts", 4, "--compress", "x"], "--compress 'x'"),
        (["--hosts", 4, "--write", there], "is there already"),
    ):
        result = run("resnet50", *options)
        assert result.exit_code == 2
        assert told in result.output
    assert there.read_text() == "mine"
