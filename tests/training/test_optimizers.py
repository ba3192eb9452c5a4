"""Optimizers and learning rates by name: as torch's at density 1, each worker's own below."""

import math
import re

import pytest
import torch

from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.experiments.jobs import check_trainings, plan_jobs
from dgc_topo.experiments.scenario import Scenario, ScenarioError, load_scenario, parse_scenario
from dgc_topo.training.averaging.changes import ChangeAverager
from dgc_topo.training.data import Shard
from dgc_topo.training.job import Job
from dgc_topo.training.learning import learning_task
from dgc_topo.training.learning_rates import TORCH_DECAYS
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.optimizer_settings import OPTIMIZERS
from dgc_topo.training.rank import TrainingRank
from dgc_topo.training.settings import Timetable, TrainSection
from dgc_topo.training.world import VirtualWorld
from tests.own_code import SCENARIO, write_own
from tests.training.test_virtual import assert_equal, run, run_here

#: A linear model: gradients of N workers average to that of one with all samples.
LINEAR = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.second(torch.tanh(self.first(inputs)))

def classes():
    centres = torch.randn(3, 8)
    targets = torch.arange(300) % 3
    inputs = centres[targets] + torch.randn(300, 8)
    return (inputs[:240], targets[:240]), (inputs[240:], targets[240:])

class Halving(torch.optim.Optimizer):
    def __init__(self, params, lr, factor=0.5):
        super().__init__(params, {"lr": lr})
        self.factor = factor

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=group["lr"] * self.factor)
"""
ADAMW = {"optimizer": "adamw", "learning_rate": 0.01}


def jobs_of(folder, train=None, compression=None, topologies=("ring",)) -> list[Job]:
    """Return the jobs of the scenario, some of its keys replaced."""
    values = load_scenario(write_own(folder, SCENARIO, LINEAR)).model_dump(by_alias=True)
    values["train"] |= ADAMW | (train or {})
    values["compression"] |= compression or {}
    values["topologies"] = topologies
    return plan_jobs(Scenario.model_validate(values))[0]


def trained(job: Job) -> TrainingRun:
    world = VirtualWorld(job, torch.device("cpu"))
    run_of = TrainingRun(job, 0, world, lambda _: None)
    run_of.run()
    return run_of


@pytest.mark.slow
def test_processes_and_virtual_workers_take_the_same_steps(tmp_path):
    """AdamW dense and compressed, with a server, and an optimizer of the user's own; RMSprop."""
    real = {"workers": "processes"}
    both = {"densities": [1.0, 0.1]}
    jobs = jobs_of(tmp_path, real | {"clip_norm": 0.5}, both)
    dedicated = {"name": "parameter-server", "options": {"server": "dedicated"}}
    warm = {"densities": [0.1], "warm_up": "geometric", "warm_up_epochs": 1.0}
    jobs += jobs_of(tmp_path, real, warm, (dedicated,))
    own = {"optimizer": "net.py:Halving", "optimizer_options": {"factor": 0.25}}
    jobs += jobs_of(tmp_path, real | own, {"densities": [0.1]})
    overlapped = {"optimizer": "rmsprop", "overlap": True, "bucket_mib": 1e-4}
    jobs += jobs_of(tmp_path, real | overlapped, {"densities": [1.0]})
    assert len(jobs) == 5
    check_trainings("own", jobs)
    for found, job in zip(run(jobs), jobs, strict=True):
        assert_equal(found, run_here(job))
        assert found.compression == ("dense" if job.density == 1 else "updates")


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_at_density_1_workers_do_what_torchs_optimizer_does_with_the_mean_gradient(tmp_path, name):
    options = {"weight_decay": 0.1} if name == "adamw" else {}
    chosen = {"optimizer": name, "optimizer_options": options, "clip_norm": 1.0}
    (job,) = jobs_of(tmp_path, chosen, {"densities": [1.0]})
    found = trained(job)
    task, parameters = found._task, found.parameters
    # One worker with all samples of a step.
    (alone,) = jobs_of(tmp_path, chosen | {"world_size": 1, "batch_size_per_worker": 12}, {})
    lone = TrainingRun(
        alone.model_copy(update={"density": 1.0}),
        0,
        VirtualWorld(alone, torch.device("cpu")),
        lambda _: None,
    )
    model = task.build_model()
    kind = getattr(torch.optim, OPTIMIZERS[name])
    given = {"momentum": 0.9} if name == "sgd" else options
    optimizer = kind(model.parameters(), lr=0.01, **given)
    for epoch in range(2):
        for _, batch in zip(range(5), lone._task.batches(epoch), strict=False):
            optimizer.zero_grad()
            task.loss(model, batch).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    for key, parameter in model.named_parameters():
        assert torch.allclose(parameter, parameters[key], atol=2e-3), key


def test_below_density_1_nothing_of_a_workers_steps_is_lost(tmp_path):
    """All workers' steps = what moved the shared parameters + what is not sent yet."""
    (job,) = jobs_of(tmp_path, None, {"densities": [0.05]})
    world = VirtualWorld(job, torch.device("cpu"))
    run_of = TrainingRun(job, 0, world, lambda _: None)
    start = {name: p.detach().clone() for name, p in run_of.parameters.items()}
    taken = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in start.items()}
    for rank in run_of._ranks:
        compressor = compressor_of(rank)
        inner = compressor.compress

        def count(updates, *, density, inner=inner):
            for name, update in updates.items():
                taken[name] += update.double() / 3
            return inner(updates, density=density)

        compressor.compress = count  # type: ignore[method-assign,assignment]
    run_of._train_epoch(0)
    for name, shared in run_of._ranks[0].averager.shared().items():
        left = sum(compressor_of(rank).residuals()[name].double() for rank in run_of._ranks)
        moved = shared.double() - start[name].double()
        assert torch.allclose(moved + left, taken[name], atol=1e-6), name
        assert float(taken[name].abs().max()) > 1e-3


def compressor_of(rank: TrainingRank) -> UpdateCompressor:
    assert isinstance(rank.averager, ChangeAverager)
    return rank.averager.compressor


def test_a_worker_looks_ahead_by_what_it_has_not_sent_and_no_further(tmp_path):
    (job,) = jobs_of(tmp_path, None, {"densities": [0.05]})
    run_of = TrainingRun(job, 0, VirtualWorld(job, torch.device("cpu")), lambda _: None)
    run_of._train_epoch(0)
    shared = run_of._ranks[0].averager.shared()
    for rank in run_of._ranks:
        ahead = compressor_of(rank).ahead()
        assert all(torch.equal(p, shared[name]) for name, p in rank.averager.shared().items())
        for name, parameter in rank.parameters.items():
            assert torch.equal(parameter, shared[name] + ahead[name])
        assert any(bool(value.any()) for value in ahead.values())


@pytest.mark.parametrize(
    ("train", "compression", "says"),
    [
        ('optimizer = "adam w"', "", r"train\.optimizer = 'adam w': expected 'sgd', 'adadelta'"),
        ('optimizer = "adamw"\nmomentum = 0.9', "", "momentum with optimizer = 'adamw': is of"),
        ('optimizer = "adamw"\nweight_decay = 0.1', "", "weight_decay .* in optimizer_options"),
        ("optimizer_options = { foreach = true }", "", "expected the keys momentum, nesterov"),
        ('optimizer = "adam"\noptimizer_options = { lr = 1.0 }', "", "learning_rate instead"),
        ('optimizer = "adam"', "masking = false", "masking = false with|masking = False with"),
        ('optimizer = "adam"', 'merge = "reselect"', "merge = 'reselect' with train.optimizer"),
        ('optimizer = "adam"\noverlap = true', "", "densities below 1 .* expected overlap = false"),
        ('optimizer = "adam"', 'method = "random-k"', "method 'random-k' with train.optimizer"),
        ("", "look_ahead = 1.0", "look_ahead = 1 with train.optimizer = 'sgd'"),
        ('learning_rate_decay = "cosin"', "", "'cosin': expected one of constant, cosine"),
        ('learning_rate_decay = "step"\nlearning_rate_options = { gamma = 1 }', "", "no such opt"),
        (
            'learning_rate_decay = "step"\nlearning_rate_options = { every_epochs = 0 }',
            "",
            r"learning_rate_options\.every_epochs = 0: expected a number above 0",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, train, compression, says):
    text = SCENARIO.replace("epochs = 2", f"epochs = 2\n{train}").replace(
        "densities", f"{compression}\ndensities"
    )
    write_own(tmp_path)
    with pytest.raises(ScenarioError, match=says):
        parse_scenario(text, folder=tmp_path)


@pytest.mark.parametrize(
    ("train", "says"),
    [
        ({"optimizer_options": {"beta": 1}}, r"adamw: raised TypeError: .*'beta'"),
        ({"optimizer_options": {"betas": (0.9, 1.5)}}, "adamw: raised ValueError: Invalid beta"),
        ({"optimizer": "net.py:Net"}, r"net\.py:Net: raised TypeError"),
        ({"optimizer": "net.py:classes"}, r"train\.optimizer: net\.py:classes: raised TypeError"),
        (
            {"learning_rate_decay": "StepLR", "learning_rate_options": {"size": 3}},
            "StepLR takes no size, expected some of step_size",
        ),
        (
            {"learning_rate_decay": "StepLR"},
            r"train\.learning_.*StepLR refuses them: .*step_size",
        ),
        (
            {
                "learning_rate_decay": "StepLR",
                "learning_rate_options": {"step_size": 1, "gamma": -1},
            },
            r"train\.learning_rate_options: StepLR makes the rate -\d.* of step 1, expected",
        ),
    ],
)
def test_what_only_torch_can_check_is_checked_before_any_worker_starts(tmp_path, train, says):
    with pytest.raises(ScenarioError) as refused:
        check_trainings("own.toml", jobs_of(tmp_path, train))
    assert re.search(says, str(refused.value)), refused.value


def test_a_length_that_fits_the_users_data_is_taken_and_a_shorter_one_refused(tmp_path):
    (job,) = jobs_of(tmp_path)
    steps = 240 // (job.train.batch_size_per_worker * job.train.world_size) * job.train.epochs
    cycle = {"learning_rate_decay": "OneCycleLR", "max_steps_per_epoch": None}

    def check(total: int) -> None:
        options = {"max_lr": 0.1, "total_steps": total}
        check_trainings("own.toml", jobs_of(tmp_path, cycle | {"learning_rate_options": options}))

    check(steps)
    with pytest.raises(ScenarioError, match=r"train\.learning_rate_options: OneCycleLR refuses"):
        check(steps - 2)


def test_a_length_that_fits_shipped_data_is_taken_and_a_shorter_one_refused(tmp_path):
    """Even without options: a scheduler that needs some is refused before any worker starts."""
    shipped = {"dataset": "fashion-mnist-subset", "model": "mlp", "options": {}, "world_size": 4}
    cycle = shipped | {"learning_rate_decay": "OneCycleLR", "max_steps_per_epoch": None}

    def check(**options) -> None:
        check_trainings("own.toml", jobs_of(tmp_path, cycle | {"learning_rate_options": options}))

    (job,) = jobs_of(tmp_path, shipped)
    shard = Shard(job.train.batch_size_per_worker, 0, 4, 0)
    steps = learning_task(job.train, shard, torch.device("cpu")).steps_per_epoch * job.train.epochs
    check(max_lr=0.1, total_steps=steps)
    with pytest.raises(ScenarioError, match=rf"OneCycleLR refuses them: .*\b{steps - 2}\b"):
        check(max_lr=0.1, total_steps=steps - 2)
    with pytest.raises(ScenarioError, match=r"OneCycleLR refuses them: .*max_lr"):
        check()


@pytest.mark.parametrize("value", ['["a", 0.9]', "[[0.9], 0.9]"])
@pytest.mark.parametrize("key", ["optimizer_options.betas", "learning_rate_options.x"])
def test_an_option_of_another_kind_is_refused_in_one_line(tmp_path, key, value):
    text = SCENARIO.replace("[train]", f'[train]\noptimizer = "adamw"\n{key} = {value}')
    write_own(tmp_path)
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(text, folder=tmp_path)
    (line,) = str(refused.value).splitlines()
    assert f"{key} = [" in line
    assert "expected a number, a text, true or false, or a list of numbers" in line


def rates_of(steps: int = 40, **settings) -> list[float]:
    """Return all learning rates of four epochs."""
    section = TrainSection(
        dataset="austen",
        model="char-lstm",
        world_size=1,
        batch_size_per_worker=1,
        epochs=4,
        **({"learning_rate": 0.8} | settings),
    )
    timetable = Timetable(section, steps // 4)
    return [timetable.learning_rate_at(step) for step in range(steps)]


def test_decays_are_their_formulas():
    assert rates_of() == [0.8] * 40
    assert rates_of(learning_rate_decay="linear") == pytest.approx(
        [0.8 * (1 - step / 40) for step in range(40)]
    )
    floor = {"final_factor": 0.1}
    cosine = rates_of(learning_rate_decay="cosine", learning_rate_options=floor)
    assert cosine == pytest.approx(
        [0.08 + 0.72 * 0.5 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    )
    halved = {"every_epochs": 1.5, "factor": 0.5}
    found = rates_of(learning_rate_decay="step", learning_rate_options=halved)
    assert found == [0.8] * 15 + [0.4] * 15 + [0.2] * 10
    warm = rates_of(learning_rate_warm_up_epochs=2.0)
    assert warm == pytest.approx([0.8 * min(1, (step + 1) / 20) for step in range(40)])


#: Options that torch's schedulers need.
NEEDED: dict[str, dict[str, object]] = {
    "CosineAnnealingWarmRestarts": {"T_0": 7},
    "CyclicLR": {"base_lr": 0.1, "max_lr": 0.5},
    "ExponentialLR": {"gamma": 0.9},
    "MultiStepLR": {"milestones": (5, 20)},
    "OneCycleLR": {"max_lr": 0.8},
    "StepLR": {"step_size": 10},
}


@pytest.mark.parametrize("name", TORCH_DECAYS)
def test_torchs_schedulers_go_on_as_in_torch(name):
    options = NEEDED.get(name, {})
    found = rates_of(learning_rate_decay=name, learning_rate_options=options)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8, momentum=0.9)
    given = dict(options)
    if name in {"OneCycleLR", "CyclicLR"}:
        given["cycle_momentum"] = False
    if name == "OneCycleLR":
        given["total_steps"] = 40
    if name == "CosineAnnealingLR":
        given["T_max"] = 40
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **given)
    for step, rate in enumerate(found):
        assert rate == optimizer.param_groups[0]["lr"], step
        optimizer.step()
        if step < 39:
            scheduler.step()
