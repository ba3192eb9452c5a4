"""Flows of one step that share resources with each other, and with nothing else.

They are solved by the same fluid rule as in the event engine, but all groups of the step at once:
each group of joined flows has a clock of its own, and a round takes every group to its next
instant.  If a group's flows begin together and are shared alike, that is one round.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.simulation.maxmin import SAME_INSTANT, SAME_RATE, max_min_rates
from dgc_topo.simulation.meetings import BulkError

#: Flows handled in rounds at first, and for every flow of a step.
_AT_FIRST, _PER_FLOW = 1e5, 30.0


def join_flows(hops: IntArray, capacity: FloatArray) -> tuple[IntArray, BoolArray]:
    """Return the group of each flow, and a mask of the flows that are alone in theirs.

    Flows are joined if they share a resource of finite capacity.

    Args:
        hops: Resources that each flow uses, shape (max_hops, num_flows).
        capacity: Capacity of each resource.

    Returns:
        Numbers of groups and the mask, both of shape (num_flows,).
    """
    num_flows = hops.shape[1]
    hop, flow = np.nonzero(np.isfinite(capacity[hops]))
    used, resource = np.unique(hops[hop, flow], return_inverse=True)
    size = num_flows + len(used)
    edges = (np.ones(len(flow), np.bool_), (flow, num_flows + resource))
    _, labels = connected_components(coo_array(edges, shape=(size, size)), directed=False)
    groups = np.asarray(labels[:num_flows], np.int64)
    alone = np.bincount(groups, minlength=size)[groups] == 1
    return groups, alone


class Budget:
    """Work that the bulk engine may spend inside steps, before events are the faster way.

    A round handles every flow of a step once.  A few rounds are cheap, but flows that end one after
    the other take as many rounds as there are flows.

    Args:
        is_limited: False if the bulk engine was demanded.
    """

    def __init__(self, *, is_limited: bool) -> None:
        self._left = _AT_FIRST if is_limited else np.inf

    def earn(self, num_flows: int) -> None:
        """Allow more work for the flows of a step."""
        self._left += _PER_FLOW * num_flows

    def spend(self, num_flows: int) -> None:
        """Pay for a round.

        Raises:
            BulkError: if the budget is spent.
        """
        self._left -= num_flows
        if self._left < 0:
            raise BulkError("engine bulk: flows of a step end one by one; events are faster")


def solve_step(
    hops: IntArray,
    groups: IntArray,
    active_s: FloatArray,
    num_bytes: FloatArray,
    capacity: FloatArray,
    weights: FloatArray | None,
    budget: Budget,
) -> FloatArray:
    """Return the time at which each flow ends.

    Args:
        hops: Resources that each flow uses, shape (max_hops, num_flows).
        groups: Number of the group of joined flows, from `join_flows`, shape (num_flows,).
        active_s: Time from which each flow moves bytes, same shape.
        num_bytes: Bytes of each flow, same shape.
        capacity: Capacity of each resource.
        weights: Use of each hop by one byte, see `max_min_rates`.
        budget: Work that may be spent.

    Raises:
        BulkError: if the budget is spent.
    """
    end_s = active_s.copy()
    left = np.flatnonzero(num_bytes > 0)
    if not len(left):
        return end_s
    _, group = np.unique(groups[left], return_inverse=True)
    state = _Moving(hops[:, left], group, active_s[left], num_bytes[left])
    while len(left):
        budget.spend(len(left))
        state.share(capacity, weights)
        ended = state.next_ends()
        end_s[left[ended]] = state.now_s[state.group[ended]]
        left = left[~ended]
        state.keep(~ended)
    return end_s


class _Moving:
    """Flows that have not ended; one clock for each group."""

    def __init__(
        self, hops: IntArray, group: IntArray, active_s: FloatArray, remaining: FloatArray
    ) -> None:
        self.hops, self.group, self.active_s, self.remaining = hops, group, active_s, remaining
        self.rate = np.zeros(len(group))
        self.since_s = active_s.copy()
        self.now_s = self._first(active_s)

    def _first(self, times_s: FloatArray) -> FloatArray:
        """Return the earliest of its flows' times for each group."""
        first_s = np.full(int(self.group.max()) + 1, np.inf)
        np.minimum.at(first_s, self.group, times_s)
        return first_s

    def share(self, capacity: FloatArray, weights: FloatArray | None) -> None:
        """Give the flows that have begun their fair rates from now on."""
        now_s = self.now_s[self.group]
        begun = self.active_s <= now_s * (1 + SAME_INSTANT)
        if not begun.any():  # what moved has ended, and what is left begins later
            return
        rates = np.zeros(len(begun))
        hops = self.hops if begun.all() else self.hops[:, begun]
        rates[begun] = max_min_rates(hops, capacity, weights)
        changed = begun & ~(np.abs(rates - self.rate) <= SAME_RATE * self.rate)
        moved = self.rate * (now_s - self.since_s)
        self.remaining = np.where(changed, np.maximum(self.remaining - moved, 0.0), self.remaining)
        self.since_s = np.where(changed, now_s, self.since_s)
        self.rate = np.where(changed, rates, self.rate)

    def next_ends(self) -> BoolArray:
        """Take every group to its next instant; return a mask of the flows that end then."""
        moving = self.rate > 0
        due_s = self.active_s.copy()
        due_s[moving] = self.since_s[moving] + self.remaining[moving] / self.rate[moving]
        self.now_s = self._first(due_s)
        return moving & (due_s <= self.now_s[self.group] * (1 + SAME_INSTANT))

    def keep(self, which: BoolArray) -> None:
        """Forget all other flows."""
        self.hops = self.hops[:, which]
        for name in ("group", "active_s", "remaining", "rate", "since_s"):
            setattr(self, name, getattr(self, name)[which])
