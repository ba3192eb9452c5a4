"""Emulated models: they sleep for a zoo model's compute time, and send gradients of its shapes.

They isolate the network: the communication of a large model's gradients is measured on machines
that could not compute them.  Nothing is learnt.
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

from dgc_topo.seeds import Purpose, stream_seed
from dgc_topo.training.clocks import wait_until
from dgc_topo.training.models.task import Batch, Task
from dgc_topo.zoo import Layer, Model


class EmulationPace:
    """Clock of an emulated worker: its position in a step.

    The worker sleeps for the time that it would compute.  Sleep counts as processor time, so a
    scaled lab, which stretches processor time (see `PhaseClock`), stretches the emulation, too.
    The emulation's own work is part of the time to sleep, not added to it.
    """

    def __init__(self) -> None:
        self._begun_s = self._worked_before_s = self._pretended_s = 0.0

    def worked_s(self) -> float:
        """Return this thread's processor time, emulated work included."""
        return time.thread_time() + self._pretended_s

    def begin(self) -> None:
        """Begin a step."""
        self._begun_s, self._worked_before_s = time.perf_counter(), self.worked_s()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Exclude the work in the block from the emulated step."""
        began_s, worked_s = time.perf_counter(), self.worked_s()
        yield
        self._begun_s += time.perf_counter() - began_s
        self._worked_before_s += self.worked_s() - worked_s

    def reach(self, moment_s: float) -> None:
        """Sleep until *moment_s* into the step, and count that as processor time."""
        wait_until(self._begun_s + moment_s)
        self._pretended_s += max(0.0, self._worked_before_s + moment_s - self.worked_s())


class EmulatedModel(nn.Module):
    """Parameters shaped like a zoo model's, one module per layer; the forward pass only waits.

    Gradients are complete layer by layer, the last layer's first, as `Model.ready_times_s` says.

    Args:
        task: Knows the moments to wait for, and has the gradients.
    """

    def __init__(self, task: EmulatedTask) -> None:
        super().__init__()
        self._task = task
        self._layers = [_add_layer(self, layer, task.device) for layer in task.model.layers]

    def forward(self) -> Tensor:
        """Return the loss: 0, through which gradients flow back."""
        task, signal = self._task, torch.zeros((), requires_grad=True)
        layers = zip(self._layers, task.gradients, task.ready_s, strict=True)
        for parameters, gradients, ready_s in layers:
            wait = partial(task.pace.reach, ready_s)
            signal = _Layer.apply(signal, gradients, wait, *parameters)  # type: ignore[no-untyped-call]
        task.pace.reach(task.forward_s)
        return signal


class _Layer(torch.autograd.Function):
    """A layer without computation: its backward pass waits, then returns the given gradients.

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
    """A task that waits as long as a model of the zoo computes.

    Attributes:
        model: At this worker's batch size.
        compute_s: Seconds that a step's forward and backward pass take together.
        num_steps: Number of steps that count as an epoch.
        pace: Its pace.
        forward_s: Seconds of the forward pass.
        ready_s: Seconds after a step's begin at which each layer's gradients are ready.
    """

    model: Model
    compute_s: float
    num_steps: int

    def __post_init__(self) -> None:
        self.pace = EmulationPace()
        stretch = self.compute_s / self.model.compute_s
        self.forward_s = stretch * self.model.forward_s
        self.ready_s = [self.forward_s + stretch * s for s in self.model.ready_times_s()]

    def worked_s(self) -> float:
        """See `Task.worked_s`; emulated work counts."""
        return self.pace.worked_s()

    def aside(self) -> AbstractContextManager[None]:
        """See `Task.aside`: the emulated step takes its time besides."""
        return self.pace.aside()

    def build_model(self) -> nn.Module:
        """Return the model on the task's device, all zeros."""
        return EmulatedModel(self)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch, the same on every worker."""
        return self.num_steps

    @property
    def batch_samples(self) -> int:
        """Number of samples, as the zoo counts them, in one step of this worker."""
        return self.model.batch_samples

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return empty batches; a step begins when its batch is drawn."""
        del epoch
        _ = self.gradients  # made before a step is timed
        return self._begin_steps(self.num_steps - start)

    def _begin_steps(self, count: int) -> Iterator[Batch]:
        for _ in range(count):
            self.pace.begin()
            yield Batch(torch.empty(0), torch.empty(0), first=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return 0 after the time of a forward pass; ``backward`` takes its time, too."""
        del batch
        loss: Tensor = model()
        return loss

    @cached_property
    def gradients(self) -> list[list[Tensor]]:
        """This worker's gradients by layer: normal numbers of its seed, the same in every step."""
        seed = stream_seed(self.shard.seed, self.shard.rank, Purpose.GRADIENTS)
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
