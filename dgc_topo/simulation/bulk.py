"""Bulk engine: whole steps at once, where messages of different steps cannot meet.

A flow that shares nothing ends at ``max(ready of both ends) + latency + bytes / narrowest link``.
Flows of one step that share a link or a rank's processor are solved inside the step.  `Meetings`
proves that there is nothing else to share; without the proof, the event engine has to be used.
The results are the event engine's, up to rounding.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.cluster import Cluster
from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulation.clocks import Clocks, posting_leads
from dgc_topo.simulation.inside_step import Budget
from dgc_topo.simulation.kept_steps import KeptSteps, find_kept
from dgc_topo.simulation.meetings import BulkError, Meetings
from dgc_topo.simulation.pattern import Pattern, Patterns, is_one
from dgc_topo.simulation.resources import Resources
from dgc_topo.simulation.shape import StepShape, shape_of
from dgc_topo.simulation.step_sizes import AlikeSizes, Sizes, StepSizes, checked_sizes
from dgc_topo.simulation.tally import Tally
from dgc_topo.simulation.watching import StepWatch
from dgc_topo.simulation.work import MAKES, READS, CodingHistory, Work


class BulkRun:
    """Run of one schedule, or of several one after the other on each rank.

    Args:
        cluster: Ranks on the hosts of a network.
        watch: Count of the steps, for progress.
        is_demanded: True to go on even where events would be faster.

    Attributes:
        clocks: Time at which each rank has finished its part so far.
        tally: Sums of messages and bytes, and the bounds by resource.

    Raises:
        BulkError: if the cluster has what only the event engine models: other jobs' traffic,
            links that change, or links that save up bytes.
    """

    def __init__(self, cluster: Cluster, watch: StepWatch, *, is_demanded: bool = False) -> None:
        _refuse_others(cluster)
        network, size = cluster.network, cluster.num_ranks
        self._size, self._costs, self._watch = size, network.costs, watch
        self._resources = Resources(network)
        self._budget = Budget(is_limited=not is_demanded)
        self.clocks = Clocks(size)
        self.tally = Tally(self._resources, self._costs, size)
        self._patterns = Patterns(self._resources, size, cluster.placement)
        self._meetings = Meetings(self._resources, cluster.placement)
        self._shapes: WeakKeyDictionary[Pattern, StepShape] = WeakKeyDictionary()
        self._have_begun = np.zeros(size, np.bool_)  # ranks that have taken a step of this run
        self._work = Work(self._costs, size)
        self._coding = CodingHistory(self._costs, size)
        self._has_wires_only = not (
            self._costs.has_processors or self._costs.is_serial or self._costs.message_curve
        )
        self._staggers = self._costs.is_serial and self._costs.has_overhead

    def run(self, schedule: Schedule, sizes: Sizes) -> None:
        """Run a schedule; each rank begins when it is ready.

        Raises:
            BulkError: if messages of different steps can meet.
        """
        self._have_begun[:] = False
        self._look_at_first(schedule)
        kept = find_kept(schedule)
        if kept is None:
            for index, step in enumerate(schedule.steps()):
                if len(step):
                    self._take(step, checked_sizes(sizes, index, step))
            return
        alike = sizes if self._has_wires_only and isinstance(sizes, AlikeSizes) else None
        for which in kept.runs:
            if alike is None or not self._take_together(kept, which, alike):
                for index in which:
                    step = kept.steps[index]
                    self._take(step, checked_sizes(sizes, index, step))

    def _look_at_first(self, schedule: Schedule) -> None:
        """Refuse a schedule whose first step shows that messages can meet, before all are read."""
        if self._meetings.may_refuse:
            first = next((step for step in schedule.steps() if len(step)), None)
            if first is not None:
                self._shape(self._patterns.of(first))

    def _take_together(self, kept: KeptSteps, which: range, sizes: AlikeSizes) -> bool:
        """Run consecutive steps between the same ranks at once, if that is all the same."""
        num_bytes = sizes.of_alike_steps(kept, which)
        pattern = self._patterns.of(kept.steps[which.start])
        if num_bytes is None or pattern.flow_of is not None:
            return False
        shape = self._shape(pattern)
        s_per_byte: FloatArray | None = shape.s_per_byte
        if shape.shared is not None:
            s_per_byte = shape.even_s_per_byte
            stay_common = self.clocks.are_common and len(pattern.members) == self._size
            if not (stay_common and is_one(pattern.latency_s) and is_one(s_per_byte)):
                return False
        assert s_per_byte is not None
        self._watch.note(len(which))
        self.tally.add_often(num_bytes, pattern, pattern.latency_s)
        self.clocks.advance_often(pattern, pattern.latency_s, num_bytes, s_per_byte)
        return True

    def _take(self, step: Step, sizes: StepSizes) -> None:
        """Run a step."""
        self._watch.note()
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
            self._budget.earn(pattern.num_flows)
            end_s = shape.end_s(active_s, flow_bytes, self._resources, self._budget)
            self.clocks.finish(pattern, end_s)
        if busy_s is not None:
            self.clocks.add(pattern.members, busy_s)

    def _start_s(self, members: IntArray) -> FloatArray | None:
        """Return the seconds that members take to begin the run, or None if all have begun."""
        if not self._costs.start_overhead_s or self._have_begun.all():
            return None
        start_s = np.where(self._have_begun[members], 0.0, self._costs.start_overhead_s)
        self._have_begun[members] = True
        return start_s

    def _shape(self, pattern: Pattern) -> StepShape:
        """Return how the flows of a step share resources.

        Raises:
            BulkError: if messages of different steps can meet.
        """
        shape = self._shapes.get(pattern)
        if shape is None:
            harmless = self._meetings.check(pattern)
            shape = self._shapes[pattern] = shape_of(pattern, self._resources, harmless)
        return shape


def _refuse_others(cluster: Cluster) -> None:
    if cluster.background is not None:
        _refuse("other jobs' traffic")
    if cluster.changes:
        _refuse("links that change on the way")
    if cluster.network.costs.burst_bytes:
        _refuse("links that save up bytes (burst_bytes)")


def _refuse(what: str) -> None:
    raise BulkError(f"engine bulk: {what} needs events; expected engine events, or auto")
