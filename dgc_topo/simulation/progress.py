"""Progress of a schedule: the step that each rank has reached, and the flows that it starts.

A rank reaches a step when it has finished its part in all earlier ones.  A transfer starts when
both its ends have reached the step.  A rank's part in a step is finished when all its transfers,
sent and received, have ended, and the received values have been added.  There is no global barrier.

Steps are read from the schedule as late as possible, and forgotten when finished.  A step has to be
read once two ranks have nothing left to do in the steps read before: these two may be the next to
exchange a message.  Where a rank has work of its own before a message, one such rank is enough.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import simpy

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulation.agenda import OVER, Agenda, count_down
from dgc_topo.simulation.fluid import Fluid
from dgc_topo.simulation.pattern import Pattern, Patterns
from dgc_topo.simulation.step_sizes import Sizes, checked_sizes
from dgc_topo.simulation.tally import Tally
from dgc_topo.simulation.watching import StepWatch
from dgc_topo.simulation.work import MAKES, READS, CodingHistory, Work


class ScheduleProgress:
    """Owner of the flows of one schedule.

    Args:
        fluid: The network's flows.
        schedule: Schedule to run.
        sizes: Sizes of its transfers.
        placement: Host of each rank, shape (world_size,).

    Attributes:
        finished: Event that succeeds when the last rank is done.
        finish_s: Time at which each rank finished its last part, shape (world_size,).
        tally: Sums of messages and bytes, and the bounds by resource.
        watch: Count of the steps, for progress.
    """

    def __init__(self, fluid: Fluid, schedule: Schedule, sizes: Sizes, placement: IntArray) -> None:
        size = schedule.world_size
        self.finished: simpy.Event = fluid.env.event()
        self.watch = StepWatch([schedule])
        self.finish_s = np.full(size, fluid.env.now, np.float64)
        self.tally = Tally(fluid.resources, fluid.network.costs, size)
        self._world_size = size
        self._fluid, self._env, self._costs = fluid, fluid.env, fluid.network.costs
        # Without shared processors a rank posts its messages one by one, an overhead apart.
        self._staggers = self._costs.is_serial and self._costs.has_overhead
        self._has_processors = self._costs.has_processors
        self._stays_busy = self._costs.has_merging and not self._has_processors
        self._number = fluid.add_owner(self)
        self._sizes = sizes
        self._steps: Iterator[tuple[int, Step]] = enumerate(schedule.steps())
        self._exhausted = False
        self._idle = size  # ranks with nothing to do in the steps read so far
        # Two idle ranks may exchange a message next; one may have work of its own.
        self._fewest_idle = 1 if self._has_processors else min(2, size)
        self._patterns = Patterns(fluid.resources, size, placement)
        self._agenda = Agenda(size, fluid.resources.pad)
        self._have_begun = np.zeros(size, np.bool_)  # ranks that have taken a step of this run
        self._work = Work(self._costs, size)
        self._coding = CodingHistory(self._costs, size)

    def settled(self) -> None:
        """Read the steps that might start now; the first call starts the schedule."""
        while self._idle >= self._fewest_idle and not self._exhausted:
            self._exhausted = not self._read_next()
        if self._exhausted and self._idle == self._world_size and not self.finished.triggered:
            self.finished.succeed()

    def stalled(self) -> tuple[list[tuple[int, int]], dict[int, float]]:
        """Return pairs of ranks (from, to) that dead links hold up, and the failures' times."""
        tags, dead = self._fluid.stalled(self._number)
        flows, places = self._agenda.flows, self._agenda.places
        rows = np.sort(tags) - flows.base
        src, dst = (
            places["rank"][flows[end][rows] - places.base].tolist()
            for end in ("src_place", "dst_place")
        )
        return list(zip(src, dst, strict=True)), dead

    def _read_next(self) -> bool:
        """Read one more step; return False if there is none."""
        index, step = next(self._steps, (-1, None))
        if step is not None and len(step):
            self.watch.note()
            self._read(index, step)
        return step is not None

    def ended(self, tags: IntArray) -> None:
        """Finish the places whose last flow has ended."""
        flows, places = self._agenda.flows, self._agenda.places
        rows = tags - flows.base
        flows["waiting"][rows] = OVER
        if self._coding.matters:
            kinds = flows["kind"][rows]
            self._coding.note(kinds, self._ranks_of(rows), self._env.now)
        ends = np.concatenate([flows["src_place"][rows], flows["dst_place"][rows]])
        finished = count_down(places["open"], ends - places.base)
        if len(finished) and self._stays_busy:
            self._stay_busy(finished)
        elif len(finished):
            self._leave(finished)

    def _stay_busy(self, rows: IntArray) -> None:
        """Leave places after the time that adding the received values takes."""
        busy_s = self._agenda.places["busy_s"][rows]
        ids = rows + self._agenda.places.base
        order = np.argsort(busy_s, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(busy_s[order])) + 1):
            timeout = self._env.timeout(float(busy_s[group[0]]), ids[group])
            assert timeout.callbacks is not None
            timeout.callbacks.append(self._added_up)

    def _added_up(self, event: simpy.Event) -> None:
        ids: IntArray = np.asarray(event.value)
        self._leave(ids - self._agenda.places.base)
        self.settled()

    def _leave(self, rows: IntArray) -> None:
        """Let ranks go on from finished places to their next ones."""
        places = self._agenda.places
        places["open"][rows] = OVER
        self.finish_s[places["rank"][rows]] = self._env.now
        following = places["next"][rows]
        following = following[following >= 0]
        self._idle += len(rows) - len(following)
        if len(following):
            posted, turn = self._agenda.ends_of(following - places.base)
            if self._staggers:
                rows = following - places.base
                start_s = np.repeat(places["start_s"][rows], places["num_ends"][rows])
                begun_s = self._env.now + self._costs.step_overhead_s + start_s
                when = begun_s + (1 + turn) * self._costs.overhead_s
                np.maximum.at(self._agenda.flows["posted_s"], posted, when)
            self._start(count_down(self._agenda.flows["waiting"], posted))

    def _start(self, rows: IntArray) -> None:
        """Start flows (rows of the tables)."""
        if not len(rows):
            return
        flows = self._agenda.flows
        delay_s = self._until_posted(rows, flows["delay_s"][rows])
        tags = rows + flows.base
        num_bytes = self._when_cold(rows, flows["bytes"][rows])
        self._fluid.start(self._agenda.hops(rows), delay_s, num_bytes, tags, self._number)

    def _ranks_of(self, rows: IntArray) -> IntArray:
        """Return the ranks that flows (rows) start from."""
        places = self._agenda.places
        at: IntArray = self._agenda.flows["src_place"][rows] - places.base
        return np.asarray(places["rank"][at], np.int64)

    def _when_cold(self, rows: IntArray, units: FloatArray) -> FloatArray:
        """Return the sizes of flows (rows) that start now, with the cold-cache penalty of work."""
        if not self._coding.matters:
            return units
        kinds = self._agenda.flows["kind"][rows]
        more_s = self._coding.cold_s(kinds, self._ranks_of(rows), self._env.now)
        return units + more_s / self._fluid.resources.work_unit_s

    def ended_one(self, tag: int) -> None:
        """Finish the places for which this was the last flow."""
        flows, places = self._agenda.flows.views, self._agenda.places.views
        row, base = tag - self._agenda.flows.base, self._agenda.places.base
        flows["waiting"][row] = OVER
        src, dst = flows["src_place"][row] - base, flows["dst_place"][row] - base
        if self._coding.matters:
            self._coding.note_one(flows["kind"][row], places["rank"][src], self._env.now)
        open_ = places["open"]
        open_[src] -= 1
        if not open_[src]:
            self._finish_one(src)
        open_[dst] -= 1
        if not open_[dst]:
            self._finish_one(dst)

    def _finish_one(self, place: int) -> None:
        """Finish one place, whose last flow has ended."""
        if self._stays_busy:
            self._stay_busy(np.array([place]))
        else:
            self._leave_one(place)

    def _leave_one(self, place: int) -> None:
        """Let a rank go on from one finished place to its next one."""
        places, base = self._agenda.places.views, self._agenda.places.base
        places["open"][place] = OVER
        self.finish_s[places["rank"][place]] = self._env.now
        following = places["next"][place]
        if following < 0:
            self._idle += 1
        else:
            self._reach_one(following - base)

    def _reach_one(self, place: int) -> None:
        """Post the flows of one place; start those that the other end has posted already."""
        agenda = self._agenda
        places, ends = agenda.places.views, agenda.ends.views["flow"]
        waiting, base = agenda.flows.views["waiting"], agenda.flows.base
        first = places["first_end"][place] - agenda.ends.base
        rows = [ends[end] - base for end in range(first, first + places["num_ends"][place])]
        if self._staggers:
            self._post(rows, places["start_s"][place])
        for row in rows:
            waiting[row] -= 1
            if not waiting[row]:
                self._start_one(row)

    def _post(self, rows: list[int], start_s: float) -> None:
        """Note when a rank will have posted some flows (rows), one by one."""
        posted_s = self._agenda.flows.views["posted_s"]
        begun_s = self._env.now + self._costs.step_overhead_s + start_s
        for turn, row in enumerate(rows):
            when_s = begun_s + (1 + turn) * self._costs.overhead_s
            posted_s[row] = max(posted_s[row], when_s)

    def _start_one(self, row: int) -> None:
        """Start one flow."""
        flows = self._agenda.flows
        num_bytes = flows.views["bytes"][row]
        if self._coding.matters:
            rank = self._agenda.places.views["rank"][
                flows.views["src_place"][row] - self._agenda.places.base
            ]
            more_s = self._coding.cold_one_s(flows.views["kind"][row], rank, self._env.now)
            num_bytes += more_s / self._fluid.resources.work_unit_s
        delay_s, tag = self._delay_s(row), row + flows.base
        self._fluid.start_one(self._agenda.hops_of(row), delay_s, num_bytes, tag, self._number)

    def _delay_s(self, row: int) -> float:
        """Return the delay of one flow from now on; it begins when both ends are posted."""
        flows = self._agenda.flows.views
        delay_s: float = flows["delay_s"][row]
        if self._staggers:
            delay_s += max(flows["posted_s"][row] - self._env.now, 0.0)
        return delay_s

    def _read(self, index: int, step: Step) -> None:
        """Add a step to the tables, and start the flows that can start."""
        pattern, work = self._patterns.of(step), self._work
        sizes = checked_sizes(self._sizes, index, step)
        num_bytes, busy_s = sizes.num_bytes, work.after_s(pattern, step, sizes)
        if not self._has_processors:
            self._read_messages(pattern, num_bytes, busy_s)
            return
        before_s, makes = work.before_s(pattern, step, sizes)
        before_s += self._start_s(pattern.members)
        if before_s.any():
            self._read_work(pattern.members, before_s, MAKES * makes)
        self._read_messages(pattern, num_bytes, None)
        if busy_s is not None and busy_s.any():
            busy = busy_s > 0
            members = pattern.members if busy.all() else pattern.members[busy]
            self._read_work(members, busy_s[busy], READS * work.is_coded(sizes))

    def _read_work(self, members: IntArray, work_s: FloatArray, kind: IntArray | int) -> None:
        """Keep ranks busy for some CPU seconds before they go on.

        Args:
            members: Ranks that are busy.
            work_s: CPU seconds of each.
            kind: Kind of work on sparse messages of each, see `work`.
        """
        pattern = self._patterns.of_work(members)
        self.tally.add_work(pattern, work_s)
        units = work_s / self._fluid.resources.work_unit_s
        self._take(pattern, units, pattern.latency_s, None, kind=kind)

    def _read_messages(
        self, pattern: Pattern, num_bytes: FloatArray, busy_s: FloatArray | None
    ) -> None:
        flow_bytes = pattern.sum_flows(num_bytes)
        delay_s = pattern.latency_s
        if self._costs.message_curve:
            delay_s = delay_s + self._costs.extra_s(flow_bytes)
        start_s = self._start_s(pattern.members) if self._staggers else None
        self.tally.add(num_bytes, pattern, flow_bytes, delay_s, busy_s, start_s)
        self._take(pattern, flow_bytes, delay_s, busy_s, 0.0 if start_s is None else start_s)

    def _take(
        self,
        pattern: Pattern,
        flow_bytes: FloatArray,
        delay_s: FloatArray,
        busy_s: FloatArray | None,
        start_s: FloatArray | float = 0.0,
        kind: IntArray | int = 0,
    ) -> None:
        """Add flows to the tables, and start those that can start."""
        first_flow = self._agenda.flows.end
        here = self._agenda.add(pattern, flow_bytes, delay_s, busy_s, start_s, kind)
        self._idle -= int(here.sum())
        flows = self._agenda.flows
        rows = np.arange(first_flow, flows.end) - flows.base
        if self._staggers:
            flows["posted_s"][rows] = self._posted_s(pattern, here, start_s)
        if here.all():
            delay_s = self._until_posted(rows, delay_s)
            flow_bytes = self._when_cold(rows, flow_bytes)
            self._fluid.start(pattern.hops, delay_s, flow_bytes, rows + flows.base, self._number)
        else:
            self._start(rows[flows["waiting"][rows] == 0])

    def _posted_s(
        self, pattern: Pattern, here: BoolArray, start_s: FloatArray | float
    ) -> FloatArray:
        """Return the times at which the present ranks have posted all their ends, one by one."""
        begun_s = self.finish_s[pattern.members] + self._costs.step_overhead_s + start_s
        reached_s = np.where(here, begun_s, -np.inf)
        src_turn, dst_turn = pattern.turns
        overhead_s = self._costs.overhead_s
        posted_s: FloatArray = np.maximum(
            reached_s[pattern.src_at] + (1 + src_turn) * overhead_s,
            reached_s[pattern.dst_at] + (1 + dst_turn) * overhead_s,
        )
        return posted_s

    def _until_posted(self, rows: IntArray, delay_s: FloatArray) -> FloatArray:
        """Return the delays of flows from now on; each begins when both ends are posted."""
        if not self._staggers:
            return delay_s
        posted_s = self._agenda.flows["posted_s"][rows]
        return np.asarray(delay_s + np.maximum(posted_s - self._env.now, 0.0))

    def _start_s(self, members: IntArray) -> FloatArray:
        """Return the seconds that members take to begin the run, and note that they have begun."""
        start_s = np.where(self._have_begun[members], 0.0, self._costs.start_overhead_s)
        self._have_begun[members] = True
        return start_s
