"""Bulk engine: whole steps at once, where messages of different steps cannot meet.

A flow that shares nothing ends at ``max(ready of both ends) + latency + bytes / narrowest link``.
Flows of one step that share a link or a rank's processor are solved inside the step.  `Meetings`
proves that there is nothing else to share; without the proof, the event engine has to be used.
The results are the event engine's, up to rounding.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.network.cluster import Cluster
from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulation.clocks import Clocks, posting_leads
from dgc_topo.simulation.inside_step import join_flows, solve_step
from dgc_topo.simulation.kept_steps import steps_of
from dgc_topo.simulation.maxmin import max_min_rates
from dgc_topo.simulation.meetings import BulkError, Meetings
from dgc_topo.simulation.pattern import Pattern, Patterns, as_one
from dgc_topo.simulation.resources import Resources
from dgc_topo.simulation.tally import Tally
from dgc_topo.simulation.transfer_sizes import Sizes, StepSizes, checked_sizes
from dgc_topo.simulation.work import MAKES, READS, CodingHistory, Work


class BulkRun:
    """Run of one schedule, or of several one after the other on each rank.

    Args:
        cluster: Ranks on the hosts of a network.

    Attributes:
        clocks: Time at which each rank has finished its part so far.
        tally: Sums of messages and bytes, and the bounds by resource.

    Raises:
        BulkError: if the cluster has what only the event engine models: other jobs' traffic,
            links that change, or links that save up bytes.
    """

    def __init__(self, cluster: Cluster) -> None:
        _refuse_others(cluster)
        network, size = cluster.network, cluster.num_ranks
        self._size, self._costs = size, network.costs
        self._resources = Resources(network)
        self.clocks = Clocks(size)
        self.tally = Tally(self._resources, self._costs, size)
        self._patterns = Patterns(self._resources, size, cluster.placement)
        self._meetings = Meetings(self._resources, cluster.placement)
        self._shapes: WeakKeyDictionary[Pattern, _Shape] = WeakKeyDictionary()
        self._have_begun = np.zeros(size, np.bool_)  # ranks that have taken a step of this run
        self._work = Work(self._costs, size)
        self._coding = CodingHistory(self._costs, size)
        self._staggers = self._costs.is_serial and self._costs.has_overhead

    def run(self, schedule: Schedule, sizes: Sizes) -> None:
        """Run a schedule; each rank begins when it is ready.

        Raises:
            BulkError: if messages of different steps can meet.
        """
        self._have_begun[:] = False
        for index, step in enumerate(steps_of(schedule)):
            if len(step):
                self._take(step, checked_sizes(sizes, index, step))

    def _take(self, step: Step, sizes: StepSizes) -> None:
        """Run a step."""
        pattern, work = self._patterns.of(step), self._work
        busy_s = work.after_s(pattern, step, sizes)
        if not self._costs.has_processors:
            self._send(pattern, sizes.num_bytes, busy_s)
            return
        before_s, makes = work.before_s(pattern, step, sizes)
        start_s = self._start_s(pattern.members)
        if start_s is not None:
            before_s += start_s
        if before_s.any():
            self._be_busy(pattern.members, before_s, MAKES * makes)
        self._send(pattern, sizes.num_bytes, None)
        if busy_s is not None and busy_s.any():
            busy = busy_s > 0
            kinds = np.full(len(busy), READS * work.is_coded(sizes))
            self._be_busy(pattern.members[busy], busy_s[busy], kinds[busy])

    def _be_busy(self, members: IntArray, work_s: FloatArray, kinds: IntArray) -> None:
        """Keep ranks' processors busy for some CPU seconds before they go on."""
        pattern = self._patterns.of_work(members)
        self._shape(pattern)
        self.tally.add_work(pattern, work_s)
        cores = min(self._costs.cores_per_process, self._costs.machine_cores)
        if self._coding.matters:
            begin_s = self.clocks.times_s[members]
            work_s = work_s + self._coding.cold_s(kinds, members, begin_s)
            self._coding.note(kinds, members, begin_s + work_s / cores)
        self.clocks.add(members, work_s / cores)

    def _send(self, pattern: Pattern, num_bytes: FloatArray, busy_s: FloatArray | None) -> None:
        """Run the messages of a step, and what ranks do with them afterwards."""
        flow_bytes, shape = pattern.sum_flows(num_bytes), self._shape(pattern)
        delay_s = pattern.latency_s
        if self._costs.message_curve:
            delay_s = delay_s + self._costs.extra_s(flow_bytes)
        start_s = self._start_s(pattern.members) if self._staggers else None
        self.tally.add(num_bytes, pattern, flow_bytes, delay_s, busy_s, start_s)
        leads = posting_leads(pattern, self._costs, start_s) if self._staggers else None
        if shape.shared is None:
            self.clocks.advance(pattern, shape.duration_s(delay_s, flow_bytes), leads)
        else:
            active_s = self.clocks.begin_s(pattern, leads) + delay_s
            self.clocks.finish(pattern, self._solve(shape, active_s, flow_bytes))
        if busy_s is not None:
            self.clocks.add(pattern.members, busy_s)

    def _solve(self, shape: _Shape, active_s: FloatArray, flow_bytes: FloatArray) -> FloatArray:
        """Return the ends of flows, some of which share resources."""
        end_s = active_s + flow_bytes * shape.s_per_byte
        which = shape.shared
        end_s[which] = solve_step(
            shape.hops,
            shape.groups,
            active_s[which],
            flow_bytes[which],
            self._resources.capacity,
            self._resources.weights(len(shape.hops)),
        )
        return end_s

    def _start_s(self, members: IntArray) -> FloatArray | None:
        """Return the seconds that members take to begin the run, or None if all have begun."""
        if not self._costs.start_overhead_s or self._have_begun.all():
            return None
        start_s = np.where(self._have_begun[members], 0.0, self._costs.start_overhead_s)
        self._have_begun[members] = True
        return start_s

    def _shape(self, pattern: Pattern) -> _Shape:
        """Return how the flows of a step share resources.

        Raises:
            BulkError: if messages of different steps can meet.
        """
        shape = self._shapes.get(pattern)
        if shape is None:
            harmless = self._meetings.check(pattern)
            shape = self._shapes[pattern] = _shape_of(pattern, self._resources, harmless)
        return shape


class _Shape(NamedTuple):
    """Sharing of resources by the flows of a step.

    Attributes:
        s_per_byte: Seconds per byte of each flow if it is alone, shape (num_flows,).
        shared: Flows that share resources with others; None if there are none.
        hops: Resources that these use, shape (max_hops, num_shared).
        groups: Number of the group of joined flows of each, shape (num_shared,).
    """

    s_per_byte: FloatArray
    shared: IntArray | None
    hops: IntArray
    groups: IntArray

    def duration_s(self, delay_s: FloatArray, flow_bytes: FloatArray) -> FloatArray | float:
        """Return the seconds of flows that are alone, as one number if they are alike."""
        return as_one(delay_s) + as_one(flow_bytes) * as_one(self.s_per_byte)


_NO_FLOWS = np.empty(0, np.int64)


def _shape_of(pattern: Pattern, resources: Resources, harmless: BoolArray | None) -> _Shape:
    hops = pattern.hops
    if harmless is not None:
        hops = np.where(harmless[hops], resources.pad, hops)
    shared = _NO_FLOWS
    if pattern.most_uses > 1:
        groups, alone = join_flows(hops, resources.capacity)
        shared = np.flatnonzero(~alone)
    if not len(shared):
        return _Shape(_alone_s_per_byte(hops, resources), None, hops, _NO_FLOWS)
    s_per_byte = np.zeros(hops.shape[1])
    s_per_byte[alone] = _alone_s_per_byte(hops[:, alone], resources)
    return _Shape(s_per_byte, shared, hops[:, shared], groups[shared])


def _alone_s_per_byte(hops: IntArray, resources: Resources) -> FloatArray:
    """Return the seconds per byte of flows that are alone, shape (num_flows,)."""
    if not len(hops):  # all stay on their hosts
        return np.zeros(hops.shape[1])
    weights = resources.weights(len(hops))
    if weights is not None:  # one flow may use a link for its bytes and for acknowledgements
        rates = [max_min_rates(flow[:, None], resources.capacity, weights)[0] for flow in hops.T]
        return 1.0 / np.array(rates)
    if resources.one_bandwidth is not None and hops.size and hops.max() < resources.num_links:
        return np.broadcast_to(1.0 / resources.one_bandwidth, (hops.shape[1],))
    return np.asarray(1.0 / resources.capacity[hops].min(axis=0, initial=np.inf))


def _refuse_others(cluster: Cluster) -> None:
    if cluster.background is not None:
        _refuse("other jobs' traffic")
    if cluster.changes:
        _refuse("links that change on the way")
    if cluster.network.costs.burst_bytes:
        _refuse("links that save up bytes (burst_bytes)")


def _refuse(what: str) -> None:
    raise BulkError(f"engine bulk: {what} needs events; expected engine events, or auto")
