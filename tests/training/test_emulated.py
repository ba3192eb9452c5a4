"""Emulated compute: a zoo model's shapes and times, on real workers that compute nothing."""

import time
from math import prod

import pytest
import torch

from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.runner import run_scenario
from dgc_topo.experiments.scenario import ScenarioError, parse_scenario
from dgc_topo.experiments.training_cases import cases_of_runs
from dgc_topo.report.report import write_report
from dgc_topo.training.clocks import BackwardClock
from dgc_topo.training.data import Shard
from dgc_topo.training.launch import Finished, launch
from dgc_topo.training.models import EmulatedTask
from dgc_topo.training.rank import compute_gradients
from dgc_topo.training.solo import make_profile
from dgc_topo.zoo import ComputeTime, Layer, Model, known_models, load_model
from tests.training.test_training import Recorder

pytestmark = pytest.mark.alone

COMPUTE_S = 0.06
TINY = Model(
    name="tiny",
    summary="three layers, the second does most of the work",
    layers=(
        Layer("stem", "convolution", ((8, 3, 3, 3), (8,)), 10.0),
        Layer("block1.1", "convolution", ((16, 8, 3, 3),), 40.0),
        Layer("block1.2", "linear", ((10, 16), (10,)), 10.0),
    ),
    compute=ComputeTime(
        points=((4, 1.0),), hardware="none", precision="none", origin="derived", source="a test"
    ),
    batch_size=4,
    item="images",
    samples="images",
)

SCENARIO = """
name = "emulated"
[train]
dataset = "emulated"
model = "resnet110-cifar"
options = { compute_s = 0.05 }
world_size = 2
batch_size_per_worker = 16
epochs = 2
max_steps_per_epoch = 4
learning_rate = 0.1
timeout_s = 30.0
[compression]
densities = [1.0, 0.01]
warm_up = "none"
[[topologies]]
name = "ring"
[simulate]
networks = ["1gbe"]
world_sizes = [4]
"""


def task_of(model=TINY, rank=0, compute_s=COMPUTE_S, num_steps=3) -> EmulatedTask:
    shard = Shard(rank=rank, num_workers=2, batch_size=model.batch_size, seed=5)
    return EmulatedTask(shard, torch.device("cpu"), model, compute_s, num_steps)


def gradients_of(task: EmulatedTask, scale=1.0):
    model = task.build_model()
    compute_gradients(task, model, task.batches(0), scale)
    return {name: p.grad for name, p in model.named_parameters()}


def test_what_is_done_aside_takes_its_time_besides():
    """A hook that compresses in the backward pass holds it up, as it would hold up a real one."""
    task = task_of()
    next(task.batches(0))
    began_s, worked_s = time.perf_counter(), task.worked_s()
    task.pace.reach(COMPUTE_S / 2)
    with task.aside():
        ends_s = time.thread_time() + 0.02
        while time.thread_time() < ends_s:  # work, not sleep
            pass
    task.pace.reach(COMPUTE_S)
    assert time.perf_counter() - began_s >= COMPUTE_S + 0.02
    assert task.worked_s() - worked_s == pytest.approx(COMPUTE_S + 0.02, rel=0.1)


@pytest.mark.parametrize("name", known_models())
def test_parameters_are_those_of_the_zoo_layer_by_layer(name):
    zoo = load_model(name)
    shard = Shard(batch_size=zoo.batch_size)
    task = EmulatedTask(shard, torch.device("meta"), zoo, COMPUTE_S, 1)
    parameters = dict(task.build_model().named_parameters())
    assert [tuple(p.shape) for p in parameters.values()] == list(zoo.shapes)
    assert sum(p.numel() * p.itemsize for p in parameters.values()) == zoo.gradient_bytes
    layers = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    assert list(layers) == [layer.name for layer in zoo.layers]


def test_gradients_are_the_workers_own_and_the_same_in_every_step():
    first, again, other = (gradients_of(task_of(rank=rank)) for rank in (0, 0, 1))
    for name, gradient in first.items():
        assert torch.equal(gradient, again[name])
        assert not torch.equal(gradient, other[name])
    assert first["block1.1.tensor0"].std() == pytest.approx(1.0, abs=0.1)
    half = gradients_of(task_of(), scale=0.5)
    assert torch.equal(half["stem.tensor0"], first["stem.tensor0"] / 2)


def test_writing_to_a_gradient_does_not_change_the_next_step():
    task = task_of()
    model, batches = task.build_model(), task.batches(0)
    found = []
    for _ in range(2):
        compute_gradients(task, model, batches, 1.0)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([gradient.clone() for gradient in gradients])
        for gradient in gradients:
            gradient.zero_()
    assert len(found[0]) == len(TINY.shapes)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_an_epoch_has_as_many_steps_as_asked_for_and_nothing_is_lost():
    task = task_of(num_steps=2, compute_s=1e-3)
    assert len(list(task.batches(0))) == task.steps_per_epoch == 2
    assert task.batch_samples == 4
    loss, _ = compute_gradients(task, task.build_model(), task.batches(0), 1.0)
    assert loss == 0


@pytest.mark.parametrize("time_scale", [1.0, 3.0])
def test_a_step_takes_its_time_and_a_scaled_lab_stretches_it(time_scale):
    task = task_of()
    model, batches = task.build_model(), task.batches(0)
    for _ in range(3):
        before = time.perf_counter()
        _, compute_s = compute_gradients(task, model, batches, 1.0, time_scale=time_scale)
        assert compute_s >= 0.99 * time_scale * COMPUTE_S
        assert time.perf_counter() - before >= 0.99 * time_scale * COMPUTE_S


def test_emulated_time_counts_as_processor_time():
    task = task_of()
    model, batches = task.build_model(), task.batches(0)
    before, really_before = task.worked_s(), time.thread_time()
    compute_gradients(task, model, batches, 1.0)
    really_s = time.thread_time() - really_before
    assert task.worked_s() - before >= COMPUTE_S
    assert task.worked_s() - before < COMPUTE_S + really_s  # which is part of it, not added


def test_gradients_become_ready_in_the_order_and_at_the_times_of_the_zoo():
    task = task_of()
    model = task.build_model()
    parameters = dict(model.named_parameters())
    clock, passes, batches = BackwardClock(parameters), [], task.batches(0)
    late_s = []  # that backward passes began, while layers are ready at their moments all the same

    def begin():
        clock.begin()
        late_s.append(time.perf_counter() - before_s - task.forward_s)

    for _ in range(3):
        before_s = time.perf_counter()
        with clock.watching():
            compute_gradients(task, model, batches, 1.0, begin)
        passes.append(clock.ready_s())
    profile = make_profile(passes, parameters, COMPUTE_S)
    assert [layer.name for layer in profile.layers] == ["block1.2", "block1.1", "stem"]
    sizes = [(layer.compressible_elements, layer.dense_elements) for layer in profile.layers]
    zoo = [(layer.compressible_elements, layer.dense_elements) for layer in TINY.layers]
    assert sizes == list(reversed(zoo))
    # Shares of 1/6, 4/6 and 1/6 of two thirds.
    for layer, share in zip(profile.layers, (1 / 6, 5 / 6, 1), strict=True):
        assert layer.ready_s >= share * 2 / 3 * COMPUTE_S - max(late_s) - 1e-6
    gaps = [b.ready_s - a.ready_s for a, b in zip(profile.layers, profile.layers[1:], strict=False)]
    assert gaps[0] > 0
    assert gaps[1] > 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Dense and DGC over a ring of two workers, and their predictions."""
    folder = tmp_path_factory.mktemp("emulated")
    path = folder / "emulated.toml"
    path.write_text(SCENARIO)
    return run_scenario(path, folder / "out", Recorder())


def test_records_say_what_was_emulated_and_that_nothing_was_learnt(runs):
    zoo = load_model("resnet110-cifar")
    found = [m for m in runs.measurements() if m.kind == "measured"]
    assert [record.density for record in found] == [1.0, 0.01]
    for record in found:
        assert record.workload == "resnet110-cifar (emulated compute)"
        assert record.quality is None
        assert record.num_steps == 8
        assert record.gradient_bytes == 4 * sum(prod(shape) for shape in zoo.shapes)
        assert record.phases.compute_s >= 0.99 * 0.05
        assert record.solo_phases.compute_s >= 0.99 * 0.05
        assert len(record.profile.layers) == len(zoo.layers)
        assert record.parameters is not None  # all ranks agreed: updates were applied
    dense, sparse = found
    assert dense.wire_bytes_per_step == pytest.approx(zoo.gradient_bytes, rel=0.01)
    assert sparse.sparse.length == zoo.compressible_elements
    assert sparse.sparse.entries == pytest.approx(0.01 * zoo.compressible_elements, rel=0.05)
    # Workers' gradients are drawn apart, so their entries are, too.
    assert sparse.sparse.merged_entries > 1.9 * sparse.sparse.entries
    assert sparse.parameters != dense.parameters


def test_predictions_and_the_report_follow_from_the_records(runs):
    records = runs.measurements()
    predicted = [m for m in records if m.kind == "predicted"]
    assert [(m.workload, m.density) for m in predicted] == [
        ("resnet110-cifar (emulated compute)", density) for density in (1.0, 0.01)
    ]
    workload = cases_of_runs([m for m in records if m.kind == "measured"])[0]
    assert workload.phases.compute_s >= 0.99 * 0.05
    assert "resnet110-cifar (emulated compute)" in write_report(runs).read_text()


def test_ddp_overlaps_with_emulated_compute():
    text = SCENARIO.replace("densities = [1.0, 0.01]", 'densities = [1.0]\nmethod = "ddp"')
    found = []
    jobs, _ = plan_jobs(parse_scenario(text))
    launch(jobs, lambda e: found.append(e.measurement) if isinstance(e, Finished) else None)
    (record,) = found
    assert record.compressed_bytes == record.gradient_bytes
    assert record.phases.compute_s + record.phases.wait_s >= 0.99 * 0.05
    assert record.quality is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"resnet110-cifar"', '"resnet51"', r"train.model = 'resnet51': expected .*'resnet50'"),
        ('"resnet110-cifar"', '"mlp"', r"'mlp' does not go with dataset 'emulated'.*resnet50"),
        ('"emulated"\nmodel', '"austen"\nmodel', r"does not go with dataset 'austen'.*alexnet"),
        ("compute_s = ", "computes = ", "train: options: unknown computes, .* only compute_s"),
        ("0.05", '"long"', "train: options.compute_s = 'long': .* seconds above 0"),
        ("0.05", "0", "train: options.compute_s = 0: .* seconds above 0"),
        ("0.05", "true", "train: options.compute_s = True: .* seconds above 0"),
        ("0.05", "inf", "train.options.compute_s = inf: expected a finite number"),
        ("max_steps_per_epoch = 4", "", "train: max_steps_per_epoch: missing"),
        ("epochs = 2", 'epochs = 2\nworkers = "virtual"', "workers = 'virtual': .* 'processes'"),
        ("epochs = 2", 'epochs = 2\ndata_path = "x"', "data_path: .* expected none"),
        (
            "[simulate]",
            '[ladder]\nbaseline = "a"\nseeds = [1]\n[[ladder.rungs]]\nname = "a"\n[simulate]',
            "ladder: is about what is learnt, expected another dataset than 'emulated'",
        ),
    ],
)
def test_a_mistake_names_the_key_and_what_is_valid(old, new, says):
    assert old in SCENARIO
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(SCENARIO.replace(old, new, 1))
