"""The protocol of callbacks: what a training tells about its steps and evaluations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, Self

from dgc_topo.python_files import PASSED_ON


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """Facts about one training step; what is not known is None.

    Attributes:
        step: Number of steps done, from 1.
        loss: Mean loss of the first worker's batch.
        epoch: Epochs done, fractions included.
        learning_rate: Learning rate of the step.
        density: Fraction of the compressed elements that it was to send.
        bytes_sent: Bytes that the first worker sent.
        step_s: Seconds that the step took.

    Example:
        >>> dt.StepInfo(step=1, loss=2.3).learning_rate is None
        True
    """

    step: int
    loss: float
    epoch: float | None = None
    learning_rate: float | None = None
    density: float | None = None
    bytes_sent: float | None = None
    step_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationInfo:
    """Quality on the test set.

    Attributes:
        step: Number of steps done.
        metric: ``accuracy``, ``perplexity`` or ``loss``.
        value: Its value.
        epoch: Epochs done.
    """

    step: int
    metric: str
    value: float
    epoch: float | None = None


class Callback(Protocol):
    """An object that is told about every step.

    It may have two more methods: ``on_evaluation(evaluation: EvaluationInfo)``, called after each
    evaluation, and ``close()``, called once, at the end or after a failure.
    """

    def on_step(self, step: StepInfo) -> None:
        """Note a step, in the order of steps."""


class Callbacks:
    """Several callbacks in one; `open_logs` makes it.

    One that fails is warned of and left out from then on: no log ends a training.

    Args:
        callbacks: In the order in which they are told.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_step(self, step: StepInfo) -> None:
        """Tell all about a step."""
        self._tell(lambda callback: callback.on_step(step))

    def on_evaluation(self, evaluation: EvaluationInfo) -> None:
        """Tell those about an evaluation that want to know."""
        self._tell(lambda callback: _call(callback, "on_evaluation", evaluation))

    def close(self) -> None:
        """Close those that can be closed; nothing is told afterwards."""
        self._tell(lambda callback: _call(callback, "close"))
        self._callbacks = []

    def _tell(self, tell: Callable[[Callback], None]) -> None:
        for callback in list(self._callbacks):
            try:
                tell(callback)
            except PASSED_ON:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever a logger of others raises
                self._callbacks.remove(callback)
                warnings.warn(
                    f"{type(callback).__name__} is left out from here on, and its log is not "
                    f"complete: {type(error).__name__}: {error}",
                    stacklevel=4,
                )


def _call(callback: Callback, name: str, *args: object) -> None:
    method = getattr(callback, name, None)
    if method is not None:
        method(*args)
