"""Trainings of several ranks written out in one process, line by line."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

import dgc_topo as dt
from dgc_topo.compression.updates import UpdateCompressor
from dgc_topo.mixing import mixing_matrix
from dgc_topo.payload import Payload
from dgc_topo.runtime import run_in_process
from dgc_topo.training.optimizer.averaged import OwnOptimizer
from tests.training.averaging.driver import Driver
from tests.training.optimizer.training import STEPS, Data, Net, adamw, data, loss_of, weights_of


def train_plainly(
    group: dist.ProcessGroup,
    make: Callable[[nn.Module], Optimizer],
    world_size: int,
    clip_norm: float | None = None,
    order: int = 1,
) -> dict[str, Tensor]:
    """Train in one process on the mean of all ranks' losses, added in order or backwards (-1)."""
    del group  # of one
    model, given = Net(), data(world_size)
    model.norm.eval()  # else statistics would differ from those of parts of the batch
    optimizer = make(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(world_size)[::order]:
            (loss_of(model, given, step, rank) / world_size).backward()
        if clip_norm is not None:
            trained = [p for p in model.parameters() if p.grad is not None]
            nn.utils.clip_grad_norm_(trained, clip_norm)
        optimizer.step()
    return weights_of(model)


def gradients_by_hand(models: list[Net], given: Data, step: int) -> list[dict[str, Tensor | None]]:
    """Return each rank's gradient, with its own model."""
    found = []
    for rank, model in enumerate(models):
        model.zero_grad()
        loss_of(model, given, step, rank).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    return found


def nets(world_size: int) -> list[Net]:
    models = [Net() for _ in range(world_size)]
    for model in models:
        model.norm.eval()
    return models


@torch.no_grad()
def move(models: list[Net], changes: Mapping[str, Tensor], factor: float) -> None:
    for model in models:
        for name, parameter in model.named_parameters():
            if name in changes:
                parameter.add_(changes[name], alpha=factor)


def dgc_by_hand(
    group: dist.ProcessGroup, world_size: int, topology: str, density: float, clip_norm: float
) -> dict[str, Tensor]:
    """Deep Gradient Compression of every rank, written out, in one process."""
    del group
    models, given = nets(world_size), data(world_size)
    trained = {n: p for n, p in models[0].named_parameters() if p.requires_grad}
    schedule = dt.load_topology(topology).schedule(world_size)
    config = dt.DGCConfig(
        density=density,
        momentum=0.8,
        weight_decay=0.05,
        clip_norm=clip_norm,
        warm_up_epochs=4,
    )
    ranks = [dt.DGC(trained, num_workers=world_size, config=config) for _ in models]
    for step in range(STEPS):
        payloads = []
        for dgc, gradients in zip(ranks, gradients_by_hand(models, given, step), strict=True):
            dgc.set_progress(step)
            shares = {n: None if g is None else g / world_size for n, g in gradients.items()}
            payloads.append(dgc.compress(shares))
        run_in_process(schedule, payloads)
        move(models, ranks[0].finish(payloads[0]), -0.1)
    return weights_of(models[0])


def updates_by_hand(
    group: dist.ProcessGroup, world_size: int, topology: str, density: float, look_ahead: float
) -> dict[str, Tensor]:
    """Return what all share: AdamW of every rank, its changes compressed and averaged."""
    del group
    models, given = nets(world_size), data(world_size)
    optimizers = [adamw(model) for model in models]
    trained = {n: p for n, p in models[0].named_parameters() if p.requires_grad}
    schedule = dt.load_topology(topology).schedule(world_size)
    ranks = [
        UpdateCompressor(
            trained,
            num_workers=world_size,
            density=density,
            warm_up_steps=4,
            look_ahead=look_ahead,
        )
        for _ in models
    ]
    shared = weights_of(models[0])
    for step in range(STEPS):
        gradients_by_hand(models, given, step)
        payloads: list[Payload] = []
        for model, optimizer, compressor in zip(models, optimizers, ranks, strict=True):
            before = weights_of(model)
            optimizer.step()
            after = weights_of(model)
            payloads.append(compressor.compress({n: after[n] - before[n] for n in trained}))
        run_in_process(schedule, payloads)
        for name, change in ranks[0].finish(payloads[0]).items():
            shared[name] += change
        for model, compressor in zip(models, ranks, strict=True):
            ahead = compressor.ahead()
            own = {name: value + ahead.get(name, 0.0) for name, value in shared.items()}
            model.load_state_dict(own, strict=False)
    return shared


def gossip_by_hand(
    group: dist.ProcessGroup, make: Callable[[nn.Module], Optimizer], world_size: int, topology: str
) -> list[dict[str, Tensor]]:
    """D-PSGD by the topology's mixing matrix, in one process."""
    del group
    models, given = nets(world_size), data(world_size)
    optimizers = [make(model) for model in models]
    schedule = dt.load_topology(topology).schedule(world_size)
    mixing = torch.from_numpy(mixing_matrix(schedule))
    for step in range(STEPS):
        gradients_by_hand(models, given, step)
        before = [weights_of(model) for model in models]
        for row, model, optimizer in zip(mixing, models, optimizers, strict=True):
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    there = torch.stack([weights[name].double() for weights in before])
                    parameter.copy_(torch.tensordot(row, there, 1))
            optimizer.step()
    return [weights_of(model) for model in models]


def push_sum_by_hand(
    group: dist.ProcessGroup, make: Callable[[nn.Module], Optimizer], world_size: int, topology: str
) -> list[dict[str, Tensor]]:
    """Stochastic gradient push by the topology's matrices, in one process."""
    del group
    models, given = nets(world_size), data(world_size)
    optimizers = [make(model) for model in models]
    x = [{n: p.double() for n, p in weights_of(model).items()} for model in models]
    weights = torch.ones(world_size, dtype=torch.float64)
    for step in range(STEPS):
        gradients_by_hand(models, given, step)
        for own, model, optimizer in zip(x, models, optimizers, strict=True):
            model.load_state_dict(own, strict=False)
            optimizer.step()
        schedule = dt.load_topology(topology).schedule(world_size, iteration=step)
        mixing = torch.from_numpy(mixing_matrix(schedule))
        sent = [weights_of(model) for model in models]
        x = [
            {n: sum(w * own[n].double() for w, own in zip(row, sent, strict=True)) for n in sent[0]}
            for row in mixing
        ]
        weights = mixing @ weights
        for own, model, weight in zip(x, models, weights, strict=True):
            quotients = {name: value / weight for name, value in own.items()}
            model.load_state_dict(quotients, strict=False)
    return [weights_of(model) for model in models]


def local_sgd_by_hand(
    group: dist.ProcessGroup, make: Callable[[nn.Module], Optimizer], world_size: int, every: int
) -> list[dict[str, Tensor]]:
    """Local SGD: the mean of all models after every round, in one process."""
    del group
    models, given = nets(world_size), data(world_size)
    optimizers = [make(model) for model in models]
    for step in range(STEPS):
        gradients_by_hand(models, given, step)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % every == 0:
            ends = [weights_of(model) for model in models]
            mean = {name: torch.stack([each[name] for each in ends]).mean(0) for name in ends[0]}
            for model in models:
                model.load_state_dict(mean, strict=False)
    return [weights_of(model) for model in models]


class _Nets(Driver):
    """Ranks with a net and a user's optimizer each."""

    def __init__(
        self,
        rule: str,
        topology: str,
        models: Sequence[Net],
        make: Callable[[nn.Module], Optimizer],
        density: float,
    ) -> None:
        self.models, self.given = models, data(len(models))
        trained = [
            {n: p for n, p in sorted(model.named_parameters()) if p.requires_grad}
            for model in models
        ]
        own = [
            OwnOptimizer(make(model), parameters)
            for model, parameters in zip(models, trained, strict=True)
        ]
        super().__init__(
            rule, topology, trained, own, density=density, seed=0, momentum=0.0, warm_up="none"
        )

    def compute(self, rank: int) -> None:
        """See `Driver.compute`."""
        self.models[rank].zero_grad()
        loss_of(self.models[rank], self.given, self.iteration, rank).backward()


def averaged_by_hand(
    group: dist.ProcessGroup,
    make: Callable[[nn.Module], Optimizer],
    world_size: int,
    topology: str,
    rule: str,
    density: float,
) -> list[dict[str, Tensor]]:
    """Train by an averaging rule, line by line as `Averager` says, in one process."""
    del group
    models = nets(world_size)
    ranks = _Nets(rule, topology, models, make, density).train(STEPS)
    found = []
    for model, averager in zip(models, ranks.averagers, strict=True):
        with averager.turn():
            found.append(weights_of(model))
    return found
