"""Fair rates of flows, updated as flows begin and end.

There are two ways to the same rates.  After large changes all active flows are solved again, as
arrays.  After small changes only the connected components (flows joined by shared links) with a
changed link are solved, because no other flow's rate can depend on that link.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.simulation.maxmin import SAME_RATE, max_min_rates
from dgc_topo.simulation.pool import FlowPool, view_floats
from dgc_topo.simulation.resources import Resources, TokenBuckets

#: Consecutive instants with few changes after which an index of each link's users pays off.
PATIENCE = 8

#: A component of this size (and a quarter of all flows) is solved together with all others.
LARGE_COMPONENT = 256


#: Flows whose times changed, and their new times: many, or one.
Retimed = tuple[IntArray, FloatArray]
RetimedOne = tuple[int, float]


class Sharing:
    """Rates of the active flows in a pool.

    Args:
        pool: Storage of the flows.
        resources: Resources that they share.
    """

    def __init__(self, pool: FlowPool, resources: Resources) -> None:
        self._pool = pool
        self._resources = resources
        self._capacity = resources.capacity.copy()
        self._capacity_at = view_floats(self._capacity)
        burst_bytes = resources.costs.burst_bytes
        self._token_buckets = TokenBuckets(pool, resources, burst_bytes) if burst_bytes else None
        self._has_dead_links = False
        self._num_active = 0
        self._fresh: list[int] = []
        self._gone: list[int] = []
        self._many_fresh: list[IntArray] = []
        self._many_gone: list[IntArray] = []
        self._changed_links: list[int] = []
        self._users: defaultdict[int, set[int]] | None = None
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
                self._gone.append(slot)
            elif pool.remaining_at[slot] == 0 and slot not in cut:
                pool.release_one(slot)
            else:
                pool.active_at[slot] = True
                pool.rate_at[slot] = 0.0
                pool.since_at[slot] = now
                self._fresh.append(slot)
                continue
            ended.append((pool.tag_at[slot], pool.owner_at[slot]))
        return ended

    def _are_cut(self, slots: IntArray) -> BoolArray:
        """Return a mask of flows with a dead link on their way; even an empty flow waits there."""
        dead = self._capacity[self._pool.hops[:, slots]] == 0
        return np.asarray(dead.any(axis=0), np.bool_)

    def _cut_among(self, slots: list[int]) -> set[int]:
        which = np.array(slots, np.int64)
        return set(which[self._are_cut(which)].tolist())

    def share(self, now: float) -> tuple[Sequence[RetimedOne], Sequence[Retimed]]:
        """Update the rates after the changes since the last call.

        Returns:
            The flows whose rates changed (single ones, and arrays of many), with their new end
            times.
        """
        fresh = len(self._fresh) + sum(map(len, self._many_fresh))
        gone = len(self._gone) + sum(map(len, self._many_gone))
        if not (fresh or gone or self._changed_links):
            return (), ()
        self._num_active += fresh - gone
        calm = (fresh + gone) * 8 <= max(self._num_active, 32)
        self._calm_instants = self._calm_instants + 1 if calm else 0
        if not calm:
            self._users = None
        result: tuple[Sequence[RetimedOne], Sequence[Retimed]] | None = None
        if self._users is not None or self._calm_instants > PATIENCE:
            result = self._share_locally(now)
        if result is None:
            result = (), self._share_all(fresh, now)
        if self._token_buckets is not None:
            self._token_buckets.note_rates(self._capacity, now)
        self._clear()
        return result

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
        hops = self._pool.hops[:, slots]
        # A schedule often repeats a pattern (a ring always does), whose rates are known already.
        if not np.array_equal(self._solved[0], hops):
            self._solved = (hops, self._rates(hops))
        return self._retime(slots, self._solved[1], now)

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

    def _retime_one(self, slot: int, rate: float, now: float) -> RetimedOne | None:
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
        return slot, (now + remaining / rate if rate > 0 else np.inf)

    def _share_locally(self, now: float) -> tuple[list[RetimedOne], list[Retimed]] | None:
        """Solve the changed components, or return None if solving all flows is simpler."""
        links = self._update_users()
        users = self._users
        assert users is not None
        seen: set[int] = set()
        alone: list[int] = []
        together: list[int] = []
        for link in links:
            for slot in users[link]:
                if slot in seen:
                    continue
                component = self._component(slot)
                if component is None:  # no rate has been touched yet
                    self._users, self._calm_instants = None, -8 * PATIENCE
                    return None
                seen |= component
                if len(component) == 1:
                    alone.append(slot)
                else:
                    together += sorted(component)
        ones = [self._retime_one(slot, self._narrowest(slot), now) for slot in alone]
        many: list[Retimed] = []
        if together:
            slots = np.array(together)
            many = self._retime(slots, self._rates(self._pool.hops[:, slots]), now)
        return [one for one in ones if one], many

    def _rates(self, hops: IntArray) -> FloatArray:
        return max_min_rates(hops, self._capacity, self._resources.weights(len(hops)))

    def _narrowest(self, slot: int) -> float:
        if self._resources.is_weighted:
            return float(self._rates(self._pool.hops[:, [slot]])[0])
        return min(self._capacity_at[row[slot]] for row in self._pool.hops_at)

    def _update_users(self) -> set[int]:
        """Bring the index of a link's users up to date; return the links that changed."""
        pool, pad = self._pool, self._pool.pad
        links = set(self._changed_links)
        build = self._users is None
        users = self._users = defaultdict(set) if self._users is None else self._users
        fresh = self._fresh + [int(slot) for slots in self._many_fresh for slot in slots]
        gone = self._gone + [int(slot) for slots in self._many_gone for slot in slots]
        for slot in gone:
            for row in pool.hops_at:
                links.add(row[slot])
                users[row[slot]].discard(slot)
        for slot in fresh:
            for row in pool.hops_at:
                links.add(row[slot])
                users[row[slot]].add(slot)
        if build:
            for slot in np.flatnonzero(pool.active).tolist():
                for row in pool.hops_at:
                    users[row[slot]].add(slot)
        users.pop(pad, None)  # the padding link joins no flows
        links.discard(pad)
        return links

    def _component(self, start: int) -> set[int] | None:
        """Return the flows joined to *start* by shared links, or None if they are too many."""
        users, hops_at = self._users, self._pool.hops_at
        assert users is not None
        found, to_visit = {start}, [start]
        limit = max(LARGE_COMPONENT, self._num_active // 4)
        while to_visit:
            slot = to_visit.pop()
            for row in hops_at:
                neighbours = users.get(row[slot])
                if neighbours is not None and len(neighbours) > 1:
                    new = neighbours - found
                    found |= new
                    to_visit += new
            if len(found) > limit:
                return None
        return found
