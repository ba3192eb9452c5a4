"""What becomes of gradients that were handed to a hook: jobs for workers."""

from collections import defaultdict
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dgc_topo as dt
from tests.training.hooks.jobs import SMALL, Odd, Plain, batches


class Recorder:
    """A hook that adds up, by parameter, the gradients that go into the hook."""

    def __init__(self, state: dt.HookState) -> None:
        self.state = state
        self.given: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        self.scale, self.calls = 1.0, 0

    def watch(self, model: DistributedDataParallel) -> None:
        names = {id(each): name for name, each in model.module.named_parameters()}

        def record(state, bucket):
            self.calls += 1
            if bool(bucket.buffer().isfinite().all()):
                pairs = zip(bucket.parameters(), bucket.gradients(), strict=True)
                for parameter, gradient in pairs:
                    # Views of a bucket are in the order of memory.
                    own = torch.zeros_like(parameter).flatten()
                    own = torch.as_strided(own, parameter.shape, parameter.stride()).copy_(
                        as_parameter(gradient, parameter)
                    )
                    name = names[id(parameter)]
                    self.given[name] = self.given[name] + own / self.scale
            return dt.hook(state, bucket)

        model.register_comm_hook(self.state, record)


def as_parameter(values: Tensor, parameter: Tensor) -> Tensor:
    """Return values that lie in the order of the parameter's memory with its indices."""
    return torch.as_strided(values.contiguous(), parameter.shape, parameter.stride())


class Fails(torch.autograd.Function):
    """Its backward pass ends with an error."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError("out of memory, for example")


class Breaks(Plain):
    """Fails going back, between its layers, when told to."""

    breaks = False

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.body(inputs)
        return self.head(Fails.apply(hidden) if self.breaks else hidden)


class Situation(NamedTuple):
    """Something that happens in a training.

    Attributes:
        odd: The model has odd parameters.
        scaled: The loss is scaled, by a factor that changes.
        infinite_at: Step in which a gradient of the last rank is infinite.
        breaks_at: Step whose backward pass fails on all ranks, which go on.
        unfreezes_at: Step before which the body begins to be trained.
    """

    odd: bool = False
    scaled: bool = False
    infinite_at: int | None = None
    breaks_at: int | None = None
    unfreezes_at: int | None = None


class Training:
    """A training with SGD whose gradients are accounted for."""

    def __init__(
        self, group: dist.ProcessGroup, settings: dict[str, Any], situation: Situation
    ) -> None:
        torch.manual_seed(0)
        self.group, self.situation = group, situation
        self.net = Odd() if situation.odd else Breaks()
        if situation.unfreezes_at is not None:
            self.net.body.requires_grad_(False)
        self.model = self.wrapped()
        enabled = situation.scaled
        self.scaler = torch.amp.GradScaler(
            "cpu", init_scale=2.0**10, growth_interval=3, enabled=enabled
        )
        self.recorder = Recorder(dt.HookState(self.model, scaler=self.scaler, **settings))
        self.recorder.watch(self.model)
        self.applied: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        self.data, self.skipped = batches(dist.get_rank(group)), 0

    def wrapped(self) -> DistributedDataParallel:
        return DistributedDataParallel(
            self.net,
            process_group=self.group,
            bucket_cap_mb=SMALL / 4,  # the head's is sent before a pass breaks
            find_unused_parameters=self.situation.odd,
        )

    def rewrap(self) -> None:
        self.model = self.wrapped()
        self.recorder.watch(self.model)

    def step(self, number: int) -> None:
        if number == self.situation.unfreezes_at:
            self.net.body.requires_grad_(True)
            self.rewrap()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        optimizer.zero_grad()
        self.recorder.scale = self.scaler.get_scale()
        calls = self.recorder.calls
        try:
            self.go_back(number)
        except ArithmeticError:  # DDP itself cannot go on
            assert self.recorder.calls > calls  # something was on its way
            self.rewrap()
            return
        before = [each.detach().clone() for each in self.model.parameters()]
        self.scaler.step(optimizer)
        self.scaler.update()
        if all(map(torch.equal, before, self.model.parameters())):
            self.skipped += 1
            return
        for name, parameter in self.net.named_parameters():
            if parameter.grad is not None:
                self.applied[name] = self.applied[name] + parameter.grad

    def go_back(self, number: int) -> None:
        inputs, targets = next(self.data)
        if isinstance(self.net, Breaks):
            self.net.breaks = number == self.situation.breaks_at
        loss = (self.model(inputs) - targets).square().mean()
        last = dist.get_rank(self.group) == dist.get_world_size(self.group) - 1
        handle = infinite(self.net) if last and number == self.situation.infinite_at else None
        self.scaler.scale(loss).backward()
        if handle is not None:
            handle.remove()

    def lost(self) -> dict[str, float]:
        """Return, by compressed parameter, the part of all gradients that nobody can find."""
        state: Any = self.recorder.state.state_dict()["parameters"]
        lost = {}
        for name, parameter in self.net.named_parameters():
            given = self.recorder.given[name] / dist.get_world_size(self.group)
            if parameter.dim() > 1 and given.any():
                kept = as_parameter(state[name]["residual"], parameter)
                both = torch.stack([given, kept]).detach()
                dist.all_reduce(both, group=self.group)
                missing = both[0] - both[1] - self.applied[name]
                lost[name] = float(missing.abs().max() / both[0].abs().max())
        return lost


def lost_mass(
    group: dist.ProcessGroup, settings: dict[str, Any], situation: dict[str, Any]
) -> tuple[dict[str, float], int]:
    """Return what twelve steps lost, by parameter, and how many were skipped."""
    training = Training(group, settings, Situation(**situation))
    for number in range(12):
        training.step(number)
    return training.lost(), training.skipped


def infinite(net: nn.Module) -> Any:
    """Make the gradient of one bias infinite."""
    parameter = net.get_parameter("body.0.bias")
    return parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
