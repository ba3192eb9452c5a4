"""Roll calls: whoever has not come is named, in the log at first, and in the error at last."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore, TCPStore

from dgc_topo.liveness import Liveness, Loss, Position, current, make_current
from dgc_topo.workers import roll_call
from dgc_topo.workers.roll_call import RollCall, RollCallError, telling

RANKS = (2, 3, 5)  # those of a group, as the whole job numbers them
PATIENCE = timedelta(seconds=60)


def call(store: Any, rank: int, first_word_s: float = 0.05) -> RollCall:
    return RollCall(store, rank, RANKS, "hook", first_word_s)


def together(calls: Sequence[Callable[[], None]]) -> list[Any]:
    def outcome(each: Callable[[], None]) -> Any:
        try:
            return each()
        except RollCallError as error:
            return str(error)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))


def test_the_first_that_has_come_names_who_has_not(caplog):
    store = HashStore()

    def late() -> None:
        while len(caplog.records) < 2:
            time.sleep(0.01)
        call(store, 3).hold(PATIENCE)

    held = [lambda rank=rank: call(store, rank).hold(PATIENCE) for rank in (2, 5)]
    assert together([*held, late]) == [None] * 3
    said = [record.getMessage() for record in caplog.records]
    assert all(
        text.startswith("hook: rank 2 waits for rank 3, which has not come here, for ")
        for text in said
    )


def test_who_never_comes_is_named_by_all_others():
    store = HashStore()
    short = timedelta(seconds=0.2)
    held = [lambda: call(store, 3).hold(short)]
    expected = (
        "hook: rank 3: nothing from ranks 2, 5 within 0.2 s, expected all 3 ranks to come here"
    )
    assert together(held) == [expected]
    # To hold it again, as in a notebook after an interruption, counts nobody twice.
    assert together([*held, lambda: call(store, 2).hold(short)]) == [
        f"hook: rank {rank}: nothing from rank 5 within 0.2 s, expected all 3 ranks to come here"
        for rank in (3, 2)
    ]
    assert together([*held, lambda: call(store, 5).hold(PATIENCE)]) == [None, None]


class Told(Liveness):
    """Hears that rank 5 is frozen."""

    @property
    def loss(self):
        return Loss(5, Position(3, "computing"), "frozen", "stopped by a signal")

    def verdict(self, wait_s):
        del wait_s
        return self.loss


@pytest.fixture
def told(monkeypatch):
    before = current()
    monkeypatch.setattr(roll_call, "break_connections", lambda: None)  # those of the tests
    make_current(Told())
    yield
    make_current(before)


def test_a_loss_ends_it(told):
    (text,) = together([lambda: call(HashStore(), 2).hold(PATIENCE)])
    assert text.startswith("hook: rank 2: rank 5 is frozen in training step 3, while computing")


def test_a_store_that_is_gone_ends_it_with_words():
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = TCPStore("127.0.0.1", server.port, is_master=False)

    def leave() -> None:
        nonlocal server
        server.wait(["2"], PATIENCE)
        del server

    found = together([lambda: call(store, 2).hold(PATIENCE), leave])
    assert "the store at which the process group met is gone" in found[0]


def test_a_store_that_does_not_answer_is_named(caplog, monkeypatch):
    monkeypatch.setattr(roll_call, "_DEAF_S", 0.05)

    class Silent:
        def check(self, keys: Sequence[str]) -> bool:
            while not caplog.records:
                time.sleep(0.01)
            raise RuntimeError("recvValue failed")

    (text,) = together([lambda: call(Silent(), 2).hold(PATIENCE)])
    assert "waits for the store at which the process group met, whose process is silent" in (
        caplog.records[0].getMessage()
    )
    assert text.endswith("recvValue failed, expected all 3 ranks to come here")


def test_a_short_wait_says_nothing_and_a_long_one_less_and_less(caplog):
    with telling(lambda: "waits", 60):
        pass
    with telling(lambda: "", 0.01):
        time.sleep(0.05)
    assert not caplog.records
    with telling(lambda: "waits", 0.01):
        time.sleep(0.5)
    assert 2 <= len(caplog.records) <= 6
