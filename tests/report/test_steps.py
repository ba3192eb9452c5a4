"""Reports look inside the fastest predicted step, and show no step that a record does not hold."""

import numpy as np
import pytest

import dgc_topo as dt
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.report.draw_traffic import traffic_figure
from dgc_topo.report.report import write_report
from dgc_topo.simulation.training.traffic import bytes_per_edge

SCENARIO = """\
name = "small"
description = "one small prediction"
topologies = ["ring", "butterfly", "gossip:graph=ring"]
[compression]
densities = [1.0, 0.01]
[simulate]
networks = ["1gbe", "ib-edr"]
world_sizes = [4, 8]
[[simulate.workloads]]
model = "resnet110-cifar"
"""


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    file = tmp_path_factory.mktemp("scenario") / "small.toml"
    file.write_text(SCENARIO, encoding="utf-8")
    return dt.run(file, file.parent / "results", train=False)


def test_the_fastest_step_of_each_network_is_drawn(predictions):
    page = predictions.report().read_text(encoding="utf-8")
    assert page.count('alt="timeline of ') == page.count('alt="bytes per edge of ') == 2
    for network in ("1gbe", "ib-edr"):
        fastest = min(
            (r for r in predictions if (r.network, r.world_size) == (network, 4)),
            key=lambda r: (r.goal != "all-reduce", r.step_time_s),
        )
        density = "dgc 1 %" if fastest.density < 1 else "dense"
        assert f"{fastest.topology}, {density} on {network}" in page


def test_a_step_that_is_not_its_records_is_left_out(predictions, tmp_path):
    slower = [r.model_copy(update={"step_time_s": 1.01 * r.step_time_s}) for r in predictions]
    folder = ResultsFolder.create(tmp_path / "other", SCENARIO, "small", records=slower)
    assert "timeline of" not in write_report(folder).read_text(encoding="utf-8")


def test_code_of_a_results_folder_is_not_run(predictions, tmp_path):
    text = SCENARIO.replace('"ring"', '"mine.py"')
    folder = ResultsFolder.create(tmp_path / "theirs", text, "small", records=list(predictions))
    (folder.path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    assert "timeline of" not in write_report(folder).read_text(encoding="utf-8")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("density", [1.0, 0.01])
@pytest.mark.parametrize("topology", ["ring", "tree", "butterfly", "parameter-server"])
def test_edges_add_up_to_what_ranks_send(topology, density):
    simulation = dt.simulate_step(
        "resnet110-cifar", topology, "1gbe", world_size=6, density=density, overlap=True
    )
    edges = bytes_per_edge(simulation.step, dt.load_topology(topology).schedule(6))
    sent = np.zeros(6)
    for (src, _), num_bytes in edges.items():
        sent[src] += num_bytes
    np.testing.assert_allclose(sent, simulation.runs[0].traffic.bytes_sent, rtol=1e-9)
    (axes,) = traffic_figure(edges, dt.load_topology(topology).schedule(6)).axes
    assert len(axes.texts) == 6 + len(edges)
