"""The ranks that save and load checkpoints of a loop of one's own together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Self, TypeVar

import torch
import torch.distributed as dist

from dgc_topo.liveness import current
from dgc_topo.runtime.breaking import break_waits
from dgc_topo.training.waiting import Waits
from dgc_topo.workers.group import Worker

T = TypeVar("T")

#: In log lines, for scripts in which rank 0 alone comes here.
_WHERE = "dt.save or dt.load, which every rank calls"


class Peers:
    """The ranks of the default process group, or this process alone.

    Args:
        doing: Phase that this process notes for as long as the block lasts.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.world_size = (
            (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        )
        self._worker = _worker() if together else None
        self._waits = Waits(_WHERE, self.rank, look=_break_if_lost)

    def __enter__(self) -> Self:
        current().note(self._doing)
        return self

    def __exit__(self, *_: object) -> None:
        current().note("computing")

    def gather(self, kind: type[T], own: Sequence[T], what: str) -> list[T]:
        """See `World.gather`."""
        if self._worker is None:
            return list(own)
        current().note(f"{what} in {_WHERE}")
        with self._waits.one(None):
            found = self._worker.gather(list[kind], list(own), what)  # type: ignore[valid-type]
        current().note(self._doing)
        return [value for values in found for value in values]


def _break_if_lost() -> None:
    """End a wait in the default group, which nobody else watches, once a rank is lost."""
    if current().loss is not None:
        break_waits()


def _worker() -> Worker:
    cuda = dist.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return Worker(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        device=device,
        timeout=timedelta(minutes=1),
        tell=lambda _: None,
        network="unknown",
        interface=None,
        time_scale=1.0,
    )
