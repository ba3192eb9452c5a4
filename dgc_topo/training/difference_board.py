"""`DifferenceBoard`: the place where ranks that turn out to differ say what they are at.

Ranks that are part of one sum notice in the same exchange that they differ.  Over gossip, only
those notice that hear from the odd one; the others wait for them in one of the next exchanges.  So
nobody sends or gathers: who notices writes what it is at into the group's store, those that wait
look there once a second, and do the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed import distributed_c10d

from dgc_topo.runtime.comparison import RanksDifferError, check_all_equal

PATIENCE_S = 8.0  #: for the others' word; one that waits looks after a second, and breaks its wait
_LEAVE_S = 2.0  # for the others to read, as the store may end with this process
_POLL_S = 0.01
_COUNT, _READ = "ranks that have told", "ranks that have read"


class DifferenceBoard:
    """Words of the ranks of a group about themselves.

    Args:
        group: The process group.
        patience_s: Seconds to wait for the other ranks' word.
    """

    def __init__(self, group: dist.ProcessGroup, patience_s: float = PATIENCE_S) -> None:
        store = distributed_c10d._get_default_store()  # noqa: SLF001  # groups have no other
        self._store = PrefixStore(f"dgc-topo differences/{group.group_name}", store)
        self._rank, self._world_size = group.rank(), group.size()
        self._patience_s = patience_s

    def are_told(self) -> bool:
        """Return True if a rank has found that ranks differ."""
        with suppress(RuntimeError):  # the store has ended, with the first rank
            return bool(self._store.check([_COUNT]))
        return False

    def tell(self, where: str, settings: Mapping[str, Any]) -> RanksDifferError:
        """Tell the others what this rank is at; return the error that names what differs.

        Args:
            where: Name of the owner in errors.
            settings: JSON values, by key.
        """
        found: dict[int, Mapping[str, Any]] = {self._rank: settings}
        with suppress(RuntimeError):
            self._store.set(str(self._rank), json.dumps(settings))
            self._store.add(_COUNT, 1)
            self._wait(_COUNT, lambda: self._world_size, self._patience_s)
            found = self._all_told()
            self._store.add(_READ, 1)
            self._wait(_READ, lambda: self._store.add(_COUNT, 0), _LEAVE_S)
        silent = [rank for rank in range(self._world_size) if rank not in found]
        try:
            check_all_equal(dict(sorted(found.items())))
        except RanksDifferError as error:
            return RanksDifferError(f"{where}: {error}")
        return RanksDifferError(
            f"{where}: ranks differ: one of those that this one hears from does something else, or "
            f"is at another step; nothing came from ranks {silent} within {self._patience_s:g} s "
            "that says more"
        )

    def _all_told(self) -> dict[int, Mapping[str, Any]]:
        ranks = (rank for rank in range(self._world_size) if self._store.check([str(rank)]))
        return {rank: json.loads(self._store.get(str(rank))) for rank in ranks}

    def _wait(self, counter: str, expected: Callable[[], int], longest_s: float) -> None:
        """Wait until a counter has come as far as expected, or for the longest time."""
        end_s = time.monotonic() + longest_s
        while self._store.add(counter, 0) < expected() and time.monotonic() < end_s:
            time.sleep(_POLL_S)
