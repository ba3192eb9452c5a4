"""Clocks of a training step: its phases, and the times at which gradients are complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Seconds after the backward pass began at which each parameter's gradient was complete.
ReadyTimes = Mapping[str, float]


class PhaseClock:
    """A clock that splits a step into phases; on a GPU a phase ends when its kernels are done.

    Args:
        device: Device that does the work.
        time_scale: Factor by which a phase is stretched: the phase ends when *time_scale* times its
            processor time has passed.  (Processor time, because several workers share few cores,
            and waiting for a core is not a worker's work.)
        worked_s: Function that returns the processor time so far.
    """

    def __init__(
        self,
        device: torch.device,
        time_scale: float = 1.0,
        worked_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._time_scale = time_scale
        self._worked_s = worked_s
        self._last = self._worked_before_s = 0.0
        self.start()

    def start(self) -> None:
        """Begin a step."""
        self._last, self._worked_before_s = self._now(), self._worked_s()

    def lap(self) -> float:
        """Return the seconds since the last lap, or the start."""
        before = self._last
        if self._time_scale > 1:
            worked_s = self._worked_s() - self._worked_before_s
            wait_until(before + self._time_scale * worked_s)
        self.start()
        return self._last - before

    def _now(self) -> float:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        return time.perf_counter()


def wait_until(moment_s: float) -> None:
    """Sleep until `time.perf_counter` reaches *moment_s*."""
    while (left_s := moment_s - time.perf_counter()) > 0:
        time.sleep(left_s)


class BackwardClock:
    """A clock of the moments at which gradients are complete.

    On a GPU the times are those of CUDA events, read once the pass is over.

    Args:
        parameters: By name, all on one device.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._on_gpu = next(iter(parameters.values())).device.type == "cuda"
        self._stamps: dict[str, float | torch.cuda.Event] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the passes inside; each pass replaces the times of the one before."""
        handles = [
            parameter.register_post_accumulate_grad_hook(self._hook(name))  # type: ignore[no-untyped-call]
            for name, parameter in self._parameters.items()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self) -> None:
        """Begin to count: the backward pass begins now."""
        self._stamps = {"": self._now()}

    def ready_s(self) -> ReadyTimes:
        """Return the seconds after `begin` at which each gradient of the last pass was complete.

        A parameter that took no part in the loss is complete from the beginning.
        """
        if self._on_gpu:
            torch.cuda.synchronize()
        begun = self._stamps[""]
        return {
            name: seconds_between(begun, self._stamps.get(name, begun)) for name in self._parameters
        }

    def _hook(self, name: str) -> Callable[[Tensor], None]:
        def note(_: Tensor) -> None:
            self._stamps[name] = self._now()

        return note

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # by torch
        event.record()
        return event


def seconds_between(begun: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    """Return the seconds between two readings of one clock, or between two events of one GPU."""
    if isinstance(begun, float) and isinstance(ended, float):
        return ended - begun
    assert isinstance(begun, torch.cuda.Event)
    assert isinstance(ended, torch.cuda.Event)
    return float(begun.elapsed_time(ended)) * 1e-3  # from milliseconds
