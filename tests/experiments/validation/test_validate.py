"""Predictions beside measured runs: rows, their summary, files, and a small lab for real."""

from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dgc_topo.cli.main import app
from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import ScenarioError, load_scenario, parse_scenario
from dgc_topo.experiments.validation.collectives import cases_of, predict_again, validate
from dgc_topo.experiments.validation.records import (
    ValidationFolder,
    load_rows,
    load_trainings,
    summarize,
)
from dgc_topo.experiments.validation.training import (
    num_trainings,
    predict_trainings,
    validate_training,
)
from dgc_topo.network.calibrated import CalibratedNetwork, Parameters
from dgc_topo.records.environment import describe_environment
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.records import ResultsError
from dgc_topo.report.validation import error_figure, summary_markdown, write_validation
from dgc_topo.training.launch import Finished
from dgc_topo.workers.lab import Lab, LabError, LabSpec
from tests.records import COMPUTING, measurement, row

ROOT = Path(__file__).parents[3]
SCENARIO = """
name = "small"
[[topologies]]
name = "ring"
[[topologies]]
name = "gossip"
[validate]
calibrate_rates = ["50Mbit/s", "unshaped"]
rates = ["50Mbit/s"]
world_sizes = [2, 3]
dense_bytes = ["200kB"]
sparse_elements = 100_000
sparse_densities = [0.01]
rounds = 3
{more}
"""


def network():
    """What framing arithmetic says of a lab; no CPU costs."""
    return CalibratedNetwork(
        name="by hand",
        machine="none",
        parameters=Parameters(goodput=1448 / 1514),
        median_fit_error=0.0,
        worst_fit_error=0.0,
    )


def test_errors_are_signed_in_rows_and_absolute_in_summaries():
    rows = [row(predicted_s=predicted) for predicted in (0.9, 1.2, 1.0)]
    rows.append(row(num_bytes=10.0))
    assert [round(each.error, 3) for each in rows] == [-0.1, 0.2, 0.0, 0.1]
    large, small = summarize(rows)
    assert large.what == "collectives, unshaped, 1 MB and more"
    assert (large.num_rows, small.num_rows) == (3, 1)
    assert large.median == pytest.approx(0.1)
    assert large.worst == pytest.approx(0.2)
    assert large.percentile_95 == pytest.approx(np.percentile([0.1, 0.2, 0.0], 95))


def write(path, rows, calibrated, trainings=()):
    folder = ValidationFolder(path)
    folder.keep_network(calibrated)
    for record in trainings:
        folder.keep_training(record)
    return write_validation(folder, rows)


def test_a_folder_keeps_rows_network_and_plot(tmp_path):
    rows, calibrated = [row(), row(rate_bits_per_s=1e8)], network()
    assert write(tmp_path / "new", rows, calibrated) == rows
    assert load_rows(tmp_path / "new") == rows
    assert CalibratedNetwork.load(tmp_path / "new" / "network.toml") == calibrated
    assert (tmp_path / "new" / "predicted-against-measured.svg").stat().st_size > 1000
    assert "| collectives, 100 Mbit/s, 1 MB and more | 1 | 10.0 %" in summary_markdown(rows)
    assert len(error_figure(rows).axes[0].collections) == 5  # bars and points, and marks
    assert "1 of 2 times lie" in (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "new" / "validation.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"validation.jsonl:1: "):
        load_rows(tmp_path / "new")


def test_an_earlier_validation_is_renamed_and_a_foreign_folder_refused(tmp_path):
    write(tmp_path / "new", [row()], network())
    folder = ValidationFolder(tmp_path / "new")
    with pytest.raises(ResultsError, match="another run is writing there"):
        ValidationFolder(tmp_path / "new")
    folder.write([row(rate_bits_per_s=1e8)])
    [earlier] = set(tmp_path.iterdir()) - {tmp_path / "new"}
    assert load_rows(earlier) == [row()]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ResultsError, match="not dgc-topo results"):
        ValidationFolder(tmp_path / "mine")


def test_what_was_measured_is_kept_if_predicting_fails(tmp_path):
    def rows():
        yield row()
        raise ValueError("cannot predict")

    with pytest.raises(ValueError, match="cannot predict"):
        write(tmp_path, rows(), network(), [training("ring")])
    assert (tmp_path / "predicted-against-measured.svg").is_file()
    assert load_rows(tmp_path) == [row()]
    assert [record.topology for record in load_trainings(tmp_path, [row()])] == ["ring"]


def training(topology="ring", step_time_s=5.0, alone=COMPUTING):
    """What the only training of STEPS_ONLY could have measured: 40 MB, a second of computing."""
    [job], _ = plan_jobs(parse_scenario(STEPS_ONLY.replace('"ring"', f'"{topology}"')))
    return measurement(
        topology=topology,
        num_steps=10,
        step_time_s=step_time_s,
        load=0.5,
        gradient_bytes=40_000_000,
        compressed_bytes=40_000_000,
        wire_bytes_per_step=40_000_000,
        messages_per_step=2,
        solo_phases=alone,
        job=job.key,
    )


def test_a_row_of_trainings_is_of_all_their_runs():
    """One slow run, and one lone worker that was slow, change neither."""
    slow = COMPUTING.model_copy(update={"compute_s": 9.0})
    runs = [training(step_time_s=4.0), training(step_time_s=5.0, alone=slow)]
    runs.append(training(step_time_s=9.0))
    scenario = parse_scenario(STEPS_ONLY + "rounds = 3")
    [one] = predict_trainings(scenario, network(), [training()])
    [several] = predict_trainings(scenario, network(), runs)
    assert (several.measured_s, several.predicted_s) == (5.0, one.predicted_s)
    assert (several.rounds, several.attempts, several.load) == (3, 1, 0.5)
    assert several.spread == pytest.approx((7.0 - 4.5) / 5.0)
    assert (one.rounds, one.spread) == (1, 0.0)


def test_workers_who_share_the_machine_are_predicted_as_slow_as_it_makes_them():
    crowd = COMPUTING.model_copy(update={"compute_s": 1.25})
    shared = training().model_copy(update={"crowd_phases": crowd})
    [alone] = predict_trainings(parse_scenario(STEPS_ONLY), network(), [training()])
    [together] = predict_trainings(parse_scenario(STEPS_ONLY), network(), [shared])
    assert together.predicted_s - alone.predicted_s == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("steps_s", "rounds", "attempts"),
    [((5.0, 5.1, 5.2), 3, 1), ((5.0, 9.0, 5.1, 5.0, 5.0, 5.0), 6, 2), ((5.0, 9.0, 7.0) * 3, 9, 3)],
)
def test_trainings_whose_rounds_differ_too_much_are_run_again(
    monkeypatch, steps_s, rounds, attempts
):
    left = list(steps_s)
    kept: list[Measurement] = []
    advanced: list[int] = []

    def launch(jobs, listen, _):
        assert [job.topology.name for job in jobs] == ["ring"]
        listen(Finished(job=0, measurement=training(step_time_s=left.pop(0))))

    module = "dgc_topo.experiments.validation.training"
    monkeypatch.setattr(f"{module}.Lab", lambda _: nullcontext())
    monkeypatch.setattr(f"{module}.launch", launch)
    scenario = parse_scenario(STEPS_ONLY + "rounds = 3")
    [found] = validate_training(scenario, network(), kept.append, advanced.append)
    assert not left
    assert (found.rounds, found.attempts) == (rounds, attempts)
    assert len(kept) == rounds
    assert sum(advanced) == num_trainings(scenario) == 3


def test_trainings_can_be_predicted_by_another_network(tmp_path):
    scenario = parse_scenario(STEPS_ONLY)
    half = network().model_copy(update={"parameters": Parameters(goodput=0.5 * 1448 / 1514)})
    [first] = predict_trainings(scenario, network(), [training("ring")])
    [second] = predict_trainings(scenario, half, [training("ring")])
    wire_s = 40_000_000 * 8 / 100e6 / (1448 / 1514)
    assert second.predicted_s - first.predicted_s == pytest.approx(wire_s, rel=1e-3)
    with pytest.raises(ValueError, match=r"tree, .* expected one that scenario steps describes"):
        list(predict_trainings(scenario, network(), [training("tree")]))
    with pytest.raises(ResultsError, match=r"rows of training steps, but no trainings.jsonl"):
        load_trainings(tmp_path, [first])


def test_what_was_measured_can_be_predicted_by_another_network():
    scenario = parse_scenario(SCENARIO.format(more=""))
    before = row(num_bytes=200_000, rate_bits_per_s=50e6, world_size=3)
    other = network().model_copy(update={"parameters": Parameters(goodput=0.5 * 1448 / 1514)})
    (first,) = predict_again(scenario, network(), [before])
    (second,) = predict_again(scenario, other, [before])
    assert first.predicted_s == pytest.approx(4 / 3 * 200_000 * 8 / 50e6 / (1448 / 1514), rel=1e-3)
    assert second.predicted_s == pytest.approx(2 * first.predicted_s, rel=1e-6)
    assert second.model_copy(update={"predicted_s": 1.1}) == before


@pytest.mark.parametrize(
    "foreign", [{"name": "tree"}, {"payload": "1 % of 100"}, {"group": "training steps"}]
)
def test_rows_of_something_else_are_not_predicted(foreign):
    scenario = parse_scenario(SCENARIO.format(more=""))
    other = row(**{"num_bytes": 200_000, "rate_bits_per_s": 50e6, "world_size": 3} | foreign)
    with pytest.raises(ValueError, match=r"3 ranks, .* expected a collective of scenario small"):
        list(predict_again(scenario, network(), [other]))


def test_committed_rows_are_predicted_with_the_coding_that_they_were_measured_with():
    """They are older than Rice codes."""
    folder = ROOT / "benchmarks/results/2026-11-29-validate-1gbe-scaled"
    scenario = load_scenario(ROOT / "scenarios/validate-1gbe-scaled.toml")
    sparse = [each for each in load_rows(folder) if each.payload != "dense"]
    rows = [each for each in sparse if each.world_size <= 3][::4]
    assert len(rows) >= 4
    network = CalibratedNetwork.load(folder / "network.toml")
    for before, after in zip(rows, predict_again(scenario, network, rows), strict=True):
        assert after.predicted_s == pytest.approx(before.predicted_s, rel=0.02), before


def test_gossip_alone_has_nothing_sparse_to_measure(tmp_path):
    scenario = tmp_path / "small.toml"
    text = SCENARIO.format(more="").replace('[[topologies]]\nname = "ring"\n', "")
    scenario.write_text(text.replace('dense_bytes = ["200kB"]\n', ""))
    assert list(validate(load_scenario(scenario), network())) == []
    outcome = CliRunner().invoke(app, ["validate", str(scenario), "-o", str(tmp_path / "new")])
    assert outcome.exit_code == 2
    assert "nothing is left to measure: gossip" in outcome.output
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_predicted_is_not_measured(monkeypatch):
    def refuse(*_):
        raise ValueError("cannot predict")

    module = import_module(
        "dgc_topo.experiments.validation.collectives"
    )  # whose name is that of a function, too
    monkeypatch.setattr(module, "predict_case", refuse)
    monkeypatch.setattr(module, "Lab", lambda _: nullcontext())
    monkeypatch.setattr(module, "Session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(module, "measure_cases", lambda *_: pytest.fail("it measured"))
    with pytest.raises(ValueError, match="cannot predict"):
        list(validate(parse_scenario(SCENARIO.format(more="")), network()))


def test_measured_rows_need_a_network_to_be_predicted(tmp_path):
    scenario = tmp_path / "small.toml"
    scenario.write_text(SCENARIO.format(more=""))
    outcome = CliRunner().invoke(app, ["validate", str(scenario), "--measured", str(tmp_path)])
    assert outcome.exit_code != 0
    assert "--measured: expected --network" in outcome.output


def test_a_scenario_says_what_is_measured():
    more = '[[validate.extra]]\nrate = "80Mbit/s"\nworld_sizes = [5]\ndense_bytes = ["1MB"]'
    cases = cases_of(parse_scenario(SCENARIO.format(more=more)))
    assert list(cases) == [50e6, 80e6]
    shown = [(c.label, c.world_size, c.buffer.kind) for c in cases[50e6]]
    assert ("ring", 3, "sparse") in shown
    assert ("gossip", 3, "dense") in shown
    assert ("gossip", 3, "sparse") not in shown  # it averages whole parameters
    assert [(c.label, c.world_size) for c in cases[80e6]] == [("ring", 5), ("gossip", 5)]


STEPS_ONLY = """
name = "steps"
[[topologies]]
name = "ring"
[train]
dataset = "emulated"
model = "resnet50"
world_size = 2
batch_size_per_worker = 32
epochs = 1
max_steps_per_epoch = 10
learning_rate = 0.1
[lab]
rate = "100 Mbit/s"
[validate]
calibrate_rates = ["100Mbit/s"]
"""


def test_training_steps_alone_can_be_validated():
    scenario = parse_scenario(STEPS_ONLY)
    assert cases_of(scenario) == {}
    assert list(validate(scenario, network())) == []
    assert num_trainings(scenario) == 5  # the usual number of rounds
    with pytest.raises(ScenarioError, match=r"nothing to measure: .*\[train\] and \[lab\]"):
        parse_scenario(STEPS_ONLY.replace('[lab]\nrate = "100 Mbit/s"', ""))
    with pytest.raises(ScenarioError, match="validate: world_sizes: expected with dense_bytes"):
        parse_scenario(STEPS_ONLY + "world_sizes = [2]")
    slow = STEPS_ONLY.replace("[lab]\n", '[lab]\nhost_rates = { 1 = "10 Mbit/s" }\n')
    with pytest.raises(ScenarioError, match=r"validate: .* expected no host_rates and changes"):
        parse_scenario(slow)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('rates = ["50Mbit/s"]', 'rates = ["fast"]', "validate.rates.0: rate 'fast'"),
        ("rounds = 3", "rounds = 2", "validate.rounds = 2: expected greater than or equal to 3"),
        (
            "rounds = 3",
            "round = 3",
            "validate.round: unknown key; valid here: rounds, ",
        ),
        ('["200kB"]', '["1e30GB"]', "dense_bytes.0 = '1e30GB': expected less than or equal to"),
        ('["200kB"]', "[2.5]", "expected a size such as '10MB', or a number of bytes"),
        ("\nrates = ", "\n#", "validate: rates: expected with dense_bytes or sparse_densities"),
    ],
)
def test_a_mistake_names_the_key(old, new, says):
    text = SCENARIO.format(more="").replace(old, new, 1 if old != 'rates = ["50Mbit/s"]' else 2)
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(text)


@pytest.fixture
def _can_have_a_lab():
    try:
        with Lab(LabSpec(num_hosts=2)):
            pass
    except LabError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("_can_have_a_lab")
def test_a_small_lab_takes_what_the_model_says():
    """At 50 Mbit/s wires decide, so framing arithmetic alone has to come close."""
    scenario = parse_scenario(SCENARIO.format(more=""))
    rows = list(validate(scenario, network()))
    assert len(rows) == 6
    assert list(predict_again(scenario, network(), rows)) == rows
    measured_s = [each.measured_s for each in rows]
    for _ in range(2):  # a busy machine makes runs slow; nothing makes them faster than they are
        if any(time_s > 2 * row.predicted_s for time_s, row in zip(measured_s, rows, strict=True)):
            again = [each.measured_s for each in validate(scenario, network())]
            measured_s = list(map(min, measured_s, again))
    for each, time_s in zip(rows, measured_s, strict=True):
        assert time_s > 0.9 * each.predicted_s
        if each.payload == "dense":
            assert time_s < 2 * each.predicted_s, each
            sent = 2 * (each.world_size - 1) / each.world_size if each.name == "ring" else 1
            assert each.bytes_sent <= 2 * sent * each.num_bytes


@pytest.mark.parametrize("here", [True, False])
def test_a_calibration_of_another_machine_is_called_so(here, tmp_path, monkeypatch):
    """The lab runs on this machine's processors; such a calibration predicts another one's."""
    own = str(describe_environment())
    machine = own.partition(";")[0] + "; Linux 1.0; torch 1.0" if here else f"Another {own}"
    network().model_copy(update={"machine": machine}).save(tmp_path / "lab.toml")
    (tmp_path / "small.toml").write_text(SCENARIO.format(more=""))
    monkeypatch.chdir(tmp_path)

    def refuse(*_):
        raise ValueError("enough")

    monkeypatch.setattr("dgc_topo.cli.validate._open_folder", refuse)
    result = CliRunner().invoke(app, ["validate", "small.toml", "--network", "lab.toml"])
    assert "error: enough" in result.stderr
    told = "note: lab.toml was calibrated on Another" in result.stderr
    assert told is not here
