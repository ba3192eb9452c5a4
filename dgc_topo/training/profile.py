"""When a worker's gradients are complete during the backward pass: a profile, measured.

PyTorch calls a hook as soon as it has accumulated a parameter's gradient, which is when
DistributedDataParallel may send it; so the profile is what overlapping would have to work with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor, nn

from dgc_topo.records.measurement import ProfileLayer, RecordedProfile
from dgc_topo.sizes import count_elements
from dgc_topo.training.buckets import by_module

#: Seconds after the backward pass began at which each parameter's gradient was complete.
ReadyTimes = Mapping[str, float]


class BackwardClock:
    """Notes when each parameter's gradient is complete.

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
        """Say that the backward pass begins now."""
        self._stamps = {"": self._now()}

    def ready_s(self) -> ReadyTimes:
        """Return when each gradient of the last pass was complete, in seconds after `begin`.

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


def make_profile(
    passes: Sequence[ReadyTimes], parameters: Mapping[str, Tensor], compute_s: float
) -> RecordedProfile:
    """Return the profile behind some passes of one worker (medians).

    Parameters of one module are one layer, complete with the last of them.

    Args:
        passes: Of each pass.
        parameters: The model's, by name.
        compute_s: Batch, forward and backward pass together.

    Raises:
        ValueError: if there are no passes.
    """
    if not passes:
        raise ValueError("profile: no passes, expected at least one")
    layers = []
    for module, names in by_module(parameters).items():
        compressible, dense = count_elements(parameters[name].shape for name in names)
        layers.append(
            ProfileLayer(
                name=module,
                ready_s=median(max(each[name] for name in names) for each in passes),
                compressible_elements=compressible,
                dense_elements=dense,
            )
        )
    layers.sort(key=lambda layer: layer.ready_s)
    return RecordedProfile(forward_s=max(compute_s - layers[-1].ready_s, 0.0), layers=tuple(layers))


def seconds_between(begun: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    """Return the seconds between two readings of one clock, or between two events of one GPU."""
    if isinstance(begun, float) and isinstance(ended, float):
        return ended - begun
    assert isinstance(begun, torch.cuda.Event)
    assert isinstance(ended, torch.cuda.Event)
    return float(begun.elapsed_time(ended)) * 1e-3  # from milliseconds
