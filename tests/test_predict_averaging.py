"""Averaging rules in predictions: of workloads, and of what runs recorded."""

import pytest

from dgc_topo.averaging import load_averaging
from dgc_topo.experiments.prediction import predict, predict_one
from dgc_topo.experiments.scenario import ScenarioError, parse_scenario
from dgc_topo.experiments.training_cases import cases_of_runs, cases_of_scenario
from dgc_topo.zoo import load_model
from tests.training.test_virtual import jobs_of, run_here

ZOO = """
name = "zoo"
topologies = {topologies}
averaging = {averaging}
[compression]
densities = {densities}
[simulate]
networks = ["1gbe"]
world_sizes = [8]
{keys}
[[simulate.workloads]]
model = "resnet50"
"""


def of_zoo(averaging, topologies='["ring"]', densities="[1.0]", keys=""):
    text = ZOO.format(averaging=averaging, topologies=topologies, densities=densities, keys=keys)
    scenario = parse_scenario(text)
    records = list(predict(scenario, cases_of_scenario(scenario)))
    return {(m.averaging, m.topology, m.density): m for m in records}


def test_local_steps_share_one_exchange():
    found = of_zoo('["gradients", "local-sgd:every=50"]', densities="[1.0, 0.01]")
    once, rare = found["gradients", "ring", 1.0], found["local-sgd:every=50", "ring", 1.0]
    compute_s = load_model("resnet50").compute_s
    assert (once.every, rare.every) == (1, 50)
    assert rare.step_time_s - compute_s == pytest.approx((once.step_time_s - compute_s) / 50)
    assert rare.wire_bytes_per_step == pytest.approx(once.wire_bytes_per_step / 50)
    assert rare.wire_bytes_per_sample == pytest.approx(rare.wire_bytes_per_step / 64)
    assert rare.compressed_bytes == once.compressed_bytes
    sparse = found["local-sgd:every=50", "ring", 0.01]
    assert sparse.wire_bytes_per_step < 0.1 * rare.wire_bytes_per_step


def test_rules_are_predicted_over_the_topologies_that_they_fit():
    found = of_zoo(
        '["local-sgd:every=4", "d-psgd:every=2"]',
        '["ring", "gossip:graph=ring"]',
        densities="[1.0, 0.01]",
    )
    assert list(found) == [
        ("local-sgd:every=4", "ring", 1.0),
        ("local-sgd:every=4", "ring", 0.01),
        ("d-psgd:every=2", "gossip", 1.0),
    ]
    gossip = found["d-psgd:every=2", "gossip", 1.0]
    assert gossip.wire_bytes_per_step == pytest.approx(gossip.gradient_bytes)  # two, every other


def test_local_steps_do_not_overlap():
    with pytest.raises(ScenarioError, match=r"simulate.overlap = true with averaging local-sgd"):
        of_zoo('["local-sgd:every=50"]', keys="overlap = true")


def test_a_recorded_run_is_predicted_with_its_rule(tmp_path):
    (job,) = jobs_of(tmp_path, "ring", world_size=4, densities=(1.0,))
    record = run_here(job.model_copy(update={"averaging": load_averaging("local-sgd:every=3")}))
    (case,) = cases_of_runs([record])
    assert (case.step.every, case.step.moves_first) == (3, True)
    scenario = parse_scenario(
        ZOO.format(topologies='["ring"]', averaging="[]", densities="[1.0]", keys="")
    )
    predicted = predict_one(scenario, case, "1gbe", 4)
    assert predicted.averaging == "local-sgd:every=3"
    assert predicted.wire_bytes_per_step == pytest.approx(record.wire_bytes_per_step, rel=1e-6)
    assert predicted.wire_bytes_per_sample == pytest.approx(record.wire_bytes_per_sample, rel=1e-6)
