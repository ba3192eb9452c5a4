"""Time of a DGC step beside moving the bytes that it has to move.

A step reads gradient, velocity and residual and writes the last two: 20 bytes per element.  The
bound is the time of plain copies that move as many bytes, in the same process, in turn with the
steps that are measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from benchmarks.memory import allocated_bytes, peak_extra_bytes
from dgc_topo.compression.assembly import step_of
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.local_step import PHASES
from dgc_topo.compression.selection import Selection
from dgc_topo.payload import SparsePayload
from dgc_topo.training.clocks import seconds_between

_COLUMNS = 64  # of each tensor: a matrix, since vectors are not compressed
_SETTLING = 50  # steps until residuals have waited for some time
_PREPARING = 3  # steps until launches are recorded
_SAMPLED = 10_000  # elements from which on the baseline takes a sample


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecRow:
    """One way of selecting on one device; times are medians in seconds.

    On a GPU they are those between events, of steps that are launched while the GPU is still busy,
    as it is with a backward pass in training.  Phases are of steps whose phases are launched one by
    one, the total is of steps as they are, so it may be less than their sum.  `idle_s` is the
    clock's, from an idle device to a message that may be sent.
    """

    device: str
    threads: int  #: of torch on a CPU
    selection: str
    elements: int
    tensors: int
    density: float
    sent: int  #: entries of the last step
    phases: dict[str, float]  #: by `dgc_topo.compression.local_step.PHASES`
    total_s: float
    idle_s: float
    bound_s: float
    ratio_to_bound: float
    peak_extra_bytes: int | None  #: beyond gradient, velocity and residual; None if unknown

    def facts(self) -> dict[str, object]:
        """Return what JSON shows: one flat object."""
        names = ("device", "threads", "selection", "elements", "tensors", "density", "sent")
        ends = ("total_s", "idle_s", "bound_s", "ratio_to_bound", "peak_extra_bytes")
        return {
            **{name: getattr(self, name) for name in names},
            **{f"{phase}_s": seconds for phase, seconds in self.phases.items()},
            **{name: getattr(self, name) for name in ends},
        }


def plain_sample(residual: Tensor, layout: FlatLayout, density: float) -> Tensor:
    """Select by a sampled threshold in plain torch, as most implementations do: the baseline.

    Of each tensor 1 % is sampled; what exceeds the threshold is sent, about *density* of it.
    """
    picked = []
    for _, place in layout.slices():
        magnitudes = residual[place].abs()
        sample = magnitudes[:: 100 if len(magnitudes) > _SAMPLED else 1]
        threshold = sample.topk(max(1, round(density * len(sample)))).values[-1]
        picked.append((magnitudes >= threshold).nonzero().flatten() + place.start)
    return torch.cat(picked)


def bench_codec(
    elements: Sequence[int],
    tensors: Sequence[int],
    *,
    density: float = 0.001,
    repeats: int = 9,
    devices: Literal["all", "cpu", "cuda"] = "all",
) -> Iterator[CodecRow]:
    """Measure every selection on the CPU, with the threads torch has, and on every GPU.

    Args:
        elements: Sizes of the gradient.
        tensors: Numbers of equal tensors that it is made of.
        density: Fraction sent.
        repeats: Measured steps of each; as many go before, unmeasured, but 50 where steps learn
            from those before.
        devices: The CPU and every GPU, or only one of the kinds.

    Raises:
        ValueError: if a number is below 1, there are fewer elements than tensors, the density is
            not between 0 and 1, or there is no GPU.
    """
    if min(*elements, *tensors, repeats) < 1 or min(elements) < _COLUMNS * max(tensors):
        raise ValueError(
            f"bench codec: elements {list(elements)}, tensors {list(tensors)}, repeats {repeats}, "
            f"expected at least 1, and {_COLUMNS} elements per tensor"
        )
    if not 0 < density < 1:
        raise ValueError(f"bench codec: density {density:g}, expected above 0 and below 1")
    ways: Mapping[str, tuple[DGCConfig, Selection | None]] = {
        "reused": (DGCConfig(selection="reused"), None),
        "sampled": (DGCConfig(selection="sampled"), None),
        "plain sample": (DGCConfig(), plain_sample),
        "torch.topk": (DGCConfig(selection="exact"), None),
    }
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if devices == "cuda" and not gpus:
        raise ValueError("bench codec: devices 'cuda', but this machine has no usable CUDA device")
    cpu = [torch.device("cpu")]
    for device in {"all": [*cpu, *gpus], "cpu": cpu, "cuda": gpus}[devices]:
        for size in elements:
            for count in tensors:
                for name, (config, rule) in ways.items():
                    bench = _Bench(size, count, density, device)
                    yield bench.row(name, config, rule, repeats)


class _Bench:
    """A gradient of equal tensors, new noise in every step, and a buffer to copy to."""

    def __init__(self, elements: int, tensors: int, density: float, device: torch.device) -> None:
        rows = elements // tensors // _COLUMNS
        self.flat = torch.empty(rows * _COLUMNS * tensors, device=device)
        parts = self.flat.view(tensors, rows, _COLUMNS)
        self.gradients = {f"{place}.weight": part for place, part in enumerate(parts)}
        self.layout = FlatLayout.of(self.gradients)
        self.density = density
        self.device = device
        self._generator = torch.Generator(device).manual_seed(0)

    def row(self, name: str, config: DGCConfig, rule: Selection | None, repeats: int) -> CodecRow:
        """Measure steps after some unmeasured ones, and one more for its memory."""
        before = allocated_bytes(self.device) + 2 * self.flat.nbytes
        codec = _Codec(self, config, rule)
        into = torch.empty_like(self.flat)
        codec.keep_phases(apart=True)
        timed = self._timed(codec, into, _SETTLING if name == "reused" else repeats, repeats)
        phases = {phase: statistics.median(step[phase] for _, step in timed) for phase in PHASES}
        if self.device.type == "cuda":  # where they may be one launch
            codec.keep_phases(apart=False)
            timed = self._timed(codec, into, _PREPARING, repeats)
        bound_s = statistics.median(bound for bound, _ in timed)
        total_s = statistics.median(sum(step.values()) for _, step in timed)
        idle_s = statistics.median(self._idle_s(codec) for _ in range(repeats))
        del into  # its memory is not the step's
        self.flat.normal_(generator=self._generator)
        return CodecRow(
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            selection=name,
            elements=self.layout.length,
            tensors=len(self.gradients),
            density=self.density,
            phases=phases,
            total_s=total_s,
            idle_s=idle_s,
            bound_s=bound_s,
            ratio_to_bound=total_s / bound_s,
            peak_extra_bytes=peak_extra_bytes(codec.step, self.device, before),
            sent=codec.sent,
        )

    def _timed(
        self, codec: _Codec, into: Tensor, unmeasured: int, repeats: int
    ) -> list[tuple[float, dict[str, float]]]:
        """Return the seconds of copies and of a step's phases, launched one behind the other."""
        timed = []
        for _ in range(unmeasured + repeats):
            self.idle()
            self.flat.normal_(generator=self._generator)
            bound, step = _Clock(self.device), _Clock(self.device)
            self._copy(into, bound)
            codec.step(step)
            self.idle()
            timed.append((bound.seconds()["copy"], step.seconds()))
        return timed[unmeasured:]

    def _copy(self, into: Tensor, clock: _Clock) -> None:
        """Do copies that move 20 bytes per element: 8, 8 and 4."""
        half = len(into) // 2
        clock.begin()
        into.copy_(self.flat)
        into.copy_(self.flat)
        into[:half].copy_(self.flat[:half])
        clock.end("copy")

    def _idle_s(self, codec: _Codec) -> float:
        """Return the seconds of a step by the clock on the wall, from an idle GPU."""
        self.flat.normal_(generator=self._generator)
        self.idle()
        begun = time.perf_counter()
        codec.step()
        self.idle()
        return time.perf_counter() - begun

    def idle(self) -> None:
        """Wait until a GPU has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Codec:
    """The work of `DGC.compress` on compressed tensors, and the encoding."""

    def __init__(self, bench: _Bench, config: DGCConfig, rule: Selection | None) -> None:
        self._bench = bench
        self._step = step_of("bench codec", bench.gradients, bench.layout, config, rule)
        self.state = self._step.accumulation
        self.sent = 0

    def keep_phases(self, *, apart: bool) -> None:
        """Say whether phases are launched one by one, or, where they can be, all at once."""
        self._step.in_phases = apart

    def step(self, clock: _Clock | None = None) -> None:
        """Do a step, noted by *clock*; if its phases are not kept apart, as the last of them."""
        bench, clock = self._bench, clock or _Clock(self._bench.device)
        self._step.on_phase = clock.end
        clock.begin()
        self._step.accumulate(bench.gradients, bench.density)
        indices, values, message, _ = self._step.sent(bench.density)
        payload = SparsePayload(indices, values, bench.layout.length, message=message)
        payload.cut(1)
        payload.pack(0, 1)
        if message is None:
            clock.end("encode")
        self.sent = len(indices)


class _Clock:
    """Takes the times of phases that follow each other.

    On a GPU they are those of events between kernels, so that none waits for the one before, as in
    training; a kernel that waits for its launch counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stamps: dict[str, float | torch.cuda.Event] = {}

    def begin(self) -> None:
        """Say that the first phase begins now."""
        self._stamps = {"": self._stamp()}

    def end(self, phase: str) -> None:
        """Say that a phase ends now, and the next one begins; it may have been done again."""
        self._stamps.pop(phase, None)
        self._stamps[phase] = self._stamp()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase, once all are over."""
        stamps = pairwise(self._stamps.items())
        return {phase: seconds_between(before, end) for (_, before), (phase, end) in stamps}

    def _stamp(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # by torch
        event.record(torch.cuda.current_stream(self._device))
        return event


def device_name(device: torch.device) -> str:
    """Return what rows call *device*."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)
