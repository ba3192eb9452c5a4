"""A thread beside the backward pass, which sums payloads while the pass goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, NamedTuple, TypeVar
from weakref import finalize

import torch
from torch import Tensor

from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload

T = TypeVar("T")

_LONGEST_JOIN_S = 1.0  #: a thread that waits for a lost peer does not hold up the end for longer


class SummingThread:
    """A thread, with a GPU stream of its own, that runs one job after the other.

    It ends when nobody refers to this object any longer, and never keeps the process from ending.

    Args:
        device: Device of the tensors that jobs work on.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = _Stream(device)
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._last: Future[Any] | None = None
        thread = Thread(
            target=_serve, args=(self._orders, self._stream), name="all-reduce", daemon=True
        )
        thread.start()
        finalize(self, _stop, self._orders, thread)

    @property
    def is_idle(self) -> bool:
        """True if all jobs so far have ended."""
        return self._last is None or self._last.done()

    def wait(self) -> None:
        """Wait until all jobs so far have ended; raise the error of the last one, if it had one."""
        if self._last is not None:
            self._last.result()

    def run(self, job: Callable[[], T], tensors: Sequence[Tensor] = ()) -> Future[T]:
        """Run a job behind those that are under way.

        Args:
            job: Function without arguments.
            tensors: All tensors that it uses and that the caller may give up before it has ended.

        Returns:
            The future of its value, or of the error that it raises.
        """
        result: Future[T] = Future()
        self._orders.put(_Order(job, self._stream.hand_over(tensors), result))
        self._last = result
        return result


class _Order(NamedTuple):
    job: Callable[[], Any]
    ready: torch.cuda.Event | None
    result: Future[Any]


def _serve(orders: SimpleQueue[_Order | None], stream: _Stream) -> None:
    """Run the jobs in the queue, until it yields None."""
    while (order := orders.get()) is not None:
        try:
            with stream.after(order.ready):
                value = order.job()
        except BaseException as error:  # noqa: BLE001  # whoever waits for the job raises it
            order.result.set_exception(error)
        else:
            order.result.set_result(value)
            del value
        del order  # its tensors may go while this waits for the next one


def _stop(orders: SimpleQueue[_Order | None], thread: Thread) -> None:
    """End the thread: torch may abort a process that ends while a thread still communicates."""
    orders.put(None)
    if thread is not current_thread():
        thread.join(_LONGEST_JOIN_S)


class _Stream:
    """A stream of a GPU beside that of the backward pass; on a CPU there is none."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # by torch

    def hand_over(self, tensors: Sequence[Tensor]) -> torch.cuda.Event | None:
        """Return the event of the tensors being ready, and keep their memory for this stream."""
        if self._stream is None:
            return None
        for tensor in tensors:
            tensor.record_stream(self._stream)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._stream.device))
        return event

    @contextmanager
    def after(self, ready: torch.cuda.Event | None) -> Iterator[None]:
        """Run the block on this stream after the event, and wait for it at the block's end."""
        if self._stream is None or ready is None:
            yield
            return
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            yield
            self._stream.synchronize()


def tensors_of(payload: Payload) -> list[Tensor]:
    """Return the tensors that a compressor's payload consists of."""
    match payload:
        case BundlePayload():
            return [tensor for part in payload.parts for tensor in tensors_of(part)]
        case SparsePayload():
            return [payload.indices, payload.values]
        case DensePayload():
            return [payload.buffer]
    raise AssertionError(payload)  # compressors of buckets make no others
