"""The command ``dgc-topo sweep``, end to end: records, going on, interrupts, errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import dgc_topo as dt
from dgc_topo.cli.main import app
from dgc_topo.experiments.shipped import shipped_scenarios

SMALL = """
name = "small"
topologies = ["ring", "gossip:graph=ring"]
[sweep]
workload = "resnet50"
world_size = [2, 4]
network = "1gbe"
bandwidth = { from = "100Mbit/s", to = "10Gbit/s", count = 3 }
density = [1.0, "1%"]
"""
#: Takes some seconds, so that it can be interrupted.
LARGER = SMALL.replace("[2, 4]", "[2, 4, 8, 16, 32, 64]").replace("count = 3", "count = 60")


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Call the command where a scenario is ``small.toml``."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL)

    def invoke(*arguments):
        return CliRunner().invoke(app, ["sweep", "small.toml", "--processes", "0", *arguments])

    return invoke


def rows_in(folder):
    return [json.loads(line) for line in (Path(folder) / "sweep.jsonl").read_text().splitlines()]


def test_every_combination_is_a_record_and_what_cannot_be_says_why(call):
    result = call()
    assert result.exit_code == 0, result.output
    rows = rows_in("results/small")
    assert len(rows) == 2 * 2 * 3 * 2
    left_out = [row for row in rows if row["skipped"]]
    assert {(row["topology"], row["density"]) for row in left_out} == {("gossip:graph=ring", 0.01)}
    assert "18 predictions, 6 skipped" in result.stdout
    assert "averages parameters" in result.stdout
    assert "fastest is" in result.stdout
    assert "results/small/sweep.jsonl" in result.stdout


def test_the_records_are_those_of_the_library(call):
    assert call().exit_code == 0
    swept = dt.sweep(
        ["ring", "gossip:graph=ring"],
        [2, 4],
        "1gbe",
        "resnet50",
        bandwidth=dt.spread("100Mbit/s", "10Gbit/s", 3),
        density=[1.0, 0.01],
    )
    assert [row.model_dump(mode="json") for row in swept] == rows_in("results/small")
    assert dt.Sweep.load("results/small").to_frame().equals(swept.to_frame())


def test_a_second_call_has_nothing_to_do_and_changes_nothing(call):
    call()
    before = Path("results/small/sweep.jsonl").read_bytes()
    result = call()
    assert "24 of 24 predictions are there already" in result.stdout
    assert Path("results/small/sweep.jsonl").read_bytes() == before


def test_other_settings_put_earlier_records_aside_and_keep_what_both_share(call):
    call()
    Path("small.toml").write_text(SMALL.replace("count = 3", "count = 2"))
    result = call()
    assert "earlier results: results/small is now" in result.stdout
    assert "16 of 16 predictions are there already" in result.stdout
    assert len(rows_in("results/small")) == 16
    [aside] = Path("results").glob("small-*")
    assert len(rows_in(aside)) == 24


def test_the_folder_keeps_the_scenario_and_the_machine(call):
    call("-o", "there")
    kept = {file.name for file in Path("there").iterdir()}
    assert kept >= {"sweep.jsonl", "scenario.toml", "environment.json"}
    assert Path("there/scenario.toml").read_text() == SMALL
    command = json.loads(Path("there/environment.json").read_text())["command"]
    assert command == ["dgc-topo", "sweep", "scenario.toml"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ('density = [1.0, "1%"]|density = [1.0, 2.0]', "sweep.density"),
        ("world_size = [2, 4]|world_size = [2.5]", "sweep.world_size"),
        ('"10Gbit/s", count = 3|"10Gbit", count = 3', "sweep.bandwidth"),
        ("count = 3|cuont = 3", "sweep.bandwidth"),
        ("density =|densty =", "did you mean 'density'?"),
        ('workload = "resnet50"|workload = "resnet5"', "sweep.workload"),
        ('network = "1gbe"|network = "1gbee"', "network"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_made(call, wrong, expected):
    Path("small.toml").write_text(SMALL.replace(*wrong.split("|")))
    result = call()
    assert result.exit_code == 2
    assert expected in result.stderr
    assert not Path("results").exists()


def test_a_scenario_without_a_sweep_is_sent_to_its_own_command(tmp_path):
    result = CliRunner().invoke(app, ["sweep", "quickstart", "-o", str(tmp_path / "there")])
    assert result.exit_code == 2
    assert "[sweep]" in result.stderr


def test_compare_sends_a_sweep_to_this_command(call, tmp_path):
    result = CliRunner().invoke(app, ["compare", "small.toml"])
    assert result.exit_code == 2
    assert "dgc-topo sweep" in result.stderr


def test_the_shipped_sweep_says_its_command_and_is_a_thousand_to_ten_thousand_predictions():
    [which] = [each for each in shipped_scenarios() if each.name == "which-topology"]
    assert which.command == "sweep"
    axes = dt.load_scenario("which-topology").sweep
    sizes = [
        len(getattr(axes, axis)) for axis in ("workload", "world_size", "bandwidth", "density")
    ]
    number = len(dt.load_scenario("which-topology").topologies)
    for size in sizes:
        number *= size
    assert 1_000 <= number <= 10_000


@pytest.mark.slow
def test_ctrl_c_ends_every_process_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    (tmp_path / "small.toml").write_text(LARGER)
    command = [sys.executable, "-m", "dgc_topo", "sweep", "small.toml", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(dt.__file__).parents[1])}
    start = {"cwd": tmp_path, "env": environment, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, **start)
    file = tmp_path / "results" / "small" / "sweep.jsonl"
    done_at_first = 6 * 60  # that cannot be are written at once
    until = time.monotonic() + 100
    while not file.exists() or file.read_bytes().count(b"\n") <= done_at_first:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert not [child for child in children if child.is_running() and child.status() != "zombie"]
    kept = file.read_text().splitlines()
    assert done_at_first < len(kept) < 2 * 6 * 60 * 2
    assert all(json.loads(line)["job"] for line in kept)

    done = subprocess.run(command, capture_output=True, check=True, **start)
    assert f"{len(kept):,} of 1,440 predictions are there already" in done.stdout
    elsewhere = subprocess.run([*command, "-o", "again"], capture_output=True, check=True, **start)
    assert elsewhere.returncode == 0
    assert file.read_bytes() == (tmp_path / "again" / "sweep.jsonl").read_bytes()
