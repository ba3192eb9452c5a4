"""Progress of simulations that take long, for whoever waits for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from dgc_topo.schedule import Schedule

#: Function of the number of steps that were begun so far, and of all steps.
Listener = Callable[[int, int], None]

_FIRST_S, _EVERY_S = 2.0, 0.25  # seconds until a listener is first told, and between two calls
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def watching(listener: Listener) -> Iterator[None]:
    """Tell *listener* of the progress of simulations inside that take longer than two seconds."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class StepWatch:
    """Count of the steps that a simulation has begun.

    Args:
        schedules: Schedules that are run one after the other.
    """

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self._listener = _listener.get()
        self._schedules = schedules
        self._done, self._total = 0, -1
        self._due_s = time.monotonic() + _FIRST_S

    def note(self, count: int = 1) -> None:
        """Note that so many steps more were begun."""
        self._done += count
        if self._listener is None or time.monotonic() < self._due_s:
            return
        if self._total < 0:
            self._total = sum(_count_steps(schedule) for schedule in self._schedules)
        self._listener(min(self._done, self._total), self._total)
        self._due_s = time.monotonic() + _EVERY_S


def _count_steps(schedule: Schedule) -> int:
    """Return the number of steps; one rank's view has all of them, and is read fast."""
    return sum(1 for _ in schedule.steps_of(np.zeros(1, np.int64)))
