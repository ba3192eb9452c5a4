"""Overlapped all-reduce: buckets of gradients are summed while the backward pass goes on.

Once the backward pass has produced a bucket's gradients, they are compressed, which delays the
pass.  A separate thread sums them over the ranks, bucket after bucket in the same order on every
rank.  Only the buckets that are still under way at the end of the pass have to be waited for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

from torch import Tensor, nn

from dgc_topo.payload import Payload
from dgc_topo.runtime import Traffic
from dgc_topo.training.buckets import (
    Bucket,
    gradients_of,
    sparse_entries,
)
from dgc_topo.training.clocks import PhaseClock
from dgc_topo.training.models import Task
from dgc_topo.training.rank import Computed, StepRecord, TrainingRank
from dgc_topo.training.steps import Strategy
from dgc_topo.training.summing import SummingThread, tensors_of
from dgc_topo.training.world import Exchange


class OverlappedStep(Strategy):
    """An all-reduce with the arithmetic of an `AveragingStep` that sends the same buckets.

    The record's `wait_s` is the communication that nothing hides; the sending thread's other time
    is not counted.

    Args:
        rank: The rank of this process; its buckets are in the order in which they become complete.
        exchange: Sums payloads; nobody else may use it, nor its transport, during a step.  None
            is one worker alone, which sends nothing.
        task: Task whose gradients they are.
        time_scale: See `PhaseClock`.
    """

    def __init__(
        self,
        rank: TrainingRank,
        exchange: Exchange | None,
        task: Task,
        *,
        time_scale: float = 1.0,
    ) -> None:
        self._parameters, self._buckets, self._trains = rank.parameters, rank.buckets, rank.trains
        self._task, self._move = task, rank.move
        device = next(iter(rank.parameters.values())).device
        self._exchange = exchange
        self._thread = None if exchange is None else SummingThread(device)
        self._backward_clock = PhaseClock(device, time_scale, task.worked_s)
        self._clock = PhaseClock(device, time_scale)
        self._iteration, self._density, self._learning_rate = 0, 1.0, 0.0
        self._sums: list[_Sum] = []
        #: Of each bucket, how many gradients are not complete yet.
        self._missing: list[int] = []
        if self._trains:
            self._watch_gradients()

    def begin(self, iteration: int, epoch: float, learning_rate: float) -> None:
        """See `Strategy.begin`; a rank that only serves sends all of its part."""
        self._iteration, self._learning_rate = iteration, learning_rate
        self._buckets.set_progress(epoch)
        self._density = self._buckets.density
        self._sums = []
        self._missing = [len(self._watched(bucket)) for bucket in self._buckets.buckets]
        if not self._trains:
            for payload in self._buckets.neutral():
                self._send(payload)
        self._backward_clock.start()

    def apply(self, computed: Sequence[Computed]) -> list[StepRecord]:
        """See `Strategy.apply`: wait for the sums, bucket by bucket, and update."""
        (own,), clock = computed, self._clock
        in_pass_s = sum(each.compress_s for each in self._sums)
        clock.start()
        if self._trains:  # parameters that took no part in the loss hold up their buckets
            while len(self._sums) < len(self._missing):
                self._send_next(clock)
        compress_s, wait_s = sum(each.compress_s for each in self._sums), 0.0
        traffic, merged_entries = [], 0
        updates: dict[str, Tensor] = {}
        for bucket, each in zip(self._buckets.buckets, self._sums, strict=True):
            began_s = time.perf_counter()
            traffic.append(each.traffic.result())
            wait_s += time.perf_counter() - began_s
            clock.start()
            merged_entries += sparse_entries(each.payload)
            updates |= bucket.compressor.finish(each.payload)
            compress_s += clock.lap()
        self._move(updates, self._learning_rate)
        sums, self._sums = self._sums, []
        record = StepRecord(
            compute_s=own.pass_s - in_pass_s,
            compress_s=compress_s,
            communicate_s=0.0,
            wait_s=wait_s,
            update_s=clock.lap(),
            bytes_sent=sum(run.bytes_sent for run in traffic),
            messages_sent=sum(run.messages_sent for run in traffic),
            encoded_bytes=sum(each.encoded_bytes for each in sums),
            entries=sum(each.entries for each in sums),
            merged_entries=merged_entries,
            density=self._density,
            loss=own.loss,
            interface_bytes=own.interface_bytes,
        )
        del sums  # on a GPU only now: all that reads them is done
        return [record]

    def _watch_gradients(self) -> None:
        for number, bucket in enumerate(self._buckets.buckets):
            for parameter in self._watched(bucket):

                def note(_: Tensor, number: int = number) -> None:
                    self._missing[number] -= 1
                    self._send_complete()

                hook = parameter.register_post_accumulate_grad_hook
                hook(note)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _watched(self, bucket: Bucket) -> list[nn.Parameter]:
        """Return the parameters of a bucket that get gradients: not the frozen ones."""
        parameters = (self._parameters[name] for name in bucket.names)
        return [parameter for parameter in parameters if parameter.requires_grad]

    def _send_complete(self) -> None:
        """Send, in the middle of the backward pass, the buckets that are complete."""
        if not self._is_next_complete():
            return
        self._backward_clock.lap()
        with self._task.aside():
            while self._is_next_complete():
                self._send_next(self._backward_clock)

    def _is_next_complete(self) -> bool:
        number = len(self._sums)
        return number < len(self._missing) and not self._missing[number]

    def _send_next(self, clock: PhaseClock) -> None:
        bucket = self._buckets.buckets[len(self._sums)]
        own = {name: self._parameters[name] for name in bucket.names}
        payload = bucket.compress(gradients_of(own))
        entries, encoded_bytes = sparse_entries(payload), payload.encoded_bytes()
        self._send(payload, entries, encoded_bytes, clock.lap())

    def _send(
        self, payload: Payload, entries: int = 0, encoded_bytes: int = 0, compress_s: float = 0.0
    ) -> None:
        exchange, iteration = self._exchange, self._iteration
        if exchange is None or self._thread is None:
            traffic: Future[Traffic] = Future()
            traffic.set_result(Traffic((), 0.0))
        else:
            traffic = self._thread.run(
                lambda: exchange([payload], iteration)[0], tensors_of(payload)
            )
        self._sums.append(_Sum(payload, entries, encoded_bytes, compress_s, traffic))


class _Sum(NamedTuple):
    """A payload to be summed; it holds the sum over the ranks once *traffic* is set.

    Attributes:
        payload: The rank's own, at first.
        entries: Number of entries in its sparse parts, at first.
        encoded_bytes: Its bytes as encoded; 0 on a server.
        compress_s: Seconds that making it took.
        traffic: Known once it is summed.
    """

    payload: Payload
    entries: int
    encoded_bytes: int
    compress_s: float
    traffic: Future[Traffic]
