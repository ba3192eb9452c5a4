"""Neighbours of flows: which active flows are on each link, and whom a change can concern.

**A change at one rate leaves all slower flows alone.**  Progressive filling raises all flows
together until a link is full.  Up to the rate of the slowest flow that came or went it does the
same with that flow as without it, so only flows at least as fast can get another rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import inf

from dgc_topo.simulation.pool import FloatColumn, FlowPool
from dgc_topo.simulation.ways import KnownWays, Way

#: Relative tolerance between rates; it is no error to solve more flows than needed.
NEAR = 1e-9

#: Use of each link by one byte of some flows: by link, then by flow.
Crossings = dict[int, dict[int, float]]


class Neighbours:
    """Index of the active flows by link, for changes that concern few of them.

    Args:
        pool: Storage of the flows.
        ways: What each flow uses.
        capacity: Present capacity of each resource.
    """

    def __init__(self, pool: FlowPool, ways: KnownWays, capacity: FloatColumn) -> None:
        self._pool, self._ways, self._capacity = pool, ways, capacity
        self._way: dict[int, Way] = {}
        self._users: defaultdict[int, set[int]] = defaultdict(set)

    def add(self, slot: int) -> Way:
        """Add a flow that has become active; return its way."""
        way = self._way[slot] = self._ways.of(self._pool.hops_of(slot))
        for link in way.links:
            self._users[link].add(slot)
        return way

    def remove(self, slot: int) -> Way:
        """Remove a flow that has ended; return its way."""
        way = self._way.pop(slot)
        for link in way.links:
            self._users[link].discard(slot)
        return way

    def least_rate(self, way: Way) -> float:
        """Return a rate that a new flow gets at least, all uses being 1."""
        shares = [self._capacity[link] / len(self._users[link]) for link in way.links]
        return min(shares, default=inf)

    def concerned(self, links: Iterable[int], least_rate: float, most: int) -> list[int] | None:
        """Return the flows that changes on some links can concern, or None if there are too many.

        Args:
            links: Links whose flows or capacities have changed.
            least_rate: Rate of the slowest flow that came or went.
            most: Most flows to return.
        """
        rate_at, users, way = self._pool.rate_at, self._users, self._way
        least_rate *= 1 - NEAR
        found: set[int] = set()
        visited = set(links)
        to_visit = list(visited)
        while to_visit:
            for slot in users[to_visit.pop()]:
                if slot in found or 0 < rate_at[slot] < least_rate:
                    continue
                found.add(slot)
                if len(found) > most:
                    return None
                for link in way[slot].links:
                    if link not in visited:
                        visited.add(link)
                        to_visit.append(link)
        return sorted(found)

    def rates(self, slots: Sequence[int]) -> list[float]:
        """Return the max-min fair rates of some flows, while all others keep theirs."""
        capacity, users = self._capacity, self._users
        rates = dict.fromkeys(slots, inf)
        crossings: Crossings = defaultdict(dict)
        for slot in slots:
            for link, use in self._way[slot].uses.items():
                if len(users[link]) > 1:
                    crossings[link][slot] = use
                else:
                    rates[slot] = min(rates[slot], capacity[link] / use)
        self._fill(crossings, rates)
        return [rates[slot] for slot in slots]

    def _left(self, link: int, mine: dict[int, float]) -> float:
        """Return the capacity of a link that flows other than *mine* leave."""
        left, users = self._capacity[link], self._users[link]
        if len(mine) < len(users):
            rate_at, way = self._pool.rate_at, self._way
            others = [rate_at[slot] * way[slot].uses[link] for slot in users if slot not in mine]
            left = max(left - sum(others), 0.0)
        return left

    def _fill(self, crossings: Crossings, rates: dict[int, float]) -> None:
        """Fill one shared link after the other, the tightest first, as `maxmin` does on arrays.

        Args:
            crossings: Shared links, and the flows on them that still need a rate.
            rates: Rates that the flows' other links allow; lowered to the rates that they get.
        """
        left = {link: self._left(link, uses) for link, uses in crossings.items()}
        share = {link: left[link] / sum(uses.values()) for link, uses in crossings.items()}
        open_ = set(rates)
        while share:
            tightest = min(share, key=share.__getitem__)
            level = share[tightest]
            settled = [slot for slot in open_ if rates[slot] <= level]
            if not settled:
                settled = list(crossings[tightest])
                rates.update(dict.fromkeys(settled, level))
            open_.difference_update(settled)
            if not open_:
                return
            for link in self._settle(settled, rates, crossings, left):
                if crossings[link]:
                    share[link] = max(left[link], 0.0) / sum(crossings[link].values())
                else:
                    del share[link], crossings[link]

    def _settle(
        self,
        settled: Sequence[int],
        rates: dict[int, float],
        crossings: Crossings,
        left: dict[int, float],
    ) -> set[int]:
        """Take flows that have their rates off the shared links; return these links."""
        touched = set()
        for slot in settled:
            for link, use in self._way[slot].uses.items():
                if link in crossings:
                    del crossings[link][slot]
                    left[link] -= rates[slot] * use
                    touched.add(link)
        return touched
