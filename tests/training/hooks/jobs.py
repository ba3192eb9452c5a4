"""What the workers do in tests of hooks."""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dgc_topo as dt
from dgc_topo.runtime import RanksDifferError

SMALL = 0.002  # MB of a bucket: a layer or two


class Plain(nn.Module):
    """A network whose every parameter gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.LayerNorm(40))
        self.head = nn.Linear(40, 4)

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.body(inputs))


class Odd(nn.Module):
    """Tied, frozen and unused parameters, a convolution in channels-last format, running means."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Conv2d(2, 5, 3, padding=1)
        weight = self.picture.weight.detach().contiguous(memory_format=torch.channels_last)
        self.picture.weight = nn.Parameter(weight)
        self.norm = nn.BatchNorm2d(5)
        self.first, self.tied = nn.Linear(50, 50), nn.Linear(50, 50)
        self.tied.weight = self.first.weight
        self.frozen, self.unused = nn.Linear(50, 50), nn.Linear(50, 4)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(50, 4)

    def forward(self, inputs: Tensor) -> Any:
        pictures = inputs.view(-1, 2, 2, 5)
        hidden = self.norm(self.picture(pictures)).mean(2).flatten(1).repeat(1, 2)
        hidden = self.tied(torch.tanh(self.first(hidden)))
        return self.head(torch.tanh(hidden + self.frozen(hidden)))


class Trained(NamedTuple):
    """A model, with what trained it."""

    model: nn.Module
    parameters: dict[str, Tensor]
    state: Any  #: HookState, or None
    optimizer: torch.optim.Optimizer


def batches(rank: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets, other ones on each rank."""
    generator = torch.Generator().manual_seed(100 * seed + rank)
    while True:
        inputs = torch.randn(8, 20, generator=generator)
        yield inputs, inputs[:, :4].sin()


def trained(  # noqa: PLR0913
    group: dist.ProcessGroup,
    hook: dict[str, Any] | None = None,
    *,
    net: Callable[[], nn.Module] = Plain,
    optimizer: str = "SGD",
    settings: dict[str, Any] | None = None,
    steps: int = 20,
    micro_steps: int = 1,
    clip: float | None = None,
    dtype: str = "float32",
    autocast: bool = False,
    device: str = "cpu",
    **ddp: Any,
) -> Trained:
    """Train on the ranks of a group, with DDP's own all-reduce or with a hook."""
    torch.manual_seed(0)
    place: Any = {"device": device, "dtype": getattr(torch, dtype)}
    ddp = {"process_group": group, "bucket_cap_mb": SMALL, **ddp}
    model = DistributedDataParallel(net().to(**place), **ddp)
    trains = [p for p in model.parameters() if p.requires_grad]
    settings = {"lr": 0.05, **(settings or {})}
    made = getattr(torch.optim, optimizer)(trains, **settings)
    state = None
    if hook is not None:
        state = dt.HookState(model, **{"optimizer": made, **hook})
        model.register_comm_hook(state, dt.hook)
    data = batches(dist.get_rank(group))
    for _ in range(steps):
        made.zero_grad()
        for micro in range(micro_steps):
            last = micro == micro_steps - 1
            with nullcontext() if last else model.no_sync():
                inputs, targets = (values.to(**place) for values in next(data))
                with torch.autocast(device, torch.bfloat16, enabled=autocast):
                    outputs = model(inputs)
                (outputs - targets).square().mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        made.step()
    parameters = {name: each.detach().clone() for name, each in model.module.named_parameters()}
    return Trained(model, parameters, state, made)


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the largest difference of two models."""
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def same_on_all(group: dist.ProcessGroup, parameters: dict[str, Tensor]) -> bool:
    """Return True if all ranks have the same bits."""
    flat = torch.cat([each.flatten() for each in parameters.values()])
    found = [torch.empty_like(flat) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, flat, group)
    return all(each.equal(flat) for each in found)


class Likeness(NamedTuple):
    """A run with a hook beside plain DDP.

    Attributes:
        difference: Largest difference of parameters.
        noise: The same between plain DDP and plain DDP with other buckets.
        same: True if all ranks ended with the same bits.
    """

    difference: float
    noise: float
    same: bool


def likeness(
    group: dist.ProcessGroup, hooks: list[dict[str, Any]], **settings: Any
) -> list[Likeness]:
    """Compare runs with hooks to plain DDP."""
    logging.getLogger("dgc_topo.hook").setLevel(logging.ERROR)
    plain = trained(group, **settings).parameters
    other = trained(group, **{**settings, "bucket_cap_mb": 25}).parameters
    noise = difference(plain, other)
    found = []
    for hook in hooks:
        ours = trained(group, hook, **settings).parameters
        found.append(Likeness(difference(plain, ours), noise, same_on_all(group, ours)))
    return found


def likeness_of(
    group: dist.ProcessGroup, hooks: list[dict[str, Any]], settings: dict[str, Any]
) -> list[Likeness]:
    """Call `likeness` with keywords."""
    return likeness(group, hooks, **settings)


def scales(group: dist.ProcessGroup) -> list[float]:
    """Return the difference that scaling the loss makes, with the scale going up and down."""
    hook: dict[str, Any] = {"density": 0.05, "topology": "tree", "warm_up_steps": 8}
    plain = trained(group, hook, settings={"lr": 0.05, "momentum": 0.9})
    torch.manual_seed(0)
    model = DistributedDataParallel(Plain(), process_group=group, bucket_cap_mb=SMALL)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    state = dt.HookState(model, optimizer=optimizer, scaler=scaler, **hook)
    model.register_comm_hook(state, dt.hook)
    data, found = batches(dist.get_rank(group)), []
    for step in range(20):
        optimizer.zero_grad()
        inputs, targets = next(data)
        scaler.scale((model(inputs) - targets).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update(2.0 ** (4 if step % 5 else -3) * scaler.get_scale())
    ours = {name: each.detach() for name, each in model.module.named_parameters()}
    found.append(difference(plain.parameters, ours))
    return found


def resumed(group: dist.ProcessGroup, optimizer: str) -> float:
    """Return the difference that saving and loading makes, with other buckets afterwards."""
    hook: dict[str, Any] = {"density": 0.05, "warm_up_steps": 8, "track_ages": True}
    settings = {"lr": 0.02, **({"momentum": 0.9} if optimizer == "SGD" else {})}
    whole = trained(group, hook, steps=12, optimizer=optimizer, settings=settings)
    half = trained(group, hook, steps=6, optimizer=optimizer, settings=settings)
    model = DistributedDataParallel(Plain(), process_group=group, bucket_cap_mb=25)
    made = getattr(torch.optim, optimizer)(model.parameters(), **settings)
    own = dt.HookState(model, optimizer=made, **hook)
    pairs = [(half.model.module, model.module), (half.optimizer, made), (half.state, own)]
    for saved, loaded in pairs:
        with tempfile.TemporaryFile() as file:
            torch.save(saved.state_dict(), file)
            file.seek(0)
            loaded.load_state_dict(torch.load(file, weights_only=True))
    model.register_comm_hook(own, dt.hook)
    data = batches(dist.get_rank(group))
    for step in range(12):
        inputs, targets = next(data)
        if step >= 6:
            made.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            made.step()
    ours = {name: each.detach() for name, each in model.module.named_parameters()}
    assert own.step == whole.state.step == 12
    assert own.staleness().waiting == whole.state.staleness().waiting
    return difference(whole.parameters, ours)


def taken_over(group: dist.ProcessGroup, nesterov: bool) -> float:
    """Return the difference that moving momentum into the hook makes in the middle of training."""
    settings = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 1e-2}
    whole = trained(group, steps=10, settings=settings)
    half = trained(group, steps=5, settings=settings)
    state = dt.HookState(half.model, density=0.99999, masking=False, optimizer=half.optimizer)
    assert {group["momentum"] for group in half.optimizer.param_groups} == {0}
    assert {group["weight_decay"] for group in half.optimizer.param_groups} == {0}
    model = DistributedDataParallel(half.model.module, process_group=group)
    model.register_comm_hook(state, dt.hook)
    data = batches(dist.get_rank(group))
    for step in range(10):
        inputs, targets = next(data)
        if step >= 5:
            half.optimizer.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            half.optimizer.step()
    ours = {name: each.detach() for name, each in model.module.named_parameters()}
    return difference(whole.parameters, ours)


def entries_by_step(group: dist.ProcessGroup) -> list[int]:
    """Return the elements of a gradient that differ from zero, step by step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 100))
    model = DistributedDataParallel(net, process_group=group, bucket_cap_mb=0.01)
    state = dt.HookState(model, density=0.001, warm_up_steps=8, momentum=0.9)
    model.register_comm_hook(state, dt.hook)
    counts = []
    for _ in range(10):
        model.zero_grad()
        for micro in range(2):
            with nullcontext() if micro else model.no_sync():
                model(torch.randn(4, 100)).square().sum().backward()
        gradient = net.get_parameter("2.weight").grad
        assert gradient is not None
        counts.append(int(gradient.count_nonzero()))
    assert state.step == 10
    return counts


def several(group: dist.ProcessGroup) -> float:
    """Return the difference that a second model, with a hook of its own, makes to the first.

    The second one is in a smaller group on two of the ranks, and in another order of calls.
    """
    hook: dict[str, Any] = {"density": 0.05}
    alone = trained(group, hook, steps=6)
    torch.manual_seed(0)
    first = DistributedDataParallel(Plain(), process_group=group, bucket_cap_mb=SMALL)
    one = torch.optim.SGD(first.parameters(), lr=0.05)
    first.register_comm_hook(dt.HookState(first, optimizer=one, **hook), dt.hook)
    rank = dist.get_rank(group)
    everyone = dist.get_process_group_ranks(group)
    pair = dist.new_group(everyone[:2])
    if rank < 2:
        second = DistributedDataParallel(Odd(), process_group=pair, find_unused_parameters=True)
        second.register_comm_hook(dt.HookState(second, "tree", density=0.1), dt.hook)
        third = DistributedDataParallel(Plain(), process_group=pair)
        third.register_comm_hook(dt.HookState(third, "butterfly", density=1.0), dt.hook)
    data = batches(rank)
    for _ in range(6):
        inputs, targets = next(data)
        one.zero_grad()
        loss = (first(inputs) - targets).square().mean()
        if rank < 2:
            (second(inputs) - third(inputs)).square().mean().backward()
        loss.backward()
        one.step()
    ours = {name: each.detach() for name, each in first.module.named_parameters()}
    return difference(alone.parameters, ours)


def errors(group: dist.ProcessGroup, kind: str) -> list[str]:
    """Return the texts of the errors of two backward passes."""
    rank = dist.get_rank(group)
    hook: dict[str, Any] = {"density": 0.1, "momentum": 0.9}
    model = DistributedDataParallel(Plain(), process_group=group, bucket_cap_mb=SMALL)
    state = dt.HookState(model, **hook)
    model.register_comm_hook(state, dt.hook)
    data = batches(rank)

    def lost(*_: Any) -> None:
        raise ConnectionError("rank 1 is gone")

    found: list[str] = []
    for step in range(4):
        if kind != "no zero_grad":
            model.zero_grad()
        if kind == "lost" and step == 2:
            vars(state._group)["run"] = lost
        if kind == "another step" and step == 2 and rank == 1:
            state.load_state_dict({**state.state_dict(), "step": 1})
        inputs, targets = next(data)
        try:
            (model(inputs) - targets).square().mean().backward()
        except (RuntimeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
            model = DistributedDataParallel(model.module, process_group=group)
            model.register_comm_hook(state, dt.hook)
    return found


def parting(group: dist.ProcessGroup, kind: str) -> str:
    """Let rank 1 move its parameters in another way in step 2; return the error that follows."""
    is_odd = dist.get_rank(group) == 1
    model = DistributedDataParallel(Plain(), process_group=group, bucket_cap_mb=SMALL)
    own = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.register_comm_hook(dt.HookState(model, density=0.1, optimizer=own), dt.hook)
    data = batches(dist.get_rank(group))
    for step in range(6):
        inputs, targets = next(data)
        own.zero_grad()
        odd_now = is_odd and step == 2
        if kind == "rate" and odd_now:
            own.param_groups[0]["lr"] = 0.5
        with model.no_sync() if kind == "no_sync" and odd_now else nullcontext():
            try:
                (model(inputs) - targets).square().mean().backward()
            except (RuntimeError, ValueError) as error:
                return f"{step}: {error}"
        if not (kind == "left out" and odd_now):
            own.step()
    return "none"


def made_with_others(group: dist.ProcessGroup) -> list[str]:
    """Make hooks with other settings on rank 1; return the errors, and the momentum afterwards."""
    is_odd, found = dist.get_rank(group) == 1, []
    model = DistributedDataParallel(Plain(), process_group=group)
    for density, rate in ((0.2, 0.1), (0.1, 0.3)) if is_odd else ((0.1, 0.1), (0.1, 0.1)):
        own = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.8)
        try:
            dt.HookState(model, density=density, optimizer=own)
        except RanksDifferError as error:
            found.append(str(error))
    return [*found, f"{own.param_groups[0]['momentum']:g}"]


def alternating(world_size: int, iteration: int) -> dt.Schedule:
    """Return a ring in even iterations, a tree in odd ones."""
    name = "tree" if iteration % 2 else "ring"
    return dt.load_topology(name).schedule(world_size)


def another_step_at_density_1(group: dist.ProcessGroup) -> list[str]:
    """Load an older step on rank 1; return the error over a changing topology, and over a ring."""
    found = []
    for topology in (dt.Topology("alternating", alternating), "ring"):
        model = DistributedDataParallel(Plain(), process_group=group)
        state = dt.HookState(model, topology, density=1, timeout=timedelta(seconds=20))
        model.register_comm_hook(state, dt.hook)
        data, text = batches(dist.get_rank(group)), ""
        for step in range(4):
            if step == 2 and dist.get_rank(group) == 1:
                state.load_state_dict({**state.state_dict(), "step": 1})
            inputs, targets = next(data)
            try:
                (model(inputs) - targets).square().mean().backward()
            except (RuntimeError, ValueError) as error:
                text = str(error)
                break
        found.append(text)
    return found
