"""Emulated compute: a worker waits as long as a model of the zoo computes, and sends what it sends.

To isolate the network: communicating the gradients of a large model is measured on machines that
could not compute them.  Nothing is learnt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from dgc_topo.seeds import stream_seed
from dgc_topo.training.clocks import wait_until
from dgc_topo.training.models.task import Batch, Task
from dgc_topo.zoo import Layer, Model

_GRADIENTS = 4  # purpose of the random numbers, beside those of dgc_topo.training.rank


class Pace:
    """How far an emulated worker is in its step.

    It sleeps as long as it would compute, and that counts as processor time: so whoever stretches
    processor time (a scaled lab, see `PhaseClock`) stretches the emulation.  What the emulation
    itself takes is part of the time to wait, not added to it.
    """

    def __init__(self) -> None:
        self._begun_s = self._worked_before_s = self._pretended_s = 0.0

    def worked_s(self) -> float:
        """Return this thread's processor time, with that which it only pretends to have used."""
        return time.thread_time() + self._pretended_s

    def begin(self) -> None:
        """Begin a step."""
        self._begun_s, self._worked_before_s = time.perf_counter(), self.worked_s()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do something in the middle of a step that is no part of what is emulated."""
        began_s, worked_s = time.perf_counter(), self.worked_s()
        yield
        self._begun_s += time.perf_counter() - began_s
        self._worked_before_s += self.worked_s() - worked_s

    def reach(self, moment_s: float) -> None:
        """Wait until the step is so old, unless it is already, and have worked as long."""
        wait_until(self._begun_s + moment_s)
        self._pretended_s += max(0.0, self._worked_before_s + moment_s - self.worked_s())


class EmulatedModel(nn.Module):
    """Parameters shaped like a zoo model's, one module per layer; the forward pass only waits.

    Gradients are complete layer by layer, the last layer's first, as `Model.ready_times_s` says.

    Args:
        task: Says what to wait for, and has the gradients.
    """

    def __init__(self, task: EmulatedTask) -> None:
        super().__init__()
        self._task = task
        self._layers = [_add_layer(self, layer, task.device) for layer in task.model.layers]

    def forward(self) -> Tensor:
        """Return the loss: nothing, through which gradients are to flow back."""
        task, signal = self._task, torch.zeros((), requires_grad=True)
        layers = zip(self._layers, task.gradients, task.ready_s, strict=True)
        for parameters, gradients, ready_s in layers:
            wait = partial(task.pace.reach, ready_s)
            signal = _Layer.apply(signal, gradients, wait, *parameters)  # type: ignore[no-untyped-call]
        task.pace.reach(task.forward_s)
        return signal


class _Layer(torch.autograd.Function):
    """Computes nothing; going back it waits, then has the given gradients, times the loss's.

    They are copied, because whoever communicates may write to them; in the forward pass, where
    there is time.  The signal stays on the CPU: there passes run on the thread that wants them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        signal: Tensor,
        gradients: Sequence[Tensor],
        wait: Callable[[], None],
        *_: Tensor,
    ) -> Tensor:
        ctx.copies, ctx.wait = [gradient.clone() for gradient in gradients], wait
        return signal.clone()

    @staticmethod
    def backward(ctx: Any, *scales: Tensor) -> tuple[Tensor | None, ...]:
        scale, copies = scales[0], ctx.copies
        del ctx.copies  # the only references: so they become the parameters' without a copy
        for copy in copies:
            copy.mul_(scale)
        ctx.wait()
        return scale, None, None, *copies


@dataclass
class EmulatedTask(Task):
    """Waiting like a model of the zoo.

    Attributes:
        model: At this worker's batch size.
        compute_s: Seconds that a step's forward and backward pass take together.
        num_steps: Steps in what is called an epoch.
        pace: Waits.
        forward_s: Seconds of the forward pass.
        ready_s: When each layer's gradients are ready, in seconds after the step began.
    """

    model: Model
    compute_s: float
    num_steps: int

    def __post_init__(self) -> None:
        self.pace = Pace()
        stretch = self.compute_s / self.model.compute_s
        self.forward_s = stretch * self.model.forward_s
        self.ready_s = [self.forward_s + stretch * s for s in self.model.ready_times_s()]

    def worked_s(self) -> float:
        """As `Task.worked_s`, with what is emulated."""
        return self.pace.worked_s()

    def aside(self) -> AbstractContextManager[None]:
        """As `Task.aside`: what is emulated takes its time besides."""
        return self.pace.aside()

    def build_model(self) -> nn.Module:
        """Return the model on the task's device, all zeros."""
        return EmulatedModel(self)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch, the same on every worker."""
        return self.num_steps

    @property
    def batch_samples(self) -> int:
        """Images, tokens or what else the zoo counts, in one step of this worker."""
        return self.model.batch_samples

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Return batches of nothing; a step begins when its batch is drawn."""
        del epoch
        _ = self.gradients  # made before a step is timed
        return self._begin_steps()

    def _begin_steps(self) -> Iterator[Batch]:
        for _ in range(self.num_steps):
            self.pace.begin()
            yield Batch(torch.empty(0), torch.empty(0), first=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return 0, after the time of a forward pass; its backward pass takes its time, too."""
        del batch
        loss: Tensor = model()
        return loss

    @cached_property
    def gradients(self) -> list[list[Tensor]]:
        """This worker's gradients by layer, in every step the same: normal, as its seed says."""
        seed = stream_seed(self.shard.seed, self.shard.rank, _GRADIENTS)
        generator = torch.Generator().manual_seed(seed)
        return [
            [torch.randn(shape, generator=generator).to(self.device) for shape in layer.tensors]
            for layer in self.model.layers
        ]


def _add_layer(model: nn.Module, layer: Layer, device: torch.device) -> list[nn.Parameter]:
    """Give *model* a module named like the layer, dots and all, and return its parameters."""
    module = reduce(_submodule, layer.name.split("."), model)
    parameters = [nn.Parameter(torch.zeros(shape, device=device)) for shape in layer.tensors]
    for index, parameter in enumerate(parameters):
        module.register_parameter(f"tensor{index}", parameter)
    return parameters


def _submodule(parent: nn.Module, name: str) -> nn.Module:
    if name not in dict(parent.named_children()):
        parent.add_module(name, nn.Module())
    return parent.get_submodule(name)
