"""The sentinel: a small process beside a rank that tells the other ranks when it is lost.

It is a process of its own, because a thread would be silent while a computation holds the
interpreter's lock, or be frozen with the rest.  It sees the rank's end by the kernel's word, and a
stop in the process table.  Sentinels talk to each other in lines of JSON: a word twice a second,
and every loss that they learn of, which they pass on.  So all ranks name the same one.
"""

from __future__ import annotations

import errno
import os
import secrets
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NamedTuple

from dgc_topo.liveness.board import Board
from dgc_topo.liveness.links import PeerLink
from dgc_topo.liveness.loss import Ended, Loss, Position
from dgc_topo.liveness.processes import LOOK_EVERY_S, STOPPED, StopCounter

#: Tells the sentinel the token of the run.
TOKEN_VARIABLE = "DGC_TOPO_LIVENESS_TOKEN"

_WORD_EVERY_S = 0.5
_SILENT_S = 4.0  # after which a peer that said nothing is lost
_LINGER_S = 1.0  # for peers to read the last words
_MOST_STRANGERS = 64  # connections that have not said yet who they are
_GONE = "its process is gone"


class Duty(NamedTuple):
    """Orders that a sentinel is started with.

    Attributes:
        rank: Of the process to watch, the parent of this one.
        world_size: Number of ranks.
        parent: Process id of the parent.
        token: Text that ranks of this run know.
    """

    rank: int
    world_size: int
    parent: int
    token: str


class Sentinel:
    """See the module.

    Args:
        duty: Whom it watches.
        owner: Connection to the watched process, which says whom to dial, and hears of losses.
        listener: Socket where other sentinels connect.
        board: Where the watched process notes what it does, in its only row.
    """

    def __init__(self, duty: Duty, owner: PeerLink, listener: socket.socket, board: Board) -> None:
        self._duty, self._owner, self._listener, self._board = duty, owner, listener, board
        self._links: list[PeerLink] = []
        self._dialled: dict[PeerLink, tuple[str, int]] = {}
        self._to_dial: dict[int, tuple[str, int]] = {}
        self._losses: dict[int, Loss] = {}
        self._ended: list[Ended] = []  # which may be why this one fails
        self._accepted = 0  # losses that the watched process has chosen to go on without
        self._stops = StopCounter()
        self._leaving = False
        self._parent: int | None = None
        self._last_word_s = self._last_tick_s = time.monotonic()
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._welcome)
        self._selector.register(owner.connection, selectors.EVENT_READ, self._obey)

    def serve(self) -> None:
        """Watch until the parent has ended or has let this go."""
        try:
            self._parent = os.pidfd_open(self._duty.parent)
            self._selector.register(self._parent, selectors.EVENT_READ, self._mourn)
        except ProcessLookupError:
            self._mourn()
        if os.getppid() != self._duty.parent:
            self._mourn()
        while not self._leaving:
            self._wait(LOOK_EVERY_S)
            if time.monotonic() - self._last_tick_s >= LOOK_EVERY_S:
                self._tick()
        self._leave()

    def _wait(self, longest_s: float) -> None:
        for key, _ in self._selector.select(longest_s):
            if isinstance(key.data, PeerLink):
                self._attend(key.data)
            else:
                key.data()

    def _tick(self) -> None:
        """Look at the parent, say a word, and count the silence of others."""
        now = time.monotonic()
        # An observer that was not awake has not listened.
        listened_s = min(now - self._last_tick_s, 2 * LOOK_EVERY_S)
        self._last_tick_s = now
        if self._stops.look(self._duty.parent) and self._parent is not None:
            self._lose(Loss(self._duty.rank, self._board.read(0), "frozen", STOPPED))
            # The others go on without it: it must not wake up, and its launcher is to know.
            signal.pidfd_send_signal(self._parent, signal.SIGKILL)
        for link in self._met():
            link.silence_s += listened_s
            if link.silence_s > _SILENT_S and not link.has_left:
                self._lose_silent(link)
        if now - self._last_word_s >= _WORD_EVERY_S:
            self._last_word_s = now
            word = {"at": _as_json(self._board.read(0))}
            for link in self._met():
                link.send(word, may_drop=True)
            for rank in list(self._to_dial):
                self._dial(rank, *self._to_dial.pop(rank))

    def _met(self) -> list[PeerLink]:
        """Return the links to ranks, and not those of strangers, who are told nothing."""
        return [link for link in self._links if link.rank is not None]

    def _lose_silent(self, link: PeerLink) -> None:
        assert link.rank is not None
        what = f"no word for {link.silence_s:.1f} s: it is frozen, or its machine or network down"
        self._lose(Loss(link.rank, link.place, "silent", what))

    def _lose(self, loss: Loss) -> None:
        """Tell everyone of a loss, once."""
        if loss.rank in self._losses:
            return
        self._losses[loss.rank] = loss
        for link in [self._owner, *self._met()]:
            link.send({"loss": loss.to_json()})

    def _mourn(self) -> None:
        """Tell of the parent's end, unless it has taken its leave or ended because of another's."""
        if self._parent is not None:
            self._selector.unregister(self._parent)
            self._parent = None
        self._obey()  # its last words
        if not self._leaving and len(self._losses) == self._accepted:
            self._lose(Loss(self._duty.rank, self._board.read(0), "gone", _GONE))
        self._leaving = True

    def _obey(self) -> None:
        """Do what the parent asks."""
        asked = self._owner.read()
        if asked is None:  # it is about to end, and the kernel closes files first
            with suppress(KeyError):
                self._selector.unregister(self._owner.connection)
            return
        for each in asked:
            match each:
                case {"peer": [int(rank), str(host), int(port)]}:
                    self._dial(rank, host, port)
                case {"failed": str(why)} if len(self._losses) == self._accepted:
                    why = "; ".join([*map(str, self._ended[:1]), why])
                    self._lose(Loss(self._duty.rank, self._board.read(0), "failed", why))
                case {"where": True}:
                    places = [[link.rank, _as_json(link.place)] for link in self._met()]
                    self._owner.send({"places": places})
                case {"go on": True}:
                    self._accepted = len(self._losses)
                case {"bye": True}:
                    self._leaving = True

    def _dial(self, rank: int, host: str, port: int) -> None:
        """Begin to connect; if nobody answers, it is tried again, as it is no loss by itself."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            self._to_dial[rank] = host, port
            return
        family, kind, protocol, _, address = found[0]
        link = PeerLink(socket.socket(family, kind, protocol), rank)
        if link.connection.connect_ex(address) not in {0, errno.EINPROGRESS}:
            link.close()
            self._to_dial[rank] = host, port
            return
        self._dialled[link] = host, port
        self._selector.register(link.connection, selectors.EVENT_WRITE, link)

    def _welcome(self) -> None:
        """Accept a connection, whoever it is from."""
        with suppress(OSError):
            connection, _ = self._listener.accept()
            if sum(link.rank is None for link in self._links) >= _MOST_STRANGERS:
                connection.close()
                return
            self._add(PeerLink(connection))

    def _add(self, link: PeerLink) -> None:
        self._links.append(link)
        self._selector.register(link.connection, selectors.EVENT_READ, link)

    def _attend(self, link: PeerLink) -> None:
        """Read from a link, or note that it is connected."""
        if link in self._dialled:
            self._connected(link)
            return
        heard = link.read()
        for value in heard or ():
            if not self._hear(link, value):
                heard = None
                break
        if heard is None:
            self._drop(link)

    def _connected(self, link: PeerLink) -> None:
        address = self._dialled.pop(link)
        self._selector.unregister(link.connection)
        assert link.rank is not None
        if link.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            link.close()
            self._to_dial[link.rank] = address
            return
        self._add(link)
        self._introduce(link)

    def _introduce(self, link: PeerLink) -> None:
        link.send({"hello": self._duty.token, "rank": self._duty.rank})
        link.send({"at": _as_json(self._board.read(0))})
        for loss in self._losses.values():
            link.send({"loss": loss.to_json()})

    def _hear(self, link: PeerLink, value: Any) -> bool:
        """Take in what a peer says; return False if it is nothing that a peer says."""
        if link.rank is None:
            return self._meet(link, value)
        with suppress(ValueError):
            match value:
                case {"at": place}:
                    link.place = Position.from_json(place)
                    return True
                case {"loss": told}:
                    self._lose(Loss.from_json(told))
                    return True
                case {"bye": True}:
                    link.has_left = True
                    self._ended.append(ended := Ended(link.rank, link.place))
                    self._owner.send({"ended": asdict(ended)})
                    return True
                case {"hello": str()}:
                    return True
        return False

    def _meet(self, link: PeerLink, value: Any) -> bool:
        match value:
            case {"hello": str(token), "rank": int(rank)}:
                knows = secrets.compare_digest(token.encode(), self._duty.token.encode())
                if knows and 0 <= rank < self._duty.world_size and rank != self._duty.rank:
                    link.rank = rank
                    self._introduce(link)
                    return True
                if knows:  # no member here, which it will hear elsewhere
                    link.send({"bye": True})
        return False

    def _drop(self, link: PeerLink) -> None:
        """Give up a link; a peer that did not take its leave is lost."""
        self._links.remove(link)
        self._selector.unregister(link.connection)
        link.close()
        if link.rank is not None and not link.has_left:
            self._lose(Loss(link.rank, link.place, "gone", _GONE))

    def _leave(self) -> None:
        """Say goodbye, and stay until the others have heard it, those just dialled included."""
        deadline = time.monotonic() + _LINGER_S
        while self._dialled and (left_s := deadline - time.monotonic()) > 0:
            self._wait(left_s)
        place = _as_json(self._board.read(0))  # the last word about it may be old
        for link in self._met():
            link.send({"at": place})
        for link in self._links:
            link.send({"bye": True})
            link.end()
        for connection in self._unread(deadline):
            with suppress(OSError):
                if connection.recv(1 << 14):
                    continue
            self._links = [link for link in self._links if link.connection is not connection]

    def _unread(self, deadline: float) -> Iterator[socket.socket]:
        while self._links and (left_s := deadline - time.monotonic()) > 0:
            with selectors.DefaultSelector() as selector:
                for link in self._links:
                    selector.register(link.connection, selectors.EVENT_READ)
                for key, _ in selector.select(left_s):
                    assert isinstance(key.fileobj, socket.socket)
                    yield key.fileobj


def _as_json(place: Position) -> dict[str, Any]:
    return {"step": place.step, "phase": place.phase}


def main(arguments: Sequence[str]) -> None:
    """Serve; arguments are three descriptors (owner, listener, board), rank, size and parent."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its parent
    owner, listener, board, rank, world_size, parent = map(int, arguments)
    duty = Duty(rank, world_size, parent, os.environ[TOKEN_VARIABLE])
    link = PeerLink(socket.socket(fileno=owner))
    Sentinel(duty, link, socket.socket(fileno=listener), Board(board, 1)).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
