"""Flows by the time at which they are due to change their state.

Entries are lone flows, batches of a few flows and batches of many (as arrays).  A flow whose time
changes gets a new entry; the old one is recognised by its time, and dropped when it comes up.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.simulation.lone import LoneFlow
from dgc_topo.simulation.pool import FlowPool

#: Up to this many flows are handled one by one, because calls on tiny arrays would cost more.
FEW = 6

#: Times and slots of a few flows, the last one first, or of many, the first one first.
Few = list[tuple[float, int]]
Many = tuple[FloatArray, IntArray]


class DueFlows:
    """Flows in the order in which they are due.

    Args:
        pool: Storage of the flows, with the time at which each is due.
    """

    def __init__(self, pool: FlowPool) -> None:
        self._pool = pool
        self._heap: list[tuple[float, int, LoneFlow | Few | Many]] = []
        self._entries = 0

    def add_lone(self, flow: LoneFlow) -> None:
        """Add a lone flow, which is due at its end."""
        self._push(flow.end_s, flow)

    def add_few(self, flows: Few) -> None:
        """Add flows, or change when they are due.

        Args:
            flows: Times and slots, in any order; the list is kept.
        """
        due_at = self._pool.due_at
        for time, slot in flows:
            due_at[slot] = time
        if len(flows) > 1:
            flows.sort(reverse=True)
        self._push_few(flows)

    def add_many(self, slots: IntArray, times: FloatArray) -> None:
        """Add flows, or change when they are due."""
        self._pool.due[slots] = times
        if times.min() < times.max():
            order = np.argsort(times, kind="stable")
            slots, times = slots[order], times[order]
        self._push_many(times, slots)

    def next_s(self) -> float:
        """Return the time at which the next flow is due, infinite if none is."""
        heap, due_at = self._heap, self._pool.due_at
        while heap:
            time, _, flows = heap[0]
            if isinstance(flows, LoneFlow):
                if not flows.is_met:
                    return time
                heappop(heap)
            elif isinstance(flows, list):
                if due_at[flows[-1][1]] == time:
                    return time
                heappop(heap)
                self._push_few(flows)
            else:
                if due_at[flows[1][0]] == time:
                    return time
                heappop(heap)
                self._push_many(*flows)
        return inf

    def take(self, limit: float) -> tuple[list[LoneFlow], list[int] | IntArray]:
        """Take the flows that are due by *limit*: lone ones, and a list of few or an array."""
        heap = self._heap
        lone: list[LoneFlow] = []
        few: list[int] = []
        many: list[IntArray] = []
        while heap and heap[0][0] <= limit:
            _, _, flows = heappop(heap)
            if isinstance(flows, LoneFlow):
                if not flows.is_met:
                    lone.append(flows)
            elif isinstance(flows, list):
                self._take_few(flows, limit, few)
            else:
                many.append(self._take_many(*flows, limit))
        if len(few) + sum(map(len, many)) <= FEW:
            return lone, few + [slot for slots in many for slot in slots.tolist()]
        return lone, np.concatenate([*many, np.array(few, np.int64)])

    def _take_few(self, flows: Few, limit: float, taken: list[int]) -> None:
        due_at = self._pool.due_at
        while flows and flows[-1][0] <= limit:
            time, slot = flows.pop()
            if due_at[slot] == time:
                due_at[slot] = inf
                taken.append(slot)
        self._push_few(flows)

    def _take_many(self, times: FloatArray, slots: IntArray, limit: float) -> IntArray:
        due = self._pool.due
        if times[-1] > limit:
            count = int(np.searchsorted(times, limit, "right"))
            self._push_many(times[count:], slots[count:])
            slots, times = slots[:count], times[:count]
        taken: IntArray = slots[due[slots] == times]
        due[taken] = inf
        return taken

    def _push_few(self, flows: Few) -> None:
        due_at = self._pool.due_at
        while flows:
            time, slot = flows[-1]
            if due_at[slot] == time:
                self._push(time, flows)
                return
            flows.pop()

    def _push_many(self, times: FloatArray, slots: IntArray) -> None:
        due = self._pool.due
        if due[slots[0]] != times[0]:
            valid = due[slots] == times
            slots, times = slots[valid], times[valid]
        if len(slots):
            self._push(float(times[0]), (times, slots))

    def _push(self, time: float, flows: LoneFlow | Few | Many) -> None:
        if time < inf:  # on a dead link there is nothing to wait for
            self._entries += 1
            heappush(self._heap, (time, self._entries, flows))
