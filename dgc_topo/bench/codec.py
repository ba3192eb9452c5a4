"""How long a DGC step takes beside moving the bytes that it has to move.

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

from dgc_topo.bench.memory import allocated_bytes, peak_extra_bytes
from dgc_topo.compression.config import DGCConfig
from dgc_topo.compression.gradients import clip_factor
from dgc_topo.compression.layout import FlatLayout
from dgc_topo.compression.parts import accumulation_of, quick_norm_of, selector
from dgc_topo.compression.selection import Selection
from dgc_topo.payload import SparsePayload
from dgc_topo.train.profile import seconds_between

PHASES = ("check_s", "accumulate_s", "select_s", "mask_s", "encode_s")
_COLUMNS = 64  # of each tensor: a matrix, since vectors are not compressed
_SAMPLED = 10_000  # elements from which on the baseline takes a sample


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecRow:
    """One way of selecting on one device; times are medians in seconds."""

    device: str
    threads: int  #: of torch on a CPU
    selection: str
    elements: int
    tensors: int
    density: float
    sent: int  #: entries of the last step
    phases: dict[str, float]
    total_s: float
    bound_s: float
    ratio_to_bound: float
    peak_extra_bytes: int | None  #: beyond gradient, velocity and residual; None if unknown

    def facts(self) -> dict[str, object]:
        """Return what JSON shows: one flat object."""
        names = ("device", "threads", "selection", "elements", "tensors", "density", "sent")
        ends = ("total_s", "bound_s", "ratio_to_bound", "peak_extra_bytes")
        return {
            **{name: getattr(self, name) for name in names},
            **self.phases,
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
        repeats: Measured steps of each; as many go before, unmeasured.
        devices: The CPU and every GPU, or only one of the kinds.

    Raises:
        ValueError: if a number is below 1, there are fewer elements than tensors, or no GPU.
    """
    if min(*elements, *tensors, repeats) < 1 or min(elements) < _COLUMNS * max(tensors):
        raise ValueError(
            f"bench codec: elements {list(elements)}, tensors {list(tensors)}, repeats {repeats}, "
            f"expected at least 1, and {_COLUMNS} elements per tensor"
        )
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
        """Measure *repeats* steps after as many unmeasured ones, and one more for its memory."""
        before = allocated_bytes(self.device) + 2 * self.flat.nbytes
        codec = _Codec(self, config, rule)
        into = torch.empty_like(self.flat)
        timed = []
        for _ in range(2 * repeats):
            self.flat.normal_(generator=self._generator)
            timed.append((self._copy_s(into), codec.step()))
        bounds, laps = zip(*timed[repeats:], strict=True)
        del into  # its memory is not the step's
        self.flat.normal_(generator=self._generator)
        medians = map(statistics.median, zip(*laps, strict=True))
        total_s, bound_s = statistics.median(map(sum, laps)), statistics.median(bounds)
        return CodecRow(
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            selection=name,
            elements=self.layout.length,
            tensors=len(self.gradients),
            density=self.density,
            phases=dict(zip(PHASES, medians, strict=True)),
            total_s=total_s,
            bound_s=bound_s,
            ratio_to_bound=total_s / bound_s,
            peak_extra_bytes=peak_extra_bytes(codec.step, self.device, before),
            sent=codec.sent,
        )

    def _copy_s(self, into: Tensor) -> float:
        """Return the seconds of copies that move 20 bytes per element: 8, 8 and 4."""
        half = len(into) // 2
        self.idle()
        clock = _Clock(self.device)
        into.copy_(self.flat)
        into.copy_(self.flat)
        into[:half].copy_(self.flat[:half])
        clock.lap()
        return clock.laps()[0]

    def idle(self) -> None:
        """Wait until a GPU has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Codec:
    """What `DGC.compress` does with compressed tensors, and the encoding, phase by phase."""

    def __init__(self, bench: _Bench, config: DGCConfig, rule: Selection | None) -> None:
        self._bench = bench
        self._state = accumulation_of(bench.layout, bench.device, config)
        self._selector = selector(config, self._state, rule)
        self._quick_norm = quick_norm_of(bench.gradients, bench.device)
        self.sent = 0

    def step(self) -> list[float]:
        """Return the seconds of each phase."""
        bench, state = self._bench, self._state
        bench.idle()
        clock = _Clock(bench.device)
        clip_factor("bench codec", bench.gradients, None, self._quick_norm)
        clock.lap()
        state.add((bench.gradients, 1.0), pool=self._selector.begin(bench.density))
        clock.lap()
        indices = self._selector.pick(state.residual, bench.density)
        clock.lap()
        values = state.take(indices)
        clock.lap()
        payload = SparsePayload(indices, values, bench.layout.length)
        payload.cut(1)
        payload.pack(0, 1)
        clock.lap()
        self.sent = len(indices)
        return clock.laps()


class _Clock:
    """Takes the time between laps.

    On a GPU it is that of events between kernels, so that no lap waits for the one before, as in
    training; a kernel that waits for its launch counts.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stamps = [self._stamp()]

    def lap(self) -> None:
        """End a lap and begin the next one."""
        self._stamps.append(self._stamp())

    def laps(self) -> list[float]:
        """Return the seconds of each lap, once all are over."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return [seconds_between(*stamps) for stamps in pairwise(self._stamps)]

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
