"""The training step of a workload, in a scenario: a model of the zoo, overlap, stragglers."""

import pytest

from dgc_topo.experiments.prediction import predict
from dgc_topo.experiments.scenario import ScenarioError, parse_scenario
from dgc_topo.experiments.training_cases import cases_of_scenario
from dgc_topo.tables.table import OldKeyWarning
from dgc_topo.zoo import load_model

ZOO = """
name = "zoo"
[[topologies]]
name = "ring"
[compression]
densities = [1.0, 0.001]
[simulate]
networks = ["1gbe"]
world_sizes = [1, 4]
{keys}
[[simulate.workloads]]
model = "{model}"
{workload}
"""


def of_zoo(keys="", model="resnet50", workload=""):
    scenario = parse_scenario(ZOO.format(keys=keys, model=model, workload=workload))
    records = list(predict(scenario, cases_of_scenario(scenario)))
    return {(m.compression, m.world_size): m for m in records}


def test_one_scenario_compares_dense_in_two_types_and_dgc():
    records = of_zoo('dense_dtypes = ["float32", "float16"]')
    assert [kind for kind, size in records if size == 4] == ["dense", "dense-fp16", "dgc"]
    fp32, fp16 = records["dense", 4], records["dense-fp16", 4]
    assert fp32.compressed_bytes == 2 * fp16.compressed_bytes == fp32.gradient_bytes
    assert records["dgc", 4].step_time_s < fp16.step_time_s < fp32.step_time_s


def test_a_model_of_the_zoo_brings_its_time_and_samples():
    model = load_model("ptb-lstm")
    alone = of_zoo(model="ptb-lstm")["dense", 1]
    assert alone.step_time_s == pytest.approx(model.compute_s)
    assert alone.samples_per_s == pytest.approx(20 * 35 / model.compute_s)
    halved = of_zoo(model="ptb-lstm", workload="batch_size_per_worker = 10")["dense", 1]
    assert halved.step_time_s == pytest.approx(model.compute_s / 2)


def test_overlap_hides_communication_and_says_what_is_left():
    plain, overlapped = of_zoo()["dense", 4], of_zoo("overlap = true")["dense", 4]
    compute_s = load_model("resnet50").compute_s
    assert plain.communication_s == pytest.approx(plain.exposed_communication_s)
    assert plain.step_time_s == pytest.approx(compute_s + plain.communication_s)
    assert overlapped.exposed_communication_s < 0.9 * overlapped.communication_s
    assert overlapped.step_time_s < plain.step_time_s
    assert plain.bound_by == "host 0 up (and 7 more)"
    assert of_zoo()["dgc", 4].bound_by == "compute"


def test_buckets_accumulation_and_codec_reach_the_step():
    base = of_zoo("overlap = true")["dgc", 4]
    coded = of_zoo("overlap = true\nencode_s_per_element = 1e-9\ndecode_s_per_element = 1e-9")
    assert coded["dgc", 4].phases.compress_s == pytest.approx(2 * 25_502_912e-9)
    assert coded["dense", 4].phases.compress_s == 0
    assert of_zoo("overlap = true\nbucket_mib = 1")["dgc", 4].messages_per_step > (
        base.messages_per_step
    )
    twice = of_zoo("accumulation_steps = 2")["dense", 4]
    assert twice.batch_size_per_worker == 128
    assert twice.scaling_efficiency > of_zoo()["dense", 4].scaling_efficiency


def test_stragglers_cost_all_and_are_drawn_from_the_scenarios_seed():
    even = of_zoo()["dense", 4]
    slow = of_zoo("slow_ranks = [{ rank = 2, compute_time_factor = 1.5 }]")["dense", 4]
    compute_s = load_model("resnet50").compute_s
    assert slow.step_time_s - even.step_time_s == pytest.approx(0.5 * compute_s)
    assert slow.straggler_wait_s == pytest.approx(3 / 4 * 0.5 * compute_s)
    keys = 'jitter = { kind = "lognormal", sigma = 0.2 }'
    jittered = of_zoo(keys)["dense", 4]
    assert jittered.step_time_s > even.step_time_s
    assert jittered.step_time_s == of_zoo(keys)["dense", 4].step_time_s
    phases = jittered.phases
    spent = phases.compute_s + phases.compress_s + phases.wait_s + phases.update_s
    assert spent == pytest.approx(jittered.step_time_s)


@pytest.mark.parametrize(
    ("keys", "workload", "says"),
    [
        ("bucket_mib = 25", "", r"simulate: bucket_mib: without overlap there is one bucket"),
        ("overlap = true\nbucket_mib = 0", "", r"simulate.bucket_mib = 0: expected greater than 0"),
        ("accumulation_steps = 0", "", "simulate.accumulation_steps = 0"),
        ('dense_dtypes = ["int8"]', "", "simulate.dense_dtypes.0 = 'int8'"),
        ('jitter = { kind = "normal" }', "", "simulate.jitter.kind = 'normal'"),
        ('jitter = { kind = "tail", sigma = 1 }', "", "kind 'tail' takes mean_delay, probability"),
        (
            "slow_ranks = [{ rank = 0, compute_time_factor = 0 }]",
            "",
            "simulate.slow_ranks.0.compute_time_factor = 0",
        ),
        ("jitter_steps = 4", "", "jitter_steps: nothing is drawn without jitter"),
        (
            "slow_ranks = [{ rank = 4, compute_time_factor = 2 }]",
            "",
            "slow_ranks.0.rank: 4 is in none of the worlds, expected 0 to 3",
        ),
        (
            "slow_ranks = [{ rank = 1, compute_time_factor = 2 }, "
            "{ rank = 1, compute_time_factor = 3 }]",
            "",
            "slow_ranks: rank 1 is there twice",
        ),
        (
            "slow_ranks = [{ rnk = 0 }]",
            "",
            "rnk: unknown key; valid here: rank, compute_time_factor",
        ),
        ("", "dense_elements = 1", "dense_elements: model 'resnet50' has its own"),
        ("", "source = 'mine'", "source: model 'resnet50' has its own"),
        ("", "batch_size_per_worker = 0", "workloads.0.batch_size_per_worker = 0"),
    ],
)
def test_a_mistake_in_the_step_names_the_key(keys, workload, says):
    with pytest.raises(ScenarioError, match=says):
        of_zoo(keys, workload=workload)


def test_a_workload_is_a_model_of_the_zoo():
    with pytest.raises(ScenarioError, match="model 'resnet5': unknown, expected one of alexnet"):
        of_zoo(model="resnet5")


COUNTS = """
[[simulate.workloads]]
name = "counts"
source = "made up"
compressible_elements = 1_000_000
dense_elements = 24_000
batch_size_per_worker = 32
compute_s = 0.1
"""
TRAIN = """
[train]
dataset = "fashion-mnist-subset"
model = "mlp"
world_size = 2
batch_size_per_worker = 8
epochs = 1
learning_rate = 0.1
"""


def test_counts_do_not_say_when_gradients_are_ready():
    text = ZOO.format(keys="{keys}", model="resnet50", workload=COUNTS)
    parse_scenario(text.format(keys="overlap = false"))
    with pytest.raises(ScenarioError, match=r"overlap = true: workloads.1 \(counts\) is given by"):
        parse_scenario(text.format(keys="overlap = true"))


def test_two_workloads_of_one_name_are_refused():
    twice = '[[simulate.workloads]]\nmodel = "resnet50"\nbatch_size_per_worker = 8'
    with pytest.raises(ScenarioError, match=r"workloads\.1\.name: 'resnet50' is that of"):
        of_zoo(workload=twice)
    named = of_zoo(workload=f'{twice}\nname = "small"')
    assert len(named) == 4  # by compression and size; the later workload's records


@pytest.mark.parametrize(
    ("train", "compression", "says"),
    [
        ("clip_norm = 1.0", "", "simulate.overlap = true with train.clip_norm"),
        ("", 'scope = "model"', "compression: scope 'model' with simulate.overlap = true"),
        ("", 'method = "random-k"', "'random-k' with simulate.overlap = true"),
    ],
)
def test_what_cannot_be_trained_overlapping_is_not_predicted_so(train, compression, says):
    text = ZOO.format(keys="overlap = true", model="", workload="").partition("[[simulate.work")[0]
    text = text.replace("[1.0, 0.001]", '[1.0, 0.001]\nwarm_up = "none"')
    parse_scenario(text + TRAIN)
    text = text.replace("[compression]", f"[compression]\n{compression}")
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(text + TRAIN + train)


DENSE_ONLY = ("densities = [1.0, 0.001]", "densities = [1.0]")
SPARSE_ONLY = ("densities = [1.0, 0.001]", "densities = [0.001]")
WORKLOADS = ('[[simulate.workloads]]\nmodel = "resnet50"\n', TRAIN)


@pytest.mark.parametrize(
    ("keys", "workload", "changed", "says"),
    [
        (
            "encode_s_per_element = 1e-9",
            "",
            DENSE_ONLY,
            "simulate.encode_s_per_element: nothing is",
        ),
        (
            "decode_s_per_element = 1e-9",
            "",
            DENSE_ONLY,
            "simulate.decode_s_per_element: nothing is",
        ),
        ("union_exponent = 0.5", "", DENSE_ONLY, "simulate.union_exponent: nothing is compr"),
        ("", "union_exponent = 0.5", DENSE_ONLY, "workloads.0.union_exponent: nothing is comp"),
        (
            "union_exponent = 0.5",
            "union_exponent = 1.0",
            SPARSE_ONLY,
            "simulate.union_exponent: each workload has its own",
        ),
        ('dense_dtypes = ["float16"]', "", SPARSE_ONLY, "dense_dtypes: nothing is sent dense"),
        ("accumulation_steps = 2", "", WORKLOADS, "accumulation_steps: is for .*workloads"),
        ("encode_s_per_element = 1e-9", "", WORKLOADS, "encode_s_per_element: is for .*workloads"),
        ("union_exponent = 0.5", "", WORKLOADS, "union_exponent: is for .*workloads"),
        ('dense_dtypes = ["float16"]', "", WORKLOADS, "dense_dtypes: is for .*workloads"),
        ("", "", ("[compression]", '[compression]\nmethod = "random-k"'), "method = 'random-k'"),
        (
            "",
            "",
            ("[compression]", '[compression]\nwarm_up = "none"'),
            "compression.warm_up: nothing",
        ),
        ("", "", ('["1gbe"]', '["1gbe", "1gbe"]'), "1gbe is there twice"),
        ("", "", ("[1, 4]", "[4, 4]"), "4 is there twice"),
    ],
)
def test_a_key_that_decides_nothing_is_refused(keys, workload, changed, says):
    text = ZOO.format(keys=keys, model="resnet50", workload=workload)
    assert changed[0] in text
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(text.replace(*changed))


def test_keys_of_earlier_releases_mean_the_same_and_warn():
    new = "slow_ranks = [{ rank = 2, compute_time_factor = 1.5 }]\nunion_exponent = 0.5"
    old = "slow_hosts = [{ rank = 2, factor = 1.5 }]\noverlap_exponent = 0.5"
    given = ZOO.format(keys=old, model="resnet50", workload="update_s = 0.1")
    with pytest.warns(OldKeyWarning) as warned:
        scenario = parse_scenario(given)
    assert scenario == parse_scenario(
        ZOO.format(keys=new, model="resnet50", workload="update_s = 0.1")
    )
    said = "\n".join(str(each.message) for each in warned)
    for key in ("simulate.slow_ranks", "slow_ranks.compute_time_factor", "simulate.union_exponent"):
        assert f"{key} = " in said


def test_a_model_takes_a_measured_time_and_batch():
    mine = of_zoo(workload="compute_s = 0.21\nbatch_size_per_worker = 32\nsource = 'my GPU'")
    alone = mine["dense", 1]
    assert alone.step_time_s == pytest.approx(0.21)
    assert alone.samples_per_s == pytest.approx(32 / 0.21)
