"""Ways of flows: the resources that a flow uses, each once, and its rate without company."""

from __future__ import annotations

from math import inf

from dgc_topo.simulation.pool import FloatColumn
from dgc_topo.simulation.resources import Resources


class Way:
    """Resources that one flow uses.

    Attributes:
        uses: Use of each resource by one byte; their keys are what the flow crosses.
        links: These keys.
        alone_rate: Rate in bytes per second of a flow that shares none of them: 0 over a dead link,
            infinite without any.
    """

    __slots__ = ("alone_rate", "links", "uses")

    def __init__(self, uses: dict[int, float], alone_rate: float) -> None:
        self.uses, self.links, self.alone_rate = uses, tuple(uses), alone_rate


class KnownWays:
    """Ways by hops, remembered, because the same pairs of ranks meet step after step.

    Args:
        resources: Resources, and the use that a byte makes of them.
        capacity: Present capacity of each resource.
    """

    def __init__(self, resources: Resources, capacity: FloatColumn) -> None:
        self._resources, self._capacity, self._pad = resources, capacity, resources.pad
        self._uses: dict[int, list[float]] = {}  # by number of hops
        self._kept: dict[tuple[int, ...], Way] = {}

    def of(self, hops: tuple[int, ...]) -> Way:
        """Return the way of a flow over *hops*, which may be padded."""
        way = self._kept.get(hops)
        if way is None:
            way = self._kept[hops] = self._find(hops)
        return way

    def forget(self) -> None:
        """Forget all ways, because a capacity has changed."""
        self._kept.clear()

    def _find(self, hops: tuple[int, ...]) -> Way:
        if len(hops) not in self._uses:
            weights = self._resources.weights(len(hops))
            self._uses[len(hops)] = [1.0] * len(hops) if weights is None else weights.tolist()
        uses: dict[int, float] = {}
        for hop, use in zip(hops, self._uses[len(hops)], strict=True):
            if hop != self._pad:
                uses[hop] = uses.get(hop, 0.0) + use
        rates = [self._capacity[link] / use for link, use in uses.items()]
        return Way(uses, min(rates, default=inf))
