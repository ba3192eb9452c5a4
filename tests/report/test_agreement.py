"""Predictions beside measurements: which stand side by side, and what lies outside its interval."""

import re
from math import exp
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.advice.errors import interval_of_row, step_width
from dgc_topo.experiments.scenario import parse_scenario
from dgc_topo.experiments.scenario.emulated import is_emulated
from dgc_topo.experiments.validation.records import load_rows
from dgc_topo.network import load_cluster
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.report.agreement import agreement_figure, agreement_part, of_results, of_validation
from dgc_topo.report.report import write_report
from dgc_topo.report.validation import write_validation_report
from dgc_topo.workers.lab import LabChange, LabSpec
from tests.records import COMPUTING, measurement, row

ROOT = Path(__file__).parents[2]
STEPS = ROOT / "benchmarks/results/2026-11-29-validate-steps"
LAB = (ROOT / "scenarios/lab-1gbe-scaled.toml").read_text(encoding="utf-8")


def test_a_time_lies_inside_its_interval_or_is_said_to_lie_above_or_below():
    width = step_width(sparse=False, num_bytes=2e6)
    times = [exp(0.99 * width), exp(1.01 * width), exp(-1.01 * width)]
    rows = [
        row(group="training steps", predicted_s=1.0, measured_s=time, rate_bits_per_s=1e8)
        for time in times
    ]
    found = of_validation(rows)
    assert [each.place for each in found] == ["inside", "\u25b2 above", "\u25bc below"]
    part = agreement_part(found)
    assert part is not None
    assert part.summary.startswith("Measured: 1 of 3 times lie in the 90 % interval")
    assert [held for _, _, held in part.rows] == [True, False, False]
    crosses = np.asarray(agreement_figure(found).axes[0].collections[-1].get_offsets())
    assert len(crosses) == 2  # a mark of their own beside the colour


def test_a_column_in_which_all_rows_agree_is_left_out():
    part = agreement_part(of_validation([row(), row(world_size=8)]))
    assert part is not None
    assert part.headings == ("Topology", "Ranks")
    assert agreement_part([]) is None


def test_unshaped_links_have_wider_intervals_of_their_own():
    shaped, unshaped = (
        interval_of_row(row(rate_bits_per_s=rate, predicted_s=1.0)) for rate in (1e8, None)
    )
    assert unshaped.low_s < shaped.low_s < 1 < shaped.high_s < unshaped.high_s
    steps = interval_of_row(row(group="training steps", predicted_s=1.0))  # none was validated
    assert steps.high_s >= unshaped.high_s


def pair(**known):
    """A run of the scaled lab, and its prediction for 1 GbE."""
    both = {"topology": "ring", "world_size": 4} | known
    both["solo_phases"] = COMPUTING
    run = {"network": "scaled 1:10 lab 100 Mbit/s", "time_scale": 10.0, "step_time_s": 11.0}
    return [
        measurement(**both | run),
        measurement(**both | {"kind": "predicted", "network": "1gbe", "step_time_s": 1.0}),
    ]


def test_steps_of_a_scaled_lab_stand_beside_predictions_of_what_it_stands_for():
    scenario = parse_scenario(LAB)
    seeds = [*pair(seed=1), *pair(seed=2)]
    seeds[2] = seeds[2].model_copy(update={"step_time_s": 13.0})
    other = [
        measurement(kind="predicted", network="1gbe", world_size=8),  # nobody ran 8 ranks
        measurement(kind="predicted", network="ib-edr", world_size=4),
        measurement(network="loopback", world_size=4, topology="tree"),
        measurement(kind="predicted", network="1gbe", world_size=4, topology="tree"),
    ]
    (found,) = of_results(scenario, [*seeds, *other])
    assert found.measured_s == pytest.approx(1.2)
    assert found.predicted_s == 1.0
    assert found.names["Predicted for"] == "1gbe"
    assert found.error == pytest.approx(1 / 1.2 - 1)
    assert of_results(parse_scenario('name = "a"\ntopologies = ["ring"]\n' + TRAIN), seeds) == []


TRAIN = LAB[LAB.index("[train]") : LAB.index("[lab]")]


def test_a_lab_emulates_networks_with_its_links():
    lab = LabSpec(num_hosts=4, rate_bits_per_s=1e8, time_scale=10)
    assert is_emulated(load_cluster("1gbe", 4), lab)
    for name, ranks in (("10gbe", 4), ("ib-edr", 4), ("1gbe", 8)):
        assert not is_emulated(load_cluster(name, ranks), lab)
    for other in (
        LabSpec(num_hosts=4, rate_bits_per_s=1e8),
        LabSpec(num_hosts=4),
        LabSpec(num_hosts=4, rate_bits_per_s=1e8, time_scale=10, host_rates_bits_per_s={3: 2e7}),
        LabSpec(
            num_hosts=4,
            rate_bits_per_s=1e8,
            time_scale=10,
            changes=(LabChange(at_s=1, host=0, action="cut"),),
        ),
    ):
        assert not is_emulated(load_cluster("1gbe", 4), other)


def test_a_slow_host_is_that_of_the_lab():
    text = (ROOT / "scenarios/gossip-slow-host.toml").read_text(encoding="utf-8")
    for host, emulates in ((7, True), (3, False)):
        scenario = parse_scenario(text.replace("{ 7 =", f"{{ {host} ="))
        assert scenario.lab is not None
        assert is_emulated(scenario.cluster("lab", 8), scenario.lab.spec(8)) == emulates


def test_a_report_of_a_lab_shows_the_table_and_others_say_why_not(records, tmp_path):
    folder = ResultsFolder.create(tmp_path / "lab", LAB, "lab", records=pair())
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count('<tr class="begins outside">') == 1
    assert "\u25b2 above" in page
    assert "scaled 1:10 lab 100 Mbit/s, beside" in re.sub(r"\s+", " ", page)
    folder = ResultsFolder.create(tmp_path / "here", 'name = "a"\n', "a", records=records)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "no prediction is of what was measured on, loopback" in re.sub(r"\s+", " ", page)


def test_the_command_writes_the_report_of_an_earlier_validation_again(tmp_path):
    rows = load_rows(STEPS)
    (tmp_path / "run").mkdir()
    for name in ("validation.jsonl", "network.toml"):
        (tmp_path / "run" / name).write_bytes((STEPS / name).read_bytes())
    outcome = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert outcome.exit_code == 0, outcome.output
    assert f"{tmp_path}/run/report.html" in outcome.output.replace("\n", "")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page == write_validation_report(tmp_path / "run").read_text(encoding="utf-8")
    held = sum(each.is_held for each in of_validation(rows))
    assert f"{held} of {len(rows)} times lie in the 90 % interval" in page
    assert page.count('<tr class="begins outside">') == len(rows) - held
    markdown = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--markdown"])
    assert "| training steps, 100 Mbit/s | 15 |" in markdown.output
