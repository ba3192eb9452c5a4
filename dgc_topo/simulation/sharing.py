"""Fair rates of flows, updated as flows begin and end.

There are two ways to the same rates.  After large changes all active flows are solved again, as
arrays.  After small changes only the flows that they can concern are: those joined to a changed
link by shared links, and no slower than what came or went, see `neighbours`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.simulation.due_flows import Few
from dgc_topo.simulation.maxmin import SAME_RATE, max_min_rates, use_of_links
from dgc_topo.simulation.neighbours import NEAR, Neighbours
from dgc_topo.simulation.pool import FlowPool, view_floats
from dgc_topo.simulation.resources import Resources, TokenBuckets
from dgc_topo.simulation.ways import KnownWays, Way

#: Consecutive instants with few changes after which an index of each link's users pays off.
PATIENCE = 8

#: Up to this many flows (or a sixteenth of all) are solved one by one.
LARGE_COMPONENT = 24


#: Flows whose times changed, and their new times.
Retimed = tuple[IntArray, FloatArray]


class Sharing:
    """Rates of the active flows in a pool.

    Args:
        pool: Storage of the flows.
        resources: Resources that they share.

    Attributes:
        ways: What single flows use.
    """

    def __init__(self, pool: FlowPool, resources: Resources) -> None:
        self._pool = pool
        self._resources = resources
        self._capacity = resources.capacity.copy()
        self._capacity_at = view_floats(self._capacity)
        self.ways = KnownWays(resources, self._capacity_at)
        burst_bytes = resources.costs.burst_bytes
        self._token_buckets = TokenBuckets(pool, resources, burst_bytes) if burst_bytes else None
        self._has_dead_links = False
        self._num_active = 0
        self._fresh: list[int] = []
        self._gone: list[int] = []
        self._many_fresh: list[IntArray] = []
        self._many_gone: list[IntArray] = []
        self._changed_links: list[int] = []
        self._neighbours: Neighbours | None = None
        self._calm_instants = 0
        self._solved: tuple[IntArray, FloatArray] = (np.empty((0, 0), np.int64), np.empty(0))

    @property
    def moved_at_once(self) -> FloatArray | None:
        """Use of each resource that took no time; None if links save up nothing."""
        return None if self._token_buckets is None else self._token_buckets.moved_at_once

    def set_bandwidth(self, links: IntArray, bandwidth_bytes_per_s: FloatArray, now: float) -> None:
        """Change the bandwidth of *links*; the next `share` acts on it."""
        self._capacity[links] = bandwidth_bytes_per_s
        if self._has_dead_links and self._token_buckets is not None:
            pool = self._pool
            stalled = np.flatnonzero(pool.active & (pool.rate == 0))
            self._token_buckets.pay(stalled[~self._are_cut(stalled)], now)
        self._has_dead_links = not self._capacity.all()
        self._changed_links.extend(int(link) for link in links)
        self._solved = (np.empty((0, 0), np.int64), np.empty(0))
        self._neighbours = None
        self.ways.forget()

    def advance(self, slots: IntArray, now: float) -> tuple[IntArray, IntArray]:
        """Move due flows to their next state; return tags and owners of those that ended."""
        pool = self._pool
        was_active = pool.active[slots]
        gone = slots[was_active]
        if len(gone) < len(slots):
            past_latency = slots[~was_active]
            passes = ~self._are_cut(past_latency) if self._has_dead_links else None
            if self._token_buckets is not None:
                self._token_buckets.pay(
                    past_latency if passes is None else past_latency[passes], now
                )
            empty = pool.remaining[past_latency] == 0
            if passes is not None:
                empty &= passes
            if empty.any():
                zero = past_latency[empty]
                pool.leave(zero)
                pool.release(zero)
                past_latency = past_latency[~empty]
                slots = np.concatenate([gone, zero])
            else:
                slots = gone
            pool.active[past_latency] = True
            pool.rate[past_latency] = 0.0
            pool.since[past_latency] = now
            self._many_fresh.append(past_latency)
        if len(gone):
            pool.active[gone] = False
            pool.leave(gone)
            self._many_gone.append(gone)
        return pool.tag[slots], pool.owner[slots]

    def advance_few(self, slots: list[int], now: float) -> list[tuple[int, int]]:
        """Move a few due flows to their next state; return tag and owner of those that ended."""
        pool = self._pool
        cut = self._cut_among(slots) if self._has_dead_links else ()
        if self._token_buckets is not None:
            fresh = [slot for slot in slots if not pool.active_at[slot] and slot not in cut]
            self._token_buckets.pay(np.array(fresh, np.int64), now)
        ended: list[tuple[int, int]] = []
        for slot in slots:
            if pool.active_at[slot]:
                pool.active_at[slot] = False
                pool.leave_one(slot)
                self._gone.append(slot)
            elif pool.remaining_at[slot] == 0 and slot not in cut:
                pool.leave_one(slot)
                pool.release_one(slot)
            else:
                pool.active_at[slot] = True
                pool.rate_at[slot] = 0.0
                pool.since_at[slot] = now
                self._fresh.append(slot)
                continue
            ended.append((pool.tag_at[slot], pool.owner_at[slot]))
        return ended

    def go_on(self, slot: int, since: float, rate: float) -> None:
        """Take over a flow that has been active for a while, without company."""
        pool = self._pool
        pool.active_at[slot], pool.since_at[slot], pool.rate_at[slot] = True, since, rate
        self._num_active += 1
        if self._neighbours is not None:
            self._neighbours.add(slot)

    def _are_cut(self, slots: IntArray) -> BoolArray:
        """Return a mask of flows with a dead link on their way; even an empty flow waits there."""
        dead = self._capacity[self._pool.hops[:, slots]] == 0
        return np.asarray(dead.any(axis=0), np.bool_)

    def _cut_among(self, slots: list[int]) -> set[int]:
        which = np.array(slots, np.int64)
        return set(which[self._are_cut(which)].tolist())

    def share(self, now: float) -> tuple[Few, Sequence[Retimed]]:
        """Update the rates after the changes since the last call.

        Returns:
            The flows whose rates changed, with their new end times: a few, or arrays of many.
        """
        fresh = len(self._fresh) + sum(map(len, self._many_fresh))
        gone = len(self._gone) + sum(map(len, self._many_gone))
        if not (fresh or gone or self._changed_links):
            return [], ()
        self._num_active += fresh - gone
        calm = (fresh + gone) * 8 <= max(self._num_active, 32)
        self._calm_instants = self._calm_instants + 1 if calm else 0
        if not calm:
            self._neighbours = None
        ones: Few | None = None
        many: list[Retimed] = []
        if self._neighbours is not None or self._calm_instants > PATIENCE:
            ones = self._share_locally(now)
        if ones is None:
            ones, many = [], self._share_all(fresh, now)
        if self._token_buckets is not None:
            self._token_buckets.note_rates(self._capacity, now)
        self._clear()
        return ones, many

    def _clear(self) -> None:
        for slot in self._gone:
            self._pool.release_one(slot)
        for slots in self._many_gone:
            self._pool.release(slots)
        for changes in (self._gone, self._fresh, self._changed_links):
            changes.clear()
        self._many_gone.clear()
        self._many_fresh.clear()

    def _share_all(self, num_fresh: int, now: float) -> list[Retimed]:
        if num_fresh == self._num_active:
            slots = np.concatenate([*self._many_fresh, np.array(self._fresh, np.int64)])
        else:
            slots = np.flatnonzero(self._pool.active)
        if not len(slots):
            return []
        hops, weights = self._pool.hops[:, slots], self._resources.weights(len(self._pool.hops))
        if num_fresh < self._num_active and not self._changed_links:
            rates = self._pool.rate[slots]
            stay = (rates > 0) & (rates < self._least_rate(hops) * (1 - NEAR))
            if stay.any():
                taken = use_of_links(hops[:, stay], rates[stay], weights, len(self._capacity))
                taken[-1] = 0.0  # nothing is taken from what pads
                left = np.maximum(self._capacity - taken, 0.0)
                slots, hops = slots[~stay], hops[:, ~stay]
                if not len(slots):
                    return []
                return self._retime(slots, max_min_rates(hops, left, weights), now)
        # A schedule often repeats a pattern (a ring always does), whose rates are known already.
        if not np.array_equal(self._solved[0], hops):
            self._solved = (hops, max_min_rates(hops, self._capacity, weights))
        return self._retime(slots, self._solved[1], now)

    def _least_rate(self, hops: IntArray) -> float:
        """Return a rate that all slower flows keep, see `neighbours`.

        Args:
            hops: Resources that all active flows use, shape (max_hops, num_flows).
        """
        gone = np.concatenate([*self._many_gone, np.array(self._gone, np.int64)])
        least = float(self._pool.rate[gone].min(initial=inf))
        fresh = np.concatenate([*self._many_fresh, np.array(self._fresh, np.int64)])
        if len(fresh):
            if self._resources.is_weighted:
                return 0.0
            users = np.bincount(hops.ravel(), minlength=len(self._capacity))
            crossed = self._pool.hops[:, fresh]
            least = min(least, float((self._capacity[crossed] / users[crossed]).min()))
        return least

    def _retime(self, slots: IntArray, rates: FloatArray, now: float) -> list[Retimed]:
        """Set rates; return the flows whose rate changed and when they end."""
        pool = self._pool
        old = pool.rate[slots]
        changed = ~(np.abs(rates - old) <= SAME_RATE * old)
        if not changed.all():
            slots, rates, old = slots[changed], rates[changed], old[changed]
            if not len(slots):
                return []
        remaining = pool.remaining[slots]
        if old.any():
            remaining = np.maximum(remaining - old * (now - pool.since[slots]), 0.0)
            pool.remaining[slots] = remaining
        pool.since[slots] = now
        pool.rate[slots] = rates
        if rates.min() > 0:
            return [(slots, now + remaining / rates)]
        left = np.divide(remaining, rates, out=np.full(len(rates), np.inf), where=rates > 0)
        return [(slots, now + left)]

    def _retime_one(self, slot: int, rate: float, now: float) -> tuple[float, int] | None:
        pool = self._pool
        old = pool.rate_at[slot]
        if abs(rate - old) <= SAME_RATE * old:
            return None
        remaining = pool.remaining_at[slot]
        if old:
            remaining = max(remaining - old * (now - pool.since_at[slot]), 0.0)
            pool.remaining_at[slot] = remaining
        pool.since_at[slot] = now
        pool.rate_at[slot] = rate
        return (now + remaining / rate if rate > 0 else inf), slot

    def _share_locally(self, now: float) -> Few | None:
        """Solve the flows that are concerned, or return None if these are many."""
        gone, fresh = self._update_neighbours()
        neighbours, rate_at = self._neighbours, self._pool.rate_at
        assert neighbours is not None
        links = {link for way in (*gone.values(), *fresh) for link in way.links}
        least_rate = min([rate_at[slot] for slot in gone], default=inf)
        if self._changed_links or (fresh and self._resources.is_weighted):
            least_rate = 0.0
            links.update(self._changed_links)
        for way in fresh:
            least_rate = min(least_rate, neighbours.least_rate(way))
        most = max(LARGE_COMPONENT, self._num_active // 16)
        slots = neighbours.concerned(links, least_rate, most)
        if slots is None:
            return None
        rates = neighbours.rates(slots)
        retimed = [self._retime_one(*pair, now) for pair in zip(slots, rates, strict=True)]
        return [one for one in retimed if one]

    def _update_neighbours(self) -> tuple[dict[int, Way], list[Way]]:
        """Bring the index of neighbours up to date; return the ways of what went and came."""
        gone = self._gone + [slot for slots in self._many_gone for slot in slots.tolist()]
        fresh = self._fresh + [slot for slots in self._many_fresh for slot in slots.tolist()]
        if self._neighbours is None:
            self._neighbours = Neighbours(self._pool, self.ways, self._capacity_at)
            known = set(fresh)
            for slot in [*gone, *np.flatnonzero(self._pool.active).tolist()]:
                if slot not in known:
                    self._neighbours.add(slot)
        left = {slot: self._neighbours.remove(slot) for slot in gone}
        return left, [self._neighbours.add(slot) for slot in fresh]
