"""The fluid model: flows that share links, driven by a SimPy clock.

State of a flow: *waiting* (its route's latency; uses no bandwidth), then *active* (moves bytes at
its max-min fair rate), then gone.  Rates change only when a flow becomes active, when one ends
or when a link changes.

Everything that happens at one instant is handled together: all flows that are due change their
state, their owners are told (and may start new flows), and then bandwidth is shared again, once.
A few flows are handled one by one, and many as arrays.  A flow that meets no other on its way needs
a single instant, its end (see `lone`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from math import inf
from typing import Protocol

import numpy as np
import simpy

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.changes import LinkChange, checked_links
from dgc_topo.network.network import Network
from dgc_topo.simulation.due_flows import FEW, DueFlows
from dgc_topo.simulation.lone import LoneFlow, LoneFlows
from dgc_topo.simulation.maxmin import SAME_INSTANT
from dgc_topo.simulation.pool import FlowPool
from dgc_topo.simulation.resources import Resources
from dgc_topo.simulation.sharing import Sharing
from dgc_topo.simulation.ways import Way


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
        self.resources = Resources(network)
        self._pool = FlowPool(self.resources.pad)
        self._sharing = Sharing(self._pool, self.resources)
        self._lone = LoneFlows()
        self._saves_up = network.costs.burst_bytes > 0  # then a flow's end depends on the links
        self._due = DueFlows(self._pool)
        self._armed = inf
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
        if len(tags) <= FEW:
            ways = [tuple(each) for each in hops.T.tolist()]
            columns = zip(ways, delay_s.tolist(), num_bytes.tolist(), tags.tolist(), strict=True)
            for flow in columns:
                self.start_one(*flow, owner)
            return
        slots = self._pool.allocate(hops, num_bytes, tags, owner)
        self._due.add_many(slots, self.env.now + delay_s)
        if not self._settling:
            self._arm()

    def start_one(
        self, hops: tuple[int, ...], delay_s: float, num_bytes: float, tag: int, owner: int
    ) -> None:
        """Start one flow now; as `start`, without arrays."""
        begin_s = self.env.now + delay_s
        way = self._sharing.ways.of(hops)
        if self._is_free(way):
            flow = LoneFlow(hops, way, begin_s, num_bytes, tag, owner)
            self._lone.add(flow)
            self._due.add_lone(flow)
        else:
            slot = self._pool.allocate_one(hops, num_bytes, tag, owner)
            self._due.add_few([(begin_s, slot)])
        if not self._settling:
            self._arm()

    def _is_free(self, way: Way) -> bool:
        """Return True if no other flow uses any resource of a way, and none is dead."""
        links, crowd_at = way.links, self._pool.crowd_at
        if self._saves_up or not way.alone_rate or not self._lone.on.keys().isdisjoint(links):
            return False
        for link in links:  # noqa: SIM110 - several times faster than a generator
            if crowd_at[link]:
                return False
        return True

    def _meet(self, links: Iterable[int]) -> None:
        """Let lone flows on some links share from now on."""
        pool, limit = self._pool, self.env.now * (1 + SAME_INSTANT)
        for flow in self._lone.meet(links):
            slot = pool.allocate_one(flow.hops, flow.num_bytes, flow.tag, flow.owner)
            due_s = flow.begin_s
            if due_s <= limit:
                self._sharing.go_on(slot, flow.begin_s, flow.way.alone_rate)
                due_s = flow.end_s
            self._due.add_few([(due_s, slot)])

    def set_bandwidth(self, links: IntArray, bandwidth_bytes_per_s: FloatArray) -> None:
        """Change the bandwidth of *links* from now on; 0 is a dead link, on which flows wait."""
        for link, bandwidth in zip(links.tolist(), bandwidth_bytes_per_s.tolist(), strict=True):
            if bandwidth:
                self._down_since.pop(link, None)
            else:
                self._down_since.setdefault(link, self.env.now)
        self._meet(links.tolist())
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

    def _arm(self) -> None:
        """Ask SimPy to wake us at the next instant."""
        next_s = self._due.next_s()
        if next_s < self._armed:
            self._armed = next_s
            # Rounding may put the alarm slightly before the flow's time; SAME_INSTANT covers that.
            alarm = self.env.timeout(max(next_s - self.env.now, 0.0))
            assert alarm.callbacks is not None
            alarm.callbacks.append(self._wake)

    def _wake(self, _: simpy.Event) -> None:
        now = self.env.now
        limit = now + now * SAME_INSTANT
        if self._armed > limit:
            return  # an alarm that an earlier one has replaced
        self._armed = inf
        self._settling = True
        due = self._due
        while due.next_s() <= limit:
            while due.next_s() <= limit:
                self._handle(*due.take(limit))
            self._share()
        self._settling = False
        self._arm()

    def _handle(self, lone: list[LoneFlow], slots: list[int] | IntArray) -> None:
        """Move flows on to their next state and tell the owners of those that ended."""
        for flow in lone:
            self._lone.end(flow)
        if not isinstance(slots, list):
            self._advance_many(slots)
        elif slots:
            self._advance_few(slots)
        for flow in lone:
            self._owners[flow.owner].ended_one(flow.tag)
        for owner in self._owners:
            owner.settled()

    def _advance_few(self, slots: list[int]) -> None:
        pool = self._pool
        if self._lone.on:
            for slot in slots:
                if not pool.active_at[slot]:
                    self._meet(pool.hops_of(slot))
        for tag, number in self._sharing.advance_few(slots, self.env.now):
            self._owners[number].ended_one(tag)

    def _advance_many(self, slots: IntArray) -> None:
        pool = self._pool
        if self._lone.on:
            self._meet(self._lone.among(pool.hops[:, slots[~pool.active[slots]]]))
        tags, numbers = self._sharing.advance(slots, self.env.now)
        for number, owner in enumerate(self._owners):
            mine = tags if len(self._owners) == 1 else tags[numbers == number]
            if len(mine):
                owner.ended(mine)

    def _share(self) -> None:
        few, many = self._sharing.share(self.env.now)
        if few:
            self._due.add_few(few)
        for slots, times in many:
            self._due.add_many(slots, times)


def change_links(
    change: LinkChange, env: simpy.Environment, fluid: Fluid
) -> Generator[simpy.Event, None, None]:
    """Process that changes the links of *fluid* at the given time."""
    checked_links(fluid.network, change.links)
    if change.at_s:  # a link that fails at time 0 carries nothing, not even bytes that take no time
        yield env.timeout(change.at_s)
    links = np.array(change.links, np.int64)
    fluid.set_bandwidth(links, fluid.network.bandwidth_bytes_per_s[links] * change.factor)
