"""Waits for other ranks that last: a word about who is elsewhere, and a look at what they say.

A slow step is no error.  But a rank that has left out a step never comes, and the others would
learn of it only when the time-out has passed.  One that has found that ranks differ does not come
either; it says so elsewhere.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from dgc_topo.liveness import Position, current

_LOG = logging.getLogger("dgc_topo.waiting")
PATIENCE_S = 30.0  #: until the first word; the next ones come after twice as long each
_LOOK_S = 1.0  # from look to look


class Waits:
    """Waits of one thread for other ranks, each with a word in the log if it lasts.

    Args:
        where: Name of the owner.
        rank: Of this process.
        patience_s: Seconds until the first word.
        look: Function that is called about once a second in a wait of more than a second, on a
            thread of its own.
    """

    def __init__(
        self,
        where: str,
        rank: int,
        patience_s: float = PATIENCE_S,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._where, self._rank, self._patience_s = where, rank, patience_s
        self._look = look
        self._step: int | None = None
        self._began_s: float | None = None
        self._next_s = 0.0  # seconds after the beginning
        self._over = Event()
        weakref.finalize(self, self._over.set)
        self._thread: Thread | None = None

    @contextmanager
    def one(self, step: int | None) -> Iterator[None]:
        """Watch the wait inside.

        Args:
            step: Number of the training step; None if it is still the last one, or there is none.
        """
        if self._thread is None:
            arguments = weakref.ref(self), self._over, min(self._patience_s / 3, _LOOK_S)
            self._thread = Thread(target=_watch, args=arguments, name="waits", daemon=True)
            self._thread.start()
        self._step = self._step if step is None else step
        self._next_s, self._began_s = self._patience_s, time.monotonic()
        try:
            yield
        finally:
            self._began_s = None

    def look_if_long(self) -> None:
        """Look at what others say, if the wait has lasted."""
        began_s = self._began_s
        if began_s is not None and time.monotonic() - began_s >= min(self._patience_s, _LOOK_S):
            self._look()

    def tell_if_long(self) -> None:
        """Say who is elsewhere, if it is time to."""
        began_s = self._began_s
        if began_s is None or (lasted_s := time.monotonic() - began_s) < self._next_s:
            return
        self._next_s = 2 * lasted_s
        step, place_here = self._step, Position(self._step)
        others = [
            f"rank {rank} is{place}"
            for rank, place in sorted(current().positions().items())
            if self._where not in place.phase or step not in {None, place.step}
        ]
        told = "; ".join(others) or "those that it hears of wait as well"
        _LOG.warning(
            "%s: rank %d waits%s for %.0f s; %s", self._where, self._rank, place_here, lasted_s,
            told,
        )  # fmt: skip


def _watch(found: weakref.ref[Waits], over: Event, every_s: float) -> None:
    while not over.wait(every_s):
        waits = found()
        if waits is None:
            return
        waits.look_if_long()
        waits.tell_if_long()
        del waits
