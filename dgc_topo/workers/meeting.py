"""Meeting of the ranks that a launcher started: they compare settings before they join.

Rank 0 serves a store.  Every rank writes a statement there: who it is, and what it is about to do.
Rank 0 reads the statements as they come.  It then tells all ranks who the others are or, once it
is sure, why they cannot join.  Only JSON travels.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import register_rendezvous_handler

from dgc_topo.liveness import Loss, current
from dgc_topo.runtime.comparison import RanksDifferError, check_equal
from dgc_topo.runtime.failure import VERDICT_S, in_words
from dgc_topo.workers.machine import machine_id
from dgc_topo.workers.roll_call import telling
from dgc_topo.workers.seat import Seat, meeting_point, seat_from
from dgc_topo.workers.statement import Statement
from dgc_topo.workers.watching import Watching

_POLL_S = 0.02
_LINGER_S = 5.0  # that rank 0, who serves the store, stays for others to hear a refusal
_SCHEME = "dgc-topo"


class MeetingError(RuntimeError):
    """The ranks did not come together; the text says which one is missing."""


#: Watches those who have come; returns the loss of one of them, if there is one.
Tend = Callable[[], Loss | None]


def _tend_nobody() -> None:
    """Watch nobody."""


def meet(
    store: Store, own: Statement, patience_s: float, tend: Tend = _tend_nobody
) -> list[Statement]:
    """Return every rank's statement, by rank, once all have come and agree.

    Args:
        store: Served by rank 0, or for as long as rank 0 lives.
        own: This rank's.
        patience_s: Longest wait for the last one.
        tend: Called again and again while others are waited for.

    Raises:
        RanksDifferError: on every rank that has come, if two of them differ.
        MeetingError: if a rank does not come in time, or one that has come is lost.
    """
    number = store.add("arrivals", 1)
    store.set(f"statement {number}", own.to_json())
    if own.seat.rank == 0:
        _decide_for_all(store, own, patience_s, tend)
    verdict = json.loads(_wait_for(store, "verdict", patience_s, own, tend))
    store.add("heard", 1)
    if "refused" in verdict:
        kind = RanksDifferError if verdict["differ"] else MeetingError
        raise kind(verdict["refused"])
    ranks = [Statement.from_json(text.encode()) for text in verdict["ranks"]]
    _check_among(own, ranks)
    return ranks


def _decide_for_all(store: Store, own: Statement, patience_s: float, tend: Tend) -> None:
    """Read the statements as they come, and give the verdict."""
    ranks: dict[int, Statement] = {}
    try:
        for statement in _arriving(store, patience_s, own, ranks, tend):
            _check_fault(statement)
            _compare(own, statement)
            _check_ticket(statement, ranks.setdefault(statement.seat.rank, statement))
    except (RanksDifferError, MeetingError) as error:
        refusal = {"refused": str(error), "differ": isinstance(error, RanksDifferError)}
        store.set("verdict", json.dumps(refusal))
        _wait_until_heard(store, own.seat.world_size if isinstance(error, RanksDifferError) else 0)
        raise
    table = [ranks[rank].to_json() for rank in range(own.seat.world_size)]
    store.set("verdict", json.dumps({"ranks": table}))


def _arriving(
    store: Store, patience_s: float, own: Statement, ranks: Mapping[int, Statement], tend: Tend
) -> Iterator[Statement]:
    """Yield statements until every rank has come, those of duplicate processes included."""
    deadline = time.monotonic() + patience_s
    number = 1

    def missing() -> str:
        there = set(range(own.seat.world_size)) - ranks.keys()
        return f"{in_words(sorted(there))} of {own.seat.world_size}"

    with telling(lambda: f"joining: rank 0 waits for {missing()}" if _lacks(own, ranks) else ""):
        while (came := store.check([f"statement {number}"])) or _lacks(own, ranks):
            if came:
                yield Statement.from_json(store.get(f"statement {number}"))
                number += 1
            elif time.monotonic() > deadline:
                raise MeetingError(
                    f"nothing from {missing()} within {patience_s:g} s, expected every rank to come"
                )
            else:
                _look_around(tend)


def _lacks(own: Statement, ranks: Mapping[int, Statement]) -> bool:
    return len(ranks) < own.seat.world_size


def _look_around(tend: Tend) -> None:
    """Wait a little, unless one of those who have come is lost."""
    if (loss := tend()) is not None:
        raise MeetingError(f"{loss}, expected every rank to join")
    time.sleep(_POLL_S)


def _check_fault(statement: Statement) -> None:
    if statement.fault is not None:
        raise RanksDifferError(f"rank {statement.seat.rank} does not join: {statement.fault}")


def _compare(own: Statement, other: Statement) -> None:
    """Refuse a rank whose world size or settings are others than one's own."""
    ours = {"WORLD_SIZE": own.seat.world_size, **own.settings}
    theirs = {"WORLD_SIZE": other.seat.world_size, **other.settings}
    check_equal(ours, theirs, own.seat.rank, other.seat.rank)


def _check_among(own: Statement, ranks: Sequence[Statement]) -> None:
    """Refuse to be one of a group that has come together without this process."""
    _compare(ranks[0], own)
    _check_ticket(own, ranks[own.seat.rank])


def _check_ticket(one: Statement, other: Statement) -> None:
    if one.ticket != other.ticket:
        raise RanksDifferError(
            f"ranks differ: RANK is {one.seat.rank} in two processes, on {one.machine} and "
            f"{other.machine}; expected each rank once"
        )


def _wait_for(store: Store, key: str, patience_s: float, own: Statement, tend: Tend) -> bytes:
    # Rank 0 says itself who is missing, so it is given a little more time.
    deadline = time.monotonic() + patience_s + _LINGER_S
    me = f"rank {own.seat.rank}"
    try:
        while not store.check([key]):
            if time.monotonic() > deadline:
                break
            _look_around(tend)
        else:
            found: bytes = store.get(key)
            return found
    except MeetingError:
        raise
    except RuntimeError as error:
        raise _lost_rank_0(own.seat, error) from error
    raise MeetingError(
        f"{me}: nothing from rank 0 within {patience_s:g} s, expected every rank to come"
    )


def _lost_rank_0(seat: Seat, error: RuntimeError) -> MeetingError:
    if (loss := current().verdict(VERDICT_S)) is not None:  # its connections may close first
        return MeetingError(f"{loss}, expected every rank to join")
    return MeetingError(f"rank {seat.rank}: lost rank 0, which serves the meeting point: {error}")


def _wait_until_heard(store: Store, expected: int) -> None:
    """Wait until all ranks have read the verdict, those that may still come included."""
    deadline = time.monotonic() + _LINGER_S
    while store.add("heard", 0) < max(store.add("arrivals", 0), expected) - 1:
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL_S)


@contextmanager
def announcing_failure() -> Iterator[None]:
    """If an error ends the block, tell the ranks that wait for this one why it does not come.

    They have some seconds to read it; then the error is raised in any case.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        with suppress(ValueError, RuntimeError):
            _announce(str(error))
        raise


def _announce(fault: str) -> None:
    seat = seat_from()
    if seat.world_size > 1:
        store = _open_store(seat, timedelta(seconds=_LINGER_S))
        own = Statement(seat, machine_id(), fault=fault)
        meet(PrefixStore("meeting", store), own, _LINGER_S)


class Meeting:
    """A meeting that `torch.distributed.init_process_group` holds before it makes a group.

    Args:
        seat: This process's.
        state: Function that makes this process's statement.
        decide: Function of every rank's statement; an error that it raises ends the joining.
        patience: Longest wait for the last rank.

    Attributes:
        store: Store where the ranks met; None before.
    """

    def __init__(
        self,
        seat: Seat,
        state: Callable[[], Statement],
        decide: Callable[[list[Statement]], None],
        patience: timedelta,
    ) -> None:
        self._seat, self._state, self._decide = seat, state, decide
        self._patience = patience
        self.store: Store | None = None
        _MEETINGS[str(id(self))] = self  # for as long as this is held elsewhere, too

    @property
    def url(self) -> str:
        """The *init_method* for `init_process_group`."""
        return f"{_SCHEME}://{id(self)}"

    def hold(self) -> Store:
        """Return the store of the ranks that have met."""
        store = _open_store(self._seat, self._patience)
        self.store = PrefixStore("group", store)
        own, patience_s = self._state(), self._patience.total_seconds()
        master, _ = meeting_point()
        watching = Watching(PrefixStore("liveness", store), own.seat, master)
        with _naming_rank_0(own.seat):
            watching.begin(self._patience)
        try:
            found = meet(PrefixStore("meeting", store), own, patience_s, watching.tend)
        except (RanksDifferError, MeetingError):
            watching.leave()
            raise
        with _naming_rank_0(own.seat):
            watching.complete(self._patience)
        self._decide(found)
        return self.store


@contextmanager
def _naming_rank_0(seat: Seat) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _lost_rank_0(seat, error) from error


_MEETINGS: WeakValueDictionary[str, Meeting] = WeakValueDictionary()


def _hold(url: str, **_: object) -> Iterator[tuple[Store, int, int]]:
    meeting = _MEETINGS[urlsplit(url).netloc]
    seat = meeting._seat  # noqa: SLF001 - of this module
    yield meeting.hold(), seat.rank, seat.world_size


register_rendezvous_handler(_SCHEME, _hold)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _open_store(seat: Seat, patience: timedelta) -> Store:
    """Return the store that rank 0 serves, or torchrun where it has one for its workers."""
    address, port = meeting_point()
    given = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = seat.rank == 0 and not given
    who = "torchrun" if given else "rank 0"
    waits = f"joining: rank {seat.rank} waits for {who} at {address}, port {port}"
    try:
        with telling(lambda: waits):
            store = TCPStore(
                address,
                port,
                is_master=serves,
                timeout=patience,
                wait_for_workers=False,
                multi_tenant=True,
            )
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        what = "cannot be served (a second rank 0, or another run?)" if serves else "is not there"
        raise MeetingError(
            f"rank {seat.rank}: the meeting point {address}, port {port} (MASTER_ADDR, "
            f"MASTER_PORT) {what}: {first}"
        ) from error
    # torchrun's store outlives the processes that it starts again.
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
