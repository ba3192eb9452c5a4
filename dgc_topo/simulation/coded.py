"""When each rank last coded a sparse message: after a while its caches have forgotten how."""

from __future__ import annotations

from math import exp, inf

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.hosts import HostCosts

#: What a rank does with sparse messages; 0 is nothing.
MAKES, READS = 1, 2


class Coded:
    """When each rank last made a sparse message, and when it last read one.

    Args:
        costs: What it costs to do so after a while.
        world_size: Number of ranks.
        is_coded: Whether the run's messages are sparse.

    Attributes:
        matters: Whether caches that are cold cost anything.
    """

    def __init__(self, costs: HostCosts, world_size: int, *, is_coded: bool) -> None:
        self.matters = is_coded and costs.cold_code_s > 0
        self._costs = costs
        self._last_s = np.full((READS + 1, world_size), -inf)

    def note(self, kinds: IntArray, ranks: IntArray, now_s: float) -> None:
        """Note that ranks have just done that."""
        self._last_s[kinds, ranks] = now_s

    def note_one(self, kind: int, rank: int, now_s: float) -> None:
        """As `note`, of one rank."""
        self._last_s[kind, rank] = now_s

    def cold_s(self, kinds: IntArray, ranks: IntArray, now_s: float) -> FloatArray:
        """Return how much longer it takes ranks that begin to do that now, same shape."""
        passed_s = now_s - self._last_s[kinds, ranks]
        cold_s = self._costs.cold_code_s * -np.expm1(-passed_s / self._costs.cooling_s)
        return np.where(kinds > 0, cold_s, 0.0)

    def cold_one_s(self, kind: int, rank: int, now_s: float) -> float:
        """As `cold_s`, of one rank."""
        if not kind:
            return 0.0
        passed_s = now_s - float(self._last_s[kind, rank])
        return self._costs.cold_code_s * (1 - exp(-passed_s / self._costs.cooling_s))
