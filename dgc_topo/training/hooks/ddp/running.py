"""The way of DDP's buckets through a backward pass, beside which they are summed."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor

from dgc_topo.training.hooks.ddp.passes import BackwardPass, BegunBucket, Result
from dgc_topo.training.hooks.ddp.reduction import Reduction
from dgc_topo.training.hooks.layout import BucketLayout
from dgc_topo.training.summing import SummingThread


class HookError(RuntimeError):
    """A failure in a hook; the text names training step and cause."""


class PassRunner:
    """Average buckets in their order, on a thread as long as others follow.

    If the reduction takes two, the last bucket of a pass does not wait for those on the thread: the
    backward pass has nothing else to do, and where one sum waits for a message, the other goes on.

    Args:
        reduction: The average of one bucket.
    """

    def __init__(self, reduction: Reduction) -> None:
        self._reduction = reduction
        self._thread: SummingThread | None = None
        self._pass = BackwardPass(0, is_over=True)
        self._failure: BaseException | None = None

    @property
    def number(self) -> int:
        """Number of the backward pass."""
        return self._pass.number

    @property
    def is_finite(self) -> bool:
        """False if a rank's gradient was not, in the backward pass."""
        return self._pass.is_finite

    def refuse_after_failure(self) -> None:
        """Refuse to go on after an error: gradients are missing since then.

        Raises:
            HookError: naming the error.
        """
        if self._failure is not None:
            raise HookError(
                f"hook: failed before ({self._failure}), expected a new start: gradients that "
                "were under way are lost"
            ) from self._failure

    def begin(self, backward_pass: BackwardPass) -> None:
        """Begin a backward pass, after `abandon_interrupted`."""
        self.abandon_interrupted()
        self._pass = backward_pass

    def abandon_interrupted(self) -> None:
        """Take back what the last backward pass sent, if it never got to its end."""
        if not self._pass.is_over:
            if self._thread is not None:
                self._thread.run(self._pass.abandon).result()
            self._pass.abandon()

    def add(
        self, layout: BucketLayout, buffer: Tensor, *, is_last: bool
    ) -> torch.futures.Future[Tensor]:
        """Begin to average a bucket.

        Args:
            layout: Its parameters.
            buffer: Their gradients, which the average replaces.
            is_last: True if no other bucket of the pass follows.
        """
        devices: list[int | str | torch.device] = (
            [] if buffer.device.type == "cpu" else [buffer.device]
        )
        result: Result = torch.futures.Future(devices=devices)
        bucket = BegunBucket(layout, buffer, result, self._pass)
        job = partial(self._run, bucket, is_last=is_last)
        is_busy = self._thread is not None and not self._thread.is_idle
        self._pass.num_begun += 1
        goes_beside = is_last and not devices and self._reduction.takes_two
        if goes_beside and self._pass.num_begun > 1:
            job(beside=True)
        elif is_last and not devices and not is_busy:
            job()  # nothing is left to overlap with
        else:
            if self._thread is None:
                self._thread = SummingThread(buffer.device)
            self._thread.run(job, [buffer])
        if result.done() and isinstance(result.value(), Tensor):
            return cast("torch.futures.Future[Tensor]", result)
        return result.then(_value_of)

    def _run(self, bucket: BegunBucket, *, is_last: bool, beside: bool = False) -> None:
        """Average a bucket; whatever happens, the backward pass gets a result.

        With *beside* those before it may still be under way on the thread.
        """
        try:
            if self._failure is not None:
                raise self._failure  # noqa: TRY301  # the next bucket cannot do without this one
            self._reduction.run(bucket, beside=beside)
            if beside and self._thread is not None:
                self._thread.wait()
            if is_last:
                bucket.within.close()
        except BaseException as error:  # noqa: BLE001  # backward() raises it
            self._failure = error
            bucket.within.fail(error)
            if not bucket.result.done():
                where = f"hook: step {bucket.within.number}"
                bucket.result.set_result(
                    error
                    if isinstance(error, HookError)
                    else HookError(f"{where}: {type(error).__name__}: {error}")
                )


def _value_of(result: Result) -> Tensor:
    """Return the gradient, or raise the error that took its place.

    An error that is set as such would reach the user as another one.
    """
    value = result.value()
    if isinstance(value, BaseException):
        raise value
    return value
