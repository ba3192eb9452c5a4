"""One training step: all-reduce of gradients, or D-PSGD gossip of parameters."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload
from dgc_topo.runtime import Communicator, Traffic
from dgc_topo.schedule import Goal
from dgc_topo.training.buckets import Buckets

#: What parameters may be mixed by: the ranks' average has to stay what it was.
AVERAGES: frozenset[Goal] = frozenset({"doubly-stochastic"})


@dataclass(slots=True)
class StepRecord:
    """What one rank did in one step; times in seconds."""

    compute_s: float = 0.0
    compress_s: float = 0.0
    communicate_s: float = 0.0
    wait_s: float = 0.0
    update_s: float = 0.0
    bytes_sent: float = 0.0
    messages_sent: float | None = 0.0
    encoded_bytes: float = 0.0
    entries: float = 0.0
    merged_entries: float = 0.0
    density: float = 1.0
    loss: float = 0.0
    interface_bytes: float = math.nan  #: that the interface had sent when the step began

    @property
    def total_s(self) -> float:
        """The whole step."""
        return self.compute_s + self.compress_s + self.communicate_s + self.wait_s + self.update_s


FIELDS = tuple(field.name for field in fields(StepRecord))


class PhaseClock:
    """Splits a step into phases; on a GPU each phase waits until its kernels are done.

    Args:
        device: Where the work is done.
        time_scale: Above 1, a phase is stretched: it waits until so many times the processor time
            that it took has passed.  (Processor time, because several workers share few cores:
            what one of them waits for the others is no part of its work.)
        worked_s: Says how much processor time has been taken.
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
    """Sleep until `time.perf_counter` says *moment_s*."""
    while (left_s := moment_s - time.perf_counter()) > 0:
        time.sleep(left_s)


class Strategy(ABC):
    """How gradients, once computed, move the parameters.

    Attributes:
        forward: What the forward pass has to go through, if not the model itself.
    """

    forward: nn.Module | None = None

    def begin(self, iteration: int, epoch: float) -> None:
        """Begin a step, before its forward pass."""
        del iteration, epoch  # most have nothing to do then

    @abstractmethod
    def apply(self, iteration: int, epoch: float, learning_rate: float) -> StepRecord:
        """Communicate and update.

        Returns:
            Everything but loss and compute; what else was done, or waited for, in the backward
            pass is there already and taken off compute, which is negative then.
        """


class AllReduceStep(Strategy):
    """Compress the gradients, sum them over the ranks, apply the same update everywhere.

    A rank that only serves contributes payloads that add nothing.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        buckets: Buckets,
        communicator: Communicator | None,
        *,
        trains: bool = True,
        time_scale: float = 1.0,
    ) -> None:
        self._parameters = parameters
        self._buckets = buckets
        self._communicator = communicator
        self._trains = trains
        self._clock = PhaseClock(next(iter(parameters.values())).device, time_scale)

    def apply(self, iteration: int, epoch: float, learning_rate: float) -> StepRecord:
        """As `Strategy.apply`; without a communicator (one worker alone) nothing is sent."""
        record, clock, buckets = StepRecord(), self._clock, self._buckets
        clock.start()
        buckets.set_progress(epoch)
        record.density = buckets.density
        payloads = (
            buckets.compress(gradients_of(self._parameters)) if self._trains else buckets.neutral()
        )
        record.entries = sparse_entries(*payloads)
        record.encoded_bytes = buckets.encoded_bytes(payloads) if self._trains else 0
        record.compress_s = clock.lap()
        if self._communicator is not None:
            for payload in payloads:
                communicate(self._communicator, payload, iteration, record)
            clock.start()
        record.merged_entries = sparse_entries(*payloads)
        updates = buckets.finish(payloads)
        record.compress_s += clock.lap()
        apply_updates(self._parameters, updates, learning_rate)
        record.update_s = clock.lap()
        return record


class GossipStep(Strategy):
    """D-PSGD: average parameters with neighbours, then move by the rank's own gradient.

    x_i <- sum_j W[i, j] x_j - lr * update_i, both at the parameters before the step (Lian et al.,
    NeurIPS 2017).  Momentum stays local.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        buckets: Buckets,
        communicator: Communicator,
        wire_dtype: torch.dtype,
        *,
        time_scale: float = 1.0,
    ) -> None:
        self._parameters = parameters
        self._buckets = buckets
        self._communicator = communicator
        self._wire_dtype = wire_dtype
        self._clock = PhaseClock(next(iter(parameters.values())).device, time_scale)

    @torch.no_grad()
    def apply(self, iteration: int, epoch: float, learning_rate: float) -> StepRecord:
        """As `Strategy.apply`."""
        record, clock = StepRecord(), self._clock
        clock.start()
        self._buckets.set_progress(epoch)
        local = self._buckets.compress(gradients_of(self._parameters))
        updates = self._buckets.finish(local)
        flat = torch.cat([p.detach().reshape(-1) for p in self._parameters.values()])
        payload = DensePayload(flat, wire_dtype=self._wire_dtype, goals=AVERAGES)
        record.encoded_bytes = flat.numel() * self._wire_dtype.itemsize
        record.compress_s = clock.lap()
        communicate(self._communicator, payload, iteration, record)
        clock.start()
        offset = 0
        for parameter in self._parameters.values():
            part = flat[offset : offset + parameter.numel()]
            parameter.copy_(part.view_as(parameter))
            offset += parameter.numel()
        apply_updates(self._parameters, updates, learning_rate)
        record.update_s = clock.lap()
        return record


def communicate(
    communicator: Communicator, payload: Payload, iteration: int, record: StepRecord
) -> None:
    """Run the schedule on *payload* and note the traffic in *record*."""
    note_traffic(record, communicator.run(payload, iteration))


def note_traffic(record: StepRecord, traffic: Traffic) -> None:
    """Add to a record what a run of the schedule moved, and how long it took."""
    record.communicate_s += traffic.communicate_s
    record.wait_s += traffic.wait_s
    note_sent(record, traffic)


def note_sent(record: StepRecord, traffic: Traffic) -> None:
    """Add to a record what a run of the schedule moved."""
    record.bytes_sent += traffic.bytes_sent
    record.messages_sent = (record.messages_sent or 0) + traffic.messages_sent


@torch.no_grad()
def apply_updates(
    parameters: Mapping[str, nn.Parameter], updates: Mapping[str, Tensor], learning_rate: float
) -> None:
    """Move every parameter by ``-learning_rate * update``."""
    torch._foreach_add_(
        [parameters[name] for name in updates], list(updates.values()), alpha=-learning_rate
    )


def gradients_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor | None]:
    """Return each parameter's gradient; one that took no part in the loss has None."""
    return {name: parameter.grad for name, parameter in parameters.items()}


def sparse_entries(*payloads: Payload) -> int:
    """Return how many entries the sparse parts of *payloads* hold."""
    total = 0
    for payload in payloads:
        if isinstance(payload, BundlePayload):
            total += sparse_entries(*payload.parts)
        elif isinstance(payload, SparsePayload):
            total += payload.num_entries
    return total
