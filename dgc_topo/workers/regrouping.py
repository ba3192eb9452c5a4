"""Going on without lost ranks: the launcher's word, and the survivors' new process group.

The launcher sees who is gone, so it decides for all: nobody has to agree with anybody.  It names
the survivors, each of them says that it is back, and when all have, they join a new group.  If one
is lost meanwhile, that begins again with those that are left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.distributed as dist

from dgc_topo.runtime.breaking import break_waits

_WORD_WITHIN_S = 10.0  # from the launcher, about the loss that a survivor has met


class Regroup(NamedTuple):
    """The launcher's order to go on.

    Attributes:
        group: Number of the new process group.
        living: Ranks that are left, as the launcher counts them.
        rendezvous: Name of the file where they meet.
        descriptors: Of that file, if it has no name.
    """

    group: int
    living: tuple[int, ...]
    rendezvous: str | None
    descriptors: Sequence[int]


class Regrouping:
    """One process's ear for the launcher while it works.

    Args:
        say_back: Tells the launcher that this process is ready to join a group of that number.
    """

    def __init__(self, say_back: Callable[[int], None]) -> None:
        self._say_back = say_back
        self._changed = threading.Condition()
        self._order: Regroup | None = None
        self._joined = self._complete = 0

    def hear(self, order: Any, descriptors: Sequence[int]) -> bool:
        """Take an order, in another thread than the one that works; False if it is another's."""
        if not isinstance(order, dict) or not {"living", "complete"} & order.keys():
            return False
        with self._changed:
            if "living" in order:
                named = order["group"], tuple(order["living"]), order["rendezvous"]
                self._order = Regroup(*named, descriptors)
            else:
                self._complete = order["complete"]
            self._changed.notify_all()
        if "living" in order and dist.is_initialized():
            break_waits()
        return True

    def meet(self) -> Regroup | None:
        """Return the order to go on once all survivors are back; None if the launcher says nothing.

        It is for the thread that works, after its waits have failed.
        """
        with self._changed:
            while True:
                if not self._changed.wait_for(self._is_new, _WORD_WITHIN_S):
                    return None
                assert self._order is not None
                order, self._joined = self._order, self._order.group
                self._say_back(order.group)
                self._changed.wait_for(lambda: self._is_new() or self._is_complete())
                if not self._is_new():
                    return order

    def _is_new(self) -> bool:
        return self._order is not None and self._order.group > self._joined

    def _is_complete(self) -> bool:
        return self._complete == self._joined
