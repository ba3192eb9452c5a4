"""Predictions equal the closed forms, and records decide only what they should."""

import numpy as np
import pytest

from dgc_topo.experiments.prediction import predict
from dgc_topo.experiments.scenario import ScenarioError, parse_scenario
from dgc_topo.experiments.training_cases import (
    cases_of_runs,
    cases_of_scenario,
    union_exponent,
)
from dgc_topo.network import load_fabric
from dgc_topo.records.measurement import (
    Measurement,
    Phases,
    ProfileLayer,
    RecordedProfile,
    SparseSizes,
)
from dgc_topo.report.findings import findings
from dgc_topo.report.summary import prediction_notes, summarise
from dgc_topo.wire.coding import FlatCoding, WireCoding
from tests.records import measurement

SCENARIO = """
name = "predicted"
[[topologies]]
name = "ring"
[[topologies]]
name = "tree"
[compression]
densities = {densities}
[simulate]
networks = ["1gbe"]
world_sizes = [1, 2, 8]
union_exponent = {exponent}
[[simulate.workloads]]
name = "model"
source = "made up"
compressible_elements = 1_000_000
dense_elements = 24_000
compute_s = 0.1
batch_size_per_worker = 32
"""


def predicted(densities="[1.0]", exponent="1.0"):
    scenario = parse_scenario(SCENARIO.format(densities=densities, exponent=exponent))
    records = list(predict(scenario, cases_of_scenario(scenario)))
    return {(m.topology, m.density, m.world_size): m for m in records}


@pytest.mark.parametrize("n", [2, 8])
def test_dense_step_times_are_compute_plus_the_closed_form(n):
    fabric = load_fabric("1gbe")
    alpha, beta = fabric.latency_s, 1 / fabric.bandwidth_bytes_per_s
    num_bytes = 4 * 1_024_000
    ring = 2 * (n - 1) * alpha + 2 * (n - 1) / n * num_bytes * beta
    tree = 2 * (n.bit_length() - 1) * (alpha + num_bytes * beta)
    records = predicted()
    assert records["ring", 1.0, n].step_time_s == pytest.approx(0.1 + ring, rel=1e-9)
    assert records["tree", 1.0, n].step_time_s == pytest.approx(0.1 + tree, rel=1e-9)
    assert records["ring", 1.0, n].speedup == pytest.approx(n * 0.1 / (0.1 + ring))
    assert records["ring", 1.0, n].samples_per_s == pytest.approx(n * 32 / (0.1 + ring))


def test_one_worker_is_its_own_baseline():
    assert predicted()["ring", 1.0, 1].speedup == pytest.approx(1.0)


@pytest.mark.parametrize(("exponent", "factor"), [("1.0", 8), ("0.0", 1), ("0.5", 8**0.5)])
def test_the_root_of_a_tree_sends_the_union_of_everyones_entries(exponent, factor):
    record = predicted("[0.001]", exponent)["tree", 0.001, 8]
    coded = WireCoding().expected_bytes(np.array([1e6, 1e6]), np.array([1000, 1000 * factor]))
    own, merged = (coded + 4 * 24_000).tolist()
    assert record.wire_bytes_per_step == pytest.approx(3 * merged)
    assert record.compressed_bytes == pytest.approx(own)


def test_a_scenario_says_how_messages_are_coded():
    text = SCENARIO.format(densities="[1.0, 0.001]", exponent="1.0")
    settings = '[compression]\nindex_encoding = "run-length"\nwire_dtype = "float16"'
    scenario = parse_scenario(text.replace("[compression]", settings))
    dense, sparse = list(cases_of_scenario(scenario))[:2]
    assert (dense.compression, sparse.compression) == ("dense-fp16", "dgc-fp16")
    assert dense.compressed_bytes == 2 * 1_024_000
    assert sparse.compressed_bytes == pytest.approx(12 + 4 * 1000 + 2 * 24_000)
    assert sparse.sparse is not None
    assert sparse.sparse.coding == WireCoding("run-length", "float16")
    assert sparse.sparse.bytes_per_entry == pytest.approx(4.012)


def test_records_from_before_there_was_a_format_count_as_they_did():
    old = SparseSizes.model_validate_json(
        '{"length": 10000, "dense_elements": 10, "entries": 100, "merged_entries": 200, '
        '"bytes_per_entry": 8}'
    )
    assert old.coding == FlatCoding(8)
    [workload] = cases_of_runs([run("ring", 0.01, 1.0, 0.1).model_copy(update={"sparse": old})])
    assert workload.compressed_bytes == 8 * 100 + 4 * 10


def sparse(entries: float, merged: float) -> SparseSizes:
    return SparseSizes(length=10_000, dense_elements=10, entries=entries, merged_entries=merged)


@pytest.mark.parametrize(
    ("merged", "exponent"), [(400, 1.0), (100, 0.0), (200, 0.5), (900, 1.0), (99, 0.0)]
)
def test_the_union_exponent_reproduces_the_recorded_union(merged, exponent):
    assert union_exponent(sparse(100, merged), 4) == pytest.approx(exponent)


def test_without_a_union_to_look_at_entries_count_as_disjoint():
    assert union_exponent(None, 4) == union_exponent(sparse(100, 100), 1) == 1.0


def run(topology: str, density: float, compute_s: float, compress_s: float) -> Measurement:
    phases = Phases(
        compute_s=compute_s, compress_s=compress_s, communicate_s=0, wait_s=0, update_s=0
    )
    return measurement(
        topology=topology,
        world_size=4,
        compression="dense" if density == 1 else "dgc",
        density=density,
        phases=phases,
        gradient_bytes=40_040,
        compressed_bytes=40_040 if density == 1 else 840,
        sparse=None if density == 1 else sparse(100, 200),
        solo_phases=phases,
    )


def test_what_is_predicted_of_a_run_depends_on_no_other_record():
    """Its speed-up is against one dense worker that computes and updates as long as its own."""
    scenario = parse_scenario(SCENARIO.format(densities="[1.0]", exponent="1.0"))
    dense, dgc = run("ring", 1, 1.0, 0.1), run("ring", 0.01, 1.2, 0.5)
    [alone] = predict_one_of([dgc], scenario)
    beside = predict_one_of([dense, run("tree", 0.01, 9.0, 0.7), dgc], scenario)[-1]
    assert beside.speedup == alone.speedup
    assert beside.step_time_s == alone.step_time_s
    assert alone.speedup == pytest.approx(8 * 1.2 / alone.step_time_s)
    assert alone.phases.compress_s == pytest.approx(0.5)
    [workload] = cases_of_runs([dgc])
    assert workload.union_exponent == pytest.approx(0.5)
    assert workload.batch_samples == 8


def predict_one_of(records, scenario):
    """Return what is predicted of each record with 8 ranks."""
    return [m for m in predict(scenario, cases_of_runs(records)) if m.world_size == 8]


def test_a_speed_up_is_of_the_record_itself_or_left_out():
    [record] = predict_one_of(
        [run("ring", 0.01, 1.2, 0.5)],
        parse_scenario(SCENARIO.format(densities="[1.0]", exponent="1.0")),
    )
    said = record.model_dump()
    again = Measurement.model_validate(said | {"speedup": 1e6})
    assert again.speedup == record.speedup
    unknown = Measurement.model_validate(said | {"solo_phases": None})
    assert unknown.speedup is None
    assert "speed-ups are left out where" in summarise([unknown])[1][-2]


def test_a_record_without_a_lone_worker_cannot_be_predicted():
    with pytest.raises(ValueError, match="no solo_phases"):
        cases_of_runs([run("ring", 1, 1.0, 0.1).model_copy(update={"solo_phases": None})])


def test_a_recorded_profile_can_be_overlapped():
    """Two layers of 20,020 bytes and 1 s each: only the second one's bytes come after compute."""
    layers = tuple(
        ProfileLayer(name=name, ready_s=end, compressible_elements=5_000, dense_elements=5)
        for name, end in (("last", 0.5), ("first", 1.0))
    )
    record = run("ring", 1, 2.0, 0.0).model_copy(
        update={"profile": RecordedProfile(forward_s=0.0, layers=layers)}
    )
    text = SCENARIO.format(densities="[1.0]", exponent="1.0").partition("[[simulate.workloads]]")[0]
    text = text.replace('"1gbe"', '"slow"')
    text += "{keys}"
    slow = '[[networks]]\nname = "slow"\nkind = "star"\nbandwidth_gbit_per_s = 160_160e-9\n'
    train = """[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 2
batch_size_per_worker = 8
epochs = 1
learning_rate = 0.1
"""

    def step_time_s(keys, record=record):
        scenario = parse_scenario(text.format(keys=keys) + slow + train)
        workloads = cases_of_runs([record], scenario.simulate)
        return next(m for m in predict(scenario, workloads) if m.world_size == 2).step_time_s

    assert step_time_s("") == pytest.approx(2.0 + 2.0)
    assert step_time_s("overlap = true\nbucket_mib = 0.001\n") == pytest.approx(2.0 + 1.0)
    # Unless the scenario says how, a run is predicted as it was trained.
    overlapped = record.model_copy(update={"bucket_bytes": 1000.0})
    assert step_time_s("", overlapped) == pytest.approx(2.0 + 1.0)
    assert step_time_s("overlap = false\n", overlapped) == pytest.approx(2.0 + 2.0)


def test_a_workload_without_a_model_is_said_in_full():
    text = SCENARIO.format(densities="[1.0]", exponent="1.0").replace("compute_s = 0.1", "")
    with pytest.raises(ScenarioError, match="source, compute_s missing: expected a model"):
        parse_scenario(text.replace('source = "made up"', ""))


def test_gossip_is_predicted_dense_only_and_never_called_the_fastest():
    text = SCENARIO.format(densities="[1.0, 0.001]", exponent="1.0")
    scenario = parse_scenario(text.replace('name = "tree"', 'name = "gossip"'))
    records = list(predict(scenario, cases_of_scenario(scenario)))
    gossip = [m for m in records if m.topology == "gossip"]
    assert {m.compression for m in gossip} == {"dense"}
    assert {m.goal for m in gossip} == {"doubly-stochastic"}
    fastest = [line.split("fastest all-reduce is ")[1] for line in findings(records)]
    assert fastest
    assert all(line.startswith("ring") for line in fastest)


PLUGIN = """
import numpy as np
from dgc_topo.schedule import Schedule, copy, reduce

def schedule(world_size):
    others = np.arange(1, world_size)
    hub = np.zeros_like(others)
    there = [reduce(i, 0) for i in range(1, world_size)] if {serial} else [reduce(others, hub)]
    return Schedule.from_steps(world_size, 1, [*there, copy(hub, others)])
"""


def test_an_edited_topology_is_predicted_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = SCENARIO.format(densities="[1.0]", exponent="1.0").replace('"tree"', '"mine.py"')
    times: dict[int, list[float]] = {}
    for serial in (0, 1, 0):
        (tmp_path / "mine.py").write_text(PLUGIN.format(serial=serial))
        scenario = parse_scenario(text)
        records = predict(scenario, cases_of_scenario(scenario))
        found = {(m.topology, m.world_size): m.step_time_s for m in records}
        times.setdefault(serial, []).append(found["mine.py", 8])
    (first, again), (edited,) = times[0], times[1]
    assert first == again
    assert edited > first


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("", ("do not overlap", "it is assumed to be free")),
        ("encode_s_per_element = 1e-9", ("do not overlap", "compressing costs 1.00 ms per step")),
    ],
)
def test_the_report_says_what_predictions_assume(keys, says):
    text = SCENARIO.format(densities="[1.0, 0.001]", exponent="1.0")
    scenario = parse_scenario(text.replace("union_exponent", f"{keys}\nunion_exponent"))
    lines = summarise(list(predict(scenario, cases_of_scenario(scenario))))[1]
    *notes, ratios = [line for line in lines if "fastest" not in line]
    assert ratios.startswith("Compression ratios are of one worker's own gradient")
    for note, expected in zip(notes, (*says, "relative to one dense worker"), strict=True):
        assert note.startswith("Predicted ")
        assert expected in note
    model = text.partition("[[simulate.workloads]]")[0] + '[[simulate.workloads]]\nmodel = "vgg16"'
    scenario = parse_scenario(model.replace("union_exponent", "overlap = true\nunion_exponent"))
    records = list(predict(scenario, cases_of_scenario(scenario)))
    assert "steps overlap: gradients travel while" in next(prediction_notes(records))
    assert {record.bucket_bytes for record in records} == {25 * 2**20}
