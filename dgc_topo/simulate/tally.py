"""What a schedule asks of each resource, and so which one bounds it.

Each of these is a time that this schedule cannot beat on this network:

- a link: the bytes that cross it, over its bandwidth;
- a rank's CPU: its messages' overhead and its additions, which are serial;
- latency: the longest chain of transfers, if bytes took no time.

The largest is what bounds the run; the others say how far behind they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgc_topo.schedule import Step
from dgc_topo.simulate.network import FloatArray, IntArray, Network
from dgc_topo.simulate.pattern import Pattern

#: Links whose times are closer than this (relative) are equally busy.
SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lower bounds of one run by resource, in seconds, and the resource's name.

    Attributes:
        link_s: Time in which the busiest link could carry its bytes.
        link: Name of that link.
        cpu_s: Time for which the busiest rank's CPU is needed.
        rank: That rank.
        latency_s: Time of the longest chain of latencies.
    """

    link_s: float
    link: str
    cpu_s: float
    rank: int
    latency_s: float

    @property
    def largest_s(self) -> float:
        """The largest bound."""
        return max(self.link_s, self.cpu_s, self.latency_s)

    @property
    def bound_by(self) -> str:
        """Name of the resource with the largest bound; ``nothing`` if the run takes no time."""
        if not self.largest_s:
            return "nothing"
        if self.link_s == self.largest_s:
            return self.link
        return "latency" if self.latency_s == self.largest_s else f"rank {self.rank} CPU"


class Tally:
    """Sums over the steps of a schedule.

    Args:
        network: Links and costs.
        world_size: Number of ranks.

    Attributes:
        messages: Number of transfers.
        bytes_sent: Per rank, shape (world_size,).
        messages_sent: Transfers of each rank, same shape.
    """

    def __init__(self, network: Network, world_size: int) -> None:
        self.messages = 0
        self.bytes_sent = np.zeros(world_size)
        self.messages_sent = np.zeros(world_size)
        self._network = network
        self._link_bytes = np.zeros(network.num_links + 1)  # the last one pads routes
        self._cpu_s = np.zeros(world_size)
        self._chain_s = np.zeros(world_size)

    def add(
        self,
        step: Step,
        num_bytes: FloatArray,
        pattern: Pattern,
        flow_bytes: FloatArray,
        delay_s: FloatArray,
        busy_s: FloatArray | None,
    ) -> None:
        """Add one step.

        Args:
            step: Its transfers.
            num_bytes: Bytes of each transfer.
            pattern: Its flows.
            flow_bytes: Bytes of each flow.
            delay_s: Latency of each flow.
            busy_s: How long each member adds up what it received, or None.
        """
        self.messages += len(step)
        _add_at(self.bytes_sent, step.src, num_bytes)
        _add_at(self.messages_sent, step.src, np.ones(len(step)))
        for links in pattern.hops:
            _add_at(self._link_bytes, links, flow_bytes)
        overhead_s = self._network.costs.overhead_s
        if overhead_s:
            self._cpu_s[pattern.members] += pattern.degree * overhead_s
        if busy_s is not None:
            self._cpu_s[pattern.members] += busy_s
        self._lengthen_chains(pattern, delay_s, overhead_s)

    def _lengthen_chains(self, pattern: Pattern, delay_s: FloatArray, overhead_s: float) -> None:
        before = self._chain_s[pattern.members]
        src_s, dst_s = before[pattern.src_at], before[pattern.dst_at]
        if overhead_s:
            src_turn, dst_turn = pattern.turns
            src_s += (1 + src_turn) * overhead_s
            dst_s += (1 + dst_turn) * overhead_s
        end_s = np.maximum(src_s, dst_s) + delay_s
        np.maximum.at(before, pattern.src_at, end_s)
        np.maximum.at(before, pattern.dst_at, end_s)
        self._chain_s[pattern.members] = before

    def bounds(self) -> Bounds:
        """Return what bounds the steps so far."""
        link_s, link = self._busiest_link()
        rank = int(np.argmax(self._cpu_s))
        return Bounds(link_s, link, float(self._cpu_s[rank]), rank, float(self._chain_s.max()))

    def _busiest_link(self) -> tuple[float, str]:
        if not self._network.num_links:  # a single host, without a switch
            return 0.0, "no link"
        needed_s = self._link_bytes[:-1] / self._network.bandwidth_bytes_per_s
        busiest = int(np.argmax(needed_s))
        like_it = int((needed_s >= needed_s[busiest] * (1 - SAME)).sum()) - 1
        name = self._network.link_names(busiest)
        return float(needed_s[busiest]), f"{name} (and {like_it} more)" if like_it else name


def _add_at(total: FloatArray, where: IntArray, values: FloatArray) -> None:
    if 8 * len(where) < len(total):  # few of many: cost must follow the few
        np.add.at(total, where, values)
    else:
        total += np.bincount(where, values, len(total))
