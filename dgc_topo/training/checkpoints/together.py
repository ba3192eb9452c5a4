"""Failures of one process, told to all: nobody waits for it, or goes on without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from dgc_topo.training.checkpoints.errors import CheckpointError

T = TypeVar("T")


class Gather(Protocol):
    """Function that gathers the values of all processes, as `World.gather` does."""

    def __call__(self, kind: type[T], own: Sequence[T], what: str) -> list[T]:
        """Return all values, in the order of ranks."""


@contextmanager
def on_all(
    gather: Gather, rank: int, what: str, kind: type[Exception] = CheckpointError
) -> Iterator[None]:
    """Have all processes fail at the end of the block if it fails on one of them.

    Every process enters it.  Where the block failed, its own error stays.

    Args:
        gather: See `Gather`.
        rank: This process's first rank.
        what: Purpose, for errors.
        kind: Of the error where the block did not fail.

    Raises:
        CheckpointError: or *kind*, naming the ranks on which the block failed, and why.
    """
    try:
        yield
    except Exception as error:
        with suppress(RuntimeError):  # of a peer that is lost as well
            gather(str, [f"rank {rank}: {error}"], what)
        raise
    if failed := [text for text in gather(str, [""], what) if text]:
        raise kind("; ".join(failed))
