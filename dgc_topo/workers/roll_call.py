"""Roll calls: ranks come to one place in their script, and the log says who has not come yet.

A process group that its script made itself is watched only once all ranks have made their hook or
optimizer.  Until then a rank that is frozen, or somewhere else, would keep the others waiting
without a word.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread

from torch._C._distributed_c10d import Store

from dgc_topo.liveness import current
from dgc_topo.runtime.breaking import break_connections
from dgc_topo.runtime.failure import VERDICT_S, in_words

_LOG = logging.getLogger("dgc_topo.waiting")
FIRST_WORD_S = 4.0  #: of a wait; the next ones come after twice as long each
_SHORTEST_S, _LONGEST_S = 0.002, 0.2  # between two looks for the others
_LOOK_S = 0.25  # between two for what is to be told
_DEAF_S = 2.0  # after which a store counts as silent
_CAME = "came"


class RollCallError(RuntimeError):
    """Ranks did not come together; the text names them."""


@contextmanager
def telling(
    what: Callable[[], str], first_word_s: float = FIRST_WORD_S, *, breaks: bool = False
) -> Iterator[None]:
    """Log what the block waits for, if it lasts, and then now and then.

    Args:
        what: Function that returns it in words, or nothing where others say it; called on a thread
            of its own, also while this one is blocked in torch.
        first_word_s: Seconds until the first word.
        breaks: True if the loss of a rank closes all connections of this process, and so ends the
            block: torch may wait in it for a store, or for a peer.
    """
    over, began_s = Event(), time.monotonic()

    def watch() -> None:
        next_s = first_word_s
        while not over.wait(min(first_word_s, _LOOK_S)):
            if breaks and current().loss is not None:
                break_connections()
                return
            if time.monotonic() - began_s >= next_s:
                if text := what():
                    _LOG.warning("%s, for %.0f s so far", text, time.monotonic() - began_s)
                next_s *= 2

    Thread(target=watch, name="roll call", daemon=True).start()
    try:
        yield
    finally:
        over.set()


class RollCall:
    """One rank's part in a roll call.

    Args:
        store: Where ranks say that they have come, and nothing else; best empty before.
        rank: This process's.
        ranks: All that have to come.
        what: What calls them, for the log and errors.
        first_word_s: See `telling`.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        ranks: Sequence[int],
        what: str,
        first_word_s: float = FIRST_WORD_S,
    ) -> None:
        self._store, self._rank, self._ranks, self._what = store, rank, ranks, what
        self._first_word_s = first_word_s
        self._heard_s = time.monotonic()

    def hold(self, patience: timedelta) -> None:
        """Return when all have come.

        The first of those that have come says in the log who has not.  To hold it again after it
        was interrupted does no harm.

        Raises:
            RollCallError: naming a rank that is lost, or those that have not come in time.
        """
        if len(self._ranks) == 1:
            return
        try:
            with telling(self._state, self._first_word_s, breaks=True):
                self._come()
                self._wait(patience.total_seconds())
        except RollCallError:
            raise
        except RuntimeError as error:
            loss, first = current().verdict(VERDICT_S), str(error).partition("\n")[0]
            gone = f"the store at which the process group met is gone, with who serves it: {first}"
            raise self._error(gone if loss is None else str(loss)) from error

    def _come(self) -> None:
        if not self._store.check([str(self._rank)]):
            self._store.set(str(self._rank), "")
            self._store.add(_CAME, 1)

    def _wait(self, longest_s: float) -> None:
        began_s, pause_s = time.monotonic(), _SHORTEST_S
        while self._store.add(_CAME, 0) < len(self._ranks):
            self._heard_s = time.monotonic()
            if (loss := current().loss) is not None:
                raise self._error(str(loss))
            if self._heard_s - began_s > longest_s:
                missing = in_words(self._missing())
                raise self._error(f"nothing from {missing} within {longest_s:g} s")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_S)

    def _missing(self) -> list[int]:
        return [rank for rank in self._ranks if not self._store.check([str(rank)])]

    def _state(self) -> str:
        """Return what this rank waits for; nothing if one before it has come, and says it."""
        waits = f"{self._what}: rank {self._rank} waits for"
        if time.monotonic() - self._heard_s > _DEAF_S:
            return f"{waits} the store at which the process group met, whose process is silent"
        try:
            before = self._ranks[: self._ranks.index(self._rank)]
            if any(self._store.check([str(rank)]) for rank in before):
                return ""
            missing = self._missing()
        except RuntimeError:  # the store is gone, which ends the wait
            return ""
        come = "has" if len(missing) == 1 else "have"
        return f"{waits} {in_words(missing)}, which {come} not come here" if missing else ""

    def _error(self, why: str) -> RollCallError:
        return RollCallError(
            f"{self._what}: rank {self._rank}: {why}, expected all {len(self._ranks)} ranks to "
            "come here"
        )
