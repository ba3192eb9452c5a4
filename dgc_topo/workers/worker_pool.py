"""The worker processes of one run: starting them, reading their messages, and ending them."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import IO, Any, NamedTuple, Self

from dgc_topo.liveness import STOPPED, Board, Loss, Position, StopCounter, is_stopped
from dgc_topo.workers.children import Starter, nameless_file, python_command, python_environment
from dgc_topo.workers.hosts import Hosts, Process

_POLL_S = 0.2
_GRACE_S = 10.0  # for the other workers to say what they saw, once one has failed
_QUIET_S = 2.0  # after which, if none ends, those that are left have nothing to say
_END_S = 5.0  # between asking a worker to end and killing it
_TAIL_LINES = 30


class LaunchError(RuntimeError):
    """A worker process failed; the text says which one and what it printed.

    Attributes:
        loss: The loss that it came from, if a worker was killed or stopped.
    """

    loss: Loss | None = None


class Message(NamedTuple):
    """A value of some kind that a worker sent."""

    rank: int
    kind: str
    value: Any


class _Member:
    """One worker: its process, our end of the socket that is its standard input, and its log."""

    def __init__(self, process: Process, channel: socket.socket, log: IO[bytes]) -> None:
        self.process, self.channel, self.log = process, channel, log
        self.unfinished = b""
        self.stops = StopCounter()
        self.is_dropped = False

    def printed(self) -> str:
        """Return the text that the worker has printed."""
        # Not by reading on: the worker writes where this file's position is.
        descriptor = self.log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def read(self, rank: int) -> list[Message] | None:
        """Return the messages that have arrived; None if the worker has closed its end."""
        try:
            chunk = self.channel.recv(1 << 16)
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            return None
        *lines, self.unfinished = (self.unfinished + chunk).split(b"\n")
        return [Message(rank, *json.loads(line)) for line in lines]


class WorkerPool:
    """A worker process per rank, each with a channel of JSON lines both ways.

    Args:
        hosts: Position where they run.
        world_size: Number of them.
        module: Module that each of them runs, with the number of processes as its argument.
    """

    def __init__(
        self, hosts: Hosts, world_size: int, module: str = "dgc_topo.workers.worker"
    ) -> None:
        self._hosts, self._world_size, self._module = hosts, world_size, module
        self._members: list[_Member] = []
        self._board: Board | None = None
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        self._starter = Starter()
        try:
            # One by one, so that those already started are known if the next one fails.
            for rank in range(self._world_size):
                self._starter.call(self._start, rank)
                self._selector.register(self._members[rank].channel, selectors.EVENT_READ, rank)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def send(self, rank: int, message: Any, descriptors: Sequence[int] = ()) -> None:
        """Send a JSON value to a worker; one that is gone is noticed by `messages`."""
        channel = self._members[rank].channel
        line = json.dumps(message).encode() + b"\n"
        # What a lost worker's log says is better than what the socket says.
        with suppress(OSError):
            sent = socket.send_fds(channel, [line], descriptors) if descriptors else 0
            channel.sendall(line[sent:])

    def drop(self, rank: int) -> None:
        """End a lost worker for good, and listen to it no more."""
        member = self._members[rank]
        member.process.send_signal(signal.SIGKILL)
        member.process.wait()
        self._selector.unregister(member.channel)
        member.is_dropped = True

    def read_notes(self, board: Board) -> None:
        """Take a worker's position, for errors, from this board; its row is the rank."""
        self._board = board

    def messages(self) -> Iterator[Message]:
        """Yield the messages of workers, for as long as the caller asks.

        Raises:
            LaunchError: if a worker fails, is stopped, or ends while it is listened to.
        """
        while True:
            for key, _ in self._selector.select(_POLL_S):
                heard = self._members[key.data].read(key.data)
                if heard is None:
                    raise self._failure(key.data)
                yield from heard
            for rank, member in enumerate(self._members):
                if not member.is_dropped and member.stops.look(member.process.pid):
                    loss = Loss(rank, self._place(rank), "frozen", STOPPED)
                    raise self._lost(loss, f"worker of {loss}")

    def log(self, rank: int) -> str:
        """Return the text that a worker has printed."""
        return self._members[rank].printed()

    def _start(self, rank: int) -> None:
        command = python_command(self._module, str(self._world_size))
        environment = {**python_environment(), **self._hosts.environment(rank, self._world_size)}
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as undo:
            undo.enter_context(ours)
            log = undo.enter_context(nameless_file())  # nothing is left of it
            process = self._hosts.start(rank, command, environment, theirs.fileno(), log.fileno())
            undo.pop_all()
        # Here, not where it was asked for, which Ctrl-C may have left.
        self._members.append(_Member(process, ours, log))

    def _place(self, rank: int) -> Position:
        known = self._board is not None and rank < self._board.num_rows
        return self._board.read(rank) if known and self._board is not None else Position()

    def _lost(self, loss: Loss, text: str) -> LaunchError:
        tail = self.log(loss.rank).strip().splitlines()[-_TAIL_LINES:]
        error = LaunchError("\n".join([text, *(f"  {line}" for line in tail)]))
        error.loss = loss
        return error

    def _failure(self, first: int) -> LaunchError:
        """Return the error for a worker that closed its channel."""
        with suppress(subprocess.TimeoutExpired):
            self._members[first].process.wait(_POLL_S)
        killed = self._killed(first)
        if killed is not None:
            how = _exit_text(self._members[killed].process.returncode)
            loss = Loss(killed, self._place(killed), "gone", how)
            return self._lost(loss, f"worker of rank {killed} {how}{loss.place}")
        return LaunchError(self._explain_failure(first))

    def _killed(self, first: int) -> int | None:
        """Return the rank of a worker that a signal ended: it is no other's victim."""
        ranks = [first, *range(len(self._members))]
        return next((rank for rank in ranks if self._was_killed(rank)), None)

    def _was_killed(self, rank: int) -> bool:
        member = self._members[rank]
        return not member.is_dropped and (member.process.poll() or 0) < 0

    def _explain_failure(self, first: int) -> str:
        """Say which worker failed first and what the others saw of it."""
        self._wait_for_others()
        processes = [member.process for member in self._members]
        failed = [rank for rank, p in enumerate(processes) if p.returncode is not None]
        if not failed:
            return f"worker of rank {first} closed its channel and went on, expected its result"
        # A killed worker cannot say anything itself, a worker that lost its peer only says so.
        culprit = min(failed, key=lambda rank: (self._lost_its_peer(rank), rank != first, rank))
        parts = [f"worker of rank {culprit} {_exit_text(processes[culprit].returncode)}"]
        tail = self.log(culprit).strip().splitlines()[-_TAIL_LINES:]
        parts += [f"  {line}" for line in tail]
        known = set(tail)  # what all ranks say is said once
        parts += [
            f"rank {rank} did not answer and was ended"
            for rank, process in enumerate(processes)
            if process.returncode is None
        ]
        for rank in failed:
            lines = self.log(rank).strip().splitlines()
            if rank != culprit and lines and lines[-1] not in known:
                parts.append(f"rank {rank}: {lines[-1]}")
        return "\n".join(parts)

    def _wait_for_others(self) -> None:
        """Look at every worker until all have ended, or none has for a while."""
        deadline = time.monotonic() + _GRACE_S
        last = deadline
        num_ended = 0
        while True:
            speaking = [_is_responsive(member.process) for member in self._members]
            ended = sum(member.process.returncode is not None for member in self._members)
            now = time.monotonic()
            if ended > num_ended:
                num_ended, last = ended, min(deadline, now + _QUIET_S)
            if now >= last or not any(speaking):
                return
            time.sleep(_POLL_S)

    def _lost_its_peer(self, rank: int) -> bool:
        return "PeerError" in self.log(rank)

    def _end(self) -> None:
        """End every worker: let those that are done go, ask, then kill."""
        self._starter.settle()
        self._selector.close()
        for member in self._members:
            member.channel.close()  # an idle worker ends by that
        for member in self._members:
            if member.process.poll() is None:
                member.process.send_signal(signal.SIGCONT)  # a stopped one would not hear the next
                member.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _END_S
        for member in self._members:
            try:
                member.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.send_signal(signal.SIGKILL)
                member.process.wait()
        for member in self._members:
            member.log.close()
        self._members.clear()
        self._starter.close()


def _is_responsive(process: Process) -> bool:
    """Return True if the worker runs, and is not frozen (if the system tells)."""
    return process.poll() is None and not is_stopped(process.pid)


def _exit_text(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"failed with exit status {returncode}"
