"""Choice between the bulk engine and the event engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar, get_args

from dgc_topo.simulation.meetings import BulkError

UsedEngine = Literal["bulk", "events"]
#: Engine to use; ``auto`` is ``bulk`` where it is proved to be exact, and faster.
Engine = Literal["auto", "bulk", "events"]

Outcome = TypeVar("Outcome")


def run_engine(
    engine: Engine, bulk: Callable[[], Outcome], events: Callable[[], Outcome]
) -> tuple[UsedEngine, Outcome]:
    """Run one of the engines; return which, and its outcome.

    Args:
        engine: Engine to use.
        bulk: Function that runs the bulk engine.
        events: Function that runs the event engine.

    Raises:
        ValueError: if there is no such engine.
        BulkError: if the bulk engine was demanded but is not proved to be exact.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine {engine!r}: expected one of {', '.join(get_args(Engine))}")
    if engine == "events":
        return "events", events()
    try:
        return "bulk", bulk()
    except BulkError:
        if engine == "bulk":
            raise
    return "events", events()
