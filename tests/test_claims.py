"""Claims of others stand beside predictions, and a claim about something else is refused."""

import re
from pathlib import Path

import pytest

from dgc_topo.experiments.prediction import predict
from dgc_topo.experiments.scenario import ScenarioError, load_scenario, parse_scenario
from dgc_topo.experiments.scenario.simulate import claims_in
from dgc_topo.experiments.training_cases import cases_of_scenario
from dgc_topo.network import load_fabric
from dgc_topo.report.findings import check_claims
from dgc_topo.zoo import load_model

FIGURE_6 = Path(__file__).parents[1] / "scenarios" / "dgc-paper-figure6.toml"

TEXT = """
name = "claimed"
[[topologies]]
name = "ring"
[[topologies]]
name = "hierarchical"
options = { group_size = 2 }
[[networks]]
name = "1gbe-2-gpus"
kind = "star"
base = "1gbe"
gpus_per_host = 2
inside_bandwidth_gbit_per_s = 8000
[simulate]
networks = ["1gbe-2-gpus"]
world_sizes = [2, 8]
[[simulate.workloads]]
model = "vgg16"
[[claims]]
source = "somebody"
workloads = ["vgg16"]
compression = "dense"
network = "1gbe-2-gpus"
world_size = 8
baseline_world_size = 2
relation = "more than"
speedup = 3
note = "Because."
"""


def test_a_claim_is_set_beside_the_best_prediction():
    scenario = parse_scenario(TEXT)
    records = list(predict(scenario, cases_of_scenario(scenario)))
    [claim] = scenario.claims
    [line] = check_claims([claim], records)
    speedups = {
        r.topology: r.samples_per_s / base.samples_per_s
        for base, r in zip(records[::2], records[1::2], strict=True)
    }
    best = max(speedups, key=speedups.__getitem__)
    assert f"Predicted {speedups[best]:.3g}x (vgg16, {best}" in line.replace("1.00", "1")
    assert "Claimed by somebody: dense on 1gbe-2-gpus, 8 ranks against 2: more than 3.00x" in line
    assert line.endswith("Because.")
    assert claims_in(TEXT) == [claim]


def test_ranks_of_one_machine_share_its_nic():
    """A ring in rank order leaves each machine once, so its bytes take as long as with own NICs."""
    scenario = parse_scenario(TEXT)
    records = list(predict(scenario, cases_of_scenario(scenario)))
    inside, across = records[0], records[1]
    model, fabric = load_model("vgg16"), load_fabric("1gbe")
    assert inside.step_time_s == pytest.approx(model.compute_s, rel=0.01)
    ring_s = 2 * 7 / 8 * model.gradient_bytes / fabric.bandwidth_bytes_per_s
    assert across.step_time_s == pytest.approx(model.compute_s + ring_s, rel=1e-3)
    assert across.bound_by is not None
    assert across.bound_by.startswith("host 0 up")


def test_a_file_without_claims_has_none():
    assert claims_in('name = "x"') == claims_in("not TOML") == []
    scenario = parse_scenario(TEXT)
    [line] = check_claims(scenario.claims, [])
    assert "nothing that fits" in line


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('workloads = ["vgg16"]', 'workloads = ["vgg19"]', "claims.0: workloads vgg19: not among"),
        ('\nnetwork = "1gbe-2-gpus"', '\nnetwork = "10gbe"', "claims.0: network 10gbe: not among"),
        ("\nworld_size = 8", "\nworld_size = 16", "claims.0: world sizes 16: not among"),
        ("speedup = 3", "speedup = 0", "claims.0.speedup = 0: expected greater than 0"),
    ],
)
def test_a_mistake_is_named(old, new, says):
    assert old in TEXT
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(TEXT.replace(old, new, 1))


def test_the_papers_claim_for_dgc_holds_only_where_sparse_gradients_overlap():
    scenario = load_scenario(FIGURE_6)
    records = list(predict(scenario, cases_of_scenario(scenario)))
    dense, compressed = check_claims(scenario.claims, records)
    [dense_speedup] = [float(found) for found in re.findall(r"([\d.]+)x \(alexnet", dense)]
    assert 15 < dense_speedup < 30
    found = re.findall(r"([\d.]+)x \(alexnet-(\w+)", compressed)
    assert {name: float(speedup) > 40 for speedup, name in found} == {
        "disjoint": False,
        "overlapping": True,
    }
