"""FSDP2 with shards inside a machine and DGC between machines, beside FSDP2's own HSDP."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import dgc_topo as dt
from tests.runtime.cluster import Cluster

REPLICAS, SHARDS = 2, 2


@pytest.fixture(scope="module")
def cluster():
    found = Cluster(4, [4])
    yield found
    found.close()


class Net(nn.Module):
    """Layers whose sizes no number of shards divides, a norm, and a part nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 13)
        self.frozen = nn.Linear(13, 13).requires_grad_(False)
        self.norm = nn.LayerNorm(13)
        self.last = nn.Linear(13, 1)
        self.factor = nn.Parameter(torch.ones(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.frozen(self.first(x).relu()).relu())
        out: Tensor = self.last(hidden) * self.factor
        return out


def mesh_of(replicas: int = REPLICAS, shards: int = SHARDS) -> DeviceMesh:
    return init_device_mesh("cpu", (replicas, shards), mesh_dim_names=("replicate", "shard"))


def sharded(mesh: DeviceMesh, **options: Any) -> Any:
    torch.manual_seed(1)
    model = Net()
    fully_shard([model.first, model.frozen], mesh=mesh, **options)
    fully_shard(model.norm, mesh=mesh, **options)
    fully_shard(model.last, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Return this rank's own batch."""
    generator = torch.Generator().manual_seed(100 * step + dist.get_rank())
    return torch.randn(5, 7, generator=generator), torch.randn(5, 1, generator=generator)


def backward(model: Any, step: int, scale: float = 1.0) -> None:
    inputs, targets = batch(step)
    (nn.functional.mse_loss(model(inputs).float(), targets) * scale).backward()


def weights(model: Any) -> dict[str, Tensor]:
    return {name: each.full_tensor().detach().clone() for name, each in model.named_parameters()}


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.numel() else 0.0


def train(model: Any, steps: int, optimizer: Any, passes: int = 1) -> dict[str, Tensor]:
    for step in range(steps):
        for number in range(passes):
            model.set_requires_gradient_sync(number == passes - 1)
            backward(model, step * passes + number)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


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
    for distance, scale, skipped in cluster.run(4, with_loss_scale):
        assert distance < 1e-6
        assert scale == 65536 * 2  # doubled twice, halved once
        assert skipped == 1


def resumed(_: Any, settings: dict[str, Any]) -> bool:
    """Return True if training from a snapshot gives the bits of training without a stop."""
    mesh = mesh_of()
    model = sharded(mesh["shard"])
    state = dt.compress_fsdp(model, mesh["replicate"], "tree", density="10%", **settings)
    train(model, 3, torch.optim.SGD(model.parameters(), 0.1))
    model.first.bias.requires_grad_(False)  # what waits for it waits on
    train(model, 3, torch.optim.SGD(model.parameters(), 0.1))
    local = {name: each.to_local().clone() for name, each in model.named_parameters()}
    saved = copy.deepcopy(state.state_dict())
    again = sharded(mesh["shard"])
    again.first.bias.requires_grad_(False)
    state_again = dt.compress_fsdp(again, mesh["replicate"], "tree", density="10%", **settings)
    with torch.no_grad():
        for name, each in again.named_parameters():
            each.to_local().copy_(local[name])
    state_again.load_state_dict(saved)
    for each in (model, again):
        each.frozen.requires_grad_(True)
        each.first.bias.requires_grad_(True)
        train(each, 3, torch.optim.SGD(each.parameters(), 0.1))
    one, other = weights(model), weights(again)
    return all(one[name].equal(other[name]) for name in one) and state_again.step == state.step == 9


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9, "warm_up_steps": 8}])
def test_a_resumed_training_has_the_same_bits(cluster, settings):
    assert cluster.run(4, resumed, settings) == [True] * 4


def interrupted(_: Any) -> bool:
    """Return True if a pass without gradients that ended early leaves no trace."""
    mesh, found = mesh_of(), []
    for fails in (False, True):
        model = sharded(mesh["shard"])
        state = dt.compress_fsdp(model, mesh["replicate"], density="10%")
        backward(model, 0)
        model.zero_grad()
        if fails:
            handle = model.frozen.register_full_backward_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                backward(model, 1, scale=0.0)
            handle.remove()
            model.reset_iter_state()
            model.zero_grad()
        backward(model, 2)
        gradients = {name: each.grad for name, each in model.named_parameters()}
        found.append(
            (state.step, {n: g.full_tensor() for n, g in gradients.items() if g is not None})
        )
    (step, plain), (step_again, other) = found
    return step == step_again == 2 and all(plain[name].equal(other[name]) for name in plain)


def test_a_pass_that_ended_early_takes_nothing_with_it(cluster):
    assert cluster.run(4, interrupted) == [True] * 4


class Heads(nn.Module):
    """A body, and two heads of which a pass uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(7, 13)
        self.heads = nn.ModuleList(nn.Linear(13, 4) for _ in range(2))

    def forward(self, x: Tensor, head: int) -> Tensor:
        out: Tensor = self.heads[head](self.body(x).relu())
        return out


def interrupted_then_elsewhere(_: Any) -> list[int]:
    """Return the steps counted: a whole pass, one that ended early, one through another head."""
    mesh, steps = mesh_of(), []
    model: Any = Heads()
    for each in (model.body, *model.heads):
        fully_shard(each, mesh=mesh["shard"])
    fully_shard(model, mesh=mesh["shard"])
    state = dt.compress_fsdp(model, mesh["replicate"], density="10%")
    for head, fails in ((0, False), (0, True), (1, False), (1, False)):
        model.zero_grad()
        if fails:  # in the body, behind the head
            handle = model.body.register_full_backward_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(batch(0)[0], head).square().sum().backward()
            handle.remove()
            model.reset_iter_state()
        else:
            model(batch(0)[0], head).square().sum().backward()
            steps.append(state.step)
            state.state_dict()  # no step is under way
    return steps


def test_after_a_pass_that_ended_early_another_may_begin_elsewhere(cluster):
    assert cluster.run(4, interrupted_then_elsewhere) == [[1, 2, 3]] * 4


def message(call: Callable[[], object]) -> str:
    """Return the text of the error that a call raises."""
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "no error"


def refusals(group: Any) -> list[str]:
    mesh = mesh_of()
    model = sharded(mesh["shard"])
    replicas = mesh["replicate"]
    compress = dt.compress_fsdp
    found = [
        message(lambda: compress(Net(), replicas)),
        message(lambda: compress(sharded(mesh), replicas)),
        message(lambda: compress(model, mesh)),
        message(lambda: compress(model, group)),
        message(lambda: compress(model, replicas, "gossip")),
        message(lambda: compress(model, replicas, "parameter-server:server=dedicated")),
        message(lambda: compress(model, replicas, clip_norm=1.0)),
        message(lambda: compress(model, replicas, densty=1.0)),
    ]
    state = compress(model, replicas, momentum=0.9)
    backward(model, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    found.append(message(optimizer.step))
    found.append(message(lambda: state.load_state_dict({"step": 1})))
    saved = state.state_dict()
    saved["parameters"] = {"first.weight": {"residual": torch.zeros(3, 3)}}
    found.append(message(lambda: state.load_state_dict(saved)))
    saved["parameters"] = {"nobody": {}}
    found.append(message(lambda: state.load_state_dict(saved)))
    found.append(message(lambda: backward(model, 1)))
    model.zero_grad()
    found.append(message(lambda: backward(model, 2)))
    return found


def test_nonsense_is_refused(cluster):
    expected = [
        "no parameter of the model is sharded",
        "a mesh of two dimensions",
        "a mesh of 2 dimensions",
        "replicas and shards of each other",
        "topology gossip is doubly-stochastic, expected an all-reduce",
        "ranks that only serve (1), but every rank trains here",
        "clip_norm is set, but the norm of the whole gradient is known only after",
        "did you mean 'density'",
        "dt.compress_fsdp applies momentum 0.9 already",
        "of another kind, expected what state_dict() returned",
        "residual of 'first.weight' does not fit: (3, 3), expected a tensor of shape (7, 7)",
        "parameter 'nobody', expected only those of this model",
        "momentum would count them twice",
        "unusable after an earlier error",
    ]
    for found in cluster.run(4, refusals):
        for text, part in zip(found, expected, strict=True):
            assert part in text
