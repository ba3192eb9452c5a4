"""Gradients that travel in buckets while the backward pass goes on: the same arithmetic."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from threading import Event, current_thread, main_thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dgc_topo.compression.dense import Dense
from dgc_topo.experiments.scenario import Scenario, load_scenario
from dgc_topo.payload import DensePayload, Payload
from dgc_topo.runtime import Traffic
from dgc_topo.training.buckets import Bucket, Buckets, apply_updates, bucket_names
from dgc_topo.training.job import Job
from dgc_topo.training.overlap import OverlappedStep
from dgc_topo.training.rank import Computed
from tests.training.test_virtual import assert_equal, jobs_of, run, run_here
from tests.training.tiny import write_tiny

SMALL = {"overlap": True, "bucket_mib": 0.001}  # each layer of an MLP is a bucket of its own


@pytest.mark.slow
def test_overlapping_changes_no_bit(tmp_path):
    """Against virtual workers, which send the same buckets one after the other, after the pass."""
    topologies = ("ring", "parameter-server?server = 'dedicated'", "butterfly", "hierarchical")
    warm = {"warm_up": "paper", "warm_up_epochs": 1.0}
    jobs = jobs_of(tmp_path, *topologies, world_size=4, train=SMALL, compression=warm)
    normalised = {"model": "resnet20", "options": {"width": 2}, "max_steps_per_epoch": 2, **SMALL}
    jobs += jobs_of(tmp_path, "tree", world_size=4, batch_size=2, epochs=1, train=normalised)
    aged = {"track_ages": True, "merge": "reselect", "balance": True}
    jobs += jobs_of(tmp_path, "mesh", densities=(0.02,), train=SMALL, compression=aged)
    records = run(jobs)
    for real, job in zip(records, jobs, strict=True):
        assert real.bucket_bytes == job.bucket_bytes == 0.001 * 2**20
        assert_equal(real, run_here(job))
        assert real.phases.communicate_s == 0
        assert real.phases.compute_s > 0


@pytest.mark.gpu
def test_overlapping_on_a_gpu_changes_no_bit(tmp_path):
    """Two workers share it; sums run beside the backward pass, on a stream of their own."""
    settings = {**SMALL, "device": "cuda", "backend": "gloo"}
    jobs = jobs_of(tmp_path, "ring", "mesh", world_size=2, train=settings)
    for real, job in zip(run(jobs), jobs, strict=True):
        assert_equal(real, run_here(job, torch.device("cuda")))


def whole(job: Job) -> Job:
    train = job.train.model_copy(update={"overlap": False, "bucket_mib": None})
    return job.model_copy(update={"train": train})


def test_buckets_select_what_the_whole_gradient_selects(tmp_path):
    """A server adds in the order of ranks, whatever travels together: not even rounding differs."""
    settings = {"warm_up": "none", "masking": True}
    for density in (0.01, 1.0):
        (job,) = jobs_of(
            tmp_path,
            "parameter-server",
            densities=(density,),
            train=SMALL,
            compression=settings,
        )
        found, expected = run_here(job), run_here(whole(job))
        assert found.parameters == expected.parameters
        assert found.messages_per_step is not None
        assert expected.messages_per_step is not None
        assert found.messages_per_step > expected.messages_per_step


def test_buckets_follow_the_backward_pass_and_leave_nothing_out():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2), nn.Linear(2, 2))
    parameters = dict(model.named_parameters())
    buckets = bucket_names(parameters, 4 * 20)
    assert buckets == [
        ("3.weight", "3.bias", "2.weight", "2.bias"),
        ("1.weight", "1.bias", "0.weight", "0.bias"),
    ]
    assert bucket_names(parameters, None) == [tuple(parameters)]
    assert len(bucket_names(parameters, 1)) == 4


class Doubling:
    """Sums over two ranks that have the same gradients."""

    def __init__(self):
        self.called = Event()
        self.sizes: list[int] = []
        self.error: Exception | None = None

    def __call__(self, payloads: Sequence[Payload | None], iteration: int) -> list[Traffic]:
        (payload,) = payloads
        assert isinstance(payload, DensePayload)
        assert current_thread() is not main_thread()
        self.called.set()
        self.sizes.append(payload.buffer.numel())
        if self.error is not None:
            raise self.error
        payload.buffer.mul_(2)
        return [Traffic((), 0.0)]


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)


def step_of(model: nn.Module, exchange: Doubling, bucket_bytes: float = 1) -> OverlappedStep:
    parameters = dict(model.named_parameters())
    buckets = [
        Bucket(names, Dense({name: parameters[name] for name in names}, momentum=0.0))
        for names in bucket_names(parameters, bucket_bytes)
    ]
    task: Any = SimpleNamespace(worked_s=lambda: 0.0, aside=nullcontext)
    rank: Any = SimpleNamespace(
        parameters=parameters,
        buckets=Buckets(buckets),
        move=partial(apply_updates, parameters),
        trains=True,
    )
    return OverlappedStep(rank, exchange, task)


class WaitsGoingBack(torch.autograd.Function):
    """Its backward pass ends when an event has happened, and fails if it never does."""

    @staticmethod
    def forward(ctx, values, event):
        ctx.event = event
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        assert ctx.event.wait(20), "nothing was sent while the backward pass went on"
        return gradient, None


def test_the_last_layer_travels_while_the_first_still_computes():
    model, exchange = TwoLayers(), Doubling()
    first = model.first.bias.detach().clone()
    step = step_of(model, exchange)
    step.begin(0, 0.0, 0.5)
    hidden = WaitsGoingBack.apply(model.first(torch.ones(1, 3)), exchange.called)
    model.last(hidden).sum().backward()
    assert model.first.bias.grad is not None
    expected = first - 0.5 * 2 * model.first.bias.grad
    (record,) = step.apply([Computed(pass_s=60.0)])
    assert exchange.sizes == [12, 12]
    assert torch.equal(model.first.bias, expected)
    assert record.encoded_bytes == 4 * 24
    assert record.compress_s > 0
    assert 59 < record.compute_s < 60  # without what compressing took of the backward pass


def test_parameters_that_took_no_part_travel_as_zeros():
    model, exchange = TwoLayers(), Doubling()
    unused = model.last.weight.detach().clone()
    step = step_of(model, exchange)
    for _ in range(2):  # and the next step begins anew
        step.begin(0, 0.0, 0.5)
        model.zero_grad()
        model.first(torch.ones(1, 3)).sum().backward()
        step.apply([Computed()])
    assert exchange.sizes == [12, 12] * 2
    assert torch.equal(model.last.weight, unused)


@pytest.mark.parametrize("frozen", ["first", "last"])
def test_frozen_parameters_travel_as_zeros_and_hold_nothing_up(frozen):
    """In a bucket of their own, or with others that get a gradient."""
    model, exchange = TwoLayers(), Doubling()
    getattr(model, frozen).requires_grad_(False)
    model.first.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = step_of(model, exchange)
    for _ in range(2):
        step.begin(0, 0.0, 0.5)
        model.zero_grad()
        model.last(model.first(torch.ones(1, 3))).sum().backward()
        step.apply([Computed()])
    assert exchange.sizes == [12, 12] * 2
    moved = {name for name, p in model.named_parameters() if not p.equal(before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}


def test_what_fails_while_sending_is_raised_where_the_sum_is_needed():
    model, exchange = nn.Linear(2, 2), Doubling()
    exchange.error = ConnectionError("rank 1 is gone")
    step = step_of(model, exchange)
    step.begin(0, 0.0, 0.5)
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(ConnectionError, match="rank 1 is gone"):
        step.apply([Computed()])


@pytest.mark.slow
def test_one_worker_alone_and_gossip_train_as_ever(tmp_path):
    alone = jobs_of(tmp_path, "ring", world_size=1, train=SMALL)
    gossip = jobs_of(tmp_path, "gossip", densities=(1.0,), train=SMALL)
    first, second, third = run([*alone, *gossip])
    assert first.bucket_bytes == second.bucket_bytes == 0.001 * 2**20
    assert third.bucket_bytes is None
    assert third.parameters is None


@pytest.mark.parametrize(
    ("train", "compression", "message"),
    [
        ({"clip_norm": 1.0}, {}, "the gradient's norm is known only when the backward pass is"),
        ({"overlap": False}, {}, "bucket_mib: without overlap there is one bucket"),
        ({}, {"method": "random-k"}, "method 'random-k' with train.overlap = true"),
        ({}, {"scope": "model"}, "scope 'model' with train.overlap = true"),
        (
            {},
            {"method": "ddp-powersgd", "densities": (1.0,)},
            "method 'ddp-powersgd' with bucket_mib: the all-reduces of one bucket and the next",
        ),
    ],
)
def test_what_does_not_go_with_buckets_is_refused(tmp_path, train, compression, message):
    values = load_scenario(write_tiny(tmp_path, "ring")).model_dump(by_alias=True)
    values["train"] |= SMALL | train
    values["compression"] |= {"densities": (0.1,)} | compression
    with pytest.raises(ValidationError, match=message):
        Scenario.model_validate(values)
