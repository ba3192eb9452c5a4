"""Resources that flows share: links and, if they are modelled, the processors at their ends.

A flow uses several resources at once: of a link the bytes that it moves; of a processor the CPU
seconds that each byte costs to send or receive; of the links on its way back a small share for
acknowledgements.  Every *hop* of a flow therefore has a weight: the use of that hop's resource by
one byte.  Weights belong to the position of a hop, which is the same for all flows:

    send: process, machine | receive: process, machine | work: process, machine | links ...

*Work* is a rank's own processing, such as adding what arrived.  It is a flow as well, of CPU
seconds over the process and machine that it keeps busy.  Work and messages of all processes on a
machine thus share its cores, as under the kernel's scheduler.
"""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.network.network import Network
from dgc_topo.simulation.pool import FlowPool

_SEND, _RECEIVE, _WORK, _LINKS = 0, 2, 4, 6


class Resources:
    """The resources of a network: its links, then a processor per slot, then its machines.

    Args:
        network: Links, and what messages cost at their ends.

    Attributes:
        capacity: Capacity of each resource, shape (num_resources + 1,): bytes per second of a link,
            cores of a processor; the last one is infinite and pads hops.
        pad: Number of that last one.
        num_links: Number of links: the first resources.
        network: Links, and what messages cost at their ends.
        costs: Costs of messages at their ends.
        one_bandwidth: Bandwidth of all links, if it is one, shape (1,); else None.
        work_unit_s: CPU seconds in one unit of work, chosen so that work gets as much of a core as
            the handling of a message beside it.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.costs = costs = network.costs
        self.has_processors = costs.has_processors
        self.num_links = network.num_links
        capacity = [network.bandwidth_bytes_per_s]
        if self.has_processors:
            slots = np.arange(network.num_slots)
            self._first_machine = network.num_links + network.num_slots
            machines = slots // (network.slots_per_host * costs.hosts_per_machine)
            self._machine_of = self._first_machine + machines
            capacity.append(np.full(network.num_slots, costs.cores_per_process))
            capacity.append(np.full(machines[-1] + 1, costs.machine_cores))
        self.capacity = np.concatenate([*capacity, [np.inf]])
        self.pad = len(self.capacity) - 1
        cpu_s_per_byte = max(costs.send_s_per_byte, costs.receive_s_per_byte)
        self.work_unit_s = cpu_s_per_byte or 1.0
        self._latency = np.append(network.latency_s, 0.0)
        self._one_latency = _one(network.latency_s)
        self.one_bandwidth = _one(network.bandwidth_bytes_per_s)

    @property
    def is_weighted(self) -> bool:
        """True if a byte uses anything but one byte of every link on its way."""
        return self.has_processors or self.costs.reverse_share > 0

    def weights(self, num_hops: int) -> FloatArray | None:
        """Return the use of each hop by one byte of any flow, shape (num_hops,); None for all 1."""
        if not self.is_weighted:
            return None
        costs = self.costs
        weights = np.ones(num_hops)
        first = 0
        if self.has_processors:
            first = _LINKS
            weights[_SEND:_RECEIVE] = costs.send_s_per_byte
            weights[_RECEIVE:_WORK] = costs.receive_s_per_byte
            weights[_WORK:_LINKS] = self.work_unit_s
        if costs.reverse_share:
            weights[first + 1 :: 2] = costs.reverse_share
        return weights

    def are_own(self, placement: IntArray) -> BoolArray:
        """Return a mask of the resources that only one rank's traffic can use.

        Resources of which that is not known at once are left out.

        Args:
            placement: Slot of each rank, shape (world_size,).
        """
        own = np.zeros(len(self.capacity), np.bool_)
        taken = np.bincount(placement, minlength=self.network.num_slots)
        link_slots = self.network.link_slots
        if link_slots is not None:
            own[: self.num_links] = (link_slots >= 0) & (taken[link_slots] <= 1)
        if self.has_processors:
            own[self.num_links : self._first_machine] = taken <= 1
        return own

    def of_messages(self, src: IntArray, dst: IntArray) -> tuple[IntArray, FloatArray]:
        """Return the resources that messages between slots use, and the latency of their routes.

        Args:
            src: Sending slots, shape (num_flows,).
            dst: Receiving slots, shape (num_flows,).

        Returns:
            Hops, shape (num_hops, num_flows), padded; and latencies, shape (num_flows,).
        """
        hops, latency_s = self._links_of(src, dst)
        if self.costs.reverse_share:
            back, _ = self._links_of(dst, src)
            both = np.full((2 * max(len(hops), len(back)), len(src)), self.pad)
            both[: 2 * len(hops) : 2], both[1 : 2 * len(back) : 2] = hops, back
            hops = both
        if not self.has_processors:
            return hops, latency_s
        costs, away = self.costs, src != dst  # a message to oneself costs nothing
        ends = np.full((_LINKS, len(src)), self.pad)
        sides = ((_SEND, src, costs.send_s_per_byte), (_RECEIVE, dst, costs.receive_s_per_byte))
        for first, host, cpu_s_per_byte in sides:
            if cpu_s_per_byte:
                ends[first] = np.where(away, self.num_links + host, self.pad)
                ends[first + 1] = np.where(away, self._machine_of[host], self.pad)
        return np.concatenate([ends, hops]), latency_s

    def of_work(self, hosts: IntArray) -> IntArray:
        """Return the resources that work on slots uses, shape (num_hops, num_flows)."""
        hops = np.full((_LINKS, len(hosts)), self.pad)
        hops[_WORK], hops[_WORK + 1] = self.num_links + hosts, self._machine_of[hosts]
        return hops

    def _links_of(self, src: IntArray, dst: IntArray) -> tuple[IntArray, FloatArray]:
        """Return the links crossed, shape (max_links, num_flows), and each route's latency."""
        hops = np.ascontiguousarray(self.network.routes(src, dst).T)
        padded = hops.size > 0 and hops.min() < 0
        if padded:
            longest = int((hops >= 0).any(axis=1).sum())  # what pads comes last
            hops = np.where(hops[:longest] < 0, self.pad, hops[:longest])
        if self._one_latency is not None and not padded:
            return hops, np.broadcast_to(len(hops) * self._one_latency, (len(src),))
        latency = np.zeros(len(src))
        for links in hops:
            latency += self._latency[np.minimum(links, self.network.num_links)]
        return hops, latency

    def name(self, resource: int) -> str:
        """Return the name of a resource for people."""
        if resource < self.num_links:
            return self.network.link_names(resource)
        if resource < self._first_machine:
            return f"{self.network.slot_name(resource - self.num_links)} CPU"
        return f"machine {resource - self._first_machine} CPU"


def _one(values: FloatArray) -> FloatArray | None:
    """Return the value of all entries as an array of one; None if they differ."""
    return values[:1] if len(values) and (values == values[0]).all() else None


class TokenBuckets:
    """Token buckets of all links; they are full at first.

    A shaped link (Linux's ``htb``, or a cloud's rate limit) saves up its unused bytes, to a limit.
    A message no longer than the saved bytes takes no time on it, and a stream with short pauses
    still gets its rate.  In the fluid model a flow that becomes active at once moves the bytes that
    *all* links on its way have saved, and continues at its fair share.

    Args:
        pool: Storage of the flows.
        resources: Links, and the use that a byte makes of them.
        burst_bytes: Most bytes that a link saves.

    Attributes:
        moved_at_once: Use of each resource that took no time and kept no processor busy, shape
            (num_resources + 1,).
    """

    def __init__(self, pool: FlowPool, resources: Resources, burst_bytes: float) -> None:
        self._pool, self._resources, self._burst_bytes = pool, resources, burst_bytes
        bandwidth = resources.capacity[: resources.num_links]
        self._limited = np.flatnonzero(np.isfinite(bandwidth))  # the others let all bytes pass
        self._saved = np.where(np.isfinite(bandwidth), float(burst_bytes), np.inf)
        self._growth = np.zeros(resources.num_links)  # in bytes per second; below 0 in use
        self._since_s = 0.0
        self.moved_at_once = np.zeros(len(resources.capacity))

    def pay(self, slots: IntArray, now: float) -> None:
        """Move the bytes that flows get at once when they become active.

        Flows of one instant take what is saved in the order of their steps, and as listed there.
        """
        self._save_up(now)
        pool = self._pool
        slots = slots[np.lexsort((pool.tag[slots], pool.owner[slots]))]
        weights = self._resources.weights(len(pool.hops))
        for slot in slots.tolist():
            hops = pool.hops[:, slot]
            used = np.ones(len(hops)) if weights is None else weights
            crossed = hops < len(self._saved)
            # A message and its acknowledgements both cross a link that both ways share.
            links, which = np.unique(hops[crossed], return_inverse=True)
            if not len(links):
                continue
            used_of_link = np.bincount(which, used[crossed])
            could = float((self._saved[links] / used_of_link).min())
            paid = min(could, float(pool.remaining[slot]))
            self._saved[links] -= paid * used_of_link
            pool.remaining[slot] -= paid
            np.add.at(self.moved_at_once, hops, paid * used)

    def note_rates(self, capacity: FloatArray, now: float) -> None:
        """Take over new rates of the active flows."""
        self._save_up(now)
        pool, limited = self._pool, self._limited
        slots = np.flatnonzero(pool.active)
        hops = pool.hops[:, slots]
        weights = self._resources.weights(len(hops))
        each = np.ones((len(hops), 1)) if weights is None else weights[:, None]
        used = np.bincount(hops.ravel(), (each * pool.rate[slots]).ravel(), len(capacity))
        self._growth[limited] = capacity[limited] - used[limited]

    def _save_up(self, now: float) -> None:
        saved = self._saved + self._growth * (now - self._since_s)
        self._saved[self._limited] = np.clip(saved[self._limited], 0.0, self._burst_bytes)
        self._since_s = now
