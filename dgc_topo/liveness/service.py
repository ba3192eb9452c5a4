"""`Liveness`: what this process notes of itself, and hears of others."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dgc_topo.liveness.board import Board, new_board
from dgc_topo.liveness.loss import Ended, Loss, Position
from dgc_topo.liveness.sentinel import TOKEN_VARIABLE

_LOG = logging.getLogger(__name__)
_START = """
import sys
sys.path.append(sys.argv.pop(1))
from dgc_topo.liveness.sentinel import main
main(sys.argv[1:])
"""
_MOST_ERRORS = 1 << 16  # bytes
_ANSWER_S = 1.0  # for the sentinel to say what it knows
_NEEDED = ("pidfd_open", "memfd_create")  # of Linux


class Liveness:
    """A process's notes; this one hears of nobody.

    Args:
        rank: This process's.
        board: Where it notes what it does; None for nowhere.
        row: Its row there.
    """

    def __init__(self, rank: int = 0, board: Board | None = None, row: int = 0) -> None:
        self.rank = rank
        self._board, self._row, self._step = board, row, None

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The ranks that were lost, the first one first; none are heard of here."""
        return ()

    @property
    def loss(self) -> Loss | None:
        """The first loss that this process has not chosen to go on without."""
        return None

    @property
    def ended(self) -> tuple[Ended, ...]:
        """Ranks that have taken their leave, as far as this one hears of it, the first one first.

        A rank that waits for one of them waits in vain.
        """
        return ()

    def note(self, phase: str, step: int | None = None) -> None:
        """Note what this process does from now on.

        Args:
            phase: Activity, such as ``computing gradients``.
            step: Number of the training step, from 0; None if it is still the last one.
        """
        self._step = self._step if step is None else step  # type: ignore[assignment]
        if self._board is not None:
            self._board.write(self._row, Position(self._step, phase))

    def verdict(self, wait_s: float) -> Loss | None:
        """Return the first loss, after waiting for it if none is known."""
        del wait_s
        return None

    def positions(self) -> dict[int, Position]:
        """Return where other ranks were some half a second ago, as far as this one hears of it."""
        return {}

    def fail(self, why: str) -> None:
        """Tell the others why this process ends."""

    def close(self) -> None:
        """Take leave of the others."""


class Watched(Liveness):
    """A process with a sentinel beside it, which hears of the others' losses.

    Linux only (`is_possible`).

    Args:
        rank: This process's.
        world_size: Number of ranks.
        token: Secret of the run, the same on every rank.
        listener: Listening socket for the other ranks' sentinels; taken over.
    """

    def __init__(self, rank: int, world_size: int, token: str, listener: socket.socket) -> None:
        with new_board(1) as memory:
            super().__init__(rank, Board(memory.fileno(), 1))
            self._channel, theirs = socket.socketpair()
            descriptors = theirs.fileno(), listener.fileno(), memory.fileno()
            folder = str(Path(__file__).parents[2])
            words = [*descriptors, rank, world_size, os.getpid()]
            self._errors = os.memfd_create("dgc-topo-errors")
            with theirs, listener:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _START, folder, *map(str, words)],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    env={**os.environ, TOKEN_VARIABLE: token},  # others can see arguments
                    start_new_session=True,  # signals to this process's group are not for it
                )
        self._losses: list[Loss] = []
        self._ended: list[Ended] = []
        self._positions: dict[int, Position] | None = None
        self._accepted = 0
        self._changed = threading.Condition()
        self._closed = False
        self._acts: list[Callable[[Loss], None]] = []
        self._thread = threading.Thread(target=self._listen, name="liveness", daemon=True)
        self._thread.start()

    @staticmethod
    def is_possible() -> bool:
        """Return True if the system has what this needs."""
        return sys.platform == "linux" and all(hasattr(os, name) for name in _NEEDED)

    @property
    def losses(self) -> tuple[Loss, ...]:
        """See `Liveness.losses`."""
        return tuple(self._losses)

    @property
    def loss(self) -> Loss | None:
        """See `Liveness.loss`."""
        losses = self._losses
        return losses[self._accepted] if len(losses) > self._accepted else None

    @property
    def ended(self) -> tuple[Ended, ...]:
        """See `Liveness.ended`."""
        return tuple(self._ended)

    def verdict(self, wait_s: float) -> Loss | None:
        """See `Liveness.verdict`."""
        with self._changed:
            self._changed.wait_for(lambda: self.loss is not None or self._closed, wait_s)
        return self.loss

    def positions(self) -> dict[int, Position]:
        """See `Liveness.positions`."""
        with self._changed:
            self._positions = None
            self._say({"where": True})
            self._changed.wait_for(lambda: self._positions is not None, _ANSWER_S)
            found: dict[int, Position] | None = self._positions
        return found or {}

    def watch(self, rank: int, host: str, port: int) -> None:
        """Have the sentinel connect to another rank's."""
        self._say({"peer": [rank, host, port]})

    def whenever_lost(self, act: Callable[[Loss], None]) -> None:
        """Have a function called with every loss, in a thread of its own; none is missed."""
        with self._changed:
            before = list(self._losses)
            self._acts.append(act)
        for loss in before:
            act(loss)

    def fail(self, why: str) -> None:
        """See `Liveness.fail`."""
        self._say({"failed": why})

    def go_on(self) -> None:
        """Go on without the ranks lost so far; if this one is lost later, that counts again."""
        self._accepted = len(self._losses)
        self._say({"go on": True})

    def close(self) -> None:
        """See `Liveness.close`; return when the sentinel has ended."""
        self._closed = True
        self._say({"bye": True})
        self._thread.join()
        self._process.wait()
        self._channel.close()
        os.close(self._errors)

    def _say(self, value: Any) -> None:
        with suppress(OSError):  # a sentinel that is gone is noticed by the listening thread
            self._channel.sendall(json.dumps(value).encode() + b"\n")

    def _listen(self) -> None:
        with suppress(OSError):
            for line in self._channel.makefile("rb"):
                match json.loads(line):
                    case {"loss": loss}:
                        self._hear(Loss.from_json(loss))
                    case {"places": places}:
                        self._note_positions(places)
                    case {"ended": ended}:
                        self._ended.append(Ended.from_json(ended))
        if not self._closed:
            said = os.pread(self._errors, _MOST_ERRORS, 0).decode(errors="replace").split("\n")
            why = ": ".join(["the process that watched it is gone", *filter(None, said[-2:])])
            self._hear(Loss(self.rank, Position(), "gone", why))

    def _note_positions(self, places: Any) -> None:
        with self._changed:
            self._positions = {rank: Position.from_json(place) for rank, place in places}
            self._changed.notify_all()

    def _hear(self, loss: Loss) -> None:
        with self._changed:
            self._losses.append(loss)
            self._changed.notify_all()
            acts = list(self._acts)
        if not self._closed:
            _LOG.error("rank %d hears: %s", self.rank, loss)
        for act in acts:
            act(loss)


_PRESENT: list[Liveness] = [Liveness()]


def current() -> Liveness:
    """Return this process's `Liveness`: the one made current last, or one that hears nothing."""
    return _PRESENT[-1]


def make_current(liveness: Liveness) -> None:
    """Make this process's `Liveness` known to all that wait."""
    _PRESENT[:] = [liveness]
