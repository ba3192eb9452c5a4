"""Jobs for `test_situations`: what happens to scripts, on every rank of a group."""

import copy
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

import dgc_topo as dt
from dgc_topo.runtime import PeerError, RanksDifferError
from dgc_topo.workers.watching import _number_of_start
from tests.training.optimizer.snapshots import Make, Options, alike
from tests.training.optimizer.training import (
    BATCH,
    STEPS,
    Net,
    adamw,
    begin,
    data,
    loss_of,
    sgd,
    weights_of,
)


def gradient_of(layer: nn.Linear) -> Tensor:
    assert layer.weight.grad is not None
    return layer.weight.grad


def plain_sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0)


def slow_sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)


def adagrad(model: nn.Module) -> Optimizer:
    """An optimizer that takes sparse gradients, and is not linear."""
    return torch.optim.Adagrad(model.parameters(), lr=0.01)


def by_accumulation(
    group: dist.ProcessGroup, make: Make, options: Options, num_parts: int
) -> dict[str, Tensor]:
    """Train on batches in several parts, one backward pass each."""
    model, optimizer = begin(group, make, options)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    for step in range(STEPS):
        optimizer.zero_grad()
        inputs = given.inputs[step, rank].chunk(num_parts)
        targets = given.targets[step, rank].chunk(num_parts)
        for x, y in zip(inputs, targets, strict=True):
            (nn.functional.cross_entropy(model(x, True), y) * (len(x) / BATCH)).backward()
        optimizer.step()
    return weights_of(model)


class Mass(NamedTuple):
    """What one rank knows of one parameter, at the end."""

    gathered: Tensor  #: sum of its parts of the mean gradient, in the steps that counted
    residual: Tensor  #: what it has not sent yet
    moved: Tensor  #: how far the parameter has come
    while_frozen: Tensor  #: how far of it while it was frozen


def mass(group: dist.ProcessGroup) -> dict[str, Mass]:
    """Train by DGC without momentum; freeze a layer for a while; skip a step for rank 1's NaN."""
    model, optimizer = begin(group, plain_sgd, {"topology": "ring", "density": 0.05})
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    given, first = data(size, 9), weights_of(model)
    gathered = {name: torch.zeros_like(p) for name, p in first.items()}
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    at = {}
    for step in range(9):
        if step in {3, 6}:
            at[step] = weights_of(model)
            model.first.requires_grad_(step == 6)
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        if step == 4 and rank == 1:
            gradient_of(model.last).fill_(torch.nan)
        optimizer.step()
        for name, parameter in model.named_parameters():
            if step != 4 and parameter.grad is not None:
                gathered[name] += parameter.grad / size
    residual = optimizer.state_dict()["dgc_topo"]["compressor"]["residual"]
    now = weights_of(model)
    return {
        name: Mass(
            gathered[name],
            residual.get(name, torch.zeros_like(now[name])),
            now[name] - first[name],
            at[6][name] - at[3][name],
        )
        for name in names
    }


def frozen_ahead(group: dist.ProcessGroup) -> list[Tensor]:
    """Look ahead with AdamW; return a weight while it trains, while it is frozen, and after."""
    options = {"topology": "ring", "density": 0.05, "look_ahead": 1.0}
    model, optimizer = begin(group, adamw, options)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    weights = []
    for step, trains in enumerate([True, True, False, False, True, True]):
        model.first.weight.requires_grad_(trains)
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        optimizer.step()
        weights.append(model.first.weight.detach().clone())
    return weights[1::2]


class Odd(nn.Module):
    """Weights of another layout, and sparse gradients."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.words = nn.Embedding(9, 6, sparse=sparse)
        self.image = nn.Conv2d(3, 4, 2)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, words: Tensor, images: Tensor) -> Tensor:
        loss: Tensor = self.words(words).square().sum() + self.image(images).square().sum()
        return loss


def odd(
    group: dist.ProcessGroup, make: Make, options: Options, sparse: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Train the odd model, with parameters of another type."""
    model, rank = Odd(sparse=sparse).to(dtype), dist.get_rank(group)
    if rank:
        nn.init.zeros_(model.image.weight)
    optimizer = dt.DistributedOptimizer(make(model), model, group=group, **options)
    generator = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        optimizer.zero_grad()
        words = torch.randint(0, 9, (4,), generator=generator)
        images = torch.randn(2, 3, 3, 3, generator=generator).to(dtype)
        model(words, images).backward()
        optimizer.step()
    assert model.image.weight.is_contiguous(memory_format=torch.channels_last)
    assert {p.dtype for p in model.parameters()} == {dtype}
    return weights_of(model)


class Buffers(nn.Linear):
    """Buffers of every kind of memory, with values of this rank."""

    def __init__(self, own: float) -> None:
        super().__init__(3, 2)
        base = torch.arange(12.0).mul(own).reshape(3, 4)
        odd = {
            "row": base[0].expand(5, 4),
            "grid": base[:1, :1].expand(3, 4),
            "turned": base.t(),
            "part": base[:, ::2],
            "windows": torch.arange(6.0).mul(own).unfold(0, 3, 1),
            "none": torch.empty(0, 3),
            "flag": torch.tensor(own > 1),
            "conjugate": torch.complex(base, base).conj(),
            "rounded": base.to(torch.bfloat16),
        }
        for name, value in odd.items():
            self.register_buffer(name, value, persistent=name == "row")


def odd_buffers(group: dist.ProcessGroup) -> tuple[dict[str, Tensor], list[bool]]:
    """Return the buffers after the start, and if each still lies in memory as it did."""
    model = Buffers(2.0 + dist.get_rank(group))
    layouts = {name: each.stride() for name, each in model.named_buffers()}
    dt.DistributedOptimizer(plain_sgd(model), model, group=group)
    found = dict(model.named_buffers())
    stayed = [each.stride() == layouts[name] for name, each in found.items()]
    return {name: each.resolve_conj().clone() for name, each in found.items()}, stayed


def starts(group: dist.ProcessGroup) -> tuple[int, int]:
    """Return what names the ranks' meeting point in two starts that have one store."""
    return _number_of_start(group), _number_of_start(group)


class Skipped(NamedTuple):
    """A step in which rank 1 had a gradient that was not finite."""

    changed: list[str]  #: parameters that moved in it
    state_stayed: bool
    skipped_steps: int
    weights: dict[str, Tensor]  #: at the end of the training


def with_infinity(
    group: dist.ProcessGroup, make: Make, options: Options, scaled: bool, device: str = "cpu"
) -> Skipped:
    """Train, with GradScaler or without; rank 1 meets an infinity in step 2."""
    model, optimizer = begin(group, make, options, device)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group), device=device)
    # The scales of the ranks part when rank 1 meets its infinity.
    scaler = torch.amp.GradScaler(device, init_scale=1024.0, growth_interval=2, enabled=scaled)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = scaler.scale(loss_of(model, given, step, rank))
        loss.backward()
        if step == 2:
            if rank == 1:
                gradient_of(model.first)[0, 0] = torch.inf
            before, state = weights_of(model), copy.deepcopy(optimizer.state_dict())
        scaler.step(optimizer)
        scaler.update()
        if step == 2:
            changed = [n for n, p in weights_of(model).items() if not torch.equal(p, before[n])]
            now = optimizer.state_dict()
            for each in (now, state):
                del each["dgc_topo"]["steps"], each["dgc_topo"]["skipped_steps"]
            stayed = alike(now, state)
    return Skipped(changed, stayed, optimizer.skipped_steps, weights_of(model))


def scheduled(
    group: dist.ProcessGroup, make: Make, options: Options | None, wrapped: bool
) -> dict[str, Tensor]:
    """Train with a schedule of the wrapped optimizer, or of the user's own; None is plainly."""
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    if options is None:
        model = Net()
        model.norm.eval()
        optimizer = make(model)
        schedule = StepLR(optimizer, 2, 0.5)
    else:
        made: list[StepLR] = []

        def make_with_schedule(model: nn.Module) -> Optimizer:
            own = make(model)
            if not wrapped:
                made.append(StepLR(own, 2, 0.5))
            return own

        model, optimizer = begin(group, make_with_schedule, options)
        schedule = StepLR(optimizer, 2, 0.5) if wrapped else made[0]
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        optimizer.step()
        schedule.step()
    return weights_of(model)


def one_stays_away(group: dist.ProcessGroup) -> list[str]:
    """Step with all ranks but rank 1; return the errors of three tries."""
    options = {"topology": "ring", "density": 0.1, "timeout": timedelta(seconds=2)}
    model, optimizer = begin(group, sgd, options)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group))
    errors: list[str] = []
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        if step and rank == 1:
            break
        try:
            optimizer.step()
        except (PeerError, RuntimeError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


def sgd_of_less(model: nn.Module) -> Optimizer:
    model.get_parameter("last.bias").requires_grad_(False)
    return sgd(model)


def they_differ(group: dist.ProcessGroup, odd: Make) -> tuple[str, bool]:
    """Wrap an odd optimizer on rank 1; return the error, and if the parameters stayed."""
    model = Net()
    rank = dist.get_rank(group)
    if rank:
        nn.init.zeros_(model.last.weight)
    before = weights_of(model)
    make = odd if rank == 1 else sgd
    try:
        dt.DistributedOptimizer(make(model), model, group=group, timeout=timedelta(seconds=20))
    except RanksDifferError as error:
        return str(error), alike(before, weights_of(model))
    return "", False


def groups_added(group: dist.ProcessGroup) -> tuple[int, bool]:
    """Train one layer, then two; return the groups, and if the second layer has moved."""
    model, rank = Net(), dist.get_rank(group)
    model.norm.eval()
    own = torch.optim.SGD(model.last.parameters(), lr=0.1, momentum=0.9)
    optimizer = dt.DistributedOptimizer(own, model, "tree", 0.2, group=group)
    given, before = data(dist.get_world_size(group)), weights_of(model)
    for step in range(STEPS):
        if step == 2:
            optimizer.add_param_group({"params": model.first.parameters(), "lr": 0.3})
        model.zero_grad()
        loss_of(model, given, step, rank).backward()
        optimizer.step()
        if step == 1:
            assert torch.equal(model.first.weight, before["first.weight"])
    moved = not torch.equal(model.first.weight, before["first.weight"])
    assert optimizer.param_groups[1]["momentum"] == 0.9
    return len(optimizer.param_groups), moved


def at_rest(group: dist.ProcessGroup, options: Options) -> tuple[dict[str, Tensor], ...]:
    """Make steps of length 0 with float64 weights; return the weights before and after."""
    model = Net().double()
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn_like(each) * 1e-3)  # no float32 holds it
    own = torch.optim.AdamW(model.parameters(), lr=0.0)
    optimizer = dt.DistributedOptimizer(own, model, group=group, **options)
    before = weights_of(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 10, dtype=torch.float64), True).square().sum().backward()
        optimizer.step()
    return before, weights_of(model)


def clipped(group: dist.ProcessGroup, make: Make, options: Options) -> list[float]:
    """Clip a weight at 0.05 after each step; return its largest element before it is clipped."""
    model, optimizer = begin(group, make, options)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group), 10)
    found = []
    for step in range(10):
        with torch.no_grad():
            model.first.weight.clamp_(-0.05, 0.05)
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        optimizer.step()
        found.append(float(model.first.weight.detach().abs().max()))
    return found


def loaded(
    group: dist.ProcessGroup, make: Make, options: Options, spread: float
) -> tuple[dict[str, Tensor], float]:
    """Set all weights to 5 after some steps, and *spread* times the rank; return those trained.

    Also return how far they are from 5 after some more steps.
    """
    model, optimizer = begin(group, make, options)
    rank, given = dist.get_rank(group), data(dist.get_world_size(group), 10)
    for step in range(8):
        if step == 4:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(5 + spread * rank)
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            with optimizer.shared_parameters():
                assert float(model.last.weight.detach().min()) > 4.9
        optimizer.zero_grad()
        loss_of(model, given, step, rank).backward()
        optimizer.step()
    with optimizer.shared_parameters():
        trained = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return trained, max(float((p - 5).abs().max()) for p in trained.values())
