"""FSDP2 with shards inside a machine and DGC between machines, beside FSDP2's own HSDP."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

import dgc_topo as dt
from tests.training.hooks.fsdp.models import (
    backward,
    batch,
    distance,
    mesh_of,
    sharded,
    train,
    weights,
)


def distances(_: Any, topology: str, replicas: int, passes: int, precision: Any) -> list[float]:
    """Return how far parameters are from HSDP's, after steps of AdamW at density 1."""
    mesh = mesh_of(replicas, 4 // replicas)
    policy = {} if precision is None else {"mp_policy": MixedPrecisionPolicy(**precision)}
    plain, ours = sharded(mesh, **policy), sharded(mesh["shard"], **policy)
    dt.compress_fsdp(ours, mesh["replicate"], topology, density=1)
    found = [
        train(model, 5, torch.optim.AdamW(model.parameters(), 0.01), passes)
        for model in (plain, ours)
    ]
    return [distance(found[0][name], found[1][name]) for name in found[0]]


@pytest.mark.parametrize(
    ("topology", "replicas", "passes", "precision"),
    [
        ("ring", 2, 1, None),
        ("butterfly", 2, 3, None),
        ("tree", 2, 1, {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}),
        ("ring", 2, 2, {"param_dtype": torch.float16}),
    ],
)
def test_density_1_is_hsdp(cluster, topology, replicas, passes, precision):
    for found in cluster.run(4, distances, topology, replicas, passes, precision):
        assert max(found) == 0.0


def held_backward(model: Any, hold: str, step: int) -> None:
    """Accumulate over two passes, the first of which the script has announced as such."""
    tell: dict[str, Callable[[bool], None]] = {
        "last": model.set_is_last_backward,
        "all-reduce": model.set_requires_all_reduce,
        "sync": model.set_requires_gradient_sync,
        "": lambda _: None,
    }
    poison = torch.inf if dist.get_rank() == 1 else 1.0
    for is_last in (False, True):
        tell[hold](is_last)
        if step == BAD:
            handle = model.norm.register_full_backward_hook(lambda _, d, __: (d[0] * poison,))
            backward(model, 2 * step + is_last, scale=0.0)
            handle.remove()
        else:
            backward(model, 2 * step + is_last)


def gradients(model: Any) -> dict[str, Tensor]:
    named = model.named_parameters()
    return {name: each.grad.to_local() for name, each in named if each.grad is not None}


BAD = 3  #: a step without gradients, but for one rank's, which are not finite in some layers


def lost_mass(_: Any, settings: dict[str, Any], hold: str) -> dict[str, Any]:
    """Return how much of all gradients was neither delivered nor kept, and how much waits."""
    mesh = mesh_of()
    plain, ours = sharded(mesh), sharded(mesh["shard"])
    state = dt.compress_fsdp(ours, mesh["replicate"], density="20%", **settings)
    due: dict[str, Tensor] = {}
    for step in range(6):
        held_backward(plain, "sync", step)
        held_backward(ours, hold, step)
        assert bool(gradients(ours)) == (step != BAD)
        if step != BAD:
            for (name, wanted), got in zip(
                gradients(plain).items(), gradients(ours).values(), strict=True
            ):
                due[name] = due.get(name, 0) + wanted - got
        plain.zero_grad()
        ours.zero_grad()
    saved: Any = state.state_dict()["parameters"]
    waiting = 0.0
    for name, kept in ((name, each["residual"]) for name, each in saved.items() if each):
        dist.all_reduce(kept, group=mesh["replicate"].get_group())
        waiting = max(waiting, distance(kept, torch.zeros_like(kept)))
        due[name] = due[name] - kept[: len(due[name])]
    lost = max(distance(each, torch.zeros_like(each)) for each in due.values())
    return {"lost": lost, "waiting": waiting, "step": state.step, "skipped": state.skipped}


@pytest.mark.parametrize(
    ("settings", "hold", "skipped"),
    [({}, "", 2), ({"merge": "reselect"}, "last", 1), ({"selection": "exact"}, "all-reduce", 1)],
)
def test_all_skip_a_step_that_one_rank_spoils_and_lose_nothing(cluster, settings, hold, skipped):
    for found in cluster.run(4, lost_mass, settings, hold):
        assert found["lost"] < 1e-5 < found["waiting"]
        assert (found["step"], found["skipped"]) == (5, skipped)


def momenta(state: Any) -> dict[str, Tensor]:
    found = state.state_dict()["parameters"].items()
    return {name: each["momentum"] for name, each in found if "momentum" in each}


def moved_momentum(_: Any) -> list[bool]:
    """Return, for a step that counts and one that is skipped, True if it moved a momentum."""
    mesh = mesh_of()
    model = sharded(mesh["shard"])
    state = dt.compress_fsdp(model, mesh["replicate"], density="20%", momentum=0.9)
    backward(model, 0)
    found = []
    for step in (1, BAD):
        before = momenta(state)
        model.zero_grad()
        held_backward(model, "sync", step)
        found.append(any(distance(before[n], each) > 0 for n, each in momenta(state).items()))
    return found


def test_a_skipped_step_moves_no_momentum(cluster):
    assert cluster.run(4, moved_momentum) == [[True, False]] * 4


def with_loss_scale(_: Any) -> list[Any]:
    """Return the distance of parameters trained with a changing scale of the loss."""
    mesh, found = mesh_of(), []
    for initial in (1.0, 65536.0):
        model = sharded(mesh["shard"])
        scaler = torch.amp.GradScaler("cpu", init_scale=initial, growth_interval=2)
        state = dt.compress_fsdp(model, mesh["replicate"], density="20%", scaler=scaler)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(6):
            inputs, targets = batch(step)
            if step == 3 and dist.get_rank() == 2:
                inputs *= torch.inf
            loss = nn.functional.mse_loss(model(inputs), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        found.append((weights(model), scaler.get_scale(), state.skipped))
    (one, _, _), (other, scale, skipped) = found
    return [max(distance(one[name], other[name]) for name in one), scale, skipped]


def test_residuals_do_not_depend_on_the_scale_of_the_loss(cluster):
    for difference, scale, skipped in cluster.run(4, with_loss_scale):
        assert difference < 1e-6
        assert scale == 65536 * 2  # doubled twice, halved once
        assert skipped == 1
