"""A step on a GPU as one launch: the host waits once, at the end, when the message is there."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.compression.gpu.accumulation import Clipped, FusedAccumulation, FusedNorm, Source
from dgc_topo.compression.gpu.blocks import Reader
from dgc_topo.compression.gpu.candidates import Candidates
from dgc_topo.compression.gpu.threshold import FusedThreshold
from dgc_topo.compression.gradients import NonFiniteGradientError, checked_norm
from dgc_topo.compression.local_step import LocalStep, Sent, Term
from dgc_topo.sizes import is_sparse
from dgc_topo.wire import on_gpu
from dgc_topo.wire.coding import WireCoding
from dgc_topo.wire.limits import MAX_RUN


class RecordedLaunches:
    """Kernel launches on the same memory at every call, recorded as a CUDA graph.

    The first call launches the kernels one by one, which compiles them; later calls replay a graph.
    On a CPU, where kernels are interpreted, there is no graph.

    Args:
        work: Function that launches kernels on the current stream; it must neither wait nor ask
            for results.
        device: Device of the kernels.
    """

    def __init__(self, work: Callable[[], None], device: torch.device) -> None:
        self._work = work
        self._device = device
        self._called = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Launch the kernels."""
        if self._graph is None and self._called and self._device.type == "cuda":
            self._graph = self._recorded()
        if self._graph is None:
            self._work()
            self._called = True
            return
        with torch.cuda.device(self._device):
            self._graph.replay()

    def _recorded(self) -> torch.cuda.CUDAGraph:
        # torch.cuda.graph() would also collect garbage and empty the allocator's cache.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # by torch
            stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(stream):
                # Other threads, such as one that receives messages, may go on meanwhile.
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self._work()
                finally:
                    graph.capture_end()
            torch.cuda.current_stream(self._device).wait_stream(stream)
        return graph


class _Outputs(NamedTuple):
    """Result of a step, in one piece of memory.

    Attributes:
        memory: All of it, uint8.
        indices: Indices of the elements sent.
        values: Their values.
        room: Room for the message.
    """

    memory: Tensor
    indices: Tensor
    values: Tensor
    room: Tensor

    @classmethod
    def of(cls, memory: Tensor, count: int) -> _Outputs:
        """Return the views of a step's result in *memory*, uint8."""
        indices, values, room = memory.tensor_split((8 * count, 12 * count))
        return cls(memory, indices.view(torch.int64), values.view(torch.float32), room)


class _Kind(NamedTuple):
    """Properties for which a step was prepared."""

    listed: Candidates
    types: tuple[torch.dtype, ...]
    decay: float
    in_phases: bool


class _PreparedStep(NamedTuple):
    """A whole step, ready to be launched.

    Attributes:
        kind: Properties that it was prepared for.
        outputs: Its result; overwritten by the next step.
        message: The message that it writes, if it does.
        factor: Factor that the gradient is clipped by.
        pieces: Launches, by the name of their last phase.
    """

    kind: _Kind
    outputs: _Outputs
    message: on_gpu.PendingMessage | None
    factor: Tensor
    pieces: dict[str, RecordedLaunches]


class _LaunchedStep(NamedTuple):
    """Step that was launched, and whose outcome only the GPU knows."""

    gradients: Mapping[str, Tensor]
    listed: Candidates
    outputs: _Outputs
    message: on_gpu.PendingMessage | None


class FusedStep(LocalStep):
    """Counterpart of `LocalStep` that sends the same elements, but waits for the GPU only once.

    All phases are launched on two assumptions: the gradient is finite, and every group finds as
    many candidates as it sends.  The kernels check both.  If the gradient is not finite, they do
    nothing.  If groups lack candidates, nothing is taken yet, and those groups are searched as
    `LocalStep` does.  Steps without thresholds from an earlier step use that way from the start.

    While the gradients' kind and the number of sent elements stay the same, the whole step is one
    launch of a graph; if the phases are observed, each phase is one.

    Args:
        where: Name of the compressor in errors, as for `LocalStep`.
        accumulation: Velocity and residual.
        selector: Selector on the same blocks.
        norm: Norm of all gradients.
        coding: Coding of messages.
    """

    def __init__(
        self,
        where: str,
        accumulation: FusedAccumulation,
        selector: FusedThreshold,
        norm: FusedNorm,
        coding: WireCoding,
    ) -> None:
        super().__init__(where, accumulation, selector, norm, coding)
        self._fused = accumulation
        self._threshold = selector
        self._squares = norm
        device = accumulation.residual.device
        self._weights = Reader(norm.reader.names, device)
        self._numbers = accumulation.numbers_among(norm.reader.names)
        self._bound = torch.full((), math.inf, dtype=torch.float64, device=device)
        self._bound_on_host = math.inf
        self._whole: _PreparedStep | None = None
        self._ahead: _LaunchedStep | None = None

    def accumulate(
        self,
        gradients: Mapping[str, Tensor],
        density: float,
        *,
        clip_norm: float | None = None,
        decay: Term | None = None,
    ) -> float | Tensor:
        """Accumulate as `LocalStep`; the factor is a tensor if the step was launched as a whole."""
        self._ahead = None
        listed = self._threshold.begin(density) if is_sparse(density) else None
        if listed is not None:
            factor = self._launched(listed, gradients, clip_norm, decay)
            if factor is not None:
                return factor
        return super().accumulate(gradients, density, clip_norm=clip_norm, decay=decay)

    def sent(self, density: float) -> Sent:
        """Return the elements sent, see `LocalStep.sent`."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return super().sent(density)
        facts = ahead.listed.facts()  # waits
        if not math.isfinite(_as_float(facts.notes[0])):
            self._refuse(ahead.gradients)
        _, indices, values, room = ahead.outputs
        if facts.num_kept < len(indices):
            return super().sent(density)
        indices = self._threshold.pick(self.accumulation.residual, density)
        message = None
        if ahead.message is not None:
            message = ahead.message._replace(room=room).message(facts.notes[1:])
        return Sent(indices, values, message)

    def _launched(
        self,
        listed: Candidates,
        gradients: Mapping[str, Tensor],
        clip_norm: float | None,
        decay: Term | None,
    ) -> Tensor | None:
        """Launch all phases; return the factor, None if no kernel can read the gradients."""
        kind = self._kind(listed, gradients, decay)
        if kind is None:
            return None
        self._set_bound(math.inf if clip_norm is None else clip_norm)
        whole = self._whole
        if whole is None or whole.kind != kind:
            self._whole = None  # gives its memory back first
            self._whole = whole = self._prepared(kind)
        for name, launch in whole.pieces.items():
            launch()
            self.on_phase(name)
        outputs = _Outputs.of(whole.outputs.memory.clone(), len(whole.outputs.indices))
        listed.launched(outputs.indices)
        self._ahead = _LaunchedStep(gradients, listed, outputs, whole.message)
        return whole.factor.clone()

    def _kind(
        self, listed: Candidates, gradients: Mapping[str, Tensor], decay: Term | None
    ) -> _Kind | None:
        """Return the properties of this step, None if no kernel can read the gradients."""
        types = [self._squares.reader.read(gradients)]
        if decay is not None:
            types.append(self._weights.read(decay[0]))
        known = tuple(dtype for dtype in types if dtype is not None)
        if len(known) < len(types):
            return None
        return _Kind(listed, known, 0.0 if decay is None else decay[1], self.in_phases)

    def _prepared(self, kind: _Kind) -> _PreparedStep:
        """Return a whole step that works on memory of its own."""
        lists, device = kind.listed.lists, self._bound.device
        coding = self._coding
        length, count = self._fused.layout.length, lists.num_wanted
        writes = lists.few and length <= MAX_RUN and on_gpu.writes(coding)
        room = on_gpu.room_bytes(count, coding) if writes else 0
        memory = torch.empty(12 * count + room, dtype=torch.uint8, device=device)
        outputs = _Outputs.of(memory, count)
        message = None
        if writes:
            facts = lists.notes[1 : 1 + on_gpu.FACTS]
            message = on_gpu.PendingMessage(outputs.room, facts, count, length, coding)
        factor = torch.ones((), dtype=torch.float32, device=device)
        work = self._work(kind, outputs, message, factor)
        if not kind.in_phases:
            work = {list(work)[-1]: partial(_all, tuple(work.values()))}
        pieces = {name: RecordedLaunches(launch, device) for name, launch in work.items()}
        return _PreparedStep(kind, outputs, message, factor, pieces)

    def _work(
        self, kind: _Kind, outputs: _Outputs, message: on_gpu.PendingMessage | None, factor: Tensor
    ) -> dict[str, Callable[[], None]]:
        """Return the function that launches each phase."""
        listed, types = kind.listed, kind.types
        _, indices, values, _ = outputs
        squares = listed.lists.notes[:1].view(torch.float64)[0]
        clipped = Clipped(squares, self._bound, factor)
        sources = [Source(self._squares.reader.addresses, types[0], 1.0)]
        if len(types) > 1:
            sources.append(Source(self._weights.addresses, types[1], kind.decay))
        given = listed.num_kept
        work: dict[str, Callable[[], None]] = {
            "check": partial(self._squares.launch, types[0], squares),
            "accumulate": partial(self._fused.launch, sources, listed, clipped, self._numbers),
            "select": partial(listed.select, indices),
            "mask": partial(self._fused.launch_take, indices, values, self._wire_dtype, given),
        }
        if message is not None:
            work["encode"] = partial(message.launch, indices, values, 0, given)
        return work

    def _set_bound(self, clip_norm: float) -> None:
        if self._bound_on_host != clip_norm:
            self._bound.fill_(clip_norm)
            self._bound_on_host = clip_norm

    def _refuse(self, gradients: Mapping[str, Tensor]) -> None:
        """Raise the error that names the gradient that is not finite."""
        checked_norm(self.where, gradients)
        raise NonFiniteGradientError(
            f"{self.where}: the gradient's norm overflows float32, expected a finite one; lower "
            "the learning rate or the loss scale"
        )


def _all(launches: Iterable[Callable[[], None]]) -> None:
    for launch in launches:
        launch()


def _as_float(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])
