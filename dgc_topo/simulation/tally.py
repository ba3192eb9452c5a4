"""Lower bounds of a run by resource: the schedule's demands on links, processors and latency.

Each of these is a time that this schedule cannot beat on this network:
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.changes import LinkChange, carry_times_s
from dgc_topo.network.costs import EndCosts
from dgc_topo.simulation.clocks import Clocks, posting_leads
from dgc_topo.simulation.pattern import Pattern, as_one
from dgc_topo.simulation.resources import Resources

#: Links whose times are closer than this (relative) are equally busy.
SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Bounds:
    """Lower bounds of one run by resource, in seconds, and the resource's name.

    Attributes:
        link_s: Time in which the busiest link could carry its bytes.
        link: Name of that link.
        cpu_s: Time for which the busiest processor is needed.
        cpu: Name of that processor.
        latency_s: Time of the longest chain of latencies.
    """

    link_s: float
    link: str
    cpu_s: float
    cpu: str
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
        return "latency" if self.latency_s == self.largest_s else self.cpu


class Tally:
    """Sums over the steps of a schedule.

    Steps of one pattern are summed up flow by flow, and spread over ranks and links only when
    another pattern follows or somebody asks: a ring has one pattern and thousands of steps.

    Args:
        resources: Links and processors.
        costs: Costs of messages at their ends.
        world_size: Number of ranks.

    Attributes:
        messages: Number of transfers.
    """

    def __init__(self, resources: Resources, costs: EndCosts, world_size: int) -> None:
        self.messages = 0
        self._bytes_sent = np.zeros(world_size)
        self._messages_sent = np.zeros(world_size)
        self._resources, self._costs = resources, costs
        self._used = np.zeros(len(resources.capacity))  # by resource; the last one pads
        self._cpu_s = np.zeros(world_size)
        self._chains = Clocks(world_size)
        self._run: _Run | None = None

    @property
    def bytes_sent(self) -> FloatArray:
        """Bytes sent by each rank, shape (world_size,)."""
        self._spread()
        return self._bytes_sent

    @property
    def messages_sent(self) -> FloatArray:
        """Transfers of each rank, shape (world_size,)."""
        self._spread()
        return self._messages_sent

    def add(
        self,
        num_bytes: FloatArray,
        pattern: Pattern,
        flow_bytes: FloatArray,
        delay_s: FloatArray,
        busy_s: FloatArray | None,
        start_s: FloatArray | None,
    ) -> None:
        """Add one step.

        Args:
            num_bytes: Bytes of each of its transfers.
            pattern: Ranks of the transfers, and flows.
            flow_bytes: Bytes of each flow.
            delay_s: Latency of each flow.
            busy_s: Seconds of each member for adding what it received, or None.
            start_s: Seconds of each member to begin the run, or None.
        """
        self.messages += len(num_bytes)
        if self._run is None or self._run.pattern is not pattern:
            self._spread()
            self._run = _Run(pattern)
        self._run.add(num_bytes, flow_bytes, busy_s)
        if start_s is not None:
            self._cpu_s[pattern.members] += start_s
            self._chains.add(pattern.members, start_s)
        leads = posting_leads(pattern, self._costs) if self._costs.is_serial else None
        self._chains.advance(pattern, as_one(delay_s), leads)

    def add_often(self, num_bytes: FloatArray, pattern: Pattern, delay_s: FloatArray) -> None:
        """Add several steps of one pattern, without overheads; each transfer has a flow of its own.

        Args:
            num_bytes: Bytes of each transfer in every step, shape (num_steps,).
            pattern: Ranks of the transfers, and flows.
            delay_s: Latency of each flow.
        """
        self.messages += len(num_bytes) * pattern.num_flows
        if self._run is None or self._run.pattern is not pattern:
            self._spread()
            self._run = _Run(pattern)
        self._run.add_often(num_bytes)
        self._chains.advance_often(pattern, delay_s, np.zeros_like(num_bytes), 0.0)

    def add_work(self, pattern: Pattern, work_s: FloatArray) -> None:
        """Add work of ranks that share processors.

        Args:
            pattern: Pattern of flows from each rank to itself.
            work_s: CPU seconds of each rank.
        """
        self._use(pattern, work_s / self._resources.work_unit_s)
        alone_s = work_s / min(self._costs.cores_per_process, self._costs.machine_cores)
        self._chains.add(pattern.members, alone_s)

    def _spread(self) -> None:
        """Credit the steps summed up so far to their ranks and links."""
        run, self._run = self._run, None
        if run is None:
            return
        pattern = run.pattern
        everybody = len(pattern.src) == len(self._bytes_sent) and pattern.inverse is not None
        where = slice(None) if everybody else pattern.src
        _add_at(self._bytes_sent, where, run.num_bytes)
        _add_at(self._messages_sent, where, float(run.num_steps))
        self._use(pattern, run.flow_bytes)
        if self._costs.is_serial:
            overhead_s = self._costs.step_overhead_s + self._costs.overhead_s * pattern.degree
            self._cpu_s[pattern.members] += run.num_steps * overhead_s + run.busy_s

    def _use(self, pattern: Pattern, flow_bytes: FloatArray | float) -> None:
        """Add what flows use of each resource."""
        weights = self._resources.weights(len(pattern.hops))
        alike = weights is None and isinstance(flow_bytes, float)
        if alike and 8 * pattern.num_flows >= len(self._used):
            once = pattern.most_uses == 1 and len(pattern.uses) == pattern.hops.size
            self._used[: len(pattern.uses)] += flow_bytes * (1 if once else pattern.uses)
            return
        for hop, resources in enumerate(pattern.hops):
            used = flow_bytes if weights is None else flow_bytes * float(weights[hop])
            _add_at(self._used, resources, used)

    def bounds(
        self, changes: Sequence[LinkChange] = (), moved_at_once: FloatArray | None = None
    ) -> Bounds:
        """Return the bounds of the steps so far, by resource.

        Args:
            changes: Changes of links on the way.
            moved_at_once: Use of each resource that took no time.
        """
        self._spread()
        first_processor = self._resources.num_links
        links_s = carry_times_s(self._resources.network, self._used[:first_processor], changes)
        link_s, link = self._busiest(links_s, 0)
        latency_s = float(self._chains.times_s.max())
        if self._costs.has_processors:
            processors = slice(first_processor, self._resources.pad)
            used = self._used if moved_at_once is None else self._used - moved_at_once
            needed_s = np.maximum(used[processors], 0.0) / self._resources.capacity[processors]
            cpu_s, cpu = self._busiest(needed_s, first_processor)
        else:
            rank = _first_largest(self._cpu_s)
            cpu_s, cpu = float(self._cpu_s[rank]), f"rank {rank} CPU"
        return Bounds(link_s, link, cpu_s, cpu, latency_s)

    def _busiest(self, needed_s: FloatArray, first: int) -> tuple[float, str]:
        """Return the largest time needed by a resource, from number *first* on, and its name."""
        if not len(needed_s):  # a single host, without a switch
            return 0.0, "no link"
        busiest = _first_largest(needed_s)
        like_it = int((needed_s >= needed_s[busiest] * (1 - SAME)).sum()) - 1
        name = self._resources.name(first + busiest)
        return float(needed_s[busiest]), f"{name} (and {like_it} more)" if like_it else name


def _first_largest(values: FloatArray) -> int:
    """Return the position of the largest value; of several alike, the first."""
    return int(np.argmax(values >= values.max() * (1 - SAME)))


def _add_at(total: FloatArray, where: IntArray | slice, values: FloatArray | float) -> None:
    if isinstance(where, slice):
        total[where] += values
    elif 8 * len(where) < len(total):  # if few of many change, the cost must depend on the few
        np.add.at(total, where, values)
    elif isinstance(values, float):
        total += values * np.bincount(where, minlength=len(total))
    else:
        total += np.bincount(where, values, len(total))


class _Run:
    """Consecutive steps of one pattern, summed up flow by flow, or as one number if all alike."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.num_steps = 0
        self.num_bytes: FloatArray | float = 0.0
        self.flow_bytes: FloatArray | float = 0.0
        self.busy_s: FloatArray | float = 0.0

    def add(self, num_bytes: FloatArray, flow_bytes: FloatArray, busy_s: FloatArray | None) -> None:
        self.num_steps += 1
        self.num_bytes = self.num_bytes + as_one(num_bytes)
        # If every transfer has its own flow, one sum serves both.
        if self.pattern.flow_of is None:
            self.flow_bytes = self.num_bytes
        else:
            self.flow_bytes = self.flow_bytes + as_one(flow_bytes)
        if busy_s is not None:
            self.busy_s = self.busy_s + busy_s

    def add_often(self, num_bytes: FloatArray) -> None:
        self.num_steps += len(num_bytes)
        self.num_bytes = self.num_bytes + float(num_bytes.sum())
        self.flow_bytes = self.num_bytes
