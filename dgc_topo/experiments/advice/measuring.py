"""Measurement of a training step here: a model alone, on random input, with the costs of DGC."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dgc_topo.compression import DGC
from dgc_topo.experiments.advice.modules import Examples, Runnable, runnable
from dgc_topo.experiments.calibration.measure import DISTURBED, median_and_spread
from dgc_topo.python_files import CodeError, explained
from dgc_topo.records.environment import describe_environment
from dgc_topo.scalars import plain_int
from dgc_topo.simulation.workload import Workload, ready_layer
from dgc_topo.training.buckets import by_module
from dgc_topo.training.clocks import BackwardClock, PhaseClock, ReadyTimes
from dgc_topo.units import percent_text

_SETTLING_STEPS = 3  #: not counted: they allocate, and choose kernels
_FEWEST_STEPS, _MOST_STEPS = 5, 30
_LONG_ENOUGH_S = 5.0  #: after which no step begins once the fewest are done
_LEARNING_RATE, _MOMENTUM = 1e-4, 0.9
_DENSITY = 0.01  #: at which compressing is timed; it hardly depends on it


class TimedStep(NamedTuple):
    """One step: seconds of both passes and of the update, and when gradients were complete."""

    compute_s: float
    update_s: float
    ready_s: ReadyTimes


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A training step as it was measured here.

    Attributes:
        workload: Its work; times are medians.
        spread: Distance of the quartiles of the steps' times, relative to their median.
        num_steps: Number of steps behind the medians.
        compress_s: Seconds of DGC's compressing in a step, median.
        where: Device, and threads on a CPU.
    """

    workload: Workload
    spread: float
    num_steps: int
    compress_s: float
    where: str


def measure_step(
    source: Any,
    *,
    batch_size: int | None = None,
    examples: str | Examples | None = None,
) -> MeasuredStep:
    """Run training steps of a model, on a GPU where there is one, and return their times.

    A step is a forward pass, a backward pass from the mean square of all outputs, and an update by
    SGD with momentum.  Input is random and there from the start, so loading data costs nothing.

    Args:
        source: A zoo model's name, ``file.py:Net``, or a module; a module's parameters are changed.
        batch_size: Items of a batch; the zoo's own, or 1, by default.
        examples: See `runnable`.

    Raises:
        ValueError: if the model cannot be made or run here.
    """
    if batch_size is not None:
        batch_size = plain_int("batch_size", batch_size, least=1)
    it = runnable(source, examples)
    size = it.batch_size if batch_size is None else batch_size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _telling_of_memory(it.name, size), explained(f"model {it.name}", f", batch of {size}"):
        trial = _Trial(it, size, device)
        steps = list(trial.steps())
        compress_s = trial.compress_s()
    spread = median_and_spread([step.compute_s + step.update_s for step in steps])[1]
    where = device_text(device)
    workload = _workload(it, size, steps, trial.parameters, where, spread)
    return MeasuredStep(workload, spread, len(steps), compress_s, where)


class _Trial:
    """A model on its device, with an optimizer and a batch."""

    def __init__(self, it: Runnable, batch_size: int, device: torch.device) -> None:
        self._device = device
        self._module = it.module.to(device).train()
        self._input = tree_map(
            lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf,
            it.examples(batch_size),
        )
        found = self._module.named_parameters()
        self.parameters = {name: each for name, each in found if each.requires_grad}
        if not self.parameters:
            raise CodeError(f"module {it.name}: no parameters to train, expected some")
        self._optimizer = torch.optim.SGD(
            self.parameters.values(), lr=_LEARNING_RATE, momentum=_MOMENTUM
        )

    def steps(self) -> Iterator[TimedStep]:
        """Yield the times of steps, once it has settled."""
        phases, clock = PhaseClock(self._device), BackwardClock(self.parameters)
        ends, number = 0.0, 0
        with clock.watching():
            while number < _MOST_STEPS and (number < _FEWEST_STEPS or time.monotonic() < ends):
                for _ in range(0 if ends else _SETTLING_STEPS):
                    self._step(phases, clock)
                ends = ends or time.monotonic() + _LONG_ENOUGH_S
                yield self._step(phases, clock)
                number += 1

    def compress_s(self) -> float:
        """Return the seconds in which DGC compresses the last gradient, and takes it out again."""
        if all(each.ndim < 2 for each in self.parameters.values()):  # noqa: PLR2004 - no matrix
            return 0.0
        compressor = DGC(self.parameters, num_workers=1, density=_DENSITY, warm_up="none")
        gradients = {name: each.grad for name, each in self.parameters.items()}
        clock, found = PhaseClock(self._device), []
        for _ in range(_SETTLING_STEPS + _FEWEST_STEPS):
            clock.start()
            compressor.finish(compressor.compress(gradients))
            found.append(clock.lap())
        return median(found[_SETTLING_STEPS:])

    def _step(self, phases: PhaseClock, clock: BackwardClock) -> TimedStep:
        phases.start()
        self._optimizer.zero_grad()
        loss = _loss_of(self._run())
        clock.begin()
        loss.backward()  # type: ignore[no-untyped-call]  # by torch
        compute_s = phases.lap()
        self._optimizer.step()
        return TimedStep(compute_s, phases.lap(), clock.ready_s())

    def _run(self) -> Any:
        if isinstance(self._input, Mapping):
            return self._module(**self._input)
        if isinstance(self._input, tuple):
            return self._module(*self._input)
        return self._module(self._input)


def _loss_of(output: Any) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    parts = [leaf.float().square().mean() for leaf in leaves if leaf.requires_grad]
    if not parts:
        raise CodeError("no output depends on the parameters, expected a tensor that does")
    return torch.stack(parts).sum()


def _workload(
    it: Runnable,
    batch_size: int,
    steps: list[TimedStep],
    parameters: Mapping[str, nn.Parameter],
    where: str,
    spread: float,
) -> Workload:
    """Return the medians as a workload; parameters of one module are one layer."""
    compute_s = median(step.compute_s for step in steps)
    disturbed = "; something else is running, measure again" if spread > DISTURBED else ""
    layers = []
    for module, names in by_module(parameters).items():
        ready_s = median(max(step.ready_s[name] for name in names) for step in steps)
        shapes = [tuple(parameters[name].shape) for name in names]
        layers.append(ready_layer(module, min(ready_s, compute_s), shapes))
    layers.sort(key=lambda layer: layer.ready_s)
    return Workload(
        compute_s - layers[-1].ready_s,
        tuple(layers),
        name=it.name,
        source=f"measured here, {where}: median of {len(steps)} steps, with quartiles "
        f"{percent_text(spread)} apart{disturbed}",
        update_s=median(step.update_s for step in steps),
        batch_size=batch_size,
        samples_per_item=it.samples_per_item,
        samples=it.samples,
    )


def device_text(device: torch.device) -> str:
    """Return a device for people, with the threads that torch uses if it is a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    processor = describe_environment().processor
    return f"{processor}, {threads} thread{'' if threads == 1 else 's'} of the CPU"


@contextmanager
def _telling_of_memory(name: str, batch_size: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        reason = error.__cause__
        # The CPU's allocator raises a plain RuntimeError.
        is_memory = isinstance(reason, torch.OutOfMemoryError | MemoryError)
        if not is_memory and "not enough memory" not in str(error):
            raise
        raise ValueError(
            f"model {name}: out of memory with a batch of {batch_size}, expected a smaller "
            "batch_size"
        ) from error
