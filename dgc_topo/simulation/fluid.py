"""The fluid model: flows that share links, driven by a SimPy clock.

State of a flow: *waiting* (its route's latency; uses no bandwidth), then *active* (moves bytes at
its max-min fair rate), then gone.  Rates change only when a flow becomes active, when one ends
or when a link changes.

Everything that happens at one instant is handled together: all flows that are due are taken from a
heap of batches, their owners are told (and may start new flows), and then bandwidth is shared
again,
once.  The cost therefore depends on the number of instants, not of messages.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from heapq import heappop, heappush
from typing import Protocol

import numpy as np
import simpy

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.changes import LinkChange, checked_links
from dgc_topo.network.network import Network
from dgc_topo.simulation.pool import FlowPool
from dgc_topo.simulation.resources import Resources
from dgc_topo.simulation.sharing import Sharing

#: Times closer than this (relative) are one instant; they differ only by rounding.
SAME_INSTANT = 1e-12

#: Up to this many flows are handled one by one, because calls on tiny arrays would cost more.
FEW = 6

#: An entry of the heap: time, order of entry, and one flow or several with their times.
Entry = tuple[float, int, int | IntArray, FloatArray]

NO_TIMES = np.empty(0)


class Owner(Protocol):
    """Owner of flows: it starts them, and is told when they end."""

    def ended(self, tags: IntArray) -> None:
        """Note that the flows with these tags have ended now."""

    def ended_one(self, tag: int) -> None:
        """Note that one flow has ended now."""

    def settled(self) -> None:
        """Go on, after all ends of flows at this instant have been noted."""


class Fluid:
    """Flows on a network under a SimPy environment.

    Args:
        env: Owns the clock.
        network: Hosts, links and routes; its bandwidths may be changed later by `set_bandwidth`.
    """

    def __init__(self, env: simpy.Environment, network: Network) -> None:
        self.env = env
        self.network = network
        self.instants = 0  #: number of instants at which flows were due
        self.resources = Resources(network)
        self._pool = FlowPool(self.resources.pad)
        self._sharing = Sharing(self._pool, self.resources)
        self._heap: list[Entry] = []
        self._entries = 0
        self._armed = np.inf
        self._settling = False
        self._owners: list[Owner] = []
        self._down_since: dict[int, float] = {}

    @property
    def moved_at_once(self) -> FloatArray | None:
        """Use of each resource that took no time, from what links saved up; None without bursts."""
        return self._sharing.moved_at_once

    def add_owner(self, owner: Owner) -> int:
        """Return the number under which *owner* starts flows."""
        self._owners.append(owner)
        return len(self._owners) - 1

    def start(
        self,
        hops: IntArray,
        delay_s: FloatArray,
        num_bytes: FloatArray,
        tags: IntArray,
        owner: int,
    ) -> None:
        """Start flows now.

        Args:
            hops: Resources used, shape (max_hops, num_flows), as `resources` gives them.
            delay_s: Time before each flow may use bandwidth: its route's latency and more.
            num_bytes: Size of each flow; a flow of zero bytes ends after its delay.
            tags: The owner's names for the flows.
            owner: The owner's number.
        """
        slots = self._pool.allocate(hops, num_bytes, tags, owner)
        self._push(slots, self.env.now + delay_s)
        if not self._settling:
            self._arm()

    def start_one(
        self, hops: Sequence[int], delay_s: float, num_bytes: float, tag: int, owner: int
    ) -> None:
        """Start one flow now; as `start`, without arrays."""
        slot = self._pool.allocate_one(hops, num_bytes, tag, owner)
        self._push_one(slot, self.env.now + delay_s)
        if not self._settling:
            self._arm()

    def set_bandwidth(self, links: IntArray, bandwidth_bytes_per_s: FloatArray) -> None:
        """Change the bandwidth of *links* from now on; 0 is a dead link, on which flows wait."""
        for link, bandwidth in zip(links.tolist(), bandwidth_bytes_per_s.tolist(), strict=True):
            if bandwidth:
                self._down_since.pop(link, None)
            else:
                self._down_since.setdefault(link, self.env.now)
        self._sharing.set_bandwidth(links, bandwidth_bytes_per_s, self.env.now)
        self._share()
        self._arm()

    def stalled(self, owner: int) -> tuple[IntArray, dict[int, float]]:
        """Return the tags of an owner's flows on dead links, and the times of the failures.

        The result is valid only between instants.
        """
        pool = self._pool
        slots = np.flatnonzero(pool.active & (pool.owner == owner) & (pool.rate == 0))
        crossed = np.unique(pool.hops[:, slots]).tolist()
        dead = {link: self._down_since[link] for link in crossed if link in self._down_since}
        return pool.tag[slots], dead

    def _push(self, slots: IntArray, times: FloatArray) -> None:
        """Put flows into the heap, as one entry that is sorted by time."""
        if len(slots) == 1:
            self._push_one(int(slots[0]), float(times[0]))
            return
        self._pool.due[slots] = times
        first, last = times.min(), times.max()
        if last == np.inf:  # on a dead link there is nothing to wait for
            alive = times < np.inf
            slots, times = slots[alive], times[alive]
        if last > first:
            order = np.argsort(times, kind="stable")
            slots, times = slots[order], times[order]
        if len(slots):
            self._entries += 1
            heappush(self._heap, (float(times[0]), self._entries, slots, times))

    def _push_one(self, slot: int, time: float) -> None:
        self._pool.due_at[slot] = time
        if time < np.inf:
            self._entries += 1
            heappush(self._heap, (time, self._entries, slot, NO_TIMES))

    def _arm(self) -> None:
        """Ask SimPy to wake us at the next instant."""
        heap, due_at = self._heap, self._pool.due_at
        while heap:
            time, _, slots, _ = heap[0]
            if not isinstance(slots, int) or due_at[slots] == time:
                break
            heappop(heap)  # outdated: the flow's time has changed
        if heap and heap[0][0] < self._armed:
            self._armed = heap[0][0]
            # Rounding may put the alarm slightly before the flow's time; SAME_INSTANT covers that.
            alarm = self.env.timeout(max(self._armed - self.env.now, 0.0))
            assert alarm.callbacks is not None
            alarm.callbacks.append(self._wake)

    def _wake(self, _: simpy.Event) -> None:
        now = self.env.now
        limit = now + now * SAME_INSTANT
        if self._armed > limit:
            return  # an alarm that an earlier one has replaced
        self._armed = np.inf
        self._settling = True
        while self._heap and self._heap[0][0] <= limit:
            self.instants += 1
            while self._heap and self._heap[0][0] <= limit:
                self._handle(self._take(limit))
            self._share()
        self._settling = False
        self._arm()

    def _take(self, limit: float) -> list[int] | IntArray:
        """Take the flows due by *limit* from the heap: a list if few, an array if many."""
        heap, due_at = self._heap, self._pool.due_at
        ones: list[int] = []
        many: list[IntArray] = []
        while heap and heap[0][0] <= limit:
            time, _, slots, times = heappop(heap)
            if not isinstance(slots, int):
                many.append(self._split(slots, times, limit))
            elif due_at[slots] == time:
                due_at[slots] = np.inf
                ones.append(slots)
        if not many and len(ones) <= FEW:
            return ones
        return np.concatenate([*many, np.array(ones, np.int64)])

    def _split(self, slots: IntArray, times: FloatArray, limit: float) -> IntArray:
        """Take the due flows from one entry; put the rest back into the heap."""
        due = self._pool.due
        if times[-1] > limit:
            count = int(np.searchsorted(times, limit, "right"))
            rest, rest_times = slots[count:], times[count:]
            slots, times = slots[:count], times[:count]
            if due[rest[0]] != rest_times[0]:
                valid = due[rest] == rest_times
                rest, rest_times = rest[valid], rest_times[valid]
            if len(rest):
                self._entries += 1
                heappush(self._heap, (float(rest_times[0]), self._entries, rest, rest_times))
        taken: IntArray = slots[due[slots] == times]
        due[taken] = np.inf
        return taken

    def _handle(self, slots: list[int] | IntArray) -> None:
        """Move flows on to their next state and tell the owners of those that ended."""
        if isinstance(slots, list):
            for tag, number in self._sharing.advance_few(slots, self.env.now):
                self._owners[number].ended_one(tag)
        else:
            tags, numbers = self._sharing.advance(slots, self.env.now)
            for number, owner in enumerate(self._owners):
                mine = tags if len(self._owners) == 1 else tags[numbers == number]
                if len(mine):
                    owner.ended(mine)
        for owner in self._owners:
            owner.settled()

    def _share(self) -> None:
        ones, many = self._sharing.share(self.env.now)
        for slot, time in ones:
            self._push_one(slot, time)
        for slots, times in many:
            self._push(slots, times)


def change_links(
    change: LinkChange, env: simpy.Environment, fluid: Fluid
) -> Generator[simpy.Event, None, None]:
    """Process that changes the links of *fluid* at the given time."""
    checked_links(fluid.network, change.links)
    if change.at_s:  # a link that fails at time 0 carries nothing, not even bytes that take no time
        yield env.timeout(change.at_s)
    links = np.array(change.links, np.int64)
    fluid.set_bandwidth(links, fluid.network.bandwidth_bytes_per_s[links] * change.factor)
