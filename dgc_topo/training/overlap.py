"""All-reduce of gradients in buckets, while the backward pass goes on.

As soon as the backward pass has produced a bucket's gradients they are compressed, which holds the
pass up, and a thread of its own sums them over the ranks, bucket after bucket in the same order on
every rank.  So only what is still under way when the pass is over has to be waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple
from weakref import finalize

import torch
from torch import Tensor, nn

from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload
from dgc_topo.runtime import Communicator, Traffic
from dgc_topo.training.buckets import Bucket, Buckets
from dgc_topo.training.models import Task
from dgc_topo.training.steps import (
    PhaseClock,
    StepRecord,
    Strategy,
    apply_updates,
    gradients_of,
    note_sent,
    sparse_entries,
)


class OverlappedStep(Strategy):
    """As `AllReduceStep`, with the same arithmetic as one that sends the same buckets.

    The record's `wait_s` is what nothing hides; what the sending thread does besides is not in it.

    Args:
        parameters: The model's, by name.
        buckets: Of their gradients, in the order in which these become complete.
        communicator: Sums them; nobody else may use it, nor its transport, during a step.  None
            is one worker alone, which sends nothing.
        task: Whose gradients they are.
        trains: Whether this rank has gradients, or only serves.
        time_scale: See `PhaseClock`.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        buckets: Buckets,
        communicator: Communicator | None,
        task: Task,
        *,
        trains: bool = True,
        time_scale: float = 1.0,
    ) -> None:
        self._parameters = parameters
        self._buckets = buckets
        self._task = task
        self._trains = trains
        device = next(iter(parameters.values())).device
        self._thread = None if communicator is None else _SummingThread(communicator, device)
        self._backward_clock = PhaseClock(device, time_scale, task.worked_s)
        self._clock = PhaseClock(device, time_scale)
        self._iteration = 0
        self._record = StepRecord()
        self._sums: list[_Sum] = []
        #: Of each bucket, how many gradients are not complete yet.
        self._missing: list[int] = []
        if trains:
            self._watch_gradients()

    def begin(self, iteration: int, epoch: float) -> None:
        """As `Strategy.begin`; a rank that only serves sends all of its part."""
        self._iteration = iteration
        self._buckets.set_progress(epoch)
        self._record = StepRecord(density=self._buckets.density)
        self._sums = []
        self._missing = [len(self._watched(bucket)) for bucket in self._buckets.buckets]
        if not self._trains:
            for payload in self._buckets.neutral():
                self._send(payload)
        self._backward_clock.start()

    def apply(self, iteration: int, epoch: float, learning_rate: float) -> StepRecord:
        """As `Strategy.apply`: wait for the sums, bucket by bucket, and update."""
        record, clock = self._record, self._clock
        record.compute_s = -record.compress_s
        clock.start()
        if self._trains:  # parameters that took no part in the loss hold up their buckets
            while len(self._sums) < len(self._missing):
                self._send_next(clock)
        updates: dict[str, Tensor] = {}
        for bucket, own in zip(self._buckets.buckets, self._sums, strict=True):
            began_s = time.perf_counter()
            note_sent(record, own.traffic.result())
            record.wait_s += time.perf_counter() - began_s
            clock.start()
            record.merged_entries += sparse_entries(own.payload)
            updates |= bucket.compressor.finish(own.payload)
            record.compress_s += clock.lap()
        apply_updates(self._parameters, updates, learning_rate)
        record.update_s = clock.lap()
        self._sums = []  # on a GPU only now: all that reads them is done
        return record

    def _watch_gradients(self) -> None:
        for number, bucket in enumerate(self._buckets.buckets):
            for parameter in self._watched(bucket):

                def note(_: Tensor, number: int = number) -> None:
                    self._missing[number] -= 1
                    self._go_on()

                hook = parameter.register_post_accumulate_grad_hook
                hook(note)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _watched(self, bucket: Bucket) -> list[nn.Parameter]:
        """Return those of a bucket that get gradients: not the frozen ones."""
        parameters = (self._parameters[name] for name in bucket.names)
        return [parameter for parameter in parameters if parameter.requires_grad]

    def _go_on(self) -> None:
        """Look, in the backward pass, whether the next bucket can be sent."""
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
        bucket, record = self._buckets.buckets[len(self._sums)], self._record
        own = {name: self._parameters[name] for name in bucket.names}
        payload = bucket.compress(gradients_of(own))
        record.entries += sparse_entries(payload)
        record.encoded_bytes += bucket.compressor.encoded_bytes(payload)
        record.compress_s += clock.lap()
        self._send(payload)

    def _send(self, payload: Payload) -> None:
        traffic: Future[Traffic] = Future()
        if self._thread is None:
            traffic.set_result(Traffic((), 0.0))
        else:
            self._thread.sum(payload, self._iteration, traffic)
        self._sums.append(_Sum(payload, traffic))


class _Sum(NamedTuple):
    """A payload that becomes the sum of all ranks' once its traffic is known."""

    payload: Payload
    traffic: Future[Traffic]


class _SummingThread:
    """Runs a schedule on one payload after the other, in a thread and a GPU stream of its own.

    It ends when nobody refers to this object any longer, and never keeps the process from ending.
    """

    def __init__(self, communicator: Communicator, device: torch.device) -> None:
        self._stream = _Stream(device)
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        thread = Thread(
            target=_serve,
            args=(self._orders, communicator, self._stream),
            name="all-reduce",
            daemon=True,
        )
        thread.start()
        finalize(self, self._orders.put, None)

    def sum(self, payload: Payload, iteration: int, traffic: Future[Traffic]) -> None:
        """Sum a payload, in place, behind those that are under way."""
        self._orders.put(_Order(payload, iteration, self._stream.hand_over(payload), traffic))


class _Order(NamedTuple):
    payload: Payload
    iteration: int
    ready: torch.cuda.Event | None
    traffic: Future[Traffic]


def _serve(orders: SimpleQueue[_Order | None], communicator: Communicator, stream: _Stream) -> None:
    while (order := orders.get()) is not None:
        try:
            with stream.after(order.ready):
                traffic = communicator.run(order.payload, order.iteration)
        except BaseException as error:  # noqa: BLE001  # whoever waits for the sum raises it
            order.traffic.set_exception(error)
        else:
            order.traffic.set_result(traffic)
        del order  # its payload may go while this waits for the next one


class _Stream:
    """A stream of a GPU beside that of the backward pass; on a CPU there is none."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # by torch

    def hand_over(self, payload: Payload) -> torch.cuda.Event | None:
        """Return when the payload is ready; its memory is used again only after this stream."""
        if self._stream is None:
            return None
        for tensor in _tensors_of(payload):
            tensor.record_stream(self._stream)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._stream.device))
        return event

    @contextmanager
    def after(self, ready: torch.cuda.Event | None) -> Iterator[None]:
        """Do something on this stream once that has happened; it is done when the block ends."""
        if self._stream is None or ready is None:
            yield
            return
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            yield
            self._stream.synchronize()


def _tensors_of(payload: Payload) -> list[Tensor]:
    match payload:
        case BundlePayload():
            return [tensor for part in payload.parts for tensor in _tensors_of(part)]
        case SparsePayload():
            return [payload.indices, payload.values]
        case DensePayload():
            return [payload.buffer]
    raise AssertionError(payload)  # compressors of buckets make no others
