"""The command line, as people type it."""

import json
import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.scenario import Scenario
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.measurement import Measurement
from tests.report.synthetic import measurements
from tests.training.tiny import write_tiny


@pytest.fixture
def run(wide):
    def invoke(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == status, result.output
        return result.output

    return invoke


def test_verify_prints_the_proof_and_the_cost_beside_its_bound(run):
    output = run("verify", "butterfly", "--world-size", "7", "--option", "order=far")
    assert "butterfly(order=far) with 7 ranks: proved" in output
    assert "each of 7 contributions exactly once" in output
    assert "lower bound" in output


@pytest.mark.parametrize(
    ("density", "says"),
    [
        ("0.01", "nothing to do: ring, .*gossip averages whole parameters, dense only"),
        ("-1", "--density -1: compression.densities.0 = -1.0: expected greater than 0"),
    ],
)
def test_a_training_that_cannot_be_is_an_error(run, tmp_path, density, says):
    scenario = write_tiny(tmp_path, "ring")
    output = run("train", str(scenario), "--topology", "gossip", "--density", density, status=2)
    assert re.search(says.replace("ring, ", ""), " ".join(output.split())), output


def test_a_density_that_is_only_given_here_is_checked_like_the_files(run, tmp_path):
    scenario = write_tiny(tmp_path, "ring", densities=(1.0,))
    scenario.write_text(scenario.read_text().replace('warm_up = "none"', 'warm_up = "paper"'))
    output = run("train", str(scenario), "--topology", "ring", "--density", "0.01", status=2)
    said = "--density 0.01: warm_up_epochs = 4 with train.epochs = 2: density 0.01 is never reached"
    assert said in " ".join(output.split())


def test_verify_refuses_a_wrong_topology_with_the_place(run, tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from dgc_topo.schedule import Schedule, reduce\n"
        "def schedule(world_size):\n"
        "    return Schedule.from_steps(world_size, 1, [reduce(1, 0), reduce(1, 0)])\n"
    )
    output = run("verify", str(wrong), "-n", "2", status=2)
    assert "rank 0, chunk 0" in output
    assert "step 1 counts it more than once" in output
    assert "<-- here, rank 0" in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "rign", "-n", "4"], "did you mean 'ring'"),
        (["verify", "ring", "-n", "0"], "world_size 0, expected at least 1"),
        (["verify", "butterfly", "-n", "4", "--option", "order"], "expected key=value"),
        (["compare", "no-such.toml"], "no-such.toml: cannot be read"),
        (["report", "no-such-folder"], "no-such-folder: no such folder, expected one of results"),
        (["sizes", "resnet5"], "did you mean 'resnet50'"),
        (["sizes", "vgg16", "--density", "1.5"], "density 1.5, expected 0 to 1"),
        (["sizes", "vgg16", "--index-encoding", "zip"], "'zip', expected one of auto, dense, run"),
        (["show", "ring", "-n", "3", "--plot", "x.nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_one_clear_message_and_no_traceback(run, arguments, says):
    output = run(*arguments, status=2)
    assert says in output
    assert "Traceback" not in output


def test_show_prints_the_text_form_and_draws(run, tmp_path):
    assert "0 -> 1 chunk 0 reduce" in run("show", "ring", "-n", "3")
    assert "step 0" in run("show", "ring", "-n", "3", "--grid")
    run("show", "ring", "-n", "3", "--plot", str(tmp_path / "ring.svg"))
    assert (tmp_path / "ring.svg").stat().st_size > 1000


def test_lists_name_everything_with_options_and_sources(run):
    listed = run("topologies")
    assert "butterfly" in listed
    assert "near | far" in listed
    assert "0.9296" in run("networks")


def test_sizes_prints_one_json_object_or_a_table_with_the_source(run):
    sizes = json.loads(run("sizes", "resnet50", "--density", "0.001", "--json"))
    assert sizes["gradient_bytes"] == 4 * 25_557_032
    assert sizes["total_bytes"] == sizes["compressed"]["bytes"] + sizes["dense"]["bytes"]
    assert sizes["compression_ratio"] == pytest.approx(277, rel=2e-3)
    wider = json.loads(run("sizes", "resnet50", "--bytes-per-element", "12", "--json"))
    assert wider["compressed"]["bytes"] == 2 * sizes["compressed"]["bytes"]
    message = sizes["message"]
    assert message["compression_ratio"] > sizes["compression_ratio"]
    told = ("--index-encoding", "run-length", "--wire-dtype", "float16", "--json")
    paper = json.loads(run("sizes", "resnet50", *told))["message"]
    assert paper["expected_bytes"] == pytest.approx(12 + 4 * 25_502 + 2 * 54_120)
    table = run("sizes", "ptb-lstm")
    assert "as a message (auto, float32)" in table
    assert "462x" in table
    assert "source: tensorflow/models pull request 2276" in table


@pytest.mark.parametrize(("of", "model"), [("scenario", Scenario), ("measurement", Measurement)])
def test_schema_prints_the_json_schema(run, of, model):
    assert json.loads(run("schema", of)) == model.model_json_schema()


def test_train_runs_one_topology_and_simulate_needs_workloads(run, tmp_path):
    path = write_tiny(tmp_path, "tree", world_size=2, epochs=1)
    out = tmp_path / "out"
    chosen = ("--topology", "ring", "--density", "0.01", "-o", str(out))
    assert "ring" in run("train", str(path), *chosen)
    records = [
        Measurement.model_validate_json(line)
        for line in (out / "measurements.jsonl").read_text().splitlines()
    ]
    assert {(m.topology, m.density) for m in records} == {("ring", 0.01)}
    assert "report" in run("report", str(out))
    assert run("report", str(out), "--markdown").startswith("| Topology | Density |")
    refused = run("simulate", str(path), "-o", str(tmp_path / "other"), status=2)
    assert "simulate.workloads" in refused


def test_report_says_what_is_missing_in_one_line(tmp_path):
    folder = ResultsFolder.create(tmp_path / "cut", "name = 'cut'", "cut")
    called = ["report", str(folder.path)]
    nothing = CliRunner().invoke(app, called)
    assert nothing.exit_code == 2
    assert "cut/measurements.jsonl: no records, expected at least one" in nothing.stderr
    for record in measurements()[:2]:
        folder.append(record)
    folder.close()
    whole = CliRunner().invoke(app, called)
    assert whole.exit_code == 0
    assert not whole.stderr
    os.truncate(folder.measurements_path, folder.measurements_path.stat().st_size - 30)
    cut = CliRunner().invoke(app, called)
    assert cut.exit_code == 0
    (line,) = cut.stderr.splitlines()
    assert line.startswith(f"warning: {folder.measurements_path}:2: the last record was cut off")
    assert "warning" not in cut.stdout


def test_everything_but_moving_tensors_imports_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import dgc_topo.schedule.text, dgc_topo.proof, dgc_topo.topology\n"
        "import dgc_topo.experiments.scenario, dgc_topo.experiments.prediction\n"
        "import dgc_topo.report.report, dgc_topo.experiments.runner, dgc_topo.cli, dgc_topo.zoo\n"
        "from dgc_topo.proof import prove; from dgc_topo.topology import load_topology\n"
        "print(prove(load_topology('ring'), 5).claim)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "exactly once" in done.stdout, done.stderr


def test_verify_prints_the_weights_of_small_gossip(run):
    output = run("verify", "gossip", "-n", "4")
    assert "rank 0   0.3333  0.3333       .  0.3333" in output
    assert "weight that" not in run("verify", "gossip", "-n", "40")
