"""Sentinels name the rank that is lost, and all of them the same one."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

from dgc_topo.liveness import Board, Position, Watched, new_board
from dgc_topo.workers.watching import neighbours

pytestmark = pytest.mark.skipif(not Watched.is_possible(), reason="needs Linux")

PATIENCE_S = 30  # for a machine that others use; a loss is heard of within 5 s on a quiet one

RANK = """
import json, socket, sys
from dgc_topo.liveness import Watched
rank, world_size, *ports = map(int, sys.argv[2:])
listener = socket.create_server(("127.0.0.1", ports[rank]))
watched = Watched(rank, world_size, sys.argv[1], listener)
watched.note("computing gradients", 7)
for peer in range(rank):
    watched.watch(peer, "127.0.0.1", ports[peer])
def hear():
    loss = watched.verdict(60)
    return loss and loss.to_json()
for line in sys.stdin:
    do, *arguments = json.loads(line)
    acts = {"hear": hear, "go on": watched.go_on,
            "where": lambda: {n: str(at) for n, at in watched.positions().items()},
            "note": watched.note, "fail": watched.fail, "close": watched.close,
            "ended": lambda: list(map(str, watched.ended)),
            "loss": lambda: str(watched.loss)}
    print(json.dumps(acts[do](*arguments)), flush=True)
"""


class Rank:
    """A process that does what it is told, and its sentinel."""

    def __init__(self, rank: int, ports: list[int], token: str = "secret") -> None:
        words = [token, str(rank), str(len(ports)), *map(str, ports)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RANK, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def tell(self, *order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def do(self, *order: Any) -> Any:
        self.tell(*order)
        return self.answer()

    @property
    def sentinel(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child


@contextmanager
def ranks(number: int) -> Iterator[list[Rank]]:
    """Start ranks whose sentinels are all connected; none of either is left."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    found = [Rank(rank, ports) for rank in range(number)]
    sentinels = []
    try:
        for rank in found:
            rank.do("loss")
        sentinels = [rank.sentinel for rank in found]
        until(lambda: all(num_links(each) == number - 1 for each in sentinels))
        yield found
    finally:
        for rank in found:
            rank.process.kill()
            rank.process.communicate()
        for sentinel in sentinels:
            if sentinel.is_running():
                sentinel.resume()
    assert psutil.wait_procs(sentinels, timeout=PATIENCE_S)[1] == []


def num_links(sentinel: psutil.Process) -> int:
    return sum(each.status == "ESTABLISHED" for each in sentinel.net_connections("tcp"))


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def heard_by(survivors: list[Rank]) -> list[Any]:
    for each in survivors:
        each.tell("hear")
    return [each.answer() for each in survivors]


def test_a_rank_can_ask_where_the_others_are():
    with ranks(3) as (zero, one, two):
        one.do("note", "averaging", 8)
        expected = {"1": " in training step 8, while averaging"}
        expected["2"] = " in training step 7, while computing gradients"
        until(lambda: zero.do("where") == expected)
        two.do("close")
        two.process.kill()
        assert zero.do("where")["1"] == expected["1"]


PLACE = {"step": 7, "phase": "computing gradients"}


def test_who_ends_early_is_named_where_others_fail_because_of_it():
    with ranks(3) as (zero, one, two):
        until(
            lambda: (
                zero.do("where")
                == {str(rank): " in training step 7, while computing gradients" for rank in (1, 2)}
            )
        )
        one.do("note", "computing", 9)  # just before, so that no word has told it yet
        one.do("close")
        one.process.kill()
        until(lambda: list(zero.do("where")) == ["2"])
        zero.do("fail", "RuntimeError: connection closed")
        place = "in training step 9, while computing"
        assert zero.do("ended") == [f"rank 1 has ended {place}, without an error"]
        said = f"rank 1 has ended {place}, without an error; RuntimeError: connection closed"
        heard = {"rank": 0, "place": PLACE, "fate": "failed", "detail": said}
        assert heard_by([zero, two]) == [heard] * 2


def test_who_is_killed_then_frozen_is_named_by_all():
    with ranks(5) as found:
        first, second, third, fourth, fifth = found
        third.process.kill()
        gone = {"rank": 2, "place": PLACE, "fate": "gone", "detail": "its process is gone"}
        survivors = [first, second, fourth, fifth]
        assert heard_by(survivors) == [gone] * 4
        # They end because of it, or go on; only who goes on is a loss of its own later.
        second.process.kill()
        for each in (first, fourth, fifth):
            each.do("go on")
        first.process.send_signal(signal.SIGSTOP)
        frozen = heard_by([fourth, fifth])
        assert frozen[0] == frozen[1]
        assert (frozen[0]["rank"], frozen[0]["fate"], frozen[0]["place"]) == (0, "frozen", PLACE)
        assert first.process.wait(PATIENCE_S) == -signal.SIGKILL  # it must not wake up


def test_a_rank_whose_machine_says_nothing_is_named_like_one_that_says_why():
    with ranks(3) as found:
        found[1].sentinel.suspend()  # and so is heard of no more
        silent = heard_by([found[0], found[2]])
        assert silent[0]["rank"] == silent[1]["rank"] == 1
        assert silent[0]["fate"] == "silent"
        assert silent[0]["place"] == PLACE
        for each in (found[0], found[2]):
            each.do("go on")
        found[2].do("fail", "ValueError: no such topology")
        (said,) = heard_by([found[0]])
        assert said["rank"] == 2
        assert said["detail"] == "ValueError: no such topology"


def test_who_takes_leave_is_no_loss_and_strangers_are_not_heard():
    with ranks(3) as found:
        (port,) = {
            each.laddr.port
            for each in found[0].sentinel.net_connections("tcp")
            if each.status == "LISTEN"
        }
        lie = {"rank": 1, "place": PLACE, "fate": "gone", "detail": "a lie"}
        for said, answer in (
            ([{"loss": lie}], b""),
            ([{"hello": "guessed", "rank": 1}, {"loss": lie}], b""),
            ([{"hello": "secret", "rank": 7}, {"loss": lie}], b'{"bye": true}\n'),
        ):
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as stranger:
                stranger.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in said))
                with stranger.makefile("rb") as heard:
                    assert heard.read() == answer  # and shown the door
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as stranger:
            stranger.sendall(b"[" * 8192)
            assert_closed(stranger)
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as stranger:
            found[1].do("close")
            found[1].process.kill()
            found[1].process.wait()
            stranger.settimeout(2)  # longer than sentinels keep silent
            with pytest.raises(TimeoutError):  # who says nothing is told nothing
                stranger.recv(1)
        assert [each.do("loss") for each in (found[0], found[2])] == ["None"] * 2


def assert_closed(stranger: socket.socket) -> None:
    with suppress(ConnectionResetError):
        assert stranger.recv(1) == b""


@pytest.mark.parametrize("world_size", [2, 3, 4, 7, 8, 33])
def test_news_reaches_all_even_if_any_one_rank_is_dumb(world_size: int):
    for dumb in range(world_size):
        reached, new = set(), {(dumb + 1) % world_size}
        while new:
            reached |= new
            new = {to for each in new for to in neighbours(each, world_size)} - reached - {dumb}
        assert len(reached) == world_size - 1
    for rank in range(world_size):
        around = neighbours(rank, world_size)
        assert all(rank in neighbours(other, world_size) for other in around)


def test_a_board_shows_the_last_note_whatever_its_length():
    with new_board(2) as memory:
        writer, reader = Board(memory.fileno(), 2), Board(memory.fileno(), 2)
    assert reader.read(1) == Position()
    for step, phase in enumerate(["a", "ö" * 1000, "c" * 5, ""]):
        writer.write(1, Position(step, phase))
        assert reader.read(1).step == step
        assert phase.startswith(reader.read(1).phase[:20])
    assert reader.read(0) == Position()
