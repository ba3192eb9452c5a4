"""The command that simulates one training step."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.zoo import load_model

FABRICS = Path(__file__).parent.parent / "scenarios" / "fabrics.toml"


def run(*arguments):
    return CliRunner().invoke(app, ["step", *map(str, arguments)])


def test_it_prints_one_json_object_whose_phases_add_up():
    result = run("resnet50", "-n", 4, "--overlap", "--jitter", 0.1, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.output)
    phases = ("compute_s", "compress_s", "exposed_s", "wait_s", "update_s")
    assert sum(facts[name] for name in phases) == pytest.approx(facts["step_time_s"])
    assert facts["step_time_s"] > load_model("resnet50").compute_s
    asked = ("workload", "topology", "world_size", "network", "density", "overlap")
    assert [facts[name] for name in asked] == ["resnet50", "ring", 4, "1gbe", 1.0, True]
    assert facts["num_bytes"] == load_model("resnet50").gradient_bytes


def test_a_model_takes_the_users_own_time_and_batch():
    result = run("resnet50", "-n", 4, "--compute", "0.21s", "--batch", 32, "--json")
    facts = json.loads(result.output)
    assert facts["compute_s"] == pytest.approx(0.21)
    assert facts["batch_size_per_worker"] == 32
    assert facts["samples_per_s"] == pytest.approx(4 * 32 / facts["step_time_s"])


def test_it_writes_a_trace_and_a_plot(tmp_path):
    trace, plot = tmp_path / "step.json", tmp_path / "step.svg"
    result = run("alexnet", "-n", 128, "--density", 0.001, "--trace", trace, "--plot", plot)
    assert result.exit_code == 0
    assert "bound by" in result.output
    said = " ".join(result.output.split())
    assert "gradients travel after the backward pass" in said
    assert "compressing costs nothing: it is assumed to be free" in said
    assert "the speed-up is relative to one dense worker" in said
    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["pid"] for event in events} == set(range(64))
    assert plot.read_text().startswith("<?xml")


def test_it_takes_the_networks_that_simulate_takes():
    def communication_s(network, *options):
        result = run("vgg16", "-n", 4, "--network", network, *options, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.output)["communication_s"]

    usual = communication_s("1gbe")
    alike = ("--bandwidth", "116.2MB/s", "--latency", "12.5us")
    assert communication_s("ideal", *alike) == pytest.approx(usual)
    assert communication_s(f"{FABRICS}:racks-in-order") == pytest.approx(usual)  # in one rack
    slow = communication_s(f"{FABRICS}:slow-host")  # its port has a tenth
    assert 9 * usual < slow < 10 * usual  # the mean: not all ranks end with it


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resnet5", "-n", 2), "unknown"),
        (
            ("resnet50", "-n", 2, "--network", "2gbe"),
            "--network: network '2gbe': unknown, expected one of",
        ),
        (("resnet50", "-n", 2, "--network", f"{FABRICS}:mine"), "expected one of [[networks"),
        (("resnet50", "-n", 2, "--network", "ideal"), "--bandwidth: missing, expected one such as"),
        (("resnet50", "-n", 2, "--latency", "1us"), "--latency: is fixed for --network 1gbe"),
        (("resnet50", "-n", 2, "--density", 0), "density 0"),
        (("resnet50", "-n", 2, "--merge", "auto"), "--merge 'auto': is for sparse sums"),
        (("resnet50", "-n", 2, "--jitter", -1), "sigma -1"),
        (("resnet50", "-n", 2, "--seed", 3), "--seed: nothing is drawn at random over ring"),
        (
            ("resnet50", "-n", 2, "--topology", "gossip", "--density", 0.1),
            "density 0.1: gossip averages parameters",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, says):
    result = run(*arguments)
    assert result.exit_code != 0
    assert says in result.output
